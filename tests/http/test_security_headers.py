"""What every answer says of itself, whatever it is: errors, answers without content and preflights, too."""

from __future__ import annotations

from pathlib import Path

import httpx
import pytest

from tests.build import load, patient
from tests.served import Served, served

BINARY = {"resourceType": "Binary", "id": "page", "contentType": "text/html", "data": "PHNjcmlwdD4="}


def must_be_guarded(answer: httpx.Response) -> None:
    for name, value in {
        "x-content-type-options": "nosniff",
        "cache-control": "no-cache" if answer.url.path.endswith("metadata") and answer.is_success else "no-store",
        "referrer-policy": "no-referrer",
    }.items():
        assert answer.headers.get_list(name) == [value], (answer.request.url, name)
    assert len(answer.headers.get_list("content-security-policy")) == 1
    assert "default-src 'none'" in answer.headers["content-security-policy"]


async def test_every_answer(server: Served) -> None:
    await load(server.gate, [patient("p"), BINARY])
    async with server.client(server.token(scope="system/*.cruds"), headers={"Accept": "*/*"}) as client:
        answers = {
            "a read": await client.get("Patient/p"),
            "not modified": await client.get("Patient/p", headers={"If-None-Match": 'W/"1"'}),
            "HEAD": await client.head("Patient/p"),
            "a search": await client.get("Patient"),
            "a chart": await client.get("Patient/p/$everything"),
            "history": await client.get("Patient/p/_history"),
            "raw content": await client.get("Binary/page"),
            "raw content that is not modified": await client.get("Binary/page", headers={"If-None-Match": 'W/"1"'}),
            "created": await client.post("Patient", json={"resourceType": "Patient"}),
            "minimal": await client.put("Patient/p", json=patient("p"), headers={"Prefer": "return=minimal"}),
            "deleted": await client.delete("Patient/p"),
            "gone": await client.get("Patient/p"),
            "invalid": await client.put("Patient/p", content=b"{"),
            "not there": await client.get("Patient/nobody"),
            "no such path": await client.get("Nothing/1"),
            "no such method": await client.put("metadata"),
            "capabilities": await client.get("metadata"),
            "health": await client.get(server.url + "/health/live"),
            "ready": await client.get(server.url + "/health/ready"),
            "nobody": await client.get("Patient/p", headers={"Authorization": ""}),
            "options": await client.options("Patient/p"),
        }
    found = {name: answer.status_code for name, answer in answers.items()}
    expected = {"a read": 200, "not modified": 304, "raw content": 200, "created": 201, "gone": 410, "nobody": 401}
    assert expected.items() <= found.items()
    for name, answer in answers.items():
        must_be_guarded(answer)
        assert "strict-transport-security" not in answer.headers, name
    for name in ("raw content", "raw content that is not modified"):
        assert answers[name].headers["content-security-policy"] == "sandbox; default-src 'none'"
        assert answers[name].headers["content-disposition"] == "attachment"


async def test_a_defect_and_a_store_that_is_away(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object, **__: object) -> None:
        raise RuntimeError("SECRET")

    monkeypatch.setattr(server.gate, "admit", fails)
    answer = await server.get("Patient/p")
    assert (answer.status_code, "SECRET" in answer.text) == (500, False)
    must_be_guarded(answer)


async def test_a_preflight(tmp_path: Path) -> None:
    async with served(tmp_path, cors_origins="https://app.example.org") as server:
        headers = {"Origin": "https://app.example.org", "Access-Control-Request-Method": "GET"}
        async with httpx.AsyncClient() as client:
            answer = await client.options(server.base + "/Patient/p", headers=headers)
        assert answer.headers["access-control-allow-origin"] == "https://app.example.org"
        must_be_guarded(answer)


async def test_behind_a_proxy_with_tls_browsers_are_told_to_stay_with_it(tmp_path: Path) -> None:
    async with served(tmp_path, base_url="https://fhir.example.org") as server:
        for path in ("metadata", "Patient/nobody"):
            answer = await server.get(path)
            assert answer.headers["strict-transport-security"] == "max-age=31536000"
            must_be_guarded(answer)

"""Binary over real HTTP: its content in its own type, sent and had, and who may have it."""

from __future__ import annotations

import asyncio
import json
from base64 import b64decode, b64encode
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhirserver.policy.consenting import grant_consent, revoke_consent
from tests.build import load, observation, organization, patient, put
from tests.served import Served, served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof
PDF = b"%PDF-1.7 \x00\xff\xfe" + bytes(range(256)) * 3
MB = 1 << 20
FULL = "system/*.cruds"


def binary(id: str, content: bytes = PDF, type_: str = "application/pdf", **more: Any) -> dict[str, Any]:
    return {"resourceType": "Binary", "id": id, "contentType": type_, **more, "data": b64encode(content).decode()}


def document(id: str, of: str, named: str, **more: Any) -> dict[str, Any]:
    subject, content = {"reference": f"Patient/{of}"}, [{"attachment": {"url": f"Binary/{named}"}}]
    return {
        "resourceType": "DocumentReference",
        "id": id,
        "status": "current",
        "subject": subject,
        "content": content,
    } | more


def writer(server: Served, org: str = "clinic", **options: Any) -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=FULL), **options)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        (None, "raw"),
        ("*/*", "raw"),
        ("application/pdf", "raw"),
        ("image/png", "raw"),
        ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "raw"),
        ("application/fhir+json", "resource"),
        ("application/json", "resource"),
        ("application/fhir+json;q=1.0, application/json+fhir;q=0.9", "resource"),
        ("*/*, application/fhir+json", "resource"),
        ("application/pdf, application/fhir+json;q=0.5", "raw"),
        ("application/fhir+xml, */*;q=0.1", "raw"),
        ("application/fhir+xml", "neither"),
        ("application/fhir+json;q=0, */*", "raw"),
    ],
)
async def test_accept_decides_between_the_content_and_the_resource(
    server: Served, accept: str | None, form: str
) -> None:
    await load(server.gate, [binary("b")])
    async with server.client() as client:
        del client.headers["accept"]
        answer = await client.get("Binary/b", headers={"Accept": accept} if accept else {})
    if form == "neither":
        assert (answer.status_code, answer.json()["resourceType"]) == (406, "OperationOutcome")
    elif form == "raw":
        assert (answer.status_code, answer.headers["content-type"], answer.content) == (200, "application/pdf", PDF)
    else:
        assert (answer.json()["resourceType"], b64decode(answer.json()["data"])) == ("Binary", PDF)


async def test_a_generic_json_type_gets_content_that_is_json(server: Served) -> None:
    policy = b'{"a": 1.00}'
    await load(server.gate, [binary("b", policy, "application/xacml+json"), binary("c")])
    generic = {"Accept": "application/json"}
    answer = await server.get("Binary/b", headers=generic)
    assert (answer.content, answer.headers["content-type"]) == (policy, "application/xacml+json")
    assert (await server.get("Binary/c", headers=generic)).json()["resourceType"] == "Binary"
    fhir = await server.get("Binary/b", headers={"Accept": "application/fhir+json"})
    assert fhir.json()["resourceType"] == "Binary"


async def test_format_always_means_fhir(server: Served) -> None:
    await load(server.gate, [binary("b", b"{}", "application/json")])
    answer = await server.get("Binary/b?_format=json", headers={"Accept": "application/json"})
    assert answer.json()["resourceType"] == "Binary"
    assert (await server.get("Binary/b?_format=xml")).status_code == 406


async def test_content_is_a_download_that_no_browser_runs_or_keeps(server: Served) -> None:
    await load(server.gate, [binary("b", b"<script>alert(1)</script>", "text/html")])
    answer = await server.get("Binary/b", headers={"Accept": "text/html"})
    assert answer.headers["content-type"] == "text/html"
    assert answer.headers["content-disposition"] == "attachment"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"].startswith("sandbox")
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("stated", ["text plain", "text/plain\nX-Evil: 1", "téxt/plain", "x", 'a/b; c="\\"'])
async def test_a_content_type_that_is_no_media_type_stays_out_of_the_header(server: Served, stated: str) -> None:
    await load(server.gate, [binary("b", b"x", stated)])
    answer = await server.get("Binary/b")
    assert (answer.status_code, answer.content) == (200, b"x")
    assert answer.headers["content-type"] == "application/octet-stream"
    assert "x-evil" not in answer.headers


async def test_a_copy_that_is_still_good_is_a_304_and_every_version_can_be_had(server: Served) -> None:
    async with writer(server, headers={"Content-Type": "text/plain"}) as client:
        made = await client.put("Binary/b", content=b"one")
        assert (made.status_code, made.content) == (201, b"")
        assert made.headers["location"] == f"{server.base}/Binary/b/_history/1"
        again = await client.put("Binary/b", content=b"two", headers={"If-Match": 'W/"1"'})
        assert (again.status_code, again.headers["etag"]) == (200, 'W/"2"')
        assert (await client.put("Binary/b", content=b"3", headers={"If-Match": 'W/"1"'})).status_code == 412
        assert (await client.get("Binary/b")).content == b"two"
        assert (await client.get("Binary/b/_history/1")).content == b"one"
        assert (await client.get("Binary/b/_history/9")).status_code == 404
        kept = await client.get("Binary/b", headers={"If-None-Match": 'W/"2"'})
        assert (kept.status_code, kept.content) == (304, b"")
        assert (await client.delete("Binary/b")).status_code == 204
        assert (await client.get("Binary/b")).status_code == 410


@pytest.mark.parametrize(
    "type_", ["application/pdf", "text/plain; charset=utf-16", "application/dicom", "image/svg+xml"]
)
async def test_what_is_sent_as_it_is_comes_back_as_it_was(server: Served, type_: str) -> None:
    async with writer(server, headers={"Content-Type": type_}) as client:
        made = await client.post("Binary", content=PDF, headers={"X-Security-Context": f"{server.base}/Organization/o"})
        assert made.status_code == 201
        place = made.headers["location"].removesuffix("/_history/1")
        answer = await client.get(place)
        assert (answer.content, answer.headers["content-type"]) == (PDF, type_)
        assert answer.headers["x-security-context"] == "Organization/o"
        resource = (await client.get(place, headers={"Accept": "application/fhir+json"})).json()
        assert (resource["contentType"], resource["securityContext"]) == (type_, {"reference": "Organization/o"})
        assert b64decode(resource["data"]) == PDF


async def test_the_resource_comes_back_with_a_write_only_where_it_is_asked_for(server: Served) -> None:
    async with writer(server, headers={"Content-Type": "text/plain"}) as client:
        asked = await client.post("Binary", content=b"x", headers={"Prefer": "return=representation"})
        assert asked.json()["data"] == "eA=="


async def test_a_binary_resource_is_stored_as_one_and_other_fhir_as_content(server: Served) -> None:
    async with writer(server) as client:
        for name in ("application/fhir+json", "application/json"):
            sent = binary("mine", b"x", "text/plain")
            made = await client.post("Binary", content=json.dumps(sent), headers={"Content-Type": name})
            assert made.json()["data"] == "eA=="
            assert (await client.get(f"Binary/{made.json()['id']}")).content == b"x"
            other = json.dumps(patient("p")).encode()
            made = await client.post("Binary", content=other, headers={"Content-Type": name})
            assert made.status_code == 201
            raw = await client.get(made.headers["location"], headers={"Accept": "text/plain"})
            assert (raw.content, raw.headers["content-type"]) == (other, name)
        assert (await client.get("Patient/p")).status_code == 404


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"", {"Content-Type": "text/plain"}, 400),
        (b"{", {"Content-Type": "application/fhir+json"}, 400),
        (b"x", {"Content-Type": "text/plain", "X-Security-Context": "not a reference"}, 422),
        (b"x", {"Content-Type": "text/plain", "X-Security-Context": "Nonsense/1"}, 422),
        (b"<Binary xmlns='http://hl7.org/fhir'/>", {"Content-Type": "application/fhir+xml"}, 415),
        (b"x", {"Content-Type": "text/plain", "If-None-Exist": "identifier=1"}, 400),
        (b'{"resourceType":"Binary"}', {"Content-Type": "application/fhir+json"}, 422),
        (b"x", {"Content-Type": "text/plain", "Content-Encoding": "br"}, 415),
    ],
)
async def test_what_cannot_be_a_binary_is_refused(
    server: Served, body: bytes, headers: dict[str, str], status: int
) -> None:
    async with writer(server) as client:
        answer = await client.post("Binary", content=body, headers=headers)
        assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome")
        assert "entry" not in (await client.get("Binary")).json()


async def test_who_may_not_write_cannot_send_content(server: Served) -> None:
    for token in (server.token("third-party", org="x", scope="patient/*.cruds"), server.token("member", org="clinic")):
        async with server.client(token, headers={"Content-Type": "text/plain"}) as client:
            assert (await client.post("Binary", content=b"x")).status_code == 403
            assert (await client.put("Binary/b", content=b"x")).status_code == 403


async def test_a_limit_holds_for_content_whether_or_not_its_length_is_told(kind: str, tmp_path: Path) -> None:
    async def pieces(count: int) -> AsyncIterator[bytes]:
        for _ in range(count):
            yield b"x" * (MB // 16)

    async with (
        served(tmp_path, kind, max_binary=MB) as server,
        writer(server, headers={"Content-Type": "image/png"}) as client,
    ):
        assert (await client.post("Binary", content=b"x" * (MB + 1))).status_code == 413
        assert (await client.post("Binary", content=pieces(17))).status_code == 413
        made = await client.post("Binary", content=pieces(16))
        assert made.status_code == 201
        assert len((await client.get(made.headers["location"])).content) == MB


async def test_large_content_passes_in_pieces_both_ways(server: Served) -> None:
    piece = bytes(range(256)) * 256

    async def pieces() -> AsyncIterator[bytes]:
        for _ in range(48):
            yield piece

    async with writer(server, headers={"Content-Type": "application/dicom"}) as client:
        made = await client.post("Binary", content=pieces())
        assert made.status_code == 201
        async with client.stream("GET", made.headers["location"]) as answer:
            assert int(answer.headers["content-length"]) == 48 * len(piece)
            content = b"".join([part async for part in answer.aiter_raw()])
        assert content == piece * 48
        head = await client.head(made.headers["location"])
        assert (head.status_code, head.content) == (200, b"")
        assert int(head.headers["content-length"]) == 48 * len(piece)
    rows = [row for row in await server.audit() if row.interaction == "read" and row.intent]
    assert [row.outcome for row in rows] == ["complete", "complete"]


async def test_withdrawal_ends_the_reading_of_content(server: Served) -> None:
    await load(
        server.gate, [organization("app"), patient("q"), binary("scan", b"x" * 15_000_000), document("d", "q", "scan")]
    )
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await grant_consent(scoped, ["q"], "app")
    async with server.client(server.token("third-party", org="app")) as client:
        async with client.stream("GET", "Binary/scan") as answer:
            assert answer.status_code == 200
            parts = answer.aiter_raw()
            await anext(parts)
            await revoke_consent(scoped, ["q"], "app")
            await asyncio.sleep(1)
            with pytest.raises(httpx.RemoteProtocolError):
                async for _ in parts:
                    pass
        assert (await client.get("Binary/scan")).status_code == 403


async def test_content_is_had_through_what_names_it_or_as_its_security_context(server: Served) -> None:
    await load(
        server.gate,
        [
            organization("app"),
            patient("q"),
            patient("other"),
            observation("o", "q"),
            document("d", "q", "named"),
            observation("far", "other"),
            binary("named"),
            binary("alone"),
            binary("of-q", securityContext={"reference": "Patient/q"}),
            binary("as-o", securityContext={"reference": "Observation/o"}),
            binary("as-far", securityContext={"reference": "Observation/far"}),
            binary("as-none", securityContext={"reference": "Observation/none"}),
        ],
        organization="clinic",
    )
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await grant_consent(scoped, ["q"], "app")

    async def had(token: str) -> set[str]:
        async with server.client(token) as client:
            ids = ("named", "alone", "of-q", "as-o", "as-far", "as-none", "missing")
            answers = {id: await client.get(f"Binary/{id}") for id in ids}
        assert {answer.status_code for answer in answers.values()} <= {200, 403, 404}
        assert all(answer.content == PDF for answer in answers.values() if answer.status_code == 200)
        return {id for id, answer in answers.items() if answer.status_code == 200}

    everything = {"named", "alone", "of-q", "as-o", "as-far", "as-none"}
    assert await had(server.token()) == everything
    assert await had(server.token("member", org="clinic")) == everything
    assert await had(server.token("member", org="another")) == set()
    assert await had(server.token("third-party", org="app")) == {"named", "of-q", "as-o"}
    assert await had(server.token("third-party", org="nobody")) == set()
    assert await had(server.token("patient", org="clinic", patient="q")) == {"named", "of-q", "as-o"}
    assert await had(server.token("patient", org="clinic", patient="other")) == {"as-far"}


async def test_a_security_context_of_another_organisation_opens_nothing(server: Served) -> None:
    await load(server.gate, [patient("q"), observation("o", "q")], organization="clinic")
    foreign = {"reference": "Observation/o"}
    await load(server.gate, [binary("b", securityContext=foreign)], organization="another")
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await load(server.gate, [organization("app")])
    await grant_consent(scoped, ["q"], "app")
    assert (await server.get("Binary/b", server.token("third-party", org="app"))).status_code == 403
    assert (await server.get("Binary/b", server.token("member", org="clinic"))).status_code == 404
    assert (await server.get("Binary/b", server.token("member", org="another"))).status_code == 200


async def test_a_security_context_counts_once_it_is_there(server: Served) -> None:
    await load(server.gate, [patient("q"), binary("b", securityContext={"reference": "Observation/o"})])
    own = server.token("patient", org="operator", patient="q")
    assert (await server.get("Binary/b", own)).status_code == 403
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.write([put(observation("o", "q")), put(binary("b", securityContext={"reference": "Observation/o"}))])
    assert (await server.get("Binary/b", own)).status_code == 200


async def test_in_a_bundle_a_binary_is_a_resource(server: Served) -> None:
    await load(server.gate, [binary("b", b"x", "text/plain")])
    batch = {
        "resourceType": "Bundle",
        "type": "batch",
        "entry": [
            {"request": {"method": "GET", "url": "Binary/b"}},
            {"request": {"method": "POST", "url": "Binary"}, "resource": binary("c", b"y")},
        ],
    }
    async with writer(server, "operator", headers={"Accept": "*/*"}) as client:
        read, made = (await client.post("", json=batch)).json()["entry"]
    assert read["resource"]["data"] == "eA=="
    assert made["response"]["status"].startswith("201")

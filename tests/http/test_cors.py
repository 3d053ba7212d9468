"""CORS and OPTIONS: what a browser is told, and that nobody else is told anything by it."""

from __future__ import annotations

from pathlib import Path

import httpx

from fhirserver.http import cors
from tests.build import load, practitioner
from tests.served import Served, served

APP = "https://app.example.org"
OTHER = "https://other.example.org"


async def options(server: Served, path: str, **headers: str) -> httpx.Response:
    """An OPTIONS as browsers send it: without a token."""
    async with httpx.AsyncClient(base_url=server.base) as client:
        return await client.options(path, headers={name.replace("_", "-"): value for name, value in headers.items()})


async def test_options_says_which_methods_a_path_has(server: Served) -> None:
    found = await options(server, "/Patient/p")
    assert (found.status_code, found.content) == (204, b"")
    assert found.headers["allow"] == "DELETE, GET, HEAD, OPTIONS, PATCH, PUT"
    assert (await options(server, "/Nonsense/p")).status_code == 404
    assert (await options(server, "/OperationDefinition/Person-everything")).headers["allow"] == "GET, HEAD, OPTIONS"


async def test_unless_set_no_page_of_another_origin_is_served(server: Served) -> None:
    asked = await options(server, "/Patient/p", Origin=APP, Access_Control_Request_Method="GET")
    got = await server.get("metadata", headers={"Origin": APP})
    for answer in (asked, got):
        assert not [name for name in answer.headers if name.startswith("access-control")]
    assert got.json()["rest"][0]["security"]["cors"] is False


async def test_a_page_of_an_origin_that_is_set_is_served(tmp_path: Path) -> None:
    async with served(tmp_path, cors_origins=f"{APP}/, http://localhost:3000") as server:
        await load(server.gate, [practitioner("dr")])
        asked = await options(server, "/Patient/p", Origin=APP, Access_Control_Request_Method="PUT")
        assert asked.status_code == 204
        assert asked.headers["access-control-allow-origin"] == APP
        assert "PUT" in asked.headers["access-control-allow-methods"].split(", ")
        allowed = asked.headers["access-control-allow-headers"].lower().split(", ")
        assert {"authorization", "content-type", "if-match", "if-none-exist", "prefer"} <= set(allowed)
        for path in ("Practitioner/dr", "Practitioner", "Practitioner/none", "metadata"):
            answer = await server.get(path, headers={"Origin": APP})
            assert answer.headers["access-control-allow-origin"] == APP, path
            assert "ETag" in answer.headers["access-control-expose-headers"]
            assert "origin" in answer.headers["vary"].lower()
            assert "access-control-allow-credentials" not in answer.headers
            other = await server.get(path, headers={"Origin": OTHER})
            assert "access-control-allow-origin" not in other.headers
            assert "origin" in other.headers["vary"].lower()
        refused = await options(server, "/Patient/p", Origin=OTHER, Access_Control_Request_Method="PUT")
        assert not [name for name in refused.headers if name.startswith("access-control")]
        assert (await server.get("metadata")).json()["rest"][0]["security"]["cors"] is True


async def test_any_origin_may_be_set(tmp_path: Path) -> None:
    async with served(tmp_path, cors_origins="*") as server:
        answer = await server.get("metadata", headers={"Origin": OTHER})
        assert answer.headers["access-control-allow-origin"] == "*"
        asked = await options(server, "/Patient", Origin=OTHER, Access_Control_Request_Method="POST")
        assert (asked.headers["access-control-allow-origin"], asked.status_code) == ("*", 204)


def test_what_no_browser_sends_opens_nothing() -> None:
    allowed = frozenset({APP})
    assert cors.headers(None, frozenset()) == {}
    assert cors.headers("null", allowed) == {"Vary": "Origin"}
    assert cors.preflight({"origin": APP}, ["GET"], allowed) == {}
    assert cors.preflight({"access-control-request-method": "GET"}, ["GET"], frozenset({"*"})) == {}

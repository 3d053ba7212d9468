"""Every row of the route table, looped over: what is not public refuses whoever has nothing to show."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhirserver.app import wall_clock
from fhirserver.http.routes import ROUTES, Row
from tests.build import load, observation, patient
from tests.served import Served, served

OAUTH = frozenset({"token", "introspect", "revoke"})
"""What asks for a client's proof instead of a bearer token, and answers in OAuth's shape."""
PROTECTED = [row for row in ROUTES if not row.public]
ANSWERS_TO_NOBODY = {401, 403, 404}
LISTS = {
    "search-type": {"empty grant", "other patient"},
    "search-system": {"empty grant", "other patient", "wrong scope"},
    "$docref": {"empty grant", "other patient"},
    "history-type": {"empty grant", "other patient"},
    "history-system": {"empty grant", "other patient", "wrong scope"},
}
"""What has an empty answer for those who may ask and have nothing to see."""


IDS = {
    "Person": "p",
    "Patient": "p",
    "Observation": "o",
    "Binary": "b",
    "Group": "g",
    "Encounter": "e",
    "DocumentReference": "d",
}
CONDITIONAL = frozenset({"update", "patch", "delete"})
UNSENT = frozenset({"$everything", "$meta", "search-type", "search-system", "$docref"})
"""What is asked for by POST without a body as well."""
WRITES = frozenset({"create", "update", "patch", "delete", "transaction", "$meta-add", "$meta-delete", "$validate"})


def paths(row: Row) -> list[str]:
    """The row's path filled in with resources that exist; with criteria where it is conditional."""
    found = re.search(r"\{type=([\w|]+)\}", row.path)
    kinds = found[1].split("|") if found else ["Patient", "Observation"]
    filled = (
        re.sub(r"\{type(=[\w|]+)?\}", "{type}", row.path).replace("{version}", "1").replace("{member}", "Observation")
    )
    if row.interaction in CONDITIONAL and "{id}" not in filled:
        filled += "?identifier=1"
    if row.interaction == "$docref":
        filled += "?patient=p"
    return list(dict.fromkeys(filled.replace("{type}", kind).replace("{id}", IDS[kind]) for kind in kinds))


def sent(row: Row, method: str, path: str) -> dict[str, Any]:
    """A body that nothing is wrong with, so that who asks is what decides."""
    if method not in ("POST", "PUT", "PATCH") or row.interaction in UNSENT:
        return {}
    kind = path.removeprefix("/FHIR/R4").strip("/").partition("/")[0].partition("?")[0]
    resource = {**BODIES.get(kind, {"resourceType": kind}), **({"id": IDS[kind]} if kind in IDS else {})}
    if row.interaction == "transaction":
        request = {"method": "PUT", "url": "Patient/p"}
        resource = {"resourceType": "Bundle", "type": "transaction", "entry": [
            {"resource": patient("p"), "request": request}]}  # fmt: skip
    elif row.interaction in ("$meta-add", "$meta-delete"):
        meta = {"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}
        resource = {"resourceType": "Parameters", "parameter": [meta]}
    elif row.interaction == "patch":
        patched = [{"op": "add", "path": "/language", "value": "en"}]
        return {"content": json.dumps(patched), "headers": {"Content-Type": "application/json-patch+json"}}
    return {"content": json.dumps(resource), "headers": {"Content-Type": "application/fhir+json"}}


BODIES = {
    "Patient": patient("p"),
    "Observation": observation("o", "p"),
    "Binary": {"resourceType": "Binary", "contentType": "text/plain", "data": "eA=="},
}


def test_the_table_has_public_and_protected_rows() -> None:
    assert {row.interaction for row in ROUTES if row.public} == {"health", "capabilities", "discovery", *OAUTH}
    assert {"read", "vread", "search-type", "$everything", "create", "update", "patch", "delete", "transaction"} <= {
        row.interaction for row in PROTECTED
    }


@pytest.mark.parametrize("row", PROTECTED, ids=lambda row: row.path)
async def test_the_sweep(server: Served, row: Row) -> None:
    await load(server.gate, [patient("p"), observation("o", "p")])
    tokens = {
        "no token": None,
        "bogus": "bogus",
        "forged": server.token()[:-8] + "AAAAAAAA",
        "wrong scope": server.token("third-party", org="x", scope="patient/Immunization.rs"),
        "write scope only": server.token("member", org="operator", scope="system/*.cud"),
        "empty grant": server.token("third-party", org="x"),
        "no scope": server.token("operator", scope=""),
        "other patient": server.token("patient", org="x", patient="someone-else"),
    }
    async with httpx.AsyncClient(base_url=server.url) as client:
        for path in paths(row):
            for method in row.methods:
                for name, token in tokens.items():
                    asked = sent(row, method, path)
                    headers = {**({"Authorization": f"Bearer {token}"} if token else {}), **asked.pop("headers", {})}
                    answer = await client.request(method, path, headers=headers, **asked)
                    if name == "write scope only" and row.interaction in WRITES:
                        assert b"Family-p" not in answer.content, (name, path)  # what may be written is not shown
                    elif row.interaction == "$validate" and answer.status_code == 200:
                        assert answer.json()["resourceType"] == "OperationOutcome"
                    elif row.interaction in ("$meta", "$everything") and "{id}" not in row.path and token:
                        assert b"Family-p" not in answer.content, (name, path)
                        assert answer.status_code in (200, *ANSWERS_TO_NOBODY), (name, path)
                    elif row.interaction in LISTS and answer.status_code == 200:
                        assert "entry" not in answer.json(), (name, path)
                        assert name in LISTS[row.interaction], (name, path)
                    else:
                        assert answer.status_code in ANSWERS_TO_NOBODY, (name, path, answer.status_code)
                        assert answer.json()["resourceType"] == "OperationOutcome"
                    if name in ("no token", "bogus", "forged"):
                        assert answer.status_code == 401


@pytest.mark.parametrize("row", [row for row in ROUTES if row.interaction in OAUTH], ids=lambda row: row.path)
async def test_oauth_rows_ask_for_a_proof_of_their_own(server: Served, row: Row) -> None:
    form = {"grant_type": "client_credentials", "scope": "system/*.rs", "token": server.token()}
    async with httpx.AsyncClient(base_url=server.url) as client:
        for token in (None, "bogus", server.token("member", org="x", seconds=1)[:-8] + "AAAAAAAA"):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            answer = await client.post(row.path, data=form, headers=headers)
            assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert (await client.get(row.path)).status_code == 405


@pytest.mark.parametrize(
    "row", [row for row in ROUTES if row.public and row.interaction not in OAUTH], ids=lambda row: row.path
)
async def test_public_rows_need_no_token(server: Served, row: Row) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        path = row.path.replace(
            "{type=OperationDefinition|SearchParameter}/{id}", "OperationDefinition/Person-everything"
        )
        assert (await client.get(path)).status_code == 200


async def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    now = wall_clock()
    async with served(tmp_path, clock=lambda: now) as server:
        await load(server.gate, [patient("p")])
        token = server.token(seconds=2)
        assert (await server.get("Patient/p", token)).status_code == 200
        now += 2_000
        assert (await server.get("Patient/p", token)).status_code == 401

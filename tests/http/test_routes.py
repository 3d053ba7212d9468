"""Every row of the route table, looped over: what is not public refuses whoever has nothing to show."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from fhirserver.app import wall_clock
from fhirserver.core.validate import issues
from fhirserver.http import metadata
from fhirserver.http.routes import ROUTES, Row
from tests.build import load, observation, patient
from tests.served import Served, served

PROTECTED = [row for row in ROUTES if not row.public]
ANSWERS_TO_NOBODY = {401, 403, 404}


def paths(row: Row) -> list[str]:
    """The row's path filled in with resources that exist."""
    kinds = ["Person", "Patient"] if "Person|Patient" in row.path else ["Patient", "Observation"]
    filled = row.path.replace("{type=Person|Patient}", "{type}").replace("{version}", "1")
    ids = {"Person": "p", "Patient": "p", "Observation": "o"}
    return [filled.replace("{type}", kind).replace("{id}", ids[kind]) for kind in kinds]


def test_the_table_has_public_and_protected_rows() -> None:
    assert {row.interaction for row in ROUTES if row.public} == {"health", "capabilities"}
    assert {"read", "vread", "search-type", "$everything"} <= {row.interaction for row in PROTECTED}


def test_the_capability_statement_tells_what_the_table_has() -> None:
    interactions = {row.interaction for row in PROTECTED if not row.interaction.startswith("$")}
    assert interactions == set(metadata.INTERACTIONS)
    (everything,) = [row for row in ROUTES if row.interaction == "$everything"]
    assert set(re.findall("Person|Patient", everything.path)) == metadata.EVERYTHING.keys()
    statement = json.loads(metadata.statement("http://x/FHIR/R4"))
    resources = {resource["type"]: resource for resource in statement["rest"][0]["resource"]}
    assert len(resources) == 146
    assert {name for name, resource in resources.items() if "operation" in resource} == {"Person", "Patient"}
    assert issues(json.dumps(statement).encode())[1] == []


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
                    headers = {"Authorization": f"Bearer {token}"} if token else {}
                    answer = await client.request(method, path, headers=headers)
                    if row.interaction == "search-type" and answer.status_code == 200:
                        assert "entry" not in answer.json(), (name, path)
                        assert name in ("empty grant", "other patient"), (name, path)
                    else:
                        assert answer.status_code in ANSWERS_TO_NOBODY, (name, path, answer.status_code)
                        assert answer.json()["resourceType"] == "OperationOutcome"
                    if name in ("no token", "bogus", "forged"):
                        assert answer.status_code == 401


@pytest.mark.parametrize("row", [row for row in ROUTES if row.public], ids=lambda row: row.path)
async def test_public_rows_need_no_token(server: Served, row: Row) -> None:
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get(row.path)).status_code == 200


async def test_an_expired_token_is_refused(tmp_path: Path) -> None:
    now = wall_clock()
    async with served(tmp_path, clock=lambda: now) as server:
        await load(server.gate, [patient("p")])
        token = server.token(seconds=2)
        assert (await server.get("Patient/p", token)).status_code == 200
        now += 2_000
        assert (await server.get("Patient/p", token)).status_code == 401

"""Who may take a label away, by each door that changes a resource."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest

from fhirserver.core.model import Key
from tests.admitted import marks
from tests.build import condition, load, observation, patient
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof
FULL = "system/*.cruds"
MARKED = {"security": marks("MH")}
PLAIN = observation("o", "p")
Door = Callable[[httpx.AsyncClient], Awaitable[httpx.Response]]


async def put(client: httpx.AsyncClient) -> httpx.Response:
    return await client.put("Observation/o", json=PLAIN)


async def json_patch(client: httpx.AsyncClient) -> httpx.Response:
    remove = [{"op": "remove", "path": "/meta/security"}]
    return await client.patch("Observation/o", json=remove, headers={"Content-Type": "application/json-patch+json"})


async def path_patch(client: httpx.AsyncClient) -> httpx.Response:
    parts = [{"name": "type", "valueCode": "delete"}, {"name": "path", "valueString": "Observation.meta.security[0]"}]
    body = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}
    return await client.patch("Observation/o", json=body, headers={"Content-Type": "application/fhir+json"})


async def meta_delete(client: httpx.AsyncClient) -> httpx.Response:
    body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": MARKED}]}
    return await client.post("Observation/o/$meta-delete", json=body)


async def transaction(client: httpx.AsyncClient) -> httpx.Response:
    entry = {"resource": PLAIN, "request": {"method": "PUT", "url": "Observation/o"}}
    return await client.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": [entry]})


DOORS: list[Door] = [put, json_patch, path_patch, meta_delete, transaction]


@pytest.fixture
async def clinic(server: Served) -> Served:
    await load(server.gate, [patient("p"), observation("o", "p", meta=MARKED)], organization="clinic")
    return server


async def security(server: Served) -> Any:
    return (await server.get("Observation/o")).json()["meta"].get("security")


@pytest.mark.parametrize("door", DOORS)
async def test_the_operator_is_refused_and_that_is_recorded(clinic: Served, door: Door) -> None:
    async with clinic.client(clinic.token(scope=FULL)) as client:
        answer = await door(client)
    assert answer.status_code == 403, answer.text
    assert "custodian alone" in answer.text
    assert await security(clinic) == marks("MH")
    denied = [row for row in await clinic.audit() if row.outcome == "denied"]
    assert [row.detail["resource"] for row in denied] == ["Observation/o"]


@pytest.mark.parametrize("door", DOORS)
async def test_the_custodian_takes_it_away_and_that_is_recorded(clinic: Served, door: Door) -> None:
    async with clinic.client(clinic.token("member", org="clinic", scope=FULL)) as client:
        answer = await door(client)
    assert answer.status_code == 200, answer.text
    assert await security(clinic) is None
    told = [row.detail["unlabelled"] for row in await clinic.audit() if "unlabelled" in row.detail]
    assert told == [["Observation/o http://terminology.hl7.org/CodeSystem/v3-ActCode|MH"]]


async def test_the_operator_may_change_all_else_and_add_labels(clinic: Served) -> None:
    async with clinic.client(clinic.token(scope=FULL)) as client:
        more = {"security": marks("MH", "HIV")}
        answer = await client.put("Observation/o", json=observation("o", "p", meta=more, status="amended"))
        assert answer.status_code == 200
        assert (await client.delete("Observation/o")).status_code in (200, 204)


async def test_the_operator_takes_no_label_away_by_deleting(clinic: Served) -> None:
    async with clinic.client(clinic.token(scope=FULL)) as client:
        assert (await client.delete("Observation/o")).status_code in (200, 204)
        assert (await client.put("Observation/o", json=PLAIN)).status_code == 403
        assert (await client.put("Observation/o", json=observation("o", "p", meta=MARKED))).status_code == 201


async def test_a_derived_label_cannot_be_taken_away_by_anybody(server: Served) -> None:
    code = {"coding": [{"system": "http://hl7.org/fhir/sid/icd-10-cm", "code": "B20"}]}
    await load(server.gate, [patient("p"), condition("c", "p", code=code)], organization="clinic")
    async with server.client(server.token("member", org="clinic", scope=FULL)) as client:
        body = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"security": marks("HIV")}}]}
        assert (await client.post("Condition/c/$meta-delete", json=body)).status_code == 200
        bundle = (await client.get("Condition")).json()
    assert [coding["code"] for coding in bundle["meta"]["security"]] == ["R", "HIV"]
    assert str(Key("Condition", "c")) in bundle["entry"][0]["fullUrl"]

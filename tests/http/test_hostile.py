"""Requests that nobody sends by accident: each is refused in a sentence, none is a failure of the server."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.build import load, observation, patient
from tests.everything import links, names
from tests.served import Served

FHIR = {"Content-Type": "application/fhir+json"}


@pytest.mark.parametrize("name", ["_count", "_offset"])
async def test_a_number_of_thousands_of_digits_is_a_400_naming_its_parameter(server: Served, name: str) -> None:
    await load(server.gate, [patient("p")])
    answer = await server.get(f"Person/p/$everything?{name}=" + "1" * 5000)
    assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (400, [name])


async def post(server: Served, body: bytes) -> httpx.Response:
    async with server.client() as client:
        return await client.post("Person/p/$everything", content=body, headers=FHIR)


@pytest.mark.parametrize("body", [b"[" * 100_000, b'{"resourceType":"Parameters","parameter":' + b"[" * 50_000])
async def test_a_body_nested_without_end_is_a_400(server: Served, body: bytes) -> None:
    await load(server.gate, [patient("p")])
    assert (await post(server, body)).status_code == 400


@pytest.mark.parametrize(
    "body", [b'{"resourceType":"Parameters","a\xb3":1}', b'{"resourceType":"Parameters","parameter":"\xff"}']
)
async def test_a_body_that_is_not_utf_8_is_a_400(server: Served, body: bytes) -> None:
    await load(server.gate, [patient("p")])
    assert (await post(server, body)).status_code == 400


async def test_a_body_that_is_too_long_is_a_413_and_is_not_read_to_its_end(server: Served) -> None:
    await load(server.gate, [patient("p")])
    body = json.dumps({"resourceType": "Parameters"}).encode()
    assert (await post(server, b" " * 200_000 + body)).status_code == 200
    answer = await post(server, b" " * 2_000_000 + body)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (413, "too-long")


async def test_more_values_than_a_store_compares_at_once_are_a_400(server: Served) -> None:
    await load(server.gate, [patient("p", identifier=[{"value": "1"}])])
    many = ",".join(f"{n}" for n in range(400))
    assert names((await server.get(f"Patient?identifier={many}")).json()) == ["Patient/p"]
    for query in (f"identifier={many}&identifier={many}", "&".join(["identifier=1"] * 3000)):
        answer = await server.get(f"Patient?{query}")
        assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (400, ["identifier"])
    assert (await server.get("Person?link=" + ",".join(["p"] * 9000))).status_code == 400


@pytest.mark.parametrize("method", ["DELETE", "PATCH", "PUT", "TRACE"])
async def test_a_method_that_is_not_served_is_told_which_are(server: Served, method: str) -> None:
    async with server.client() as client:
        answer = await client.request(method, "Patient/p/$everything")
    assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD, OPTIONS, POST")


@pytest.mark.parametrize(
    ("accept", "answered"),
    [
        ("application/fhir+ndjson;q=0, application/json", "application/json"),
        ("application/fhir+ndjson;q=0.5, application/fhir+json", "application/fhir+json"),
        ("application/fhir+json;q=0.5, application/fhir+ndjson", "application/fhir+ndjson"),
        ("", "application/fhir+json"),
        (";;,,q=1, application/json ; q = x, */*;q=0.1", "application/fhir+json"),
    ],
)
async def test_the_media_type_the_caller_prefers_is_answered(server: Served, accept: str, answered: str) -> None:
    await load(server.gate, [patient("p")])
    answer = await server.get("Person/p/$everything", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, answered)


async def test_a_media_type_that_is_refused_is_not_answered(server: Served) -> None:
    await load(server.gate, [patient("p")])
    assert (await server.get("Patient/p", headers={"Accept": "application/fhir+json;q=0"})).status_code == 406


async def test_the_history_of_what_left_is_never_called_ndjson(server: Served) -> None:
    await load(server.gate, [patient("p")])
    path = "Person/p/$everything?_deleted=only&_since=2020"
    assert (await server.get(path, headers={"Accept": "application/fhir+ndjson"})).status_code == 406
    both = await server.get(path, headers={"Accept": "application/fhir+ndjson, application/fhir+json"})
    assert both.headers["content-type"].startswith("application/fhir+json")


async def test_total_is_that_of_the_chart_also_past_its_end(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p")])
    for query in ("", "_offset=1", "_offset=3", "_offset=1000", "_count=2&_offset=1000", "_count=0&_offset=1000"):
        bundle: dict[str, Any] = (await server.get(f"Person/p/$everything?{query}")).json()
        assert bundle["total"] == 3, query
        assert "next" not in links(bundle)


async def test_the_audit_keeps_of_a_request_what_was_applied_and_nobodys_identifier(server: Served) -> None:
    await load(server.gate, [patient("p", identifier=[{"system": "urn:mrn", "value": "MRN-4711"}])])
    token = server.token("third-party", org="app")
    await server.get("Patient?identifier=urn:mrn|MRN-4711&_id=p&John%20Smith%201951-03-04=x")
    await server.get("Patient/" + "a" * 50_000, token)
    rows = await server.audit()
    searched = next(row for row in rows if row.interaction == "search-type").detail["query"]
    assert isinstance(searched, str)
    assert searched.startswith("?identifier=hash:")
    assert searched.endswith("&_id=p")
    text = str(rows)
    assert "4711" not in text
    assert "Smith" not in text
    assert len(str(next(row for row in rows if row.outcome == "denied"))) < 1000

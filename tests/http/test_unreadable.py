"""A body that is no JSON is a 400 at every door; one that is and breaks FHIR's rules a 422 (R4 http §3.1.0.8)."""

from __future__ import annotations

import json

import httpx
import pytest

from tests.build import load, patient, practitioner
from tests.served import Served

FHIR = {"Content-Type": "application/fhir+json"}
GOOD = json.dumps({"request": {"method": "PUT", "url": "Practitioner/good"}, "resource": practitioner("good")}).encode()
DOORS = [
    ("POST", "Patient"),
    ("PUT", "Patient/p"),
    ("PUT", "Patient?identifier=urn:mrn|1"),
    ("PATCH", "Patient/p"),
    ("POST", ""),
    ("POST", "Binary"),
    ("PUT", "Binary/b"),
    ("POST", "Patient/$validate"),
    ("POST", "Patient/p/$validate"),
    ("POST", "Patient/p/$meta-add"),
    ("POST", "Patient/p/$meta-delete"),
    ("POST", "Patient/p/$everything"),
]
UNREADABLE = {
    "ends too early": b'{"resourceType":"Patient"',
    "a comma too many": b'{"resourceType":"Patient",}',
    "another document behind it": b'{"resourceType":"Patient"}{}',
    "a comment": b'{"resourceType":"Patient"} // x',
    "not a number": b'{"resourceType":"Patient","multipleBirthInteger":NaN}',
    "infinity": b'{"resourceType":"Patient","multipleBirthInteger":-Infinity}',
    "a control character in a string": b'{"resourceType":"Patient","id":"\x01"}',
    "half of a surrogate pair": b'{"resourceType":"Patient","name":[{"text":"\\ud83d"}]}',
    "not UTF-8": b'{"resourceType":"Patient","name":[{"text":"\xff"}]}',
    "UTF-16": '{"resourceType":"Patient"}'.encode("utf-16"),
    "a byte order mark": b'\xef\xbb\xbf{"resourceType":"Patient"}',
    "too deep": b'{"resourceType":"Patient","x":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    "XML": b'<Patient xmlns="http://hl7.org/fhir"/>',
}
RULES = {
    "a name twice": (b'{"resourceType":"Patient","id":"p","active":true,"active":true}', ".active"),
    "a number that nothing can hold": (b'{"resourceType":"Patient","id":"p","multipleBirthInteger":1e999}', ""),
    "an unknown member": (b'{"resourceType":"Patient","id":"p","x":1}', ".x"),
    "no type": (b'{"id":"p"}', ""),
}


def member(server: Served) -> httpx.AsyncClient:
    return server.client(server.token("member", org="clinic", scope="system/*.cruds"))


def bundle(type_: str, resource: bytes) -> bytes:
    """The resource as the second entry, behind a good one."""
    entry = b'{"request":{"method":"PUT","url":"Patient/p"},"resource":%b}' % resource
    return b'{"resourceType":"Bundle","type":"%b","entry":[%b,%b]}' % (type_.encode(), GOOD, entry)


def told(answer: httpx.Response) -> list[str]:
    assert answer.json()["resourceType"] == "OperationOutcome"
    assert all(each["severity"] == "error" for each in answer.json()["issue"])
    return ["".join(each.get("expression", [])) for each in answer.json()["issue"]]


@pytest.mark.parametrize("body", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_what_cannot_be_parsed_is_a_400_at_every_door(server: Served, body: bytes) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with member(server) as client:
        for method, url in DOORS:
            sent = body.replace(b'"Patient"', b'"Binary"') if url.startswith("Binary") else body
            answer = await client.request(method, url, content=sent, headers=FHIR)
            assert (answer.status_code, told(answer)[0]) == (400, ""), (method, url, answer.text)
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"1"'
        assert len((await client.get("_history")).json()["entry"]) == 2, "the patient, and the Person of it"


@pytest.mark.parametrize("type_", ["batch", "transaction"])
@pytest.mark.parametrize("resource", UNREADABLE.values(), ids=UNREADABLE.keys())
async def test_one_entry_that_cannot_be_parsed_makes_the_bundle_a_400(
    server: Served, type_: str, resource: bytes
) -> None:
    async with member(server) as client:
        answer = await client.post("", content=bundle(type_, resource), headers=FHIR)
        assert (answer.status_code, told(answer)[0]) == (400, "")
        assert (await client.get("Practitioner/good")).status_code == 404


@pytest.mark.parametrize(("body", "place"), RULES.values(), ids=RULES.keys())
async def test_what_parses_and_breaks_a_rule_is_a_422_that_names_it(server: Served, body: bytes, place: str) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with member(server) as client:
        for method, url in (("POST", "Patient"), ("PUT", "Patient/p"), ("PUT", "Patient?identifier=urn:mrn|1")):
            answer = await client.request(method, url, content=body, headers=FHIR)
            assert (answer.status_code, told(answer)) == (422, [f"Patient{place}" if place else ""])
        together = await client.post("", content=bundle("transaction", body), headers=FHIR)
        assert together.status_code == 422
        assert [each.endswith(place) for each in told(together)] == [True]
        apart = await client.post("", content=bundle("batch", body), headers=FHIR)
        assert [each["response"]["status"][:3] for each in apart.json()["entry"]] == ["201", "422"]
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"1"'


async def test_validating_tells_what_breaks_a_rule_and_refuses_what_cannot_be_parsed(server: Served) -> None:
    async with member(server) as client:
        for body, place in list(RULES.values())[:3]:
            answer = await client.post("Patient/$validate", content=body, headers=FHIR)
            assert (answer.status_code, told(answer)) == (200, [f"Patient{place}" if place else ""])
        inside = b'{"resourceType":"Parameters","parameter":[{"name":"resource","resource":%b}]}'
        for broken in UNREADABLE.values():
            assert (await client.post("Patient/$validate", content=inside % broken, headers=FHIR)).status_code == 400


async def test_the_place_is_told_by_line_and_column(server: Served) -> None:
    async with member(server) as client:
        for url in ("Patient", "", "Patient/$validate"):
            answer = await client.post(url, content=b'{"resourceType":\n  "Patient",}', headers=FHIR)
            (issue,) = answer.json()["issue"]
            assert (issue["code"], "line 2, column 13" in issue["diagnostics"]) == ("structure", True)


async def test_behind_a_byte_order_mark_the_rest_is_checked_too(server: Served) -> None:
    async with member(server) as client:
        answer = await client.post("Patient", content=b'\xef\xbb\xbf{"resourceType":"Patient","x":1}', headers=FHIR)
    assert (answer.status_code, told(answer)) == (400, ["", "Patient.x"])

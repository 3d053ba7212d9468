"""read and vread over real HTTP."""

from __future__ import annotations

import pytest

from fhirserver.core.model import Key
from tests.build import load, observation, patient, practitioner
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof


async def test_a_resource_comes_back_as_it_was_stored_with_its_tags(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p", valueQuantity={"value": 7.20})])
    answer = await server.get("Observation/o")
    resource = answer.json()
    assert answer.headers["etag"] == 'W/"1"'
    assert answer.headers["last-modified"].endswith("GMT")
    assert answer.headers["content-type"] == "application/fhir+json; charset=utf-8"
    assert resource["meta"]["versionId"] == "1"
    assert resource["subject"] == {"reference": "Patient/p"}


async def test_a_copy_that_is_still_good_is_a_304(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    first = await server.get("Practitioner/dr")
    for headers in (
        {"If-None-Match": first.headers["etag"]},
        {"If-None-Match": '"x", ' + first.headers["etag"]},
        {"If-None-Match": first.headers["etag"].removeprefix("W/")},
        {"If-Modified-Since": first.headers["last-modified"]},
    ):
        again = await server.get("Practitioner/dr", headers=headers)
        assert (again.status_code, again.content) == (304, b"")
        assert again.headers["etag"] == first.headers["etag"]
    await load(server.gate, [practitioner("dr", gender="female")])
    changed = await server.get("Practitioner/dr", headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.headers["etag"]) == (200, 'W/"2"')


@pytest.mark.parametrize(
    "moment",
    [
        "",
        "yesterday",
        "Mon, 31 Feb 2035 00:00:00 GMT",
        "Mon, 01 Jan 99999999999 00:00:00 GMT",
        "Mon, 01 Jan 2035 00:00:00 +99999999999999999999",
        "Mon, 01 Jan 2035 00:00:00 +9999",
    ],
)
async def test_what_is_no_date_is_no_condition(server: Served, moment: str) -> None:
    await load(server.gate, [practitioner("dr")])
    answer = await server.get("Practitioner/dr", headers={"If-Modified-Since": moment})
    assert (answer.status_code, answer.json()["id"]) == (200, "dr")


async def test_vread_gives_each_version(server: Served) -> None:
    await load(server.gate, [practitioner("dr", gender="male")])
    await load(server.gate, [practitioner("dr", gender="female")])
    assert (await server.get("Practitioner/dr/_history/1")).json()["gender"] == "male"
    assert (await server.get("Practitioner/dr/_history/2")).json()["gender"] == "female"
    assert (await server.get("Practitioner/dr/_history/3")).status_code == 404
    assert (await server.get("Practitioner/dr/_history/x")).status_code == 404


async def test_a_deleted_resource_is_gone_and_an_unknown_one_not_found(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key("Practitioner", "dr")])
    assert (await server.get("Practitioner/dr")).status_code == 410
    assert (await server.get("Practitioner/none")).status_code == 404
    assert (await server.get("Nonsense/none")).status_code == 404


@pytest.mark.parametrize(
    ("accept", "status", "answered"),
    [
        ("application/json", 200, "application/json"),
        ("application/fhir+json", 200, "application/fhir+json"),
        ("text/html, application/xhtml+xml, */*;q=0.8", 200, "application/fhir+json"),
        ("application/fhir+json; fhirVersion=4.0", 200, "application/fhir+json"),
        ("application/fhir+xml", 406, "application/fhir+json"),
    ],
)
async def test_the_answer_has_the_type_that_was_asked_for(
    server: Served, accept: str, status: int, answered: str
) -> None:
    await load(server.gate, [practitioner("dr")])
    answer = await server.get("Practitioner/dr", headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (status, answered)


async def test_format_overrides_accept(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    assert (await server.get("Practitioner/dr?_format=json", headers={"Accept": "text/html"})).status_code == 200
    assert (await server.get("Practitioner/dr?_format=xml")).status_code == 406


async def test_every_answer_names_its_request(server: Served) -> None:
    assert (await server.get("Patient/x", headers={"X-Request-Id": "abc-1"})).headers["x-request-id"] == "abc-1"
    made = (await server.get("Patient/x", headers={"X-Request-Id": "no blanks <here>"})).headers["x-request-id"]
    assert made.isalnum()

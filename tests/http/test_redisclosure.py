"""Part 2 data to third parties: the label on every resource, and the notice in every shape of answer (42 CFR 2.32)."""

from __future__ import annotations

import base64
import json
from typing import Any

import httpx
import pytest

from fhirserver.core.sensitive import PROGRAM
from fhirserver.http.labels import CONFIDENTIALITY, NOTICE_HEADER
from fhirserver.policy.redisclosure import EXTENSION, LABELS, NOTICE
from tests.admitted import consent, marks, put
from tests.build import condition, load, observation, organization, patient, person
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof
JSON = dict[str, Any]
CODES = {label["code"] for label in LABELS}
LARGE = b"x" * 3_000_000
PERMITTED = ("N", "HIV", "42CFRPart2")


def document(id: str, of: str, binary: str) -> JSON:
    return {
        "resourceType": "DocumentReference",
        "id": id,
        "status": "current",
        "type": {"coding": [{"system": "http://loinc.org", "code": "34133-9"}]},
        "subject": {"reference": f"Patient/{of}"},
        "content": [{"attachment": {"url": f"Binary/{binary}"}}],
    }


def binary(id: str, data: bytes) -> JSON:
    return {"resourceType": "Binary", "id": id, "contentType": "text/plain", "data": base64.b64encode(data).decode()}


@pytest.fixture
async def rehab(server: Served) -> Served:
    """A Part 2 program and a clinic, a patient of each, one human; a third party that may see Part 2 data."""
    await load(
        server.gate,
        [organization("app"), organization("clinic"), {**organization("rehab"), "type": [{"coding": [PROGRAM]}]}],
    )
    marked = observation("mine", "r", meta={"security": marks("HIV")})
    await load(
        server.gate,
        [
            patient("r"),
            condition("cr", "r"),
            marked,
            binary("b", b"hello"),
            binary("large", LARGE),
            document("d", "r", "b"),
            document("e", "r", "large"),
        ],
        organization="rehab",
    )
    await load(server.gate, [patient("c"), condition("cc", "c")], organization="clinic")
    await load(server.gate, [person("one", "r", "c")])
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    for of in ("r", "c"):
        await scoped.write([put(consent(f"k-{of}", of, "app", securityLabel=marks(*PERMITTED)))])
    return server


def codes(resource: JSON) -> set[str]:
    return {coding["code"] for coding in resource.get("meta", {}).get("security", ())}


def resources(bundle: JSON) -> list[JSON]:
    return [entry["resource"] for entry in bundle.get("entry", ()) if "resource" in entry]


def of_rehab(resource: JSON) -> bool:
    return resource["id"] in ("r", "cr", "mine", "b", "large", "d", "e", "k-r")


def held_to(bundle: JSON) -> None:
    """Every Part 2 resource, and no other, is labelled; the answer has the notice if there is one."""
    found = resources(bundle)
    assert found
    for resource in found:
        assert (codes(resource) >= CODES) is of_rehab(resource), resource["id"]
    noticed = bundle.get("meta", {}).get("extension") == [EXTENSION]
    assert noticed is any(map(of_rehab, found))
    assert (codes(bundle) >= CODES) is noticed


SEARCHES = [
    "Condition",
    "Condition?_elements=id",
    "Condition?_summary=true",
    "Condition?subject=Patient/r&_include=Condition:subject",
    "Patient?_revinclude=Condition:subject",
    "Condition?_sort=-_lastUpdated",
    "Condition/_history",
    "_history",
    "Condition/cr/_history",
    "DocumentReference/$docref?patient=r&type=34133-9",
    "Person/one/$everything",
    "Person/one/$everything?_count=50",
    "Patient/r/$everything",
    "Patient/c/$everything",
    "Patient/$everything",
]


@pytest.mark.parametrize("path", SEARCHES)
async def test_every_bundle_carries_label_and_notice(rehab: Served, path: str) -> None:
    token = rehab.token("third-party", org="app")
    answer = await rehab.get(path, token)
    assert answer.status_code == 200, answer.text
    held_to(answer.json())


@pytest.mark.parametrize("path", ["Condition", "Person/one/$everything", "Condition/_history"])
@pytest.mark.parametrize(("caller", "org"), [("operator", "operator"), ("member", "rehab")])
async def test_who_is_no_third_party_gets_what_is_stored(rehab: Served, path: str, caller: str, org: str) -> None:
    answer = (await rehab.get(path, rehab.token(caller, org=org))).json()
    assert "extension" not in answer.get("meta", {})
    assert all("42CFRPart2" not in codes(resource) for resource in resources(answer))


async def test_the_patient_gets_its_own_without_a_prohibition(rehab: Served) -> None:
    answer = await rehab.get("Condition/cr", rehab.token("patient", org="rehab", patient="r"))
    assert answer.status_code == 200
    assert NOTICE_HEADER not in answer.headers
    assert "security" not in answer.json()["meta"]


async def test_ndjson_tells_on_its_last_line(rehab: Served) -> None:
    token = rehab.token("third-party", org="app")
    answer = await rehab.get("Person/one/$everything", token, headers={"Accept": "application/fhir+ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["resourceType"] == "OperationOutcome"
    held_to({"meta": lines[-1]["meta"], "entry": [{"resource": line} for line in lines[:-1]]})


async def test_a_single_resource_comes_with_a_header(rehab: Served) -> None:
    token = rehab.token("third-party", org="app")
    for path in ("Condition/cr", "Condition/cr/_history/1", "Condition/cr/$meta", "Binary/large"):
        answer = await rehab.get(path, token, headers={"Accept": "application/fhir+json"})
        assert answer.status_code == 200
        assert answer.headers[NOTICE_HEADER] == NOTICE
        body = answer.json()
        meta = body["parameter"][0]["valueMeta"] if path.endswith("$meta") else body["meta"]
        assert {coding["code"] for coding in meta["security"]} >= CODES
    plain = await rehab.get("Condition/cc", token)
    assert plain.status_code == 200
    assert NOTICE_HEADER not in plain.headers


async def test_the_view_has_an_entity_tag_of_its_own(rehab: Served) -> None:
    token = rehab.token("third-party", org="app")
    view = await rehab.get("Condition/cr", token)
    stored = await rehab.get("Condition/cr")
    assert view.headers["ETag"].startswith('W/"1-')
    assert stored.headers["ETag"] == 'W/"1"'
    assert {**view.json(), "meta": 0} == {**stored.json(), "meta": 0}
    same = await rehab.get("Condition/cr", token, headers={"If-None-Match": view.headers["ETag"]})
    other = await rehab.get("Condition/cr", token, headers={"If-None-Match": stored.headers["ETag"]})
    dated = await rehab.get("Condition/cr", token, headers={"If-Modified-Since": view.headers["Last-Modified"]})
    assert (same.status_code, other.status_code, dated.status_code) == (304, 200, 200)


@pytest.mark.parametrize(("name", "content"), [("b", b"hello"), ("large", LARGE)])
async def test_raw_content_comes_with_the_header_and_untouched(rehab: Served, name: str, content: bytes) -> None:
    token = rehab.token("third-party", org="app")
    answer = await rehab.get(f"Binary/{name}", token, headers={"Accept": "text/plain"})
    assert answer.content == content
    assert answer.headers[NOTICE_HEADER] == NOTICE


@pytest.mark.parametrize("url", ["Condition/cr", "Condition?subject=Patient/r", "Patient/r/$everything"])
async def test_a_batch_tells_of_its_entries(rehab: Served, url: str) -> None:
    token = rehab.token("third-party", org="app")
    for asked, told in ((url, True), ("Condition/cc", False)):
        batch = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "GET", "url": asked}}]}
        async with rehab.client(token) as client:
            answer: httpx.Response = await client.post("", json=batch)
        assert answer.status_code == 200
        bundle = answer.json()
        assert bundle["entry"][0]["response"]["status"] == "200 OK"
        assert (bundle.get("meta", {}).get("extension") == [EXTENSION]) is told


async def test_without_a_permit_for_it_nothing_of_a_program_is_there(rehab: Served) -> None:
    scoped = rehab.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.write([put(consent("k-r", "r", "app", securityLabel=marks("N", "HIV")))])
    token = rehab.token("third-party", org="app")
    for path in SEARCHES:
        answer = await rehab.get(path, token)
        assert not any(of_rehab(each) for each in resources(answer.json())), path
        assert "urn:fhirserver:redisclosure-notice" not in answer.text
    for path in ("Condition/cr", "Patient/r", "Observation/mine", "Binary/b", "Binary/large"):
        assert (await rehab.get(path, token)).status_code == 403


async def test_a_bundle_is_as_confidential_as_what_it_contains(rehab: Served) -> None:
    """A topic means R, whether or not the resource says so."""
    bundle = (await rehab.get("Observation", rehab.token("third-party", org="app"))).json()
    first = bundle["meta"]["security"][0]
    assert first == {"system": CONFIDENTIALITY, "code": "R"}
    assert codes(bundle) == {"R", "HIV", *CODES}
    plain = (await rehab.get("Condition?subject=Patient/c", rehab.token("third-party", org="app"))).json()
    assert "meta" not in plain

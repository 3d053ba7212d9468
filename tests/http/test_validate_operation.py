"""`$validate` over real HTTP: 200 with what was found, 4xx where nothing could be validated."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from tests.build import load, observation, patient, practitioner
from tests.served import Served

FULL = "system/*.cruds"
BASE = "http://hl7.org/fhir/StructureDefinition/"
BAD = {"resourceType": "Patient", "gender": "unknown-code", "birthDate": "2020-02-30"}


def parameters(resource: dict[str, Any] | None = None, **values: str) -> dict[str, Any]:
    given: list[dict[str, Any]] = [{"name": "resource", "resource": resource}] if resource else []
    given += [{"name": name, "valueUri" if name == "profile" else "valueCode": value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": given}


def found(answer: httpx.Response) -> list[tuple[str, str, str]]:
    """(severity, code, expression) of every issue of a validation that was done; advice on narratives, and that there
    is no issue, are none."""
    assert answer.status_code == 200, answer.text
    outcome = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    said = ("dom-6", "No issues")
    issues = [each for each in outcome["issue"] if not each["diagnostics"].startswith(said)]
    return [(each["severity"], each["code"], *each.get("expression", [""])) for each in issues]


FINE: list[tuple[str, str, str]] = []


@pytest.fixture
async def clinic(server: Served) -> Served:
    await load(server.gate, [patient("p"), observation("o", "p")], organization="clinic")
    await load(server.gate, [patient("far")], organization="another")
    return server


def member(server: Served, scope: str = FULL, org: str = "clinic") -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=scope))


async def test_a_valid_resource_has_no_issues_bare_or_in_parameters(clinic: Served) -> None:
    async with member(clinic) as client:
        assert found(await client.post("Patient/$validate", json=patient("x"))) == FINE
        assert found(await client.post("Patient/$validate", json=parameters(patient("x")))) == FINE


async def test_where_nothing_is_found_that_is_said_and_advice_is_only_a_warning(clinic: Served) -> None:
    async with member(clinic) as client:
        outcome = (await client.post("Parameters/$validate", json={"resourceType": "Parameters"})).json()
        assert [each["severity"] for each in outcome["issue"]] == ["information"]
        [advice] = (await client.post("Patient/$validate", json=patient("x"))).json()["issue"]
        assert (advice["severity"], advice["expression"]) == ("warning", ["Patient"])


async def test_every_issue_is_told_with_its_place_and_the_answer_is_a_200(clinic: Served) -> None:
    async with member(clinic) as client:
        bare = found(await client.post("Patient/$validate", json=BAD))
        assert [place for _, _, place in bare] == ["Patient.gender", "Patient.birthDate"]
        assert {severity for severity, _, _ in bare} == {"error"}
        assert found(await client.post("Patient/$validate", json=parameters(BAD))) == bare
        twice = b'{"resourceType":"Patient","active":true,"active":false}'
        answer = await client.post(
            "Patient/$validate", content=twice, headers={"Content-Type": "application/fhir+json"}
        )
        assert found(answer) == [("error", "structure", "Patient.active")]
        other = found(await client.post("Patient/$validate", json=practitioner("x")))
        assert other == [("error", "invalid", "resourceType")]


async def test_nothing_is_stored(clinic: Served) -> None:
    async with member(clinic) as client:
        before = (await client.get("Patient")).json()["entry"]
        assert found(await client.post("Patient/$validate?mode=create", json=patient("x"))) == FINE
        assert found(await client.post("Patient/p/$validate?mode=delete")) == FINE
        assert (await client.get("Patient")).json()["entry"] == before


async def test_create_and_update_find_what_a_write_would_be_refused_for(clinic: Served) -> None:
    create, update = "Observation/$validate?mode=create", "Observation/o/$validate?mode=update"
    async with member(clinic) as client:
        assert found(await client.post(create, json=observation("x", "p"))) == FINE
        assert found(await client.post(create, json=observation("x", "far"))) == [("error", "conflict", "")]
        assert found(await client.post(update, json=observation("o", "p"))) == FINE
        assert found(await client.post(update, json=observation("o", "far"))) == [("error", "conflict", "")]
        assert found(await client.post(update, json=observation("y", "p"))) == [("error", "invalid", "Observation.id")]
        stale = await client.post(update, json=observation("o", "p"), headers={"If-Match": 'W/"7"'})
        assert found(stale) == [("error", "conflict", "")]
    async with member(clinic, "system/*.rs") as client:
        assert found(await client.post(create, json=observation("x", "p"))) == [("error", "forbidden", "")]
        assert found(await client.post(update, json=observation("o", "p"))) == [("error", "forbidden", "")]
        assert found(await client.get("Observation/o/$validate?mode=delete")) == [("error", "forbidden", "")]


async def test_the_stored_resource_is_validated_where_none_is_sent(clinic: Served) -> None:
    async with member(clinic) as client:
        assert found(await client.get("Observation/o/$validate")) == FINE
        assert found(await client.post("Observation/o/$validate")) == FINE
        assert found(await client.post("Patient/p/$validate", json=BAD))[0][2] == "Patient.gender"
    rows = [row for row in await clinic.audit() if row.interaction == "$validate"]
    assert {row.outcome for row in rows} == {"intent", "complete"}


async def test_base_profiles_are_validated_against_and_others_refused(clinic: Served) -> None:
    async with member(clinic) as client:
        for url in (BASE + "Patient", BASE + "Patient|4.0.1", BASE + "DomainResource"):
            asked = parameters(patient("x"), profile=url)
            assert found(await client.post("Patient/$validate", json=asked)) == FINE
        for url in (BASE + "Observation", "http://example.org/profile", BASE + "Patient|5.0.0"):
            answer = await client.post("Patient/$validate", json=parameters(patient("x"), profile=url))
            assert answer.status_code == 400
            assert answer.json()["issue"][0]["code"] == "not-supported"
            assert (await client.get("Patient/p/$validate", params={"profile": url})).status_code == 400
        claimed = patient("x", meta={"profile": [BASE + "Patient", "http://example.org/profile"]})
        told = found(await client.post("Patient/$validate", json=claimed))
        assert told == [("information", "informational", "Patient.meta.profile[1]")]


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "Patient/$validate", b""),
        ("POST", "Patient/$validate", b"{"),
        ("POST", "Patient/$validate", b"[]"),
        ("POST", "Patient/$validate", b"\xff"),
        ("POST", "Patient/$validate", b"[" * 100_000),
        ("POST", "Patient/$validate", json.dumps(parameters(mode="create")).encode()),
        ("POST", "Patient/$validate", json.dumps(parameters(patient("x"), mode="update")).encode()),
        ("POST", "Patient/$validate", json.dumps(parameters(patient("x"), mode="wrong")).encode()),
        ("POST", "Patient/$validate?mode=create", json.dumps(parameters(patient("x"), mode="create")).encode()),
        ("POST", "Patient/$validate", b'{"resourceType":"Parameters","parameter":[{"name":"resource"}]}'),
        ("POST", "Patient/$validate", b'{"resourceType":"Parameters","parameter":[{"name":"mode","valuePeriod":{}}]}'),
        ("POST", "Patient/$validate", b'{"resourceType":"Parameters","parameter":{"name":"mode"}}'),
        ("POST", "Patient/p/$validate?mode=create", json.dumps(patient("p")).encode()),
        ("POST", "Patient/p/$validate?mode=update", b""),
        ("POST", "Patient/p/$validate?mode=profile", b""),
    ],
)
async def test_what_cannot_be_validated_is_a_400(clinic: Served, method: str, path: str, body: bytes) -> None:
    async with member(clinic) as client:
        answer = await client.request(method, path, content=body, headers={"Content-Type": "application/fhir+json"})
    assert (answer.status_code, answer.json()["resourceType"]) == (400, "OperationOutcome")


async def test_other_refusals(clinic: Served) -> None:
    async with member(clinic) as client:
        xml = await client.post("Patient/$validate", content=b"<Patient/>", headers={"Content-Type": "application/xml"})
        assert xml.status_code == 415
        assert (await client.get("Patient/$validate")).status_code == 405
        assert (await client.post("Nonsense/$validate", json={})).status_code == 404
        strict = {"Prefer": "handling=strict"}
        assert (await client.post("Patient/$validate?x=1", json=patient("x"), headers=strict)).status_code == 400
        assert (await client.post("Patient/$validate?x=1", json=patient("x"))).status_code == 200


async def test_what_a_caller_may_not_see_is_as_if_it_were_not_there(clinic: Served) -> None:
    tokens = {
        404: clinic.token("member", org="clinic", scope=FULL),
        403: clinic.token("third-party", org="app", scope="patient/*.cruds"),
    }
    for status, token in tokens.items():
        async with clinic.client(token) as client:
            bodies = set()
            for id in ("far", "none"):
                for mode in ("", "?mode=delete", "?mode=update"):
                    answer = await client.post(f"Patient/{id}/$validate{mode}", json=patient(id))
                    assert answer.status_code == status
                    bodies.add(answer.text.replace(id, "it"))
            assert len(bodies) == 1

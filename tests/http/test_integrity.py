"""Referential integrity over real HTTP: off, warn and enforce."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.build import by, encounter, load, observation, patient, practitioner
from tests.served import Served, served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof
FULL = "system/*.cruds"


@pytest.fixture
async def enforcing(tmp_path: Path, kind: str) -> AsyncIterator[Served]:
    async with served(tmp_path, kind, referential_integrity="enforce") as running:
        await load(running.gate, [patient("p"), encounter("e", "p")], organization="clinic")
        await load(running.gate, [patient("far"), encounter("hidden", "far")], organization="another")
        yield running


def member(server: Served, org: str = "clinic", scope: str = FULL) -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=scope))


def of(name: str) -> dict[str, Any]:
    """An Observation of p in this Encounter."""
    return observation("o", "p", encounter={"reference": f"Encounter/{name}"})


def issues(answer: httpx.Response) -> list[tuple[str, str, str]]:
    return [(each["severity"], each["code"], *each.get("expression", [""])) for each in answer.json()["issue"]]


async def test_a_reference_to_nothing_is_refused_with_its_place(enforcing: Served) -> None:
    async with member(enforcing) as client:
        bad = {**of("none"), "performer": [*by("nobody"), {"reference": "#x"}, {"identifier": {"value": "1"}}]}
        bad["contained"] = [{"resourceType": "Practitioner", "id": "x"}]
        answer = await client.put("Observation/o", json=bad)
        assert answer.status_code == 422
        assert sorted(issues(answer)) == [
            ("error", "not-found", "Observation.encounter.reference"),
            ("error", "not-found", "Observation.performer[0].reference"),
        ]
        assert (await client.get("Observation/o")).status_code == 404
        assert (await client.put("Observation/o", json=of("e"))).status_code == 201


async def test_the_servers_own_address_is_followed_and_others_are_not(tmp_path: Path, kind: str) -> None:
    root = "https://fhir.example.org"
    async with (
        served(tmp_path, kind, referential_integrity="enforce", base_url=root) as server,
        member(server) as client,
    ):
        await load(server.gate, [patient("p"), encounter("e", "p")], organization="clinic")
        for place, status in ((f"{root}/FHIR/R4", 422), ("https://elsewhere.example.org/fhir", 201)):
            pointing = observation("o", "p", encounter={"reference": f"{place}/Encounter/none"})
            assert (await client.put("Observation/o", json=pointing)).status_code == status


async def test_what_is_hidden_and_what_is_not_there_are_refused_alike(enforcing: Served) -> None:
    async with member(enforcing) as client:
        told = set()
        for name in ("hidden", "none"):
            answer = await client.put("Observation/o", json=of(name))
            assert answer.status_code == 422
            told.add(answer.text.replace(name, "it"))
        assert len(told) == 1
    async with enforcing.client(enforcing.token(scope=FULL)) as client:
        assert (await client.put("Observation/o", json=of("hidden"))).status_code == 201


async def test_who_may_not_read_may_refer_to_its_own(enforcing: Served) -> None:
    async with member(enforcing, scope="system/*.cud") as client:
        assert (await client.put("Observation/o", json=of("none"))).status_code == 422
        assert (await client.put("Observation/o", json=of("e"))).status_code == 201


async def test_what_is_referred_to_stays(enforcing: Served) -> None:
    async with member(enforcing) as client:
        await client.put("Observation/o", json=of("e"))
        answer = await client.delete("Encounter/e")
        assert (answer.status_code, issues(answer)) == (409, [("error", "conflict", "")])
        assert "Observation/o" in answer.text
        assert (await client.delete("Observation/o")).status_code == 204
        assert (await client.delete("Encounter/e")).status_code == 204
        assert (await client.delete("Patient/p")).status_code == 204, "the Person that the server keeps holds nobody"
        assert (await client.put("Observation/o", json=of("e"))).status_code == 422, "what was deleted is not there"


async def test_a_referrer_that_may_not_be_seen_is_not_named(enforcing: Served) -> None:
    await load(enforcing.gate, [practitioner("dr")], organization="clinic")
    await load(enforcing.gate, [observation("secret", "far", performer=by("dr"))], organization="another")
    async with member(enforcing) as client:
        answer = await client.delete("Practitioner/dr")
        assert answer.status_code == 409
        assert answer.json()["issue"][0]["diagnostics"] == "Practitioner/dr is still referred to."


async def test_a_transaction_is_weighed_as_a_whole(enforcing: Served) -> None:
    def bundle(*entries: dict[str, Any]) -> dict[str, Any]:
        return {"resourceType": "Bundle", "type": "transaction", "entry": list(entries)}

    def put(resource: dict[str, Any]) -> dict[str, Any]:
        url = f"{resource['resourceType']}/{resource['id']}"
        return {"resource": resource, "request": {"method": "PUT", "url": url}}

    def delete(url: str) -> dict[str, Any]:
        return {"request": {"method": "DELETE", "url": url}}

    async with member(enforcing) as client:
        together = bundle(put(of("new")), put(encounter("new", "p")))
        assert (await client.post("", json=together)).status_code == 200
        answer = await client.post(
            "", json=bundle(put(patient("q")), put(observation("x", "q", performer=by("nobody"))))
        )
        assert answer.status_code == 422
        assert issues(answer) == [("error", "not-found", "Bundle.entry[1].resource.performer[0].reference")]
        assert (await client.get("Patient/q")).status_code == 404
        assert (await client.post("", json=bundle(delete("Encounter/new")))).status_code == 409
        kept = await client.post("", json=bundle(delete("Encounter/new"), put(of("new"))))
        assert kept.status_code == 422
        moved = await client.post("", json=bundle(delete("Encounter/new"), put(of("e"))))
        assert moved.status_code == 200
        assert (await client.post("", json=bundle(delete("Encounter/e"), delete("Observation/o")))).status_code == 200


async def test_of_a_deletion_and_a_reference_at_once_one_wins(enforcing: Served) -> None:
    async with member(enforcing) as client:
        for number in range(12):
            name = f"e{number}"
            await client.put(f"Encounter/{name}", json=encounter(name, "p"))
            pointing = observation(f"o{number}", "p", encounter={"reference": f"Encounter/{name}"})
            made, gone = await asyncio.gather(
                client.put(f"Observation/o{number}", json=pointing), client.delete(f"Encounter/{name}")
            )
            assert (made.status_code, gone.status_code) in ((201, 409), (422, 204))


async def test_validate_tells_what_would_be_refused(enforcing: Served) -> None:
    async with member(enforcing) as client:
        await client.put("Observation/o", json=of("e"))
        answer = await client.post("Observation/$validate?mode=create", json=of("none"))
        assert answer.status_code == 200
        assert ("error", "not-found", "Observation.encounter.reference") in issues(answer)
        answer = await client.get("Encounter/e/$validate?mode=delete")
        assert (answer.status_code, issues(answer)) == (200, [("error", "conflict", "")])


async def test_warn_stores_and_tells_on_request(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path, kind, referential_integrity="warn") as server:
        await load(server.gate, [patient("p"), encounter("e", "p")], organization="clinic")
        async with member(server) as client:
            told = {"Prefer": "return=OperationOutcome"}
            answer = await client.put("Observation/o", json=of("none"), headers=told)
            assert answer.status_code == 201
            assert issues(answer)[1:] == [("warning", "not-found", "Observation.encounter.reference")]
            await client.put("Observation/o", json=of("e"))
            gone = await client.delete("Encounter/e", headers=told)
            assert gone.status_code == 200
            assert issues(gone)[1:] == [("warning", "conflict", "")]
            validated = await client.post("Observation/$validate?mode=create", json=of("none"))
            assert ("warning", "not-found", "Observation.encounter.reference") in issues(validated)


async def test_off_keeps_references_as_they_are(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with member(server) as client:
        answer = await client.put("Observation/o", json=of("none"), headers={"Prefer": "return=OperationOutcome"})
        assert (answer.status_code, len(issues(answer))) == (201, 1)
        assert (await client.delete("Patient/p")).status_code == 204


async def test_acting_for_a_patient_tells_nothing_of_the_rest_of_the_house(enforcing: Served) -> None:
    """A hospital's own patient app is a client of the organisation that holds everybody's charts."""
    await load(enforcing.gate, [patient("q"), encounter("other", "q")], organization="clinic")
    given = {
        "resourceType": "Consent",
        "status": "inactive",
        "scope": {"text": "x"},
        "category": [{"text": "x"}],
        "patient": {"reference": "Patient/p"},
        "policyRule": {"text": "x"},
    }
    token = enforcing.token("patient", org="clinic", patient="p", scope="patient/*.cruds")
    statuses = []
    async with enforcing.client(token) as client:
        for name in ("e", "other", "hidden", "none"):
            about = [{"url": "urn:x", "valueReference": {"reference": f"Encounter/{name}"}}]
            statuses.append((await client.post("Consent", json={**given, "extension": about})).status_code)
    assert statuses == [201, 422, 422, 422]

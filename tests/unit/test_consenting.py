"""Granting, revoking and listing consent by command, and a Consent that takes an older one's place."""

from __future__ import annotations

import msgspec
import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.policy import consenting
from tests.admitted import World, consent, content, person, put, seen, status_of
from tests.hospitals import refusal, two_hospitals

w = two_hospitals


async def test_granting_revoking_and_granting_again(w: World) -> None:
    system = w.system()

    async def status(reference: str = "Observation/n1") -> int:
        return await status_of(await w.caller("third-party", "reader"), reference)

    await consenting.grant_consent(system, ["n", "s"], "reader", types=["Observation"])
    assert [await status(), await status("Observation/s1"), await status("Patient/n")] == [200, 200, 403]
    await consenting.revoke_consent(system, ["n"], "reader")
    assert [await status(), await status("Observation/s1")] == [403, 200]
    await consenting.grant_consent(system, ["n"], "reader")
    assert [await status(), await status("Patient/n")] == [200, 200]
    active = [
        record.id
        async for record, resource, counts in consenting.list_consents(system, patients=["n"], organization="reader")
        if resource["status"] == "active" and counts
    ]
    assert len(active) == 1, "one active record per patient, organisation, project and type"


async def test_a_projects_consents_are_its_own(w: World) -> None:
    system = w.system()

    async def status() -> int:
        return await status_of(await w.caller("third-party", "reader"), "Observation/n1")

    await consenting.grant_consent(system, ["n"], "reader", project="a")
    await consenting.revoke_consent(system, ["n"], "reader", project="b")
    assert await status() == 200
    await consenting.revoke_consent(system, ["n"], "reader", project="a")
    assert await status() == 403
    await consenting.grant_consent(system, ["n"], "reader", project="a", until="2027-01-15", labels=["HIV_OR_STI"])
    assert await status() == 200
    w.now += 2 * 86_400_000
    assert await status() == 403


async def test_a_consent_that_cannot_be_understood_is_not_written(w: World) -> None:
    with pytest.raises(ValueError, match="Observatory"):
        await consenting.grant_consent(w.system(), ["n"], "reader", types=["Observatory"])
    with pytest.raises(ValueError, match="HIVE"):
        await consenting.grant_consent(w.system(), ["n"], "reader", labels=["HIVE"])
    with pytest.raises(Fault, match="period"):
        await consenting.grant_consent(w.system(), ["n"], "reader", until="tomorrow")
    assert await refusal(consenting.grant_consent(w.system(), ["none"], "reader")) is Kind.NOT_FOUND
    assert await seen(w.system(), "Consent") == []


async def test_a_person_stands_for_the_patients_it_links(w: World) -> None:
    await w.load("operator", person("human", "s", "n"))
    assert await consenting.patients_of(w.system(), "human") == ("s", "n")
    assert await refusal(consenting.patients_of(w.system(), "none")) is Kind.NOT_FOUND


async def test_consent_written_over_http_takes_the_old_ones_place_whoever_wrote_it(w: World) -> None:
    own = await w.writer("north", "patient", patient="n")
    await w.consent(consent("old", "n"))
    await own.write([put(consent("new", "n", type="deny"))])
    assert (await content(w.system(), await w.system().read(Key("Consent", "old"))))["status"] == "inactive"
    await own.write([put(consent("newer", "n"))])
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 200


async def test_the_bytes_of_a_consent_made_inactive_are_otherwise_untouched() -> None:
    body = b'{"resourceType":"Consent","status":"active","extension":[{"url":"urn:x","valueDecimal":1.00}]}'
    assert consenting.inactive(body) == body.replace(b'"active"', b'"inactive"')
    assert msgspec.json.decode(consenting.inactive(body))["status"] == "inactive"

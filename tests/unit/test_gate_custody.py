"""Custody: whose a resource is, and that nobody takes it over or writes into another's chart."""

from __future__ import annotations

import asyncio
from contextlib import suppress

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key, parse_facts
from tests.admitted import World, observation, patient, person, put, status_of
from tests.hospitals import facts_of, refusal, two_hospitals

w = two_hospitals


async def test_the_custodian_is_the_writers_organisation_whatever_the_resource_says(w: World) -> None:
    north = await w.writer("north")
    (record,) = await north.write([put(patient("new", managingOrganization={"reference": "Organization/south"}))])
    assert (record.version, parse_facts(record.facts).custodian) == (1, "north")
    assert (await facts_of(w, "Person/new")).custodian == "north"


async def test_an_existing_key_of_another_custodian_is_never_taken_over(w: World) -> None:
    south = await w.writer("south")
    for resource in (observation("n1", "s"), patient("n"), person("n", "s")):
        assert await refusal(south.write([put(resource)])) is Kind.CONFLICT
    await w.system("north").delete([Key("Observation", "n1"), Key("Patient", "n")])
    for resource in (observation("n1", "s"), patient("n")):
        assert await refusal(south.write([put(resource)])) is Kind.CONFLICT, "not after its deletion either"
    assert await w.load("south", observation("n1", "s")) == ["rejected: Observation/n1 belongs to another organisation"]
    assert await w.load("north", patient("n"), observation("n1", "n")) == ["created", "created"]


async def test_nothing_is_put_into_anothers_chart(w: World) -> None:
    south = await w.writer("south")
    assert await refusal(south.write([put(observation("x", "n"))])) is Kind.CONFLICT
    assert await refusal(south.write([put(observation("s1", "n"))])) is Kind.CONFLICT, "nor moved there"
    performer = observation("x", "s", performer=[{"reference": "Patient/n"}])
    assert await refusal(south.write([put(performer)])) is Kind.CONFLICT
    await w.system("north").delete([Key("Patient", "n")])
    assert await refusal(south.write([put(observation("x", "n"))])) is Kind.CONFLICT, "nor into a deleted one"


async def test_a_patient_is_not_made_where_others_hold_its_chart_already(w: World) -> None:
    north, south = await w.writer("north"), await w.writer("south")
    await south.write([put(observation("early", "later"))])
    assert await refusal(north.write([put(patient("later"))])) is Kind.CONFLICT
    assert await south.write([put(patient("later"))])


async def test_the_operator_may_update_anything_but_takes_nothing_over(w: World) -> None:
    operator = await w.writer("operator", "operator")
    (record,) = await operator.write([put(observation("n1", "n", note=[{"text": "x"}]))])
    assert (record.version, parse_facts(record.facts).custodian) == (2, "north")


async def test_parties_only_grow(w: World) -> None:
    system = w.system("north")
    await system.write([put(observation("n1", "n", note=[{"text": "1"}]), parties=("a",))])
    await system.write([put(observation("n1", "n", note=[{"text": "2"}]), parties=("b",))])
    assert (await facts_of(w, "Observation/n1")).parties == ("a", "b")
    assert await status_of(await w.caller("member", "a"), "Observation/n1") == 200


async def test_writers_of_one_new_key_do_not_take_it_from_each_other(w: World) -> None:
    async def attempt(org: str) -> str | None:
        writer = await w.writer(org)
        with suppress(Fault):
            await writer.write([put(patient("contested"))])
            return org
        return None

    outcomes = await asyncio.gather(*(attempt(org) for org in ("a", "b", "c", "a", "b")))
    winners = {outcome for outcome in outcomes if outcome}
    assert winners == {(await facts_of(w, "Patient/contested")).custodian}
    assert (await facts_of(w, "Person/contested")).custodian in winners

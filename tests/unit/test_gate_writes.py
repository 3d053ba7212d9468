"""Writing through the gate: who may write what decides access, custody, Persons, and the audit row of each write."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Facts, Key, Query, parse_facts
from fhirserver.policy import consenting, persons
from fhirserver.policy.derive import rederive
from fhirserver.policy.dossier import POLICY_EPOCH
from fhirserver.policy.gate import Scoped
from tests.admitted import (
    JSON,
    World,
    classes,
    condition,
    consent,
    content,
    observation,
    patient,
    person,
    put,
    seen,
    status_of,
    world,
)


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    """Two hospitals with a patient each."""
    async with world(tmp_path) as made:
        await made.load("north", patient("n"), observation("n1", "n"))
        await made.load("south", patient("s"), observation("s1", "s"))
        yield made


async def refusal(attempt: Coroutine[Any, Any, object]) -> Kind:
    with pytest.raises(Fault) as refused:
        await attempt
    return refused.value.kind


async def facts_of(w: World, reference: str) -> Facts:
    record = await w.store.get(Key.parse(reference))
    assert record is not None
    return parse_facts(record.facts)


async def epoch(w: World) -> int:
    entry = await w.store.ledger.get(POLICY_EPOCH)
    return int(entry.value) if entry else 0


# -- custody


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


async def test_a_write_is_all_or_nothing(w: World) -> None:
    south = await w.writer("south")
    assert await refusal(south.write([put(observation("ok", "s")), put(observation("bad", "n"))])) is Kind.CONFLICT
    assert await status_of(south, "Observation/ok") == 404
    assert await refusal(south.write([put(observation("ok", "s")), put(observation("ok", "s"))])) is Kind.BAD_REQUEST
    assert await south.write([]) == []


async def test_if_version_is_held_to(w: World) -> None:
    north = await w.writer("north")
    for wrong in (0, 2, 7):
        assert await refusal(north.write([put(observation("n1", "n"), if_version=wrong)])) is Kind.PRECONDITION_FAILED
    assert await refusal(north.write([put(observation("new", "n"), if_version=1)])) is Kind.PRECONDITION_FAILED
    (record,) = await north.write([put(observation("n1", "n"), if_version=1)])
    assert record.version == 2
    (record,) = await north.write([put(observation("new", "n"), if_version=0)])
    assert record.version == 1


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


# -- classes and scopes


async def test_each_letter_is_needed(w: World) -> None:
    reading = await w.caller("member", "north", "system/*.rs")
    assert await refusal(reading.write([put(observation("x", "n"))])) is Kind.FORBIDDEN
    creating = await w.caller("member", "north", "system/Observation.c", interaction="create")
    assert await refusal(creating.write([put(observation("n1", "n"))])) is Kind.FORBIDDEN
    assert await refusal(creating.write([put(condition("x", "n"))])) is Kind.FORBIDDEN
    assert await creating.write([put(observation("x", "n"))])
    assert await refusal((await w.caller("member", "north")).delete([Key("Observation", "n1")])) is Kind.FORBIDDEN


async def test_a_third_party_writes_nothing(w: World) -> None:
    scoped = await w.writer("reader", "third-party")
    await w.consent(consent("c", "n"))
    for resource in (observation("x", "n"), patient("mine"), consent("own", "n"), consent("c", "n")):
        assert await refusal(scoped.write([put(resource)])) is Kind.FORBIDDEN
    assert await refusal(scoped.delete([Key("Consent", "c")])) is Kind.FORBIDDEN


async def test_a_beneficiary_does_not_write_its_own_consent(w: World) -> None:
    member = await w.writer("reader")
    assert await refusal(member.write([put(consent("c", "n"))])) is Kind.CONFLICT
    assert await w.load("reader", consent("c", "n"), trust_consents=True) != ["created"]
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 403


async def test_the_custodian_the_operator_and_the_patient_give_consent(w: World) -> None:
    writers: list[tuple[Scoped, str]] = [
        (await w.writer("north"), "n"),
        (await w.writer("operator", "operator"), "n"),
        (await w.writer("elsewhere", "patient", patient="n"), "n"),
    ]
    for at, (scoped, of) in enumerate(writers):
        await scoped.write([put(consent(f"c{at}", of, f"reader{at}"))])
        assert (await facts_of(w, f"Consent/c{at}")).custodian == "north", "its patient's custodian keeps it"
        assert await status_of(await w.caller("third-party", f"reader{at}"), "Observation/n1") == 200
        await scoped.delete([Key("Consent", f"c{at}")])
        assert await status_of(await w.caller("third-party", f"reader{at}"), "Observation/n1") == 403


async def test_a_patient_writes_consents_about_itself_and_nothing_else(w: World) -> None:
    own = await w.writer("north", "patient", patient="n")
    for resource in (observation("x", "n"), patient("n"), consent("c", "s"), person("n", "n")):
        assert await refusal(own.write([put(resource)])) is Kind.FORBIDDEN
    assert await refusal(own.delete([Key("Observation", "n1")])) is Kind.FORBIDDEN
    await w.consent(consent("theirs", "s"))
    assert await refusal(own.write([put(consent("theirs", "n"))])) is Kind.FORBIDDEN
    assert await refusal(own.delete([Key("Consent", "theirs")])) is Kind.FORBIDDEN


async def test_audit_events_are_written_by_the_server_alone(w: World) -> None:
    event: JSON = {
        "resourceType": "AuditEvent",
        "id": "e",
        "type": {"code": "rest"},
        "recorded": "2027-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "x"}},
    }
    operator = await w.writer("operator", "operator")
    assert await refusal(operator.write([put(event)])) is Kind.METHOD_NOT_ALLOWED
    assert await w.load("north", event) == ["created"]
    assert await refusal(operator.delete([Key("AuditEvent", "e")])) is Kind.METHOD_NOT_ALLOWED


async def test_a_cut_view_cannot_be_written_back(w: World) -> None:
    await w.load("operator", person("human", "n", "s"))
    north = await w.caller("member", "north")
    view = await content(north, await north.read(Key("Person", "human")))
    for writer in (await w.writer("north"), await w.writer("operator", "operator")):
        assert await refusal(writer.write([put(view)])) in (Kind.BAD_REQUEST, Kind.CONFLICT)
    assert len((await facts_of(w, "Person/human")).owners) == 2


async def test_only_the_operator_links_patients_of_several_custodians(w: World) -> None:
    north = await w.writer("north")
    for links in (("n", "s"), ("s",), ("n", "unknown")):
        assert await refusal(north.write([put(person("mine", *links))])) in (Kind.CONFLICT, Kind.FORBIDDEN)
    assert await north.write([put(person("mine", "n"))])
    await (await w.writer("operator", "operator")).write([put(person("mine", "n", "s"))])
    assert (await facts_of(w, "Person/mine")).parties == ("north", "south")
    assert await refusal(north.write([put(person("mine", "n"))])) is Kind.CONFLICT, "it may not unlink another's"
    assert await refusal(north.delete([Key("Person", "mine")])) is Kind.FORBIDDEN
    assert await w.load("north", person("theirs", "n", "s")) == [
        "rejected: refers to Patient/s, which belongs to another organisation"
    ]
    assert await w.load("operator", person("ours", "n", "s")) == ["created"]


async def test_deletion_is_for_the_custodian_and_the_operator(w: World) -> None:
    await w.system("north").write([put(observation("n1", "n"), parties=("south",))])
    south = await w.writer("south")
    assert await refusal(south.delete([Key("Observation", "n1")])) is Kind.FORBIDDEN, "a party sees it only"
    assert await refusal(south.delete([Key("Patient", "n")])) is Kind.NOT_FOUND, "and learns nothing of the rest"
    north = await w.writer("north")
    assert await refusal(north.delete([Key("Observation", "n1"), Key("Observation", "none")])) is Kind.NOT_FOUND
    (tombstone,) = await north.delete([Key("Observation", "n1")])
    assert tombstone.deleted
    assert await north.delete([Key("Observation", "n1")]) == [tombstone], "a second time changes nothing"


# -- Persons


async def test_every_patient_has_a_person_whichever_door_it_came_by(w: World) -> None:
    await (await w.writer("north")).write([put(patient("by-http"))])
    await w.load("north", patient("by-import"))
    await w.load("north", patient("without"), persons=False)
    operator = await w.caller("operator", "operator", interaction="search-type")
    found = await seen(operator, "Person")
    assert found == ["Person/by-http", "Person/by-import", "Person/n", "Person/s"]
    record = await operator.read(Key("Person", "by-http"))
    body = await content(operator, record)
    assert {name: body[name] for name in body if name != "meta"} == {
        "resourceType": "Person",
        "id": "by-http",
        "link": [{"target": {"reference": "Patient/by-http"}}],
    }
    facts = parse_facts(record.facts)
    assert (facts.custodian, facts.parties, facts.owners) == ("north", ("north",), ("by-http",))


async def test_a_patient_that_a_person_links_already_gets_no_second_one(w: World) -> None:
    await w.load("north", person("first", "a"), patient("a"), patient("b"))
    assert await w.load("north", person("early", "late")) == ["created"]
    await w.load("north", patient("late"))
    found = await seen(w.system(), "Person")
    assert found == ["Person/b", "Person/early", "Person/first", "Person/n", "Person/s"]


async def test_a_strangers_person_does_not_serve(w: World) -> None:
    await w.load("south", person("squatter", "fresh"))
    await w.load("north", patient("fresh"))
    assert "Person/fresh" in await seen(w.system(), "Person")
    north = await w.caller("member", "north")
    assert await status_of(north, "Person/squatter") == 404
    view = await content(south := await w.caller("member", "south"), await south.read(Key("Person", "squatter")))
    assert "link" not in view


async def test_a_taken_person_id_gives_way_to_a_deterministic_one(w: World) -> None:
    await w.load("north", person("x", "n"))
    await w.load("north", patient("x"))
    linking = [r.id async for b in w.store.scan(Query(types=frozenset({"Person"}), within="x")) for r in b]
    assert len(linking) == 1
    assert linking != ["x"]


async def test_the_operators_person_learns_of_a_late_patients_custodian(w: World) -> None:
    await w.load("operator", person("p", "n", "late"))
    assert await status_of(await w.caller("member", "west"), "Person/p") == 404
    await w.load("west", patient("late"))
    assert await status_of(await w.caller("member", "west"), "Person/p") == 200
    assert "Person/late" not in await seen(w.system(), "Person")


async def test_linking_and_unlinking_by_command(w: World) -> None:
    system = w.system()
    await persons.link(system, "human", ["n", "s"])
    await persons.link(system, "human", ["s"])
    assert await system.linked(Key("Person", "human")) == ("n", "s")
    assert await refusal(persons.link(system, "human", ["none"])) is Kind.NOT_FOUND
    assert await refusal(persons.unlink(system, "human", ["none"])) is Kind.NOT_FOUND
    assert await refusal(persons.unlink(system, "none", ["n"])) is Kind.NOT_FOUND
    for _ in range(2):
        await persons.unlink(system, "n", ["n"])
        await persons.unlink(system, "human", ["n"])
        served = [r.id async for b in w.store.scan(Query(types=frozenset({"Person"}), within="n")) for r in b]
        assert len(served) == 1
        assert served[0] not in ("n", "human")
        await persons.link(system, "human", ["n"])
        await persons.link(system, "n", ["n"])
        await system.delete([Key("Person", served[0])])


async def test_a_patient_that_comes_back_finds_its_person(w: World) -> None:
    north = await w.writer("north")
    await north.delete([Key("Patient", "n"), Key("Person", "n")])
    (record,) = await north.write([put(patient("n"))])
    assert record.version == 3
    assert await status_of(north, "Person/n") == 200


# -- import


async def test_importing_again_changes_nothing(w: World) -> None:
    resources = (patient("n"), observation("n1", "n"), person("h", "n"), consent("c", "n"))
    first = await w.load("north", *resources)
    before = await w.store.high_water()
    assert first == ["unchanged", "unchanged", "created", "created"]
    assert await w.load("north", *resources) == ["unchanged"] * 4
    assert (await w.store.high_water()).seq == before.seq


async def test_one_bad_item_never_blocks_its_batch(w: World) -> None:
    await w.load("south", observation("early", "squatted"))
    loaded = await w.load(
        "north",
        patient("squatted"),
        patient("fine"),
        observation("fine1", "fine"),
        observation("s1", "fine"),
        observation("x", "s"),
        observation("fine1", "fine", note=[{"text": "again"}]),
    )
    assert loaded == [
        "rejected: another organisation holds resources about this Patient",
        "created",
        "created",
        "rejected: Observation/s1 belongs to another organisation",
        "rejected: refers to Patient/s, which belongs to another organisation",
        "updated",
    ]


async def test_imports_at_the_same_time_all_arrive(w: World) -> None:
    batches = [[patient(f"p{n}"), *(observation(f"o{n}-{m}", f"p{n}") for m in range(5))] for n in range(6)]
    twice = [w.load("north", *batch) for batch in (*batches, *batches)]
    for loaded in await asyncio.gather(*twice):
        assert set(loaded) <= {"created", "unchanged", "updated"}
    people = await seen(w.system(), "Person")
    assert people == sorted([f"Person/p{n}" for n in range(6)] + ["Person/n", "Person/s"])
    assert await w.system().count(Query(types=frozenset({"Observation"}))) == 32


# -- consent commands


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


# -- what goes with a commit


async def test_what_decides_access_moves_the_epoch_and_nothing_else_does(w: World) -> None:
    north = await w.writer("north")
    steps: list[tuple[Coroutine[Any, Any, object], bool]] = [
        (north.write([put(observation("x", "n"))]), False),
        (w.load("north", observation("y", "n")), False),
        (w.consent(consent("c", "n")), True),
        (north.delete([Key("Consent", "c")]), True),
        (north.write([put(person("q", "n"))]), True),
        (w.load("north", {"resourceType": "Organization", "id": "o", "name": "O"}), True),
        (north.write([put(patient("fresh"))], persons=False), True),
        (north.delete([Key("Patient", "fresh")]), True),
        (north.delete([Key("Observation", "x")]), False),
    ]
    for at, (step, moves) in enumerate(steps):
        before = await epoch(w)
        await step
        assert (await epoch(w) > before) == moves, at


async def test_when_a_view_widened_is_known_also_after_a_refusal_was_deleted(w: World) -> None:
    await w.consent(consent("c", "n"))
    await w.consent(consent("no", "n", project="x", type="deny", **{"class": classes("Condition")}))
    w.now += 1_000_000
    await w.system().delete([Key("Consent", "no")])
    scoped = await w.caller("third-party", "reader", interaction="$everything")
    opened = await scoped.chart(Key("Patient", "n"))
    assert opened.scoped.grant.widened_at["n"] >= w.now


async def test_rederiving_a_stored_version_gives_what_is_stored(w: World) -> None:
    provenance: JSON = {
        "resourceType": "Provenance",
        "id": "pr",
        "target": [{"reference": "Observation/n1"}, {"reference": "Observation/none"}],
        "recorded": "2027-01-01T00:00:00Z",
        "agent": [{"who": {"display": "x"}}],
    }
    await w.load("operator", person("human", "n", "s"))
    await w.load("north", provenance, observation("l", "n", "R", "HIV"))
    await w.consent(consent("c", "n"))
    async for batch in w.store.scan(Query()):
        for record in batch:
            facts, _ = rederive(record, record.body or b"")
            assert facts.text == record.facts, record.key


async def test_the_bytes_of_a_consent_made_inactive_are_otherwise_untouched() -> None:
    body = b'{"resourceType":"Consent","status":"active","extension":[{"url":"urn:x","valueDecimal":1.00}]}'
    assert consenting.inactive(body) == body.replace(b'"active"', b'"inactive"')
    assert msgspec.json.decode(consenting.inactive(body))["status"] == "inactive"

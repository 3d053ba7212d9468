"""Every Patient has a Person, and who may link which Patients to one."""

from __future__ import annotations

import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key, Query, parse_facts
from fhirserver.policy import persons
from tests.admitted import World, content, patient, person, put, seen, status_of
from tests.hospitals import facts_of, refusal, two_hospitals

w = two_hospitals


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


async def test_a_patient_that_comes_back_finds_its_person(w: World) -> None:
    north = await w.writer("north")
    await north.delete([Key("Patient", "n"), Key("Person", "n")])
    (record,) = await north.write([put(patient("n"))])
    assert record.version == 3
    assert await status_of(north, "Person/n") == 200


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


async def test_a_member_links_patients_that_come_with_the_person(w: World) -> None:
    north = await w.writer("north")
    await north.rehearse([put(person("both", "new", "n")), put(patient("new"))])
    assert await north.write([put(person("both", "new", "n")), put(patient("new"))])
    assert (await facts_of(w, "Person/both")).owners == ("n", "new")
    found = await (await w.caller("operator", "operator", interaction="search-system")).everyone()
    assert "Person/new" not in await seen(found), "the one it came with is its Person"
    assert await refusal(north.write([put(person("more", "absent", "n")), put(patient("fresh"))])) is Kind.FORBIDDEN


async def test_a_refused_change_of_a_person_does_not_name_whom_it_links_besides(w: World) -> None:
    north = await w.writer("north")
    await north.write([put(person("mine", "n"))])
    await (await w.writer("operator", "operator")).write([put(person("mine", "n", "s"))])
    told = set()
    for links in (("n",), (), ("n", "s")):
        for attempt in (north.write, north.rehearse):
            with pytest.raises(Fault) as refused:
                await attempt([put(person("mine", *links))])
            told.add((refused.value.kind, refused.value.message))
    assert told == {(Kind.CONFLICT, "Person/mine links a Patient that belongs to another organisation.")}


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

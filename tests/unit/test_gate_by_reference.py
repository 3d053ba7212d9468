"""What is admitted through another resource: Binary, Provenance, and what accompanies a chart."""

from __future__ import annotations

import asyncio

import pytest

from fhirserver.core.errors import Fault
from fhirserver.core.model import Key, Query
from fhirserver.policy import following
from fhirserver.policy.gate import Condition, Scoped
from tests.admitted import JSON, World, consent, marks, observation, patient, put, status_of
from tests.hospitals import binary, two_hospitals_and_a_human

w = two_hospitals_and_a_human


def document(id: str, of: str, binary: str, *labels: str) -> JSON:
    security = {"meta": observation("x", of, *labels)["meta"]} if labels else {}
    return {
        "resourceType": "DocumentReference",
        "id": id,
        **security,
        "status": "current",
        "subject": {"reference": f"Patient/{of}"},
        "content": [{"attachment": {"url": f"Binary/{binary}"}}],
    }


def provenance(id: str, *targets: str) -> JSON:
    return {
        "resourceType": "Provenance",
        "id": id,
        "target": [{"reference": each} for each in targets],
        "recorded": "2027-01-01T00:00:00Z",
        "agent": [{"who": {"display": "anybody"}}],
    }


async def test_a_binary_is_read_through_an_admitted_resource_that_names_it(w: World) -> None:
    await w.load("north", binary("b"), document("d", "n", "b"), binary("unnamed"))
    scoped = await w.caller("third-party", "reader")
    assert await status_of(scoped, "Binary/b") == 403
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader")
    assert [await status_of(scoped, f"Binary/{id}") for id in ("b", "unnamed")] == [200, 403]
    own = await w.caller("patient", "north", patient="n")
    assert [await status_of(own, f"Binary/{id}") for id in ("b", "unnamed")] == [200, 403]
    assert await status_of(await w.caller("patient", "south", patient="s"), "Binary/b") == 403


async def test_a_restricted_binary_needs_the_label_too(w: World) -> None:
    await w.load("north", binary("b", "R", "HIV"), document("d", "n", "b"))
    await w.consent(consent("c", "n"))
    assert await status_of(await w.caller("third-party", "reader"), "Binary/b") == 403
    await w.consent(consent("c", "n", securityLabel=marks("N", "HIV")))
    assert await status_of(await w.caller("third-party", "reader"), "Binary/b") == 200


async def test_naming_anothers_binary_does_not_open_it(w: World) -> None:
    assert (
        await w.load("north", binary("b"), binary("own", securityContext={"reference": "Patient/n"})) == ["created"] * 2
    )
    loaded = await w.load("south", document("d", "s", "b"))
    assert loaded == ["rejected: refers to Binary/b, which belongs to another organisation"]
    assert await w.load("south", document("e", "s", "later")) == ["created"]
    assert await w.load("north", binary("later")) == ["created"]
    await w.consent(consent("c", "s"))
    scoped = await w.caller("third-party", "reader")
    assert [await status_of(scoped, f"Binary/{id}") for id in ("b", "later", "own")] == [403, 403, 403]
    assert await status_of(await w.caller("member", "south"), "Binary/later") == 404


async def test_a_provenance_is_open_only_through_all_its_targets(w: World) -> None:
    await w.load("north", patient("m"), observation("m1", "m"), observation("n9", "n", "R", "HIV"))
    await w.load(
        "north",
        provenance("one", "Observation/n1"),
        provenance("two", "Observation/n1", "Observation/m1"),
        provenance("lost", "Observation/n1", "Observation/nowhere"),
        provenance("far", "https://elsewhere.example/Observation/1"),
        provenance("labelled", "Observation/n9"),
    )
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader")
    answers = [await status_of(scoped, f"Provenance/{id}") for id in ("one", "two", "lost", "far", "labelled")]
    assert answers == [200, 403, 403, 403, 403]
    assert await w.load(
        "north", observation("nowhere", "n"), provenance("lost", "Observation/n1", "Observation/nowhere")
    ) == [
        "created",
        "unchanged",
    ]
    assert await status_of(scoped, "Provenance/lost") == 200, "understood once its target is there"


async def test_what_speaks_through_a_resource_follows_it(w: World) -> None:
    """A Binary and a Provenance hide what their context and target hide, whenever that came about."""
    north, about = await w.writer("north"), {"reference": "Observation/x"}
    spoken = provenance("p", "Binary/b")
    await w.load("north", patient("m"))
    await w.consent(consent("c", "n"))
    for change in ("label", "label by import", "move", "deletion"):
        await north.write([put(observation("x", "n"))])
        await north.write([put(binary("b", securityContext=about)), put(spoken)])
        scoped = await w.caller("third-party", "reader")
        keys = ("Observation/x", "Binary/b", "Provenance/p")
        assert [await status_of(scoped, key) for key in keys] == [200] * 3, change
        if change == "label":
            await north.write([put(observation("x", "n", "R", "HIV"))])
        elif change == "label by import":
            await w.load("north", observation("x", "n", "R", "HIV"))
        elif change == "move":
            await north.write([put(observation("x", "m"))])
        else:
            await north.delete([Key("Observation", "x")])
        assert [await status_of(scoped, key) for key in keys] == [403] * 3, change
        assert await status_of(await w.caller("member", "north"), "Binary/b") == 200, "its custodian's it stays"
    own = await w.caller("patient", "north", patient="m")
    assert await status_of(own, "Binary/b") == 403
    assert [sentence async for sentence in w.gate.upkeep(subject="test").verify()] == []


async def test_what_speaks_through_a_resource_is_not_outrun_by_it(w: World) -> None:
    north = await w.writer("north")
    await w.consent(consent("c", "n"))
    await north.write([put(observation(f"x{at}", "n")) for at in range(30)])
    for at in range(30):
        stored = north.write([put(binary(f"b{at}", securityContext={"reference": f"Observation/x{at}"}))])
        hidden = (
            north.write([put(observation(f"x{at}", "n", "R", "HIV"))])
            if at % 2
            else north.delete([Key("Observation", f"x{at}")])
        )
        await asyncio.gather(stored, hidden)
    scoped = await w.caller("third-party", "reader")
    assert {await status_of(scoped, f"Binary/b{at}") for at in range(30)} == {403}


async def test_what_a_killed_server_has_left_to_follow_follows_when_the_next_one_starts(
    w: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        pass

    async def killed(*_: object) -> None:
        raise Killed

    async def announced() -> int:
        return len([name async for name, _ in w.store.ledger.scan(following.ANNOUNCED)])

    north = await w.writer("north")
    await w.consent(consent("c", "n"))
    about = binary("b", securityContext={"reference": "Observation/x"})
    await north.write([put(observation("x", "n")), put(observation("alone", "n")), put(about)])
    with monkeypatch.context() as patched:
        patched.setattr(following, "follow", killed)
        with pytest.raises(Killed):
            await north.write([put(observation("x", "n", "R", "HIV"))])
    reader = await w.caller("third-party", "reader")
    assert [await status_of(reader, key) for key in ("Observation/x", "Binary/b")] == [403, 200]
    await w.gate.start()
    assert await status_of(reader, "Binary/b") == 403
    assert await announced() == 1, "another server may be at it"
    w.now += following.PATIENCE + 1
    await w.gate.start()
    assert await announced() == 0
    for refused in (put(observation("x", "n"), if_version=9), put(observation("x", "n"))):
        with pytest.raises(Fault):
            await north.write([refused], conditions=[Condition(Query(keys=(Key("Patient", "n"),)), 7)])
    await north.write([put(observation("alone", "n", "R", "HIV"))])
    await north.write([put(observation("x", "n"))])
    assert await announced() == 0


async def test_a_provenance_does_not_reach_anothers_patients_through_what_that_one_holds(w: World) -> None:
    strange, own = provenance("strange", "Observation/s1"), provenance("own", "Observation/n1", "Practitioner/dr")
    await (await w.writer("north")).write([put(strange), put(own)])
    assert await w.load("north", provenance("imported", "Observation/s1")) == ["created"]
    assert await w.load("operator", provenance("operators", "Observation/s1")) == ["created"]
    await w.consent(consent("c", "s"))
    for caller, org, more in (("patient", "south", {"patient": "s"}), ("third-party", "reader", {})):
        scoped = await w.caller(caller, org, **more)
        answers = [await status_of(scoped, f"Provenance/{id}") for id in ("strange", "imported", "operators")]
        assert answers == [403, 403, 200], caller
    assert await status_of(await w.caller("patient", "north", patient="n"), "Provenance/own") == 200
    assert await status_of(await w.caller("member", "north"), "Provenance/strange") == 200, "its writer's it is"


async def test_supporting_resources_are_never_about_somebody_else(w: World) -> None:
    def device(id: str, of: str | None) -> JSON:
        return {"resourceType": "Device", "id": id, **({"patient": {"reference": f"Patient/{of}"}} if of else {})}

    await w.load("north", device("dn", "n"), device("d0", None), binary("b"))
    await w.load("south", device("ds", "s"), device("d9", None))
    await w.load("operator", device("shared", None))
    keys = [Key.parse(each) for each in ("Practitioner/dr", "Device/dn", "Device/ds", "Device/d0", "Device/d9")]
    keys += [Key.parse(each) for each in ("Device/shared", "Binary/b", "Binary/none", "Observation/n1", "Patient/n")]

    async def given(scoped: Scoped, custodian: str, *patients: str) -> list[str]:
        found = await scoped.supporting(keys, custodians=frozenset({custodian}), patients=frozenset(patients))
        return [str(record.key) for record in found]

    north = ["Practitioner/dr", "Device/dn", "Device/d0", "Device/shared", "Binary/b"]
    assert await given(await w.caller("operator", "operator"), "north", "n") == north
    assert await given(await w.caller("member", "north"), "north", "n") == north
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader", interaction="$everything")
    assert await given((await scoped.chart(Key("Patient", "n"))).scoped, "north", "n") == north
    assert await given(scoped, "north", "n") == ["Practitioner/dr"], "a third party without a patient has no more"
    bare = await (await w.caller("operator", "operator")).supporting(
        keys, custodians=frozenset({"north"}), patients=frozenset({"n"}), bodies=False
    )
    assert [record.body for record in bare] == [None] * len(north)

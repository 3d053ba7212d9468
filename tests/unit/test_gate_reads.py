"""Reading through the gate: what each class of caller sees, and what a refusal gives away."""

from __future__ import annotations

import msgspec
import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import EVERYTHING, Clause, Key, Query, Visible
from tests.admitted import World, classes, consent, content, observation, seen, status_of
from tests.hospitals import binary, searching, two_hospitals_and_a_human

w = two_hospitals_and_a_human

NORTH = ["Condition/n2", "Observation/n1", "Patient/n", "Person/human", "Person/n", "Practitioner/dr", "Task/n3"]
SOUTH = ["Observation/s1", "Observation/s2", "Patient/s", "Person/human", "Person/s", "Practitioner/dr"]


async def test_each_class_sees_its_reach_and_nothing_else(w: World) -> None:
    assert await searching(w, "operator", "operator") == sorted({*NORTH, *SOUTH})
    assert await searching(w, "member", "north") == NORTH
    assert await searching(w, "member", "south") == SOUTH
    assert await searching(w, "member", "nobody") == ["Practitioner/dr"]
    assert await searching(w, "third-party", "reader") == ["Practitioner/dr"]
    assert await searching(w, "patient", "south", patient="s") == SOUTH
    assert await searching(w, "patient", "south", patient="unknown") == ["Practitioner/dr"]


async def test_scopes_narrow_every_class(w: World) -> None:
    await w.consent(consent("c", "n"))
    for caller, context in (("operator", "system"), ("member", "user"), ("third-party", "system")):
        org = "reader" if caller == "third-party" else "north"
        assert await searching(w, caller, org, f"{context}/Condition.rs") == ["Condition/n2"], caller
    assert await searching(w, "patient", "north", "patient/Condition.rs", patient="n") == ["Condition/n2"]


@pytest.mark.parametrize(
    ("caller", "scope"),
    [
        ("operator", ""),
        ("operator", "patient/*.rs"),
        ("member", "patient/*.cruds"),
        ("patient", "system/*.rs"),
        ("patient", "user/*.rs"),
        ("third-party", "openid"),
        ("third-party", "patient/Observation.rs?code=laboratory"),
    ],
)
async def test_scopes_that_do_not_fit_the_class_allow_nothing(w: World, caller: str, scope: str) -> None:
    with pytest.raises(Fault) as refused:
        await w.caller(caller, "north", scope, **({"patient": "n"} if caller == "patient" else {}))
    assert refused.value.kind is Kind.FORBIDDEN


@pytest.mark.parametrize(
    ("scope", "interaction", "type_", "allowed"),
    [
        ("system/Observation.r", "read", "Observation", True),
        ("system/Observation.r", "vread", "Observation", True),
        ("system/Observation.r", "read", "Condition", False),
        ("system/Observation.r", "search-type", "Observation", False),
        ("system/Observation.s", "read", "Observation", False),
        ("system/Observation.s", "search-type", "Observation", True),
        ("system/Observation.r", "$everything", "Patient", False),
        ("system/Observation.s", "$everything", "Patient", False),
        ("system/Observation.rs", "$everything", "Patient", True),
        ("system/Observation.rs", "create", "Observation", False),
        ("system/Observation.c", "create", "Observation", True),
        ("system/Observation.c", "update", "Observation", False),
        ("system/Observation.u", "patch", "Observation", True),
        ("system/Observation.d", "delete", "Observation", True),
        ("system/Observation.d", "transaction", None, True),
        ("system/Observation.r", "transaction", None, True),
        ("system/Observation.s", "batch", None, True),
        ("launch openid", "batch", None, False),
        ("system/Observation.r", "anything-new", "Observation", False),
    ],
)
async def test_an_interaction_needs_its_scope(
    w: World, scope: str, interaction: str, type_: str | None, allowed: bool
) -> None:
    if allowed:
        assert await w.caller("member", "north", scope, interaction=interaction, type=type_)
        return
    with pytest.raises(Fault) as refused:
        await w.caller("member", "north", scope, interaction=interaction, type=type_)
    assert refused.value.kind is Kind.FORBIDDEN


async def test_the_answers_table(w: World) -> None:
    await w.system("north").delete([Key("Condition", "n2")])
    await w.consent(consent("c", "n", **{"class": classes("Observation", "Condition")}))
    table = {
        ("operator", "operator"): (404, 410, 200, 200),
        ("member", "north"): (404, 410, 200, 404),
        ("member", "south"): (404, 404, 404, 200),
        ("third-party", "reader"): (403, 403, 200, 403),
        ("third-party", "another"): (403, 403, 403, 403),
    }
    asked = ("Condition/nothing", "Condition/n2", "Observation/n1", "Observation/s1")
    for (caller, org), expected in table.items():
        scoped = await w.caller(caller, org)
        assert tuple([await status_of(scoped, each) for each in asked]) == expected, (caller, org)
    own = await w.caller("patient", "north", patient="n")
    assert [await status_of(own, each) for each in asked] == [403, 403, 200, 403]


async def test_a_third_party_learns_nothing_from_a_refusal(w: World) -> None:
    await w.system("north").delete([Key("Condition", "n2")])
    await w.load("north", binary("b"))
    scoped = await w.caller("third-party", "reader")
    told = set()
    for key in ("Observation/n1", "Observation/none", "Condition/n2", "Binary/b", "Binary/none", "Person/human"):
        with pytest.raises(Fault) as refused:
            await scoped.read(Key.parse(key))
        told.add((refused.value.kind, refused.value.message, refused.value.issues))
    assert len(told) == 1


async def test_an_old_version_is_admitted_only_if_it_and_the_current_one_are(w: World) -> None:
    await w.consent(consent("c", "s"))
    await w.load("south", observation("s1", "s", "R"), observation("s2", "s"))
    scoped = await w.caller("third-party", "reader")
    assert await status_of(scoped, "Observation/s1", 1) == 403, "the current version hides what the old one shows"
    assert await status_of(scoped, "Observation/s2", 1) == 403, "the old version was hidden"
    assert await status_of(scoped, "Observation/s2", 2) == 200
    member = await w.caller("member", "south")
    assert [await status_of(member, "Observation/s2", version) for version in (1, 2, 3)] == [200, 200, 404]


async def test_a_handlers_own_idea_of_what_is_visible_counts_for_nothing(w: World) -> None:
    scoped = await w.caller("member", "north", interaction="search-system")
    query = Query(visible=EVERYTHING)
    assert [str(each.key) async for batch in scoped.scan(query) for each in batch] != []
    assert await scoped.count(query) == len(NORTH)
    assert sum(tally.count for tally in await scoped.tally(query)) == len(NORTH)
    assert sorted([str(each.key) async for batch in scoped.scan(query) for each in batch]) == NORTH


async def test_a_store_that_gives_too_much_is_an_alarm_and_no_answer(
    w: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scoped = await w.caller("member", "north", interaction="search-system")
    scan = w.store.scan

    def careless(query: Query, batch: int = 256) -> object:
        return scan(msgspec.structs.replace(query, visible=Visible((Clause(),))), batch)

    monkeypatch.setattr(w.store, "scan", careless)
    with pytest.raises(Fault) as failed:
        await seen(scoped)
    assert failed.value.kind is Kind.INTERNAL
    assert "withheld" in caplog.text
    assert "Observation" not in caplog.text


async def test_a_body_is_given_only_for_what_was_admitted(w: World) -> None:
    hidden = await (await w.caller("operator", "operator")).read(Key("Observation", "s1"))
    scoped = await w.caller("member", "north")
    with pytest.raises(Fault) as failed:
        await content(scoped, msgspec.structs.replace(hidden, body=None))
    assert failed.value.kind is Kind.INTERNAL

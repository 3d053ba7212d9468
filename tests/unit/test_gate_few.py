"""A grant over few patients leads the store to theirs: the answer is what it is without that."""

from __future__ import annotations

import pytest

from fhirserver.core.criteria import Present
from fhirserver.core.model import Clause, Key, Query, Visible, parse_facts
from fhirserver.policy import view
from fhirserver.policy.grant import Grant
from fhirserver.policy.scoped import Scoped
from tests.admitted import World, consent, observation, patient
from tests.hospitals import two_hospitals_and_a_human

w = two_hospitals_and_a_human

A, B = frozenset({"a"}), frozenset({"b", "c"})


@pytest.mark.parametrize(
    ("clauses", "most", "few"),
    [
        ((), 9, frozenset()),
        ((Clause(owners=A),), 9, A),
        ((Clause(owners=A), Clause(owners=B)), 3, A | B),
        ((Clause(owners=A), Clause(owners=B)), 2, None),
        ((Clause(owners=B),), 1, None),
        ((Clause(owners=A), Clause(organization="o")), 9, None),
        ((Clause(owners=A), Clause(types=frozenset({"Task"}), organization="o")), 9, A),
        ((Clause(owners=A), Clause(not_types=frozenset({"Observation"}))), 9, A),
        ((Clause(any_owner=A),), 9, None),
        ((Clause(unowned=True),), 9, None),
        ((Clause(),), 9, None),
    ],
)
def test_of_whom_one_is_an_owner(clauses: tuple[Clause, ...], most: int, few: frozenset[str] | None) -> None:
    assert Grant(visible=Visible(clauses)).few("Observation", most) == few


async def _fill(w: World) -> None:
    both = observation("both", "s")
    both["performer"] = [{"reference": "Patient/n"}]
    provenance = {
        "resourceType": "Provenance",
        "id": "of-s1",
        "target": [{"reference": "Observation/s1"}],
        "recorded": "2020-01-01T00:00:00Z",
        "agent": [{"who": {"reference": "Organization/north"}}],
    }
    await w.load("south", both, provenance)
    await w.load("north", *(patient(f"p{number}") for number in range(100)))
    for name in ("s", "n"):
        await w.consent(consent(f"of-{name}", name))


async def _callers(w: World) -> list[Scoped]:
    third = await w.caller("third-party", "reader", interaction="search-type")
    return [await third.everyone(), await w.caller("patient", "south", patient="s", interaction="search-type")]


async def test_what_is_found_is_what_the_grant_admits(w: World) -> None:
    await _fill(w)
    everything = [record async for records in w.store.scan(Query(bodies=False)) for record in records]
    types = sorted({record.type for record in everything})
    assert {"Consent", "Observation", "Patient", "Person", "Practitioner", "Provenance"} <= set(types)
    for scoped in await _callers(w):
        for type_ in types:
            for query in (Query(types=frozenset({type_})), Query(types=frozenset({type_}), criteria=(Present("_id"),))):
                expected = [] if query.criteria else _admitted(scoped, everything, type_)
                found = [str(each.key) async for records in scoped.scan(query) for each in records]
                assert found == expected, (type_, query.criteria)
                assert await scoped.count(query) == len(expected)


def _admitted(scoped: Scoped, everything: list[view.Record], type_: str) -> list[str]:
    visible = scoped.grant.visible
    return [
        str(each.key) for each in everything if each.type == type_ and visible.admits(type_, parse_facts(each.facts))
    ]


async def test_a_search_by_the_index_finds_the_same_without_it(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    await _fill(w)
    queries = [
        Query(types=frozenset({type_}), terms=((f"{type_}|{term}",),))
        for type_, term in (
            ("Observation", "status=final"),
            ("Observation", "patient=Patient/s"),
            ("Patient", "active=true"),
            ("Patient", "_tag=x"),
            ("Consent", "status=active"),
            ("Provenance", "target=Observation/s1"),
        )
    ]
    asked = 0
    for query in queries:
        for scoped in await _callers(w):
            led = scoped._led(query.__class__(types=query.types, terms=query.terms, visible=scoped.grant.visible))
            asked += led.terms != query.terms or led.keys is not None
            found = [each.key async for records in scoped.scan(query) for each in records]
            with monkeypatch.context() as patched:
                patched.setattr(view, "MOST_LED", -1)
                assert [each.key async for records in scoped.scan(query) for each in records] == found
    assert asked == 10, "all but Provenance, which has its patients from what it is about"


async def test_keys_that_were_asked_for_stay_the_only_ones(w: World) -> None:
    await _fill(w)
    for scoped in await _callers(w):
        keys = (Key("Patient", "s"), Key("Patient", "p1"))
        query = Query(types=frozenset({"Patient"}), keys=keys)
        assert [str(each.key) async for records in scoped.scan(query) for each in records] == ["Patient/s"]

"""The store against a dict: any order of commits, deletions, races and snapshots gives what the model gives."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from fhirserver.core.criteria import Has, Not, Span, Text, holds
from fhirserver.core.errors import Conflict
from fhirserver.core.model import CURRENT, Clause, Draft, Guard, HistoryQuery, Key, Query, Record, Visible, parse_facts
from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.contract.world import START, Clock, derive, draft, found, gathered, tombstone
from tests.counts import PROOF, examples
from tests.stores import KINDS, fresh

T = TypeVar("T")


def machine_settings(kind: str = "sqlite") -> settings:
    """How many histories of how many steps."""
    return settings(
        max_examples=400 if PROOF else examples(15, kind, on_mongo=0.5),
        stateful_step_count=40 if PROOF else 20,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )


class Version(NamedTuple):
    draft: Draft
    version: int
    seq: int
    ended: int


class Model:
    """What the port says, on a list of versions."""

    def __init__(self) -> None:
        self.versions: list[Version] = []
        self.updated: list[int] = []
        """Of each version, as the store told."""

    def at(self, seq: int) -> list[Version]:
        return [one for one in self.versions if one.seq <= seq < one.ended]

    def commit(self, drafts: list[Draft]) -> bool:
        now = {one.draft.key: one for one in self.at(len(self.versions))}
        for one in drafts:
            there = now.get(one.key)
            version = 0 if there is None or there.draft.deleted else there.version
            if one.if_version not in (None, version):
                return False
        for one in drafts:
            there, seq = now.get(one.key), len(self.versions) + 1
            if there is not None:
                self.versions[there.seq - 1] = there._replace(ended=seq)
            self.versions.append(Version(one, there.version + 1 if there else 1, seq, CURRENT))
        return True

    def answer(self, query: Query) -> list[int]:
        seq = CURRENT - 1 if query.as_of is None else query.as_of
        candidates = self.at(seq) if query.departed_since is None else self.departed(query, seq)
        answer = [one.seq for one in candidates if _matches(query, one.draft) and one.seq > query.after]
        if query.updated_from is not None:
            answer = [one for one in answer if self.updated[one - 1] >= query.updated_from]
        return answer[: query.limit]

    def departed(self, query: Query, as_of: int) -> list[Version]:
        since = query.departed_since or 0
        members = [
            one for one in self.versions if not one.draft.deleted and query.within in one.draft.facts.compartments
        ]
        before = {one.draft.key for one in members if one.seq <= since < one.ended}
        now = {one.draft.key for one in members if one.seq <= as_of < one.ended}
        last = {one.draft.key: one for one in members if one.seq <= as_of and one.draft.key in before - now}
        return sorted(last.values(), key=lambda one: one.seq)

    def history(self, query: HistoryQuery) -> list[int]:
        as_of = len(self.versions) if query.as_of is None else query.as_of
        now = {one.draft.key: one.draft for one in self.at(as_of)}
        answer = [
            one.seq
            for one in reversed(self.versions[:as_of])
            if query.after < one.seq < (CURRENT if query.before is None else query.before)
            and query.key in (None, one.draft.key)
            and (query.types is None or one.draft.key.type in query.types)
            and _stood(query.standing_after, one)
            and query.visible.admits(one.draft.key.type, one.draft.facts)
            and query.visible.admits(one.draft.key.type, now[one.draft.key].facts)
        ]
        return answer[: query.limit]


def _stood(after: int | None, one: Version) -> bool:
    return after is None or one.seq > after or (one.ended > after and not one.draft.deleted)


def _matches(query: Query, one: Draft) -> bool:
    return (
        not one.deleted
        and (query.types is None or one.key.type in query.types)
        and one.key.type not in query.not_types
        and (query.keys is None or one.key in query.keys)
        and (query.within is None or query.within in one.facts.compartments)
        and set(query.beyond).isdisjoint(one.facts.compartments)
        and all(set(group) & set(one.index.terms) for group in query.terms)
        and all(holds(each, one.index, 0) for each in query.criteria)
        and (query.care is None or one.index.care is None or _overlap(query.care, one.index.care))
        and query.visible.admits(one.key.type, one.facts)
        and query.other_than != one.facts.custodian
    )


def _overlap(one: tuple[int, int], other: tuple[int, int]) -> bool:
    return one[0] <= other[1] and other[0] <= one[1]


KEYS = [f"{kind}/{name}" for kind in ("Observation", "Condition") for name in "abc"]
PATIENTS = ("p", "q", "r")
TYPES = ("Observation", "Condition", "Unknown")
ORGANIZATIONS = ("o1", "o2", "o3")
LABELS = ("s|A", "s|B")
CATEGORIES = ("c|lab", "lab", "c|vital")
TERMS = ("t1", "t2", "t3", "t4")


def some(values: tuple[str, ...]) -> st.SearchStrategy[tuple[str, ...]]:
    return st.sets(st.sampled_from(values)).map(lambda chosen: tuple(sorted(chosen)))


def some_set(values: tuple[str, ...]) -> st.SearchStrategy[frozenset[str]]:
    return st.frozensets(st.sampled_from(values))


periods = st.tuples(st.integers(0, 9), st.integers(0, 9)).map(lambda ends: (min(ends), max(ends)))


@st.composite
def drafts(draw: st.DrawFn, keys: tuple[str, ...] = tuple(KEYS)) -> Draft:
    reference, if_version = draw(st.sampled_from(keys)), draw(st.none() | st.integers(0, 3))
    if draw(st.integers(0, 4)) == 0:
        return tombstone(reference, if_version=if_version)
    return draft(
        reference, *draw(some(PATIENTS)), text=draw(st.sampled_from("xyz")),
        custodian=draw(st.sampled_from(ORGANIZATIONS)), parties=draw(some(ORGANIZATIONS)),
        owners=draw(some(PATIENTS)), labels=draw(some(LABELS)), kinds=draw(some(CATEGORIES)), terms=draw(some(TERMS)),
        care=draw(st.none() | periods), if_version=if_version,
    )  # fmt: skip


def optional(values: st.SearchStrategy[T]) -> st.SearchStrategy[T | None]:
    return st.none() | values


clauses = st.builds(
    Clause,
    types=optional(some_set(TYPES)),
    not_types=some_set(TYPES),
    organization=optional(st.sampled_from(ORGANIZATIONS)),
    custodian=optional(st.sampled_from(ORGANIZATIONS)),
    party=optional(st.sampled_from(ORGANIZATIONS)),
    owners=optional(some_set(PATIENTS)),
    any_owner=optional(some_set(PATIENTS)),
    unowned=st.booleans(),
    without=some_set(LABELS),
    having=optional(some_set(LABELS)),
    kinds=st.lists(some_set(CATEGORIES), max_size=2).map(tuple),
)
CLAUSE_FIELDS = {
    "types", "not_types", "organization", "custodian", "party", "owners", "any_owner", "unowned", "without", "having",
    "kinds",
}  # fmt: skip
visibles = st.just(Visible((Clause(),))) | st.lists(clauses, max_size=3).map(lambda some: Visible(tuple(some)))
criteria = st.one_of(
    some(TERMS).map(Has),
    st.builds(Text, st.sampled_from(("Observation|text", "Condition|text")), st.sampled_from("xyz")),
    st.builds(Span, st.just("Observation|length"), st.tuples(st.integers(0, 2), st.integers(0, 2))),
)
"""A few: `test_criteria_model` has all of them."""
queries = st.builds(
    Query,
    types=optional(some_set(TYPES)),
    not_types=some_set(TYPES),
    keys=optional(some(tuple(KEYS)).map(lambda keys: tuple(Key.parse(key) for key in keys))),
    within=optional(st.sampled_from(PATIENTS)),
    beyond=some(PATIENTS),
    terms=st.lists(some(TERMS), max_size=2).map(tuple),
    criteria=st.lists(criteria | criteria.map(Not), max_size=1).map(tuple),
    care=optional(periods),
    visible=visibles,
    other_than=optional(st.sampled_from(ORGANIZATIONS)),
    updated_from=optional(st.integers(-5, 25).map(lambda minutes: START + minutes * 60_000)),
    departed_since=optional(st.integers(0, 12)),
    after=st.integers(0, 20),
    limit=optional(st.integers(0, 5)),
    bodies=st.booleans(),
    sorts=st.just(("Observation|text", "Condition|length")),
)
QUERY_FIELDS = {
    "types", "not_types", "keys", "within", "beyond", "terms", "criteria", "updated_from", "care", "visible",
    "other_than", "as_of", "departed_since", "after", "limit", "bodies", "sorts",
}  # fmt: skip

history_queries = st.builds(
    HistoryQuery,
    key=optional(st.sampled_from(KEYS).map(Key.parse)),
    types=optional(some_set(TYPES)),
    visible=visibles,
    after=st.integers(0, 8),
    before=optional(st.integers(0, 20)),
    standing_after=optional(st.integers(0, 12)),
    limit=optional(st.integers(0, 5)),
    bodies=st.booleans(),
)
HISTORY_FIELDS = {"key", "types", "visible", "as_of", "after", "before", "standing_after", "limit", "bodies"}


class StoreMachine(RuleBasedStateMachine):
    """Drives one store in an event loop of its own."""

    kind = "sqlite"

    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.resources = ExitStack()
        folder = self.resources.enter_context(tempfile.TemporaryDirectory())
        self.url = self.resources.enter_context(fresh(self.kind, Path(folder)))
        self.clock, self.model = Clock(), Model()
        self.store = self.opened()
        self.snapshots: dict[int, list[tuple[Key, int]]] = {}

    def opened(self) -> Store:
        store = open_store(self.url, clock=self.clock)
        self.run(store.start())
        return store

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.loop.run_until_complete(work)

    def teardown(self) -> None:
        self.run(self.store.close())
        self.loop.close()
        self.resources.close()

    @rule(chosen=st.lists(drafts(), min_size=1, max_size=4, unique_by=lambda one: one.key))
    def commit(self, chosen: list[Draft]) -> None:
        try:
            records = self.run(self.store.commit(chosen))
        except Conflict:
            assert not self.model.commit(chosen)
        else:
            assert self.model.commit(chosen)
            self.model.updated += [record.updated for record in records]
            assert [record.seq for record in records] == [one.seq for one in self.model.versions[-len(chosen) :]]
            assert [record.version for record in records] == [
                one.version for one in self.model.versions[-len(chosen) :]
            ]

    @rule(chosen=drafts(), query=queries, off=st.integers(0, 1))
    def commit_guarded(self, chosen: Draft, query: Query, off: int) -> None:
        wanted = len(self.model.answer(query)) + off
        refused = ""
        try:
            records = self.run(self.store.commit([chosen], [Guard(query, wanted, "guarded")]))
            self.model.updated += [record.updated for record in records]
        except Conflict as conflict:
            refused = conflict.message
        assert (refused == "guarded") == bool(off)
        if not off:
            assert self.model.commit([chosen]) == (not refused)

    @rule(minutes=st.integers(-5, 5))
    def move_the_clock(self, minutes: int) -> None:
        self.clock.now += minutes * 60_000

    @rule()
    def reopen(self) -> None:
        self.run(self.store.close())
        self.store = self.opened()

    @rule(query=queries, back=st.integers(0, 12), batch=st.integers(1, 4))
    def ask(self, query: Query, back: int, batch: int) -> None:
        self.compare(query, back, batch)

    def compare(self, query: Query, back: int, batch: int) -> None:
        """The same question now and as of an earlier seq."""
        for as_of in (None, max(0, len(self.model.versions) - back)):
            asked = msgspec.structs.replace(query, as_of=as_of)
            if as_of is not None and asked.departed_since is not None and asked.departed_since > as_of:
                continue  # what left before it came: nobody asks
            wanted = self.model.answer(asked)
            records = self.run(found(self.store, asked, batch))
            assert [record.seq for record in records] == wanted
            for record in records:
                keys = dict(self.model.versions[record.seq - 1].draft.index.sorts)
                assert record.sorts == tuple(keys.get(name) for name in asked.sorts)
            assert self.run(self.store.count(asked)) == len(wanted)
            assert sum(one.count for one in self.run(self.store.tally(asked))) == len(wanted)

    @rule(query=queries, within=st.sampled_from(PATIENTS), since=st.integers(0, 12), plain=st.booleans())
    def ask_for_the_departed(self, query: Query, within: str, since: int, plain: bool) -> None:
        asked = Query() if plain else query
        self.compare(msgspec.structs.replace(asked, within=within, departed_since=since), 2, 2)

    @rule(query=history_queries, back=st.integers(0, 12), batch=st.integers(1, 4))
    def ask_for_the_past(self, query: HistoryQuery, back: int, batch: int) -> None:
        for as_of in (None, max(0, len(self.model.versions) - back)):
            asked = msgspec.structs.replace(query, as_of=as_of)
            wanted = self.model.history(asked)
            batches = self.run(listed(self.store.history(asked, batch)))
            assert [record.seq for one in batches for record in one] == wanted
            assert all(0 < len(one) <= batch for one in batches)
            assert self.run(self.store.count_history(asked)) == len(wanted)

    @rule(key=st.sampled_from(KEYS).map(Key.parse), version=st.integers(1, 4), as_of=st.integers(0, 20))
    def read(self, key: Key, version: int, as_of: int) -> None:
        mine = [one for one in self.model.versions if one.draft.key == key]
        for wanted, got in (
            (next((one for one in mine if one.ended == CURRENT), None), self.store.get(key)),
            (next((one for one in mine if one.version == version), None), self.store.get(key, version)),
            (next((one for one in mine if one.seq <= as_of < one.ended), None), self.store.get(key, as_of=as_of)),
        ):
            record = self.run(got)
            assert (record.seq if record else None) == (wanted.seq if wanted else None)
            if record is not None and wanted is not None:
                assert (record.ended, record.deleted) == (wanted.ended, wanted.draft.deleted)
                assert record.body == b"" if record.deleted else (record.body or b"").endswith(wanted.draft.tail)

    @precondition(lambda self: self.model.versions)
    @invariant()
    def the_feed_is_every_version(self) -> None:
        records = self.run(gathered(self.store.changes(0)))
        assert [(record.key, record.version, record.ended) for record in records] == [
            (one.draft.key, one.version, one.ended) for one in self.model.versions
        ]
        assert [record.updated for record in records] == sorted(record.updated for record in records)

    @rule()
    def verify(self) -> None:
        terms = {one.draft.key: one.draft for one in self.model.versions}

        async def sentences() -> list[str]:
            def of(record: Any, body: bytes) -> Any:
                return terms[record.key].facts, terms[record.key].index

            return [sentence async for sentence in self.store.verify(of)]

        assert self.run(sentences()) == []


async def listed(batches: AsyncIterator[list[Record]]) -> list[list[Record]]:
    return [batch async for batch in batches]


@pytest.mark.parametrize("kind", KINDS)
def test_any_history_gives_what_the_model_gives(kind: str) -> None:
    machine = type(f"{kind.title()}Machine", (StoreMachine,), {"kind": kind})
    run_state_machine_as_test(machine, settings=machine_settings(kind))


def test_no_condition_of_a_clause_is_left_out_of_this_test() -> None:
    """A new one must come into ``clauses`` above, or a store could ignore it unnoticed."""
    assert set(Clause.__struct_fields__) == CLAUSE_FIELDS


def test_no_field_of_a_query_is_left_out_of_this_test() -> None:
    assert set(Query.__struct_fields__) == QUERY_FIELDS
    assert set(HistoryQuery.__struct_fields__) == HISTORY_FIELDS


async def test_what_a_grant_narrows_to_is_exactly_what_it_admits(store: Store, request: pytest.FixtureRequest) -> None:
    """The same decision, once as the store's query and once as `Clause.admits`."""
    every = [
        draft(
            f"{kind}/{at}-{number}", *compartments, custodian=ORGANIZATIONS[at % 3],
            parties=ORGANIZATIONS[: (at // 3) % 3], labels=LABELS[: at % 3],
            kinds=CATEGORIES[: at % 4], owners=compartments,
        )
        for kind in TYPES[:2]
        for number, compartments in enumerate([(), ("p",), ("p", "q"), ("q", "r")])
        for at in range(9)
    ]  # fmt: skip
    await store.commit(every)
    records = await found(store, Query())
    loop = asyncio.get_running_loop()

    share = examples(80, request.node.callspec.params["store"], on_mongo=0.5)

    @settings(max_examples=2000 if PROOF else share, deadline=None, suppress_health_check=list(HealthCheck))
    @given(visible=visibles, within=optional(st.sampled_from(PATIENTS)), large=st.booleans())
    def narrows(visible: Visible, within: str | None, large: bool) -> None:
        if large:  # the sets of a platform that a hundred patients have let in
            crowd = frozenset(f"patient-{at}" for at in range(100))
            widened = [
                Clause(owners=one.owners | crowd if one.owners is not None else crowd, any_owner=one.any_owner)
                for one in visible.clauses
            ]
            visible = Visible(tuple(widened))
        query = Query(visible=visible, within=within)
        got = asyncio.run_coroutine_threadsafe(found(store, query, 10), loop).result()
        wanted = [
            record
            for record in records
            if visible.admits(record.type, parse_facts(record.facts))
            and (within is None or within in parse_facts(record.facts).compartments)
        ]
        assert got == wanted
        assert asyncio.run_coroutine_threadsafe(store.count(query), loop).result() == len(wanted)

    await asyncio.to_thread(narrows)
    assert [sentence async for sentence in store.verify(derive)] == []

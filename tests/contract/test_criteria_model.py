"""`Query.criteria` of any form over any entries: every store gives what `core.criteria.holds` says."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from math import inf
from typing import NamedTuple

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fhirserver.core.criteria import (
    UNBOUNDED,
    AllOf,
    AnyOf,
    Criterion,
    Has,
    Not,
    Present,
    Span,
    Text,
    Written,
    holds,
)
from fhirserver.core.errors import Conflict
from fhirserver.core.model import CURRENT, Clause, Draft, Guard, Key, Query, Record, Visible, parse_facts
from fhirserver.store.port import Store
from tests.contract.test_criteria import MINUTE, indexed
from tests.contract.world import START, Clock, found, tombstone
from tests.counts import examples


class Stored(NamedTuple):
    """One version as the store has it, with what it was made from."""

    draft: Draft
    record: Record
    ended: int


TERMS = ("t1", "t2", "t3", "t4")
NAMES = ("Observation|n", "Condition|n", "n")
CODES = ("n", "m", "t1")
PIECES = ("a", "b", "ab", "%", "_", "\\", "é", "\U0010ffff", " ")
PATIENTS = ("p", "q", "r")
ORGANIZATIONS = ("o1", "o2")
TYPES = ("Observation", "Condition")
KEYS = [f"{kind}/{name}" for kind in TYPES for name in "abcdefgh"]

some_texts = st.lists(st.sampled_from(PIECES), max_size=4).map("".join)
some_numbers = st.sampled_from([-inf, -1e308, -2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 1e308, inf])
finite = st.sampled_from([-1e308, -2.0, -0.5, 0.0, 0.5, 1.0, 2.0, 3.0, 1e308])
ends = st.tuples(finite, finite).map(lambda pair: (min(pair), max(pair)))
bounds = st.just(UNBOUNDED) | st.tuples(some_numbers, some_numbers)
names_ = st.sampled_from(NAMES)
one_of_terms = st.lists(st.sampled_from(TERMS), max_size=3).map(tuple)
moments = st.integers(-1, 8).map(lambda at: START + at * MINUTE)

leaves: st.SearchStrategy[Criterion] = st.one_of(
    st.builds(Has, one_of_terms),
    st.builds(Text, names_, some_texts, st.sampled_from(("starts", "contains"))),
    st.builds(Span, names_, bounds, bounds),
    st.builds(Present, st.sampled_from(CODES)),
    st.builds(Written, moments, moments),
)
criteria = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(Not, inner),
        st.builds(AnyOf, st.lists(inner, max_size=3).map(tuple)),
        st.builds(AllOf, st.lists(inner, max_size=3).map(tuple)),
    ),
    max_leaves=6,
)


@st.composite
def some_drafts(draw: st.DrawFn, reference: str) -> Draft:
    if draw(st.integers(0, 7)) == 0:
        return tombstone(reference)
    return indexed(
        reference,
        *draw(st.sets(st.sampled_from(PATIENTS), max_size=2)),
        terms=draw(one_of_terms),
        texts=draw(st.lists(st.tuples(names_, some_texts), max_size=3)),
        spans=[(name, *pair) for name, pair in draw(st.lists(st.tuples(names_, ends), max_size=3))],
        sorts=draw(st.lists(st.tuples(names_, some_texts | finite), max_size=2)),
        present=draw(st.lists(st.sampled_from(CODES), max_size=2)),
        custodian=draw(st.sampled_from(ORGANIZATIONS)),
    )


commits = st.lists(
    st.lists(st.sampled_from(KEYS), min_size=1, max_size=8, unique=True).flatmap(
        lambda keys: st.tuples(*(some_drafts(key) for key in keys))
    ),
    min_size=1,
    max_size=6,
)
clauses = st.builds(
    Clause,
    types=st.none() | st.frozensets(st.sampled_from(TYPES)),
    custodian=st.none() | st.sampled_from(ORGANIZATIONS),
    any_owner=st.none() | st.frozensets(st.sampled_from(PATIENTS)),
)
queries = st.builds(
    Query,
    types=st.none() | st.frozensets(st.sampled_from(TYPES)),
    keys=st.none() | st.lists(st.sampled_from(KEYS).map(Key.parse), max_size=6).map(tuple),
    within=st.none() | st.sampled_from(PATIENTS),
    terms=st.lists(one_of_terms, max_size=1).map(tuple),
    criteria=st.lists(criteria, min_size=1, max_size=3).map(tuple),
    visible=st.just(Visible((Clause(),))) | st.lists(clauses, max_size=2).map(lambda some: Visible(tuple(some))),
    after=st.integers(0, 10),
    limit=st.none() | st.integers(0, 5),
    bodies=st.booleans(),
    sorts=st.lists(names_, max_size=2).map(tuple),
)


def answer(versions: Sequence[Stored], query: Query) -> list[Stored]:
    """What the port and the model of criteria say."""
    seq = CURRENT - 1 if query.as_of is None else query.as_of
    matching = [
        one
        for one in versions
        if one.record.seq <= seq < one.ended
        and not one.draft.deleted
        and one.record.seq > query.after
        and (query.types is None or one.draft.key.type in query.types)
        and (query.keys is None or one.draft.key in query.keys)
        and (query.within is None or query.within in one.draft.facts.compartments)
        and all(set(group) & set(one.draft.index.terms) for group in query.terms)
        and all(holds(each, one.draft.index, one.record.updated) for each in query.criteria)
        and query.visible.admits(one.draft.key.type, parse_facts(one.record.facts))
    ]
    return matching[: query.limit]


async def _commit_all(store: Store, clock: Clock, groups: Sequence[Sequence[Draft]]) -> list[Stored]:
    """Every version of this round; what was there before is deleted first."""
    there = [record.key async for batch in store.scan(Query(bodies=False)) for record in batch]
    if there:
        await store.commit([tombstone(str(key)) for key in there])
    clock.now += MINUTE
    versions: list[Stored] = []
    for group in groups:
        for one, record in zip(group, await store.commit(group), strict=True):
            for at, earlier in enumerate(versions):
                if earlier.draft.key == one.key and earlier.ended == CURRENT:
                    versions[at] = earlier._replace(ended=record.seq)
            versions.append(Stored(one, record, CURRENT))
        clock.now += MINUTE
    return versions


def _moved(criterion: Criterion, by: int) -> Criterion:
    """The same criterion with its times later."""
    match criterion:
        case Written(first, last):
            return Written(first + by, last + by)
        case Not(of):
            return Not(_moved(of, by))
        case AnyOf(of):
            return AnyOf(tuple(_moved(each, by) for each in of))
        case AllOf(of):
            return AllOf(tuple(_moved(each, by) for each in of))
        case _:
            return criterion


async def _check(store: Store, versions: Sequence[Stored], query: Query, batch: int) -> None:
    wanted = answer(versions, query)
    records = await found(store, query, batch)
    assert [record.seq for record in records] == [one.record.seq for one in wanted]
    for record, one in zip(records, wanted, strict=True):
        keys = dict(one.draft.index.sorts)
        assert record.sorts == tuple(keys.get(name) for name in query.sorts)
        assert record.body == (one.record.body if query.bodies else None)
    assert await store.count(query) == len(wanted)
    assert sum(tally.count for tally in await store.tally(query)) == len(wanted)
    await store.commit([], [Guard(query, len(wanted), "as many")])
    with pytest.raises(Conflict):
        await store.commit([], [Guard(query, len(wanted) + 1, "one more")])


async def agree(store: Store, clock: Clock, share: int) -> None:
    """The store and the model, over ``share`` histories with some questions each."""
    loop = asyncio.get_running_loop()

    @settings(max_examples=share, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        groups=commits,
        asked=st.lists(queries, min_size=1, max_size=6),
        back=st.integers(0, 12),
        batch=st.integers(1, 4),
    )
    def agrees(groups: list[tuple[Draft, ...]], asked: list[Query], back: int, batch: int) -> None:
        async def round_() -> None:
            began = clock.now + MINUTE - START
            versions = await _commit_all(store, clock, groups)
            first, last = versions[0].record.seq, versions[-1].record.seq
            for query in asked:
                moved = msgspec.structs.replace(
                    query,
                    criteria=tuple(_moved(each, began) for each in query.criteria),
                    after=query.after and first - 1 + query.after,
                )
                for as_of in (None, max(first, last - back)):
                    await _check(store, versions, msgspec.structs.replace(moved, as_of=as_of), batch)

        asyncio.run_coroutine_threadsafe(round_(), loop).result()

    await asyncio.to_thread(agrees)


async def test_any_criteria_over_any_entries_give_what_the_model_gives(
    store: Store, clock: Clock, request: pytest.FixtureRequest
) -> None:
    await agree(store, clock, examples(40, request.node.callspec.params["store"]))


def test_no_criterion_is_left_out_of_this_test() -> None:
    """A new kind must come into ``leaves`` above, and into ``CASES`` of `test_criteria`."""
    assert Criterion == Has | Text | Span | Present | Written | Not | AnyOf | AllOf

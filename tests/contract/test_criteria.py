"""What every store makes of `Query.criteria`, `Query.sorts` and `Index.present`: `core.criteria.holds` is the model."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import msgspec
import pytest

from fhirserver.core.criteria import (
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
from fhirserver.core.model import Clause, Draft, Guard, Index, Key, Query, Visible
from fhirserver.store.port import Store
from tests.contract.world import START, Clock, draft, found, names, tombstone

MINUTE = 60_000
DATE, VALUE, NAME, URL = "Observation|date", "Observation|value-quantity", "Patient|name", "ValueSet|url"


def indexed(
    reference: str,
    *compartments: str,
    terms: Sequence[str] = (),
    texts: Sequence[tuple[str, str]] = (),
    spans: Sequence[tuple[str, float, float]] = (),
    sorts: Sequence[tuple[str, str | float]] = (),
    present: Sequence[str] = (),
    custodian: str = "org-1",
) -> Draft:
    """A draft with these index entries and no others."""
    bare = draft(reference, *compartments, custodian=custodian)
    index = Index(
        compartments=bare.index.compartments, owners=bare.index.owners, terms=tuple(sorted(set(terms))),
        texts=tuple(sorted(set(texts))), spans=tuple(sorted(set(spans))), sorts=tuple(sorted(dict(sorts).items())),
        present=tuple(sorted(set(present))),
    )  # fmt: skip
    return msgspec.structs.replace(bare, index=index)


WARD = (
    indexed("Observation/a", "p", terms=("code=1", "status=final"), spans=((DATE, 10, 19), (VALUE, 1.5, 1.5)),
            present=("code", "date", "value-quantity")),
    indexed("Observation/b", "p", terms=("code=2", "status=final"), spans=((DATE, 20, 29), (VALUE, -inf, 3.0)),
            present=("code", "date")),
    indexed("Observation/c", "q", terms=("code=1",), spans=((DATE, 15, 25), (DATE, 40, 40)), present=("date",)),
    indexed("Patient/d", "p", texts=((NAME, "de la cruz"), (NAME, "maria")), present=("name",)),
    indexed("Patient/e", "q", texts=((NAME, "cruz"), (NAME, "50% o'malley_\\")), terms=("status=final",)),
    indexed("ValueSet/f", texts=((URL, "http://a.b/c"), (URL, "HTTP://A.b/Ç\U0010ffff/d"))),
    indexed("Basic/g"),
)  # fmt: skip

CASES: dict[str, tuple[Criterion, str]] = {
    "a term": (Has(("code=1",)), "a c"),
    "one of some terms": (Has(("code=1", "code=2", "nowhere")), "a b c"),
    "one of no terms": (Has(()), ""),
    "an unknown term": (Has(("nowhere",)), ""),
    "not a term": (Not(Has(("status=final",))), "c d f g"),
    "none of no terms": (Not(Has(())), "a b c d e f g"),
    "a text's beginning": (Text(NAME, "cruz"), "e"),
    "a text's beginning, in full": (Text(NAME, "de la cruz"), "d"),
    "any text": (Text(NAME, ""), "d e"),
    "a text inside": (Text(NAME, "cruz", "contains"), "d e"),
    "signs that mean something elsewhere": (Text(NAME, "50%"), "e"),
    "such signs inside": (Text(NAME, "o'malley_\\", "contains"), "e"),
    "a wildcard is a sign like others": (Text(NAME, "%", "contains"), "e"),
    "a pattern is a text like others": (Text(NAME, ".*", "contains"), ""),
    "case counts": (Text(URL, "http://a.b/"), "f"),
    "the last character there is": (Text(URL, "HTTP://A.b/Ç\U0010ffff"), "f"),
    "beyond the last character there is": (Text(URL, "HTTP://A.b/Ç\U0010ffff\U0010ffff"), ""),
    "a text of another name": (Text(URL, "cruz"), ""),
    "a text of an unknown name": (Text("Nothing|name", "cruz"), ""),
    "not a text": (Not(Text(NAME, "cruz")), "a b c d f g"),
    "a span within": (Span(DATE, (10, 20), (10, 20)), "a"),
    "bounds are included": (Span(DATE, (10, 10), (19, 19)), "a"),
    "a span that begins late": (Span(DATE, (20, inf)), "b c"),
    "a span that ends late": (Span(DATE, high=(25, inf)), "b c"),
    "a span that begins early": (Span(DATE, (-inf, 14)), "a"),
    "a span that ends early": (Span(DATE, high=(-inf, 24)), "a"),
    "both of one span": (Span(DATE, (16, inf), (-inf, 39)), "b"),
    "overlapping": (Span(DATE, (-inf, 22), (18, inf)), "a b c"),
    "any span": (Span(DATE), "a b c"),
    "an open span": (Span(VALUE, (-inf, 2), (1, inf)), "a b"),
    "a number": (Span(VALUE, (1.45, 1.55), (1.45, 1.55)), "a"),
    "bounds the wrong way round": (Span(DATE, (30, 10)), ""),
    "not a span": (Not(Span(DATE, (20, inf))), "a d e f g"),
    "present": (Present("date"), "a b c"),
    "not present": (Not(Present("value-quantity")), "b c d e f g"),
    "present nowhere": (Present("nothing"), ""),
    "any of": (AnyOf((Has(("code=2",)), Text(NAME, "maria"), Span(DATE, (40, 40)))), "b c d"),
    "any of none": (AnyOf(()), ""),
    "any of one": (AnyOf((Text(NAME, "cruz"),)), "e"),
    "any of, one of them not": (AnyOf((Text(NAME, "maria"), Not(Has(("status=final",))))), "c d f g"),
    "all of": (AllOf((Has(("code=1",)), Span(DATE, (15, 20)))), "c"),
    "all of none": (AllOf(()), "a b c d e f g"),
    "not all of none": (Not(AllOf(())), ""),
    "any of all of": (
        AnyOf((AllOf((Has(("code=1",)), Present("code"))), AllOf((Text(NAME, "cruz"), Has(("status=final",)))))),
        "a e",
    ),
    "not any of": (Not(AnyOf((Has(("code=1",)), Text(NAME, "", "starts")))), "b f g"),
    "not not": (Not(Not(Present("date"))), "a b c"),
    "all of not": (AllOf((Present("date"), Not(Span(VALUE)))), "c"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
async def test_a_criterion_means_the_same_to_the_model_and_to_the_store(store: Store, name: str) -> None:
    criterion, wanted = CASES[name]
    assert " ".join(one.key.id for one in WARD if holds(criterion, one.index, START)) == wanted
    await store.commit(WARD)
    for query in (Query(criteria=(criterion,)), Query(criteria=(AllOf((criterion, criterion)),))):
        assert " ".join(record.id for record in await found(store, query, 2)) == wanted
        assert await store.count(query) == len(wanted.split())
        assert sum(tally.count for tally in await store.tally(query)) == len(wanted.split())


async def test_criteria_narrow_what_else_is_asked(store: Store) -> None:
    await store.commit(WARD)
    late = Span(DATE, (15, inf))
    for query, wanted in (
        (Query(criteria=(late,)), "b c"), (Query(criteria=(late,), within="p"), "b"),
        (Query(criteria=(late,), terms=(("code=1",),)), "c"), (Query(criteria=(late,), after=2), "c"),
        (Query(criteria=(late,), limit=1), "b"), (Query(criteria=(late, Has(("code=2",)))), "b"),
        (Query(criteria=(late,), types=frozenset({"Patient"})), ""),
        (Query(criteria=(Not(late),), types=frozenset({"Observation", "Patient"})), "a d e"),
        (Query(criteria=(late,), not_types=frozenset({"Observation"})), ""),
        (Query(criteria=(late,), keys=(Key("Observation", "a"), Key("Observation", "c"))), "c"),
        (Query(criteria=(late,), visible=Visible((Clause(owners=frozenset({"q"})),))), "c"),
        (Query(criteria=(late,), beyond=("q",)), "b"), (Query(criteria=(late,), other_than="org-1"), ""),
    ):  # fmt: skip
        assert [record.id for record in await found(store, query, 2)] == wanted.split(), query
        assert await store.count(query) == len(wanted.split()), query


async def test_a_snapshot_asks_the_versions_of_its_time(store: Store) -> None:
    await store.commit(WARD)
    mark = (await store.high_water()).seq
    everything = {
        name: " ".join(one.key.id for one in WARD if holds(c, one.index, START)) for name, (c, _) in CASES.items()
    }
    await store.commit([
        tombstone("Observation/a"), indexed("Observation/b", "q", present=("nothing",)),
        indexed("Patient/d", "p", terms=("nowhere",), texts=((NAME, "x.*"), ("Nothing|name", "cruz"))),
        indexed("Basic/h", terms=("code=1", "nowhere"), spans=((DATE, 10, 19),)),
    ])  # fmt: skip
    await store.commit([tombstone("ValueSet/f"), indexed("Basic/g", present=("date",))])
    for name, (criterion, wanted) in CASES.items():
        then = Query(criteria=(criterion,), as_of=mark)
        assert everything[name] == wanted
        assert [record.id for record in await found(store, then, 2)] == wanted.split(), name
        assert await store.count(then) == len(wanted.split()), name
        assert sum(tally.count for tally in await store.tally(then)) == len(wanted.split()), name


async def test_what_left_a_chart_can_be_asked_by_criteria(store: Store) -> None:
    await store.commit(WARD)
    since = (await store.high_water()).seq
    await store.commit([tombstone("Observation/a"), tombstone("Observation/b"), tombstone("Patient/d")])
    for criterion, wanted in ((Has(("code=1",)), "a"), (Present("date"), "a b"), (Not(Present("date")), "d")):
        query = Query(within="p", departed_since=since, criteria=(criterion,))
        assert [record.id for record in await found(store, query)] == wanted.split()


async def test_written_is_the_time_of_the_commit(store: Store, clock: Clock) -> None:
    for name in "abc":
        await store.commit([indexed(f"Basic/{name}", terms=("red",)), indexed(f"Basic/{name}{name}")])
        clock.now += MINUTE
    mark = (await store.high_water()).seq
    clock.now += MINUTE
    await store.commit([indexed("Basic/a", terms=("red",)), tombstone("Basic/c")])
    first, second, third, late = (START + at * MINUTE for at in (0, 1, 2, 4))
    for criterion, now, then in (
        (Written(first, first), "aa", "a aa"), (Written(first, second), "aa b bb", "a aa b bb"),
        (Written(first + 1, third - 1), "b bb", "b bb"), (Written(0, first - 1), "", ""),
        (Written(second, first), "", ""), (Written(third, late), "cc a", "c cc"), (Written(late, 2**60), "a", ""),
        (Not(Written(second, third)), "aa a", "a aa"),
        (AnyOf((Written(first, first), Has(("red",)))), "aa b a", "a aa b c"),
        (AllOf((Written(second, late), Has(("red",)))), "b a", "b c"),
    ):  # fmt: skip
        for as_of, wanted in ((None, now), (mark, then)):
            query = Query(criteria=(criterion,), as_of=as_of)
            assert [record.id for record in await found(store, query)] == wanted.split(), query
            assert await store.count(query) == len(wanted.split()), query


async def test_sort_keys_come_with_the_records_that_asked_for_them(store: Store) -> None:
    await store.commit([
        indexed("Observation/a", "p", terms=("red",), sorts=((DATE, 7), ("Observation|status", "final"))),
        indexed("Observation/b", "p", sorts=((DATE, -1.5),)),
        indexed("Patient/c", "p", sorts=((NAME, "Ärzte"),)),
    ])  # fmt: skip
    mark = (await store.high_water()).seq
    await store.commit([indexed("Observation/a", "p", sorts=((DATE, 8),))])
    asked = ("Observation|status", DATE, "Nothing|name", NAME)
    then = [("final", 7.0, None, None), (None, -1.5, None, None), (None, None, None, "Ärzte")]
    for bodies in (True, False):
        for query in (Query(within="p"), Query(criteria=(Not(Present("x")),)), Query()):
            query = msgspec.structs.replace(query, sorts=asked, as_of=mark, bodies=bodies)
            records = await found(store, query, 2)
            assert [record.sorts for record in records] == then
            assert all((record.body is None) == (not bodies) for record in records)
    assert [record.sorts for record in await found(store, Query(sorts=(DATE,)))] == [(-1.5,), (None,), (8.0,)]
    assert [record.sorts for record in await found(store, Query())] == [(), (), ()]


async def test_a_guard_counts_by_criteria(store: Store) -> None:
    await store.commit(WARD)
    one = Query(criteria=(Text(NAME, "cruz"),))
    with pytest.raises(Conflict, match="taken"):
        await store.commit([indexed("Patient/x")], [Guard(one, 0, "taken")])
    await store.commit([indexed("Patient/x", texts=((NAME, "cruzado"),))], [Guard(one, 1, "taken")])
    assert await names(store, one) == ["Patient/e", "Patient/x"]


@pytest.mark.parametrize("size", [20, 500, 30_000])
async def test_a_criterion_may_have_thousands_of_terms(store: Store, size: int) -> None:
    """A chain resolves to that many references."""
    await store.commit([
        indexed(f"Observation/{at}", f"p{at % 2}", terms=(f"subject=Patient/{at}",), spans=((DATE, at, at),))
        for at in range(40)
    ])  # fmt: skip
    mark = (await store.high_water()).seq
    await store.commit([tombstone("Observation/6")])
    group = Has(tuple(f"subject=Patient/{at}" for at in range(5, 5 + size)))
    last = min(40, 5 + size)
    for query, wanted in (
        (Query(criteria=(group,), as_of=mark), range(5, last)),
        (Query(criteria=(group,)), [at for at in range(5, last) if at != 6]),
        (Query(criteria=(group, group), within="p1"), range(5, last, 2)),
        (Query(criteria=(group, Span(DATE, (0, 9))), as_of=mark), range(5, 10)),
        (Query(criteria=(Not(group),)), [*range(5), *range(last, 40)]),
        (Query(criteria=(AnyOf((group, Span(DATE, (0, 1)))),), as_of=mark), [0, 1, *range(5, last)]),
        (Query(keys=(Key("Observation", "7"), Key("Observation", "1")), criteria=(group,)), [7]),
    ):
        assert [record.id for record in await found(store, query, 7)] == [str(at) for at in wanted]
        assert await store.count(query) == len(wanted)

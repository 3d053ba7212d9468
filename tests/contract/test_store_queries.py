"""What every store promises of queries: what they give, in which batches, and as of when."""

from __future__ import annotations

import msgspec

from fhirserver.core.model import Clause, Facts, HistoryQuery, Key, Query, Tally, Visible, parse_facts
from fhirserver.store.port import Store
from tests.contract.world import draft, found, gathered, names, referring, tombstone


async def test_as_of_still_shows_what_was_replaced_later(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", "p", terms=("t",)) for at in range(10)])
    mark = (await store.high_water()).seq
    scan = store.scan(Query(within="p", as_of=mark), 3)
    first = await anext(scan)
    await store.commit([draft(f"Observation/{at}", "p", text="new") for at in range(0, 10, 2)])
    await store.commit([tombstone("Observation/1"), draft("Observation/3", "q"), draft("Observation/new", "p")])
    rest = await gathered(scan)
    assert [(record.id, record.version) for record in first + rest] == [(str(at), 1) for at in range(10)]
    everything = [f"Observation/{at}" for at in range(10)]
    for query in (
        Query(within="p"), Query(), Query(types=frozenset({"Observation"})), Query(terms=(("t", "u"),)),
        Query(within="p", terms=(("t",),)), Query(within="p", types=frozenset({"Observation", "Patient"})),
        Query(keys=tuple(Key("Observation", str(at)) for at in range(10))),
    ):  # fmt: skip
        then = msgspec.structs.replace(query, as_of=mark)
        assert await names(store, then, 3) == everything, query
        assert await store.count(then) == 10
        assert sum(tally.count for tally in await store.tally(then)) == 10
        assert await names(store, msgspec.structs.replace(then, limit=4, after=3), 3) == everything[3:7]


async def test_a_group_may_have_thousands_of_terms_in_a_snapshot_too(store: Store) -> None:
    await store.commit([draft("Observation/a", "p", terms=("t4999",)), draft("Observation/b", "p", terms=("other",))])
    mark = (await store.high_water()).seq
    await store.commit([draft("Observation/a", "p", text="new", terms=("t7",)), tombstone("Observation/b")])
    group = tuple(f"t{at}" for at in range(5000))
    for query in (Query(terms=(group,)), Query(terms=(group,), within="p"), Query(terms=(group, group))):
        assert [record.version for record in await found(store, query)] == [2]
        assert [record.version for record in await found(store, msgspec.structs.replace(query, as_of=mark))] == [1]


async def test_an_empty_set_matches_nothing(store: Store) -> None:
    await store.commit([draft("Observation/a", "p", terms=("t",))])
    for query in (
        Query(types=frozenset()), Query(keys=()), Query(terms=((),)), Query(terms=(("t",), ())),
        Query(visible=Visible()), Query(visible=Visible((Clause(types=frozenset()),))),
        Query(visible=Visible((Clause(owners=frozenset()),))), Query(within="nobody"), Query(limit=0),
        Query(types=frozenset({"Unknown"})), Query(terms=(("nowhere",),)), Query(keys=(Key("Unknown", "a"),)),
    ):  # fmt: skip
        assert await names(store, query) == []
        assert await store.count(query) == 0
        assert await store.tally(query) == []
    assert await names(store, Query(terms=())) == ["Observation/a"]


async def test_each_condition_narrows(store: Store) -> None:
    await store.commit([
        draft("Observation/a", "p", terms=("red", "big"), care=(10, 20)),
        draft("Observation/b", "p", "q", terms=("red",), care=(30, 40)),
        draft("Condition/c", "p", terms=("big",), references=("Observation/a",)),
        draft("Condition/d", "q", custodian="org-2", terms=("red", "big")),
        draft("Organization/e", owners=()),
    ])  # fmt: skip
    one = Query(within="p")
    for query, wanted in (
        (one, "a b c"), (Query(within="q"), "b d"), (Query(within="p", beyond=("q",)), "a c"),
        (Query(within="p", beyond=("q", "nobody")), "a c"),
        (Query(within="p", types=frozenset({"Observation"})), "a b"), (Query(types=frozenset({"Condition"})), "c d"),
        (Query(types=frozenset({"Condition", "Organization", "None"})), "c d e"),
        (Query(not_types=frozenset({"Condition"})), "a b e"),
        (Query(within="p", not_types=frozenset({"Condition"})), "a b"),
        (Query(terms=(("red",),)), "a b d"), (Query(terms=(("red",), ("big",))), "a d"),
        (Query(terms=(("red", "big"),)), "a b c d"), (Query(terms=(("red",), ("big",)), within="p"), "a"),
        (Query(terms=((*(f"t{n}" for n in range(100)), "red"),)), "a b d"),
        (Query(terms=((referring("Observation/a"),),)), "c"), (Query(care=(15, 35)), "a b c d e"),
        (Query(care=(21, 29), within="p"), "c"), (Query(care=(20, 20), within="p"), "a c"),
        (Query(other_than="org-1"), "d"), (Query(other_than="org-1", within="p"), ""),
        (Query(keys=(Key("Condition", "d"), Key("Observation", "a"), Key("Observation", "d"))), "a d"),
        (Query(keys=(Key("Condition", "d"), Key("Observation", "a")), within="p"), "a"),
        (Query(after=2), "c d e"), (Query(after=1, limit=2), "b c"), (Query(within="q", limit=1), "b"),
    ):  # fmt: skip
        assert [record.id for record in await found(store, query, 2)] == wanted.split(), query
        assert await store.count(query) == len(wanted.split()), query


async def test_the_limit_comes_after_the_compartment_and_the_grant(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", f"p{at % 5}", custodian=f"org-{at % 10}") for at in range(100)])
    mine = Visible((Clause(organization="org-7"),))
    assert [record.id for record in await found(store, Query(visible=mine, limit=3), 2)] == ["7", "17", "27"]
    assert await store.count(Query(visible=mine, limit=3)) == 3
    assert [record.id for record in await found(store, Query(within="p2", visible=mine, limit=2))] == ["7", "17"]
    assert [tally.count for tally in await store.tally(Query(visible=mine, limit=3))] == [3]
    assert await store.count(Query(within="p3", visible=mine)) == 0


async def test_a_batch_is_never_larger_than_asked_and_nothing_comes_twice(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", "p", terms=("a", "b")) for at in range(50)])
    for batch in (1, 7, 49, 50, 51):
        for query in (Query(), Query(within="p"), Query(terms=(("a", "b"),)), Query(types=frozenset({"Observation"}))):
            assert len(await found(store, query, batch)) == 50


async def test_a_scan_can_be_abandoned(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", "p") for at in range(100)])
    mark = (await store.high_water()).seq
    for steps in (0, 1, 2, 3):
        scan = store.scan(Query(within="p", as_of=mark), 10)
        for _ in range(steps):
            await anext(scan)
        await scan.aclose()  # type: ignore[attr-defined]  # an async generator
    await store.commit([draft("Observation/0", "p", if_version=1)])
    assert await store.count(Query(within="p")) == 100


async def test_a_scan_without_as_of_meets_what_is_committed_on_the_way(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", "p") for at in range(4)])
    scan = store.scan(Query(within="p"), 2)
    seen = [record.id for record in await anext(scan)]
    await store.commit([draft("Observation/late", "p"), tombstone("Observation/3")])
    seen += [record.id for record in await gathered(scan)]
    assert seen == ["0", "1", "2", "late"]


async def test_a_tally_counts_by_type_facts_and_supports(store: Store) -> None:
    await store.commit([
        *(draft(f"Observation/{at}", "p", supports=("Practitioner/1",)) for at in range(3)),
        draft("Observation/x", "p"), draft("Condition/x", "p", labels=("s|R",)),
    ])  # fmt: skip
    plain, labelled = Facts("org-1", (), ("p",), (), ("p",)).text, Facts("org-1", (), ("p",), ("s|R",), ("p",)).text
    assert sorted(await store.tally(Query(within="p")), key=lambda one: (one.type, one.count)) == [
        Tally("Condition", labelled, "", 1),
        Tally("Observation", plain, "", 1),
        Tally("Observation", plain, "Practitioner/1", 3),
    ]
    visible = Visible((Clause(without=frozenset({"s|R"})),))
    assert {one.type for one in await store.tally(Query(visible=visible))} == {"Observation"}
    assert await store.count(Query(visible=visible)) == 4


async def test_departed_are_the_last_versions_of_what_left_the_chart(store: Store) -> None:
    await store.commit([draft(f"Observation/{name}", "p") for name in ("stays", "deleted", "moved", "returns")])
    since = (await store.high_water()).seq
    await store.commit([draft("Observation/moved", "p", text="again"), draft("Observation/short", "p")])
    await store.commit(
        [tombstone("Observation/returns"), tombstone("Observation/deleted"), tombstone("Observation/short")]
    )
    middle = (await store.high_water()).seq
    await store.commit(
        [draft("Observation/moved", "q"), draft("Observation/returns", "p"), draft("Observation/stays", "p")]
    )
    left = await found(store, Query(within="p", departed_since=since))
    assert [(record.id, record.version, record.deleted) for record in left] == [
        ("deleted", 1, False),
        ("moved", 2, False),
    ]
    assert await names(store, Query(within="p", departed_since=since, as_of=middle)) == [
        "Observation/deleted", "Observation/returns",
    ]  # fmt: skip
    assert await store.count(Query(within="p", departed_since=since)) == 2
    assert await names(store, Query(within="p", departed_since=since, types=frozenset({"Patient"}))) == []
    assert await names(store, Query(within="p", departed_since=(await store.high_water()).seq)) == []


async def test_changes_are_every_version_in_order(store: Store) -> None:
    await store.commit([draft("Observation/a"), draft("Observation/b")])
    await store.commit([draft("Observation/a", text="y")])
    await store.commit([tombstone("Observation/a")])
    for after in range(5):
        changes = await gathered(store.changes(after))
        assert [record.seq for record in changes] == list(range(after + 1, 5))
    versions = [(record.id, record.version, record.deleted) for record in await gathered(store.changes(0))]
    assert versions == [("a", 1, False), ("b", 1, False), ("a", 2, False), ("a", 3, True)]
    await store.commit([draft(f"Patient/{at}") for at in range(600)])
    assert len(await gathered(store.changes(4))) == 600


async def test_a_grant_by_kinds_wants_one_of_each_set(store: Store) -> None:
    await store.commit([
        draft("Observation/both", "p", kinds=("lab", "c|lab", "vital")),
        draft("Observation/lab", "p", kinds=("c|lab", "lab")),
        draft("Observation/vital", "p", kinds=("vital",)), draft("Observation/none", "p", labels=("lab",)),
    ])  # fmt: skip
    for kinds, ids in (
        ((), ["both", "lab", "vital", "none"]), (({"lab"},), ["both", "lab"]),
        (({"lab", "vital"},), ["both", "lab", "vital"]),
        (({"lab"}, {"vital"}), ["both"]), ((set(),), []), (({"c|lab"}, set()), []), (({"c"},), []),
    ):  # fmt: skip
        visible = Visible((Clause(kinds=tuple(frozenset(one) for one in kinds)),))
        assert [record.id for record in await found(store, Query(visible=visible))] == ids, kinds
        assert await store.count(Query(visible=visible)) == len(ids)
        told = [record.id async for records in store.history(HistoryQuery(visible=visible)) for record in records]
        assert told == ids[::-1], kinds


async def test_kinds_are_renewed_by_a_reindex_and_what_lacks_them_is_closed(store: Store) -> None:
    (record,) = await store.commit([draft("Observation/1", "p")])
    visible = Visible((Clause(kinds=(frozenset({"lab"}),)),))
    assert await found(store, Query(visible=visible)) == []
    fresh = draft("Observation/1", "p", kinds=("lab",))
    await store.reindex([(record, fresh.facts, fresh.index)])
    assert [one.facts for one in await found(store, Query(visible=visible))] == [fresh.facts.text]
    await store.reindex([(record, draft("Observation/1", "p").facts, fresh.index)])
    assert await found(store, Query(visible=visible)) == []
    assert await store.count(Query(visible=visible)) == 0


def test_facts_without_kinds_are_written_as_before_there_were_any() -> None:
    text = '["org",["x"],["p"],[],[]]'
    assert parse_facts(text) == Facts("org", ("x",), ("p",))
    assert parse_facts(text).text == text
    with_kinds = Facts("org", kinds=("lab",))
    assert with_kinds.text == '["org",[],[],[],[],["lab"]]'
    assert parse_facts(with_kinds.text) == with_kinds

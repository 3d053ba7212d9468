"""What every store promises; the sentences of `fhirserver.store.port`."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fhirserver.core.errors import Conflict, Kind, Unavailable
from fhirserver.core.model import (
    CURRENT,
    AuditRow,
    Clause,
    Draft,
    Facts,
    Guard,
    Key,
    Query,
    Record,
    Tally,
    Visible,
)
from fhirserver.core.stamp import digest
from fhirserver.store.port import Store
from tests.contract.world import START, Clock, derive, draft, found, gathered, names, referring, tombstone
from tests.stores import KINDS

A = Key("Observation", "a")


def index_of(drafts: dict[Key, Draft]):  # type: ignore[no-untyped-def]  # a closure for verify
    return lambda record, _: (drafts[record.key].facts, drafts[record.key].index)


async def test_a_version_comes_back_as_it_was_committed(store: Store) -> None:
    one = draft("Observation/a", "p", text="3e2 é", supports=("Practitioner/1", "Practitioner/2"))
    [record] = await store.commit([one])
    assert record == await store.get(A)
    assert record.body == one.head + b'"versionId":"1","lastUpdated":"2023-11-14T22:13:20.000Z"' + one.tail
    assert record.size == len(record.body)
    assert record.digest == digest(one.head, one.tail)
    assert (record.version, record.seq, record.ended, record.updated) == (1, 1, CURRENT, START)
    assert (record.facts, record.supports) == (one.facts.text, "Practitioner/1 Practitioner/2")
    assert [record] == await found(store, Query())


async def test_what_never_was_is_not_there(store: Store) -> None:
    await store.commit([draft("Observation/a")])
    assert await store.get(Key("Observation", "b")) is None
    assert await store.get(Key("Patient", "a")) is None
    assert await store.get(A, 2) is None
    assert await store.get(A, as_of=0) is None


async def test_each_version_can_be_read_and_knows_what_ended_it(store: Store) -> None:
    for text in ("1", "22", "333"):
        await store.commit([draft("Observation/a", text=text)])
    assert [(await at(store, 1)).ended, (await at(store, 2)).ended, (await at(store, 3)).ended] == [2, 3, CURRENT]
    assert b'"22"' in ((await at(store, 2)).body or b"")
    for seq in (1, 2, 3):
        then = await store.get(A, as_of=seq)
        assert then is not None
        assert then.version == seq
    assert (await store.get(A, 3, as_of=2)) is None


async def at(store: Store, version: int) -> Record:
    record = await store.get(A, version)
    assert record is not None
    return record


async def test_a_tombstone_is_read_but_never_scanned(store: Store) -> None:
    await store.commit([draft("Observation/a", "p", terms=("t",)), draft("Observation/b", "p")])
    before = (await store.high_water()).seq
    [gone] = await store.commit([tombstone("Observation/a")])
    assert gone == await store.get(A)
    assert (gone.deleted, gone.body, gone.size, gone.version) == (True, b"", 0, 2)
    for query in (Query(), Query(within="p"), Query(types=frozenset({"Observation"}))):
        assert await names(store, query) == ["Observation/b"]
        assert await names(store, msgspec.structs.replace(query, as_of=before)) == ["Observation/a", "Observation/b"]
    assert await names(store, Query(terms=(("t",),))) == []
    assert await names(store, Query(terms=(("t",),), as_of=before)) == ["Observation/a"]
    assert await names(store, Query(keys=(A,))) == []
    [again] = await store.commit([draft("Observation/a", "p", if_version=0)])
    assert again.version == 3
    assert await names(store, Query(within="p")) == ["Observation/b", "Observation/a"]
    assert await names(store, Query(within="p", as_of=gone.seq)) == ["Observation/b"]


async def test_a_commit_is_all_or_nothing(store: Store) -> None:
    await store.commit([draft("Observation/a")])
    audit = AuditRow(id="1", at=1, organization="o", subject="s", interaction="i", outcome="intent")
    with pytest.raises(Conflict) as raised:
        await store.commit(
            [draft("Observation/b"), draft("Observation/a", if_version=7)], audit=[audit], epochs=["policy"]
        )
    assert raised.value.kind is Kind.PRECONDITION_FAILED
    assert await names(store, Query()) == ["Observation/a"]
    assert (await store.high_water()).seq == 1
    assert await store.ledger.get("policy") is None
    assert [rows async for rows in store.audit.scan()] == []


async def test_two_drafts_of_one_key_are_refused(store: Store) -> None:
    with pytest.raises(ValueError, match="same key"):
        await store.commit([draft("Observation/a"), draft("Observation/a", text="y")])
    assert await store.get(A) is None


async def test_if_version_names_the_version_that_must_be_current(store: Store) -> None:
    await store.commit([draft("Observation/a", if_version=0)])
    for wrong in (0, 2):
        with pytest.raises(Conflict):
            await store.commit([draft("Observation/a", if_version=wrong)])
    await store.commit([draft("Observation/a", if_version=1)])
    await store.commit([tombstone("Observation/a", if_version=2)])
    with pytest.raises(Conflict):
        await store.commit([draft("Observation/a", if_version=3)])
    with pytest.raises(Conflict):
        await store.commit([draft("Observation/never", if_version=1)])


async def test_of_two_writers_of_one_version_one_wins(store: Store) -> None:
    await store.commit([draft("Observation/a")])
    outcomes = await asyncio.gather(
        *(store.commit([draft("Observation/a", text=str(at), if_version=1)]) for at in range(8)), return_exceptions=True
    )
    assert sorted(type(outcome).__name__ for outcome in outcomes) == [*["Conflict"] * 7, "list"]
    assert (await at(store, 2)).ended == CURRENT


async def test_a_guard_makes_unique_or_fail_free_of_races(store: Store) -> None:
    guard = Guard(Query(terms=(("Observation|identifier=1",),)), 0, "There is one already.")
    outcomes = await asyncio.gather(
        *(store.commit([draft(f"Observation/{at}", terms=("Observation|identifier=1",))], [guard]) for at in range(20)),
        return_exceptions=True,
    )
    losers = [outcome for outcome in outcomes if isinstance(outcome, Conflict)]
    assert len(losers) == 19
    assert {loser.message for loser in losers} == {"There is one already."}
    assert await store.count(Query()) == 1


async def test_a_guard_sees_the_store_before_any_draft_is_applied(store: Store) -> None:
    guard = Guard(Query(keys=(A,)), 0, "taken")
    await store.commit([draft("Observation/a")], [guard])
    with pytest.raises(Conflict, match="taken"):
        await store.commit([draft("Observation/b")], [guard])
    await store.commit([], [Guard(Query(), 1, "one")])


async def test_a_loser_does_not_abort_its_group(store: Store) -> None:
    await store.commit([draft("Observation/a", "p")])
    outcomes = await asyncio.gather(
        *(store.commit([draft(f"Type{at}/b", f"patient-{at}", if_version=at % 2)]) for at in range(40)),
        return_exceptions=True,
    )
    assert [isinstance(outcome, Conflict) for outcome in outcomes] == [bool(at % 2) for at in range(40)]
    assert await store.count(Query()) == 21
    for at in range(40):  # types and patients that a loser brought along are not taken for others
        assert await names(store, Query(within=f"patient-{at}")) == ([] if at % 2 else [f"Type{at}/b"])
        await store.commit([draft(f"Type{at}/c", f"patient-{at}")])
        assert f"Type{at}/c" in await names(store, Query(within=f"patient-{at}", types=frozenset({f"Type{at}"})))
    assert [sentence async for sentence in store.verify(derive)] == []


async def test_seq_and_updated_never_run_backwards_whatever_the_clock_does(store: Store, clock: Clock) -> None:
    seen = []
    for now in (START, START + 50, START - 1000, START + 20, START + 60):
        clock.now = now
        [record] = await store.commit([draft("Observation/a", text=str(now))])
        mark = await store.high_water()
        assert mark.seq == record.seq
        assert mark.time >= record.updated
        seen.append((record.seq, record.updated, mark.time))
    assert [seq for seq, _, _ in seen] == [1, 2, 3, 4, 5]
    assert [updated - START for _, updated, _ in seen] == [0, 50, 50, 50, 60]
    assert [time for _, _, time in seen] == sorted(time for _, _, time in seen)


async def test_a_time_that_the_audit_trail_has_seen_is_not_gone_below_after_a_restart(
    store: Store, clock: Clock
) -> None:
    told = (await store.high_water()).time
    row = AuditRow(id="1", at=told, organization="o", subject="s", interaction="$everything", outcome="intent")
    await store.audit.append([row])
    await store.close()
    clock.now -= 60_000
    await store.start()
    [record] = await store.commit([draft("Observation/a")])
    assert record.updated >= told
    assert await found(store, Query(updated_from=told)) == [record]


async def test_seq_at_is_the_last_seq_before_a_time(store: Store, clock: Clock) -> None:
    assert await store.seq_at(START) == 0
    await store.commit([draft("Observation/a"), draft("Observation/b")])
    clock.now += 10
    await store.commit([draft("Observation/c")])
    await store.commit([draft("Observation/d")])
    assert [await store.seq_at(START + ms) for ms in (0, 1, 10, 11)] == [0, 2, 2, 4]
    assert await names(store, Query(updated_from=START + 1)) == ["Observation/c", "Observation/d"]
    assert await names(store, Query(updated_from=START + 1, after=3)) == ["Observation/d"]
    assert await store.count(Query(updated_from=START + 11)) == 0


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


async def test_bodies_can_be_left_out(store: Store) -> None:
    [whole] = await store.commit([draft("Observation/a", "p")])
    [slim] = await found(store, Query(within="p", bodies=False))
    assert slim == msgspec.structs.replace(whole, body=None)
    assert b"".join([piece async for piece in store.body(slim)]) == whole.body


async def test_a_body_that_is_not_there_whole_is_a_failure_and_no_shorter_body(store: Store) -> None:
    [record] = await store.commit([draft("Observation/a", text="x" * 3_000_000)])
    [stored] = await found(store, Query())
    longer = msgspec.structs.replace(stored, size=record.size + 1)
    never = msgspec.structs.replace(stored, seq=10**6)
    for missing in (longer, never):
        with pytest.raises(Unavailable):
            [piece async for piece in store.body(missing)]


async def test_a_large_body_is_kept_out_of_line_and_comes_back_whole(store: Store) -> None:
    text = "0123456789abcdef" * 200_000
    drafts = {key: draft(f"Binary/{key}", "p", text=text + key) for key in ("a", "b")}
    small = draft("Observation/a", "p")
    await store.commit([drafts["a"], small, drafts["b"]])
    records = await found(store, Query(within="p"))
    assert [record.body is None for record in records] == [True, False, True]
    for record in (records[0], records[2]):
        pieces = [piece async for piece in store.body(record)]
        assert len(pieces) > 2
        assert sum(map(len, pieces)) == record.size
        one = drafts[record.id]
        assert b"".join(pieces) == one.head + b'"versionId":"1","lastUpdated":"2023-11-14T22:13:20.000Z"' + one.tail
    await store.commit([draft("Binary/a", "p"), tombstone("Binary/b")])
    assert b"".join([piece async for piece in store.body(records[0])]).endswith(drafts["a"].tail)
    with pytest.raises(Conflict):
        await store.commit([draft("Binary/c", text=text, if_version=3)])
    assert [one async for one in store.verify(derive)] == []


async def test_batches_stay_small_in_bytes_however_large_the_resources(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", "p", text=str(at) * 900_000) for at in range(9)])
    mark = (await store.high_water()).seq
    for query in (Query(within="p"), Query(within="p", as_of=mark), Query()):
        sizes = [sum(record.size for record in batch) async for batch in store.scan(query)]
        assert max(sizes) < 5_000_000
        assert sum(sizes) > 8_000_000
    assert len(await gathered(store.changes(0))) == 9


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


async def test_reindex_replaces_entries_without_a_new_version(store: Store) -> None:
    [one, two] = await store.commit([draft("Observation/a", "p", terms=("old",)), draft("Observation/b", "p")])
    await store.commit([draft("Observation/b", "p", text="newer")])
    new = draft("Observation/a", "q", terms=("new",), labels=("s|R",), supports=("Location/1",))
    await store.reindex([(one, new.facts, new.index), (two, new.facts, new.index)])
    assert (await store.high_water()).seq == 3
    assert await names(store, Query(within="q")) == ["Observation/a"]
    assert await names(store, Query(within="p")) == ["Observation/b"]
    assert await names(store, Query(terms=(("old",),))) == []
    [after] = await found(store, Query(terms=(("new",),)))
    assert after == msgspec.structs.replace(one, facts=new.facts.text, supports="Location/1")
    newer = draft("Observation/b", "p", text="newer")
    drafts = {new.key: new, newer.key: newer}
    assert [one async for one in store.verify(index_of(drafts))] == []
    assert [one async for one in store.verify(index_of({**drafts, A: newer}))] != []


async def test_the_ledger_puts_only_over_the_stamp_it_was_told(store: Store) -> None:
    ledger = store.ledger
    assert await ledger.get("k") is None
    assert not await ledger.put_if("k", b"1", stamp=5)
    assert await ledger.put_if("k", b"1", stamp=None)
    assert not await ledger.put_if("k", b"2", stamp=None)
    first = await ledger.get("k")
    assert first is not None
    assert first.value == b"1"
    assert await ledger.put_if("k", b"2", stamp=first.stamp)
    assert not await ledger.put_if("k", b"3", stamp=first.stamp)
    second = await ledger.get("k")
    assert second is not None
    assert second.stamp != first.stamp
    assert await ledger.put_if("k", None, stamp=second.stamp)
    assert await ledger.get("k") is None
    assert await ledger.put_if("k", b"4", stamp=None)
    third = await ledger.get("k")
    assert third is not None
    assert third.stamp not in (first.stamp, second.stamp)


async def test_ledger_entries_expire(store: Store, clock: Clock) -> None:
    ledger = store.ledger
    await ledger.put_if("k", b"1", stamp=None, expires=clock.now + 10)
    await ledger.incr("n", 5, expires=clock.now + 10)
    assert await ledger.incr("n", expires=clock.now + 99) == 6
    clock.now += 10
    assert await ledger.get("k") is None
    assert [name async for name, _ in ledger.scan("")] == []
    assert await ledger.put_if("k", b"2", stamp=None)
    assert await ledger.incr("n") == 1


async def test_a_counter_counts_every_increment_and_reads_as_text(store: Store) -> None:
    values = await asyncio.gather(*(store.ledger.incr("n", 2) for _ in range(50)))
    assert sorted(values) == list(range(2, 102, 2))
    entry = await store.ledger.get("n")
    assert entry is not None
    assert entry.value == b"100"
    await store.commit([draft("Observation/a")], epochs=["n", "policy"])
    assert await store.ledger.incr("n", 0) == 101
    assert await store.ledger.incr("policy", -2) == -1


async def test_the_ledger_is_scanned_by_prefix_in_name_order(store: Store) -> None:
    wanted = sorted(f"job/{at}" for at in range(600))
    await asyncio.gather(*(store.ledger.put_if(name, b"x", stamp=None) for name in [*wanted, "jo", "joc", "job", "k%"]))
    assert [name async for name, _ in store.ledger.scan("job/")] == wanted
    assert [name async for name, _ in store.ledger.scan("k%")] == ["k%"]


async def test_audit_rows_come_back_in_the_order_they_were_appended(store: Store) -> None:
    def row(number: int, **more: object) -> AuditRow:
        fields = {"organization": "o", "subject": "s", "interaction": "read", "outcome": "intent", **more}
        return msgspec.convert({"id": str(number), "at": 10_000 - number, **fields}, AuditRow)

    first = [row(at, organization=f"o{at % 2}", patients=[f"p{at % 3}"], detail={"n": at}) for at in range(12)]
    await store.audit.append(first)
    await store.commit([draft("Observation/a")], audit=[row(12, intent="3")])
    await store.audit.append([row(at) for at in range(13, 1200)])

    async def ids(**wanted: object) -> list[int]:
        return [int(one.id) async for rows in store.audit.scan(**wanted) for one in rows]  # type: ignore[arg-type]

    assert await ids() == list(range(1200))
    assert await ids(organization="o1") == [1, 3, 5, 7, 9, 11]
    assert await ids(patient="p0") == [0, 3, 6, 9]
    assert await ids(patient="p0", organization="o1") == [3, 9]
    assert await ids(since=9_996) == [0, 1, 2, 3, 4]
    assert [rows async for rows in store.audit.scan(patient="p0")] == [first[0:12:3]]


async def test_the_loop_goes_on_while_the_store_works(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", "p") for at in range(500)])
    turns = 0

    async def turn() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    task = asyncio.create_task(turn())
    await store.count(Query(within="p"))
    await store.commit([draft("Observation/x")])
    await found(store, Query(within="p"), 50)
    assert turns > 3
    task.cancel()


def test_the_contract_is_run_on_mongodb_too(mongodb: str) -> None:
    assert "mongo" in KINDS, mongodb


async def test_a_closed_store_is_unavailable(store: Store) -> None:
    await store.close()
    await store.close()
    with pytest.raises(Unavailable):
        await store.get(A)
    with pytest.raises(Unavailable):
        await store.commit([draft("Observation/a")])
    with pytest.raises(Unavailable):
        await found(store, Query())

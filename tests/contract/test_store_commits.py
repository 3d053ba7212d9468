"""What every store promises of versions, and of the commits that make them."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fhirserver.core.errors import Conflict, Kind
from fhirserver.core.model import CURRENT, AuditRow, Guard, Key, Query, Record
from fhirserver.core.stamp import digest
from fhirserver.store.port import Store
from tests.contract.world import START, Clock, derive, draft, found, names, tombstone

A = Key("Observation", "a")


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

"""`Store.history`: every version, newest first, on every kind of store."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fhirserver.core.model import CURRENT, Clause, HistoryQuery, Key, Query, Record, Visible
from fhirserver.store.port import Store
from tests.contract.world import draft, found, gathered, tombstone

A = Key("Observation", "a")
OBSERVATIONS = frozenset({"Observation"})


async def told(store: Store, query: HistoryQuery, batch: int = 256) -> list[str]:
    """``id/version`` of each version, in the order it came; checks what holds for every answer."""
    records: list[Record] = []
    async for part in store.history(query, batch):
        assert 0 < len(part) <= batch
        records += part
    seqs = [record.seq for record in records]
    assert seqs == sorted(set(seqs), reverse=True)
    assert await store.count_history(query) == len(records)
    return [f"{record.id}/{record.version}{'-' if record.deleted else ''}" for record in records]


async def filled(store: Store) -> None:
    """Seqs 1 to 8: a is made, changed, deleted and made again; b is changed once; c is of another type."""
    for one in (
        draft("Observation/a", "p"), draft("Observation/b", "q"), draft("Condition/c", "p"),
        draft("Observation/a", "p", text="2"), draft("Observation/b", "q", text="2"), tombstone("Observation/a"),
        draft("Observation/a", "p", text="4"), draft("Condition/c", "p", text="2"),
    ):  # fmt: skip
        await store.commit([one])


@pytest.mark.parametrize("batch", [1, 2, 3, 256])
async def test_versions_come_newest_first_with_tombstones_and_superseded_ones(store: Store, batch: int) -> None:
    await filled(store)
    assert await told(store, HistoryQuery(), batch) == ["c/2", "a/4", "a/3-", "b/2", "a/2", "c/1", "b/1", "a/1"]
    assert await told(store, HistoryQuery(types=OBSERVATIONS), batch) == ["a/4", "a/3-", "b/2", "a/2", "b/1", "a/1"]
    assert await told(store, HistoryQuery(key=A), batch) == ["a/4", "a/3-", "a/2", "a/1"]
    for types in (frozenset({"Observation", "Condition"}), frozenset({"Observation", *(f"T{n}" for n in range(30))})):
        wanted = [one for one in await told(store, HistoryQuery()) if one[0] in "ab" or "Condition" in types]
        assert await told(store, HistoryQuery(types=types), batch) == wanted


async def test_bounds_narrow(store: Store) -> None:
    await filled(store)
    for query, wanted in (
        (HistoryQuery(after=5), "c/2 a/4 a/3-"), (HistoryQuery(before=4), "c/1 b/1 a/1"),
        (HistoryQuery(after=2, before=6), "b/2 a/2 c/1"), (HistoryQuery(limit=2), "c/2 a/4"),
        (HistoryQuery(limit=0), ""), (HistoryQuery(as_of=4), "a/2 c/1 b/1 a/1"), (HistoryQuery(as_of=0), ""),
        (HistoryQuery(key=A, before=7, limit=2), "a/3- a/2"), (HistoryQuery(key=A, as_of=6), "a/3- a/2 a/1"),
        (HistoryQuery(key=A, types=frozenset({"Condition"})), ""), (HistoryQuery(types=frozenset()), ""),
        (HistoryQuery(types=OBSERVATIONS, after=1, before=7, limit=3), "a/3- b/2 a/2"),
        (HistoryQuery(key=Key("Observation", "none")), ""), (HistoryQuery(types=frozenset({"None"})), ""),
        (HistoryQuery(visible=Visible()), ""), (HistoryQuery(after=8), ""), (HistoryQuery(after=7, before=7), ""),
    ):  # fmt: skip
        for batch in (1, 256):
            assert await told(store, query, batch) == wanted.split(), query


async def test_what_stood_after_a_seq_is_what_was_current_then_or_came_later(store: Store) -> None:
    await filled(store)
    for query, wanted in (
        (HistoryQuery(standing_after=3, before=4), "c/1 b/1 a/1"),  # as it was right after seq 3
        (HistoryQuery(standing_after=4, before=5), "a/2 c/1 b/1"),
        (HistoryQuery(standing_after=6, before=7), "b/2 c/1"),  # a is deleted: nothing is current
        (HistoryQuery(standing_after=5, before=7), "a/3- b/2 a/2 c/1"),  # … and the deletion is inside
        (HistoryQuery(standing_after=6), "c/2 a/4 b/2 c/1"),
        (HistoryQuery(standing_after=6, key=A), "a/4"),
        (HistoryQuery(standing_after=6, types=OBSERVATIONS), "a/4 b/2"),
        (HistoryQuery(standing_after=8), "c/2 a/4 b/2"),
    ):
        assert await told(store, query, 2) == wanted.split(), query


async def test_records_are_those_that_get_gives(store: Store) -> None:
    await filled(store)
    records = await gathered(store.history(HistoryQuery()))
    assert records == [await store.get(record.key, record.version) for record in records]
    assert records[2].body == b""
    slim = await gathered(store.history(HistoryQuery(bodies=False)))
    assert [msgspec.structs.replace(record, body=None) for record in records] == slim


async def test_a_snapshot_stays_whatever_is_written_meanwhile(store: Store) -> None:
    await filled(store)
    wanted = await told(store, HistoryQuery(as_of=8))
    walk = store.history(HistoryQuery(as_of=8), 3)
    seen = await anext(walk)
    await store.commit([draft("Observation/a", "p", text="5"), tombstone("Observation/b"), draft("Condition/d")])
    seen += await gathered(walk)
    assert [f"{one.id}/{one.version}{'-' if one.deleted else ''}" for one in seen] == wanted
    assert await told(store, HistoryQuery(as_of=8)) == wanted
    assert [one.ended for one in seen if (one.id, one.version) in (("a", 4), ("b", 2), ("c", 2))].count(CURRENT) >= 1
    assert len(await told(store, HistoryQuery())) == 11


async def test_what_the_current_version_hides_is_hidden_in_its_past(store: Store) -> None:
    """Before the limit, and as the current version was at the snapshot."""
    mine = Visible((Clause(organization="org-2"),))
    await store.commit([draft(f"Observation/{at}", custodian="org-2") for at in range(6)])
    await store.commit([
        draft("Observation/0", custodian="org-1"),  # left: its past with it
        draft("Observation/1", custodian="org-2", text="new"),
        draft("Observation/2", custodian="org-1", parties=("org-2",)),
        draft("Observation/new", custodian="org-1"),
    ])  # fmt: skip
    await store.commit([draft("Observation/new", custodian="org-2")])
    wanted = ["new/2", "2/2", "1/2", "5/1", "4/1", "3/1", "2/1", "1/1"]
    for batch in (1, 3, 256):
        assert await told(store, HistoryQuery(visible=mine), batch) == wanted
        assert await told(store, HistoryQuery(visible=mine, types=OBSERVATIONS), batch) == wanted
        assert await told(store, HistoryQuery(visible=mine, limit=5), batch) == wanted[:5]
        assert await told(store, HistoryQuery(visible=mine, as_of=6), batch) == [f"{at}/1" for at in (5, 4, 3, 2, 1, 0)]
    assert await told(store, HistoryQuery(visible=mine, key=Key("Observation", "0"))) == []
    assert await told(store, HistoryQuery(visible=mine, key=Key("Observation", "0"), as_of=6)) == ["0/1"]
    deleted = msgspec.structs.replace(tombstone("Observation/1"), facts=draft("Observation/1", custodian="org-1").facts)
    await store.commit([deleted])
    assert await told(store, HistoryQuery(visible=mine, key=Key("Observation", "1"))) == []


async def test_a_crowd_of_owners_is_no_obstacle(store: Store) -> None:
    """The grant of a platform that thousands of patients have let in."""
    crowd = Visible((Clause(owners=frozenset(f"p{at}" for at in range(3000))),))
    await store.commit([draft(f"Observation/{at}", f"p{at}" if at % 3 else "other") for at in range(60)])
    await store.commit([draft(f"Observation/{at}", f"p{at}" if at % 2 else "other", text="2") for at in range(60)])
    first = {at for at in range(60) if at % 3}
    second = {at for at in range(60) if at % 2}
    wanted = [f"{at}/2" for at in range(59, -1, -1) if at in second]
    wanted += [f"{at}/1" for at in range(59, -1, -1) if at in first & second]
    for batch in (7, 256):
        assert await told(store, HistoryQuery(visible=crowd), batch) == wanted
    assert await told(store, HistoryQuery(visible=crowd, as_of=60)) == [f"{at}/1" for at in sorted(first)[::-1]]


async def test_large_bodies_come_in_batches_of_a_bounded_size(store: Store) -> None:
    for text in "ab":
        await store.commit([draft(f"Observation/{at}", text=text * 500_000) for at in range(12)])
    batches = [batch async for batch in store.history(HistoryQuery())]
    assert sum(map(len, batches)) == 24
    assert max(sum(len(record.body or b"") for record in batch) for batch in batches) < 6 << 20
    assert {len(record.body or b"") == record.size > 500_000 for batch in batches for record in batch} == {True}


async def test_many_versions_of_one_resource_are_walked_in_pages(store: Store) -> None:
    for at in range(30):
        await store.commit([draft("Observation/a", text=str(at)), draft(f"Observation/other-{at}")])
    walked: list[str] = []
    before = None
    while page := await gathered(store.history(HistoryQuery(key=A, as_of=50, before=before, limit=4, bodies=False))):
        walked += [str(record.version) for record in page]
        before = page[-1].seq
    assert walked == [str(version) for version in range(25, 0, -1)]


async def test_a_history_can_be_abandoned_and_read_beside_writers(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}") for at in range(40)])
    mark = (await store.high_water()).seq

    async def write() -> None:
        for at in range(40):
            await store.commit([draft(f"Observation/{at}", text="2")])

    async def read() -> None:
        for _ in range(10):
            records = await gathered(store.history(HistoryQuery(as_of=mark), 3))
            assert [record.seq for record in records] == list(range(40, 0, -1))
            await anext(store.history(HistoryQuery(), 3))

    await asyncio.gather(write(), read())
    assert len(await found(store, Query())) == 40

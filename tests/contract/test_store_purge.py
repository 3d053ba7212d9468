"""What every store promises of a purge: nothing of it is left to read, at no snapshot, and the store stays sound."""

from __future__ import annotations

import os
from pathlib import Path

from fhirserver.core.model import AuditRow, HistoryQuery, Key, Query
from fhirserver.store.port import Store
from tests.contract.world import Clock, derive, draft, found, gathered, names, referring, started, tombstone
from tests.stores import client_of, database_of, fresh

LARGE = "Quillfeather " * 200_000


def keys(*references: str) -> list[Key]:
    return [Key.parse(reference) for reference in references]


async def filled(store: Store) -> None:
    """A chart of p with history, something large, something shared with q, something gone; and q's own."""
    await store.commit([
        draft("Patient/p", "p", text="Quillfeather", terms=("Patient|identifier=MRN7731",)),
        draft("Observation/a", "p", text="Quillfeather one", references=("Patient/p",)),
        draft("Observation/b", "q", text="other"),
        draft("Binary/large", "p", text=LARGE),
    ])  # fmt: skip
    await store.commit([draft("Observation/a", "p", text="Quillfeather two"), draft("Observation/c", "p", "q")])
    await store.commit([draft("Binary/large", "p", text=LARGE + "2"), draft("Observation/moved", "p")])
    await store.commit([tombstone("Observation/c"), draft("Observation/moved", "q"), draft("Patient/q", "q")])


async def test_what_ever_stood_in_a_chart(store: Store) -> None:
    await filled(store)
    mine = ["Binary/large", "Observation/a", "Observation/c", "Observation/moved", "Patient/p"]
    assert [str(key) for key in await store.ever_within("p")] == mine
    assert [str(key) for key in await store.ever_within("q")] == [
        "Observation/b", "Observation/c", "Observation/moved", "Patient/q"]  # fmt: skip
    assert await store.ever_within("nobody") == []


async def test_nothing_is_left_at_no_snapshot_and_the_store_is_sound(store: Store) -> None:
    await filled(store)
    mark = (await store.high_water()).seq
    assert await store.purge(keys("Observation/a", "Observation/c", "Binary/large", "Patient/p", "Patient/never")) == 7
    for as_of in (None, 3, mark):
        assert await store.get(Key("Observation", "a"), as_of=as_of) is None
        assert await store.get(Key("Binary", "large"), as_of=as_of) is None
    assert await store.get(Key("Observation", "a"), 1) is None
    assert await names(store, Query(within="p")) == []
    assert await names(store, Query(within="p", as_of=mark)) == []
    assert await names(store, Query(within="p", as_of=4)) == []
    assert await names(store, Query(within="p", as_of=mark, departed_since=8)) == ["Observation/moved"]
    assert await names(store, Query(terms=(("Patient|identifier=MRN7731",),))) == []
    assert await names(store, Query(terms=((referring("Patient/p"),),))) == []
    assert await names(store, Query(within="q")) == ["Observation/b", "Observation/moved", "Patient/q"]
    assert await gathered(store.history(HistoryQuery(key=Key("Observation", "a")))) == []
    left = ["Observation/b", "Observation/moved", "Observation/moved", "Patient/q"]
    assert sorted(str(one.key) for one in await gathered(store.history(HistoryQuery()))) == left
    assert sorted(str(one.key) for one in await gathered(store.changes(0))) == left
    assert [str(key) for key in await store.ever_within("p")] == ["Observation/moved"]
    assert (await store.high_water()).seq == mark
    assert [sentence async for sentence in store.verify(derive)] == []
    await store.scrub()
    assert [sentence async for sentence in store.verify(derive)] == []


async def test_a_purge_comes_with_its_audit_row_and_its_epoch_and_can_be_done_again(store: Store) -> None:
    await filled(store)
    row = AuditRow(id="1", at=1, organization="o", subject="s", interaction="purge", outcome="complete")
    assert await store.purge(keys("Observation/a"), audit=(row,), epochs=("policy",)) == 2
    assert await store.purge(keys("Observation/a"), epochs=("policy",)) == 0
    assert [one.id async for rows in store.audit.scan() for one in rows] == ["1"]
    entry = await store.ledger.get("policy")
    assert entry is not None
    assert entry.value == b"2"
    assert [sentence async for sentence in store.verify(derive)] == []


async def test_what_is_put_under_a_purged_key_begins_anew(store: Store) -> None:
    await filled(store)
    before = (await store.high_water()).seq
    await store.purge(keys("Observation/a"))
    [record] = await store.commit([draft("Observation/a", "q", text="new", if_version=0)])
    assert (record.version, record.seq) == (1, before + 1)
    assert await names(store, Query(within="q", as_of=before)) == ["Observation/b", "Observation/moved", "Patient/q"]
    [again] = await store.commit([draft("Observation/a", "q", text="newer", if_version=1)])
    assert again.version == 2
    assert [sentence async for sentence in store.verify(derive)] == []


async def test_a_scan_that_runs_goes_on_over_it(store: Store) -> None:
    await store.commit([draft(f"Observation/{at}", "p") for at in range(30)])
    mark = (await store.high_water()).seq
    scan = store.scan(Query(within="p", as_of=mark), 10)
    first = await anext(scan)
    await store.purge(keys("Observation/5", "Observation/12", "Observation/28", "Observation/29"))
    rest = [record.id async for batch in scan for record in batch]
    assert len(first) == 10
    assert {"12", "28", "29"}.isdisjoint(rest) or rest == [str(at) for at in range(10, 30)]  # or read ahead already
    assert await names(store, Query(within="p", as_of=mark, after=first[-1].seq)) == [
        f"Observation/{at}" for at in range(10, 28) if at != 12
    ]


async def test_a_lost_version_is_still_told_from_a_purged_one(store: Store) -> None:
    await filled(store)
    await store.purge(keys("Observation/a"))
    entries = [name async for name, _ in store.ledger.scan("purged/")]
    entry = await store.ledger.get(entries[0])
    assert len(entries) == 1
    assert entry is not None
    await store.ledger.put_if(entries[0], None, stamp=entry.stamp)
    assert any("missing" in sentence for sentence in [one async for one in store.verify(derive)])


async def test_on_sqlite_no_byte_is_left_in_the_file_or_the_log(tmp_path: Path) -> None:
    async with started(f"sqlite:///{tmp_path}/store.db") as store:
        await filled(store)
        for at in range(40):  # what moves between tables leaves copies of itself behind
            await store.commit(
                [draft("Observation/a", "p", text=f"Quillfeather {at}"), draft(f"Observation/q{at}", "q")]
            )
        files = [tmp_path / name for name in ("store.db", "store.db-wal", "store.db-shm")]
        assert any(b"Quillfeather" in file.read_bytes() for file in files)
        await store.purge(keys("Observation/a", "Observation/c", "Binary/large", "Patient/p", "Observation/moved"))
        await store.scrub()
        for file in files:
            assert b"Quillfeather" not in file.read_bytes(), file
        assert len(await found(store, Query(within="q"))) == 42
        assert sorted(os.listdir(tmp_path)) == ["store.db", "store.db-shm", "store.db-wal"]
        assert [sentence async for sentence in store.verify(derive)] == []


async def test_on_sqlite_the_log_is_emptied_although_others_read(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    async with started(url) as store, started(url) as other:
        await filled(store)
        assert len(await found(other, Query(within="p"))) == 3
        await store.purge(keys("Patient/p"))
        await store.scrub()
        assert (tmp_path / "store.db-wal").stat().st_size == 0
        assert await names(other, Query(within="p")) == ["Observation/a", "Binary/large"]
        await other.commit([draft("Patient/p", "p")])
        assert len(await found(store, Query(within="p"))) == 3


async def test_on_mongodb_the_native_document_goes_too(mongodb: str, tmp_path: Path) -> None:
    assert mongodb
    with fresh("mongo", tmp_path) as url:
        async with started(url, Clock()) as store:
            await filled(store)
            with client_of(url) as client:
                database = client[database_of(url)]
                assert database["Patient"].count_documents({}) == 2
                await store.purge(keys("Patient/p", "Binary/large", "Observation/a", "Observation/c"))
                assert [document["_id"] for document in database["Patient"].find()] == ["q"]
                assert database.chunks.count_documents({}) == database.blobs.count_documents({}) == 0

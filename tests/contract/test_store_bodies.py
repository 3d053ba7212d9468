"""What every store promises of bodies, in line and out of line."""

from __future__ import annotations

import msgspec
import pytest

from fhirserver.core.errors import Conflict, Unavailable
from fhirserver.core.model import Query
from fhirserver.store.port import Store
from tests.contract.world import derive, draft, found, gathered, tombstone


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

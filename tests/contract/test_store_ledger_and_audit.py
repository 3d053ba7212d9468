"""What every store promises of its ledger and its audit trail."""

from __future__ import annotations

import asyncio

import msgspec

from fhirserver.core.model import AuditRow
from fhirserver.store.port import Store
from tests.contract.world import Clock, draft


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


async def test_several_entries_are_read_as_each_alone(store: Store, clock: Clock) -> None:
    await store.ledger.put_if("a", b"1", stamp=None)
    await store.ledger.put_if("gone", b"2", stamp=None, expires=clock.now + 10)
    await store.ledger.incr("n", 3)
    clock.now += 10
    names = ["n", "gone", "never", "a", "n"]
    assert await store.ledger.several(names) == [await store.ledger.get(name) for name in names]
    assert [entry and entry.value for entry in await store.ledger.several(names)] == [b"3", None, None, b"1", b"3"]
    assert await store.ledger.several([]) == []


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
    assert await ids(since=9_996) == [0, 1, 2, 3, 4]
    assert [rows async for rows in store.audit.scan(since=9_999)] == [first[:2]]

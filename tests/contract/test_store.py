"""What every store promises as a whole: it is indexed anew in place, lets others work, and closes."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Draft, Key, Query
from fhirserver.store.port import Store
from tests.contract.world import draft, found, names
from tests.stores import KINDS

A = Key("Observation", "a")


def index_of(drafts: dict[Key, Draft]):  # type: ignore[no-untyped-def]  # a closure for verify
    return lambda record, _: (drafts[record.key].facts, drafts[record.key].index)


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

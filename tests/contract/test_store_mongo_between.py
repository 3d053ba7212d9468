"""The MongoDB store while others write: what is asked between two of their commits is answered as if nobody did.

A proxy lets another writer in exactly between two messages of one answer; a writer that never stops finds what nobody
has thought of.
"""

from __future__ import annotations

import asyncio
import random
import struct
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest

from fhirserver.core.model import EVERYTHING, Clause, Draft, Key, Query, Record, Visible
from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.contract.test_store_machine import Model, Version
from tests.contract.world import Clock, derive, draft, found, gathered, names, started, tombstone
from tests.counts import PROOF
from tests.proxy import Proxy, is_greeting, proxied
from tests.stores import client_of, database_of

A = Key("Observation", "a")


class Between(Proxy):
    """A proxy that does something once, before it passes on the first message that holds all of ``words``."""

    def __init__(self, host: str, port: int) -> None:
        super().__init__(host, port)
        self.words: tuple[bytes, ...] = ()
        self.do: Callable[[], Awaitable[object]] | None = None

    async def _requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        assert not losing.is_set()
        while True:
            length = await source.readexactly(4)
            message = length + await source.readexactly(struct.unpack("<i", length)[0] - 4)
            if self.do is not None and not is_greeting(message) and all(word in message for word in self.words):
                do, self.do = self.do, None
                await do()
            sink.write(message)
            await sink.drain()


@pytest.fixture
async def pair(url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Between, Store, Store]]:
    """A store that is reached through such a proxy, and another one on the same database that is not."""
    monkeypatch.setattr("tests.proxy.Proxy", Between)
    async with (
        proxied(url) as (proxy, through),
        started(url, clock) as other,
        started(through, clock) as store,
    ):
        assert isinstance(proxy, Between)
        yield proxy, store, other


MOVING = {
    "by a term": (Query(terms=(("t",),)), (b"find\0", b"current\0", b"terms\0")),
    "in a chart": (Query(within="p"), (b"find\0", b"current\0", b"chart_also\0")),
    "of many patients": (
        Query(within="p", visible=Visible((Clause(owners=frozenset({"p", *map(str, range(1_500))})),))),
        (b"find\0", b"current\0", b"chart\0", b"digest\0"),
    ),
}


@pytest.mark.parametrize("name", MOVING)
async def test_a_resource_that_is_superseded_while_it_is_looked_for_is_found(
    pair: tuple[Between, Store, Store], name: str
) -> None:
    proxy, store, other = pair
    query, proxy.words = MOVING[name]
    await other.commit([draft("Observation/a", "p", "o", owners=("o",), terms=("t",))])
    if name == "of many patients":
        await other.commit([draft("Observation/a", "p", "o", owners=("p",), terms=("t",))])
        proxy.do = lambda: other.commit([draft("Observation/a", "p", owners=("7",), terms=("t",))])
    else:
        proxy.do = lambda: later(other.commit([draft("Observation/a", "p", "o", owners=("p",), terms=("t",))]))
    assert await names(store, query) == ["Observation/a"]
    assert proxy.do is None


async def test_of_a_commit_that_comes_between_two_reads_not_one_half_is_seen(
    pair: tuple[Between, Store, Store],
) -> None:
    proxy, store, other = pair
    query, both = Query(types=frozenset({"Observation", "Patient"})), ["Patient/p", "Observation/a"]
    await other.commit([draft("Patient/before")])
    proxy.words = (b"find\0", b"current\0", b"Observation\0")
    proxy.do = lambda: later(other.commit([draft("Patient/p", "p"), draft("Observation/a", "p")]))
    assert (await names(store, query))[1:] in ([], both)
    assert proxy.do is None
    assert (await names(store, query))[1:] == both


async def later(work: Awaitable[object]) -> None:
    """So that what is read at the same time is read before."""
    await asyncio.sleep(0.1)
    await work


async def test_a_resource_that_moves_within_its_charts_is_counted_once(pair: tuple[Between, Store, Store]) -> None:
    proxy, store, other = pair
    await other.commit([draft("Observation/a", "p", "o", owners=("o",))])
    for owner in ("p", "o"):  # from the second arm to the first, and back
        proxy.words = (b"aggregate\0", b"current\0", b"chart_also\0")
        proxy.do = lambda owner=owner: other.commit([draft("Observation/a", "p", "o", owners=(owner,))])  # type: ignore[misc]
        assert await store.count(Query(within="p")) == 1
        assert proxy.do is None
        proxy.words = (b"aggregate\0", b"current\0", b"chart_also\0")
        proxy.do = lambda owner=owner: other.commit([draft("Observation/a", "p", "o", owners=(owner,), text="z")])  # type: ignore[misc]
        assert [each.count for each in await store.tally(Query(within="p"))] == [1]


async def test_a_check_beside_writers_finds_nothing(url: str, clock: Clock) -> None:
    async with started(url, clock) as store, started(url, clock) as other:
        await store.commit([draft(f"Observation/{at}", "p", terms=("t",)) for at in range(20)])
        writing = asyncio.create_task(supersede(other))
        try:
            for _ in range(12):
                assert [sentence async for sentence in store.verify(derive)] == []
        finally:
            writing.cancel()


async def supersede(store: Store) -> None:
    at = 0
    while True:
        at += 1
        await store.commit([draft(f"Observation/{(at + more) % 20}", "p", text=str(at)) for more in range(3)])


async def test_rebuild_leaves_the_native_document_of_what_comes_back_meanwhile(
    url: str, pair: tuple[Between, Store, Store]
) -> None:
    proxy, store, other = pair
    await other.commit([draft("Observation/a")])
    await other.commit([tombstone("Observation/a")])
    with client_of(url) as direct:
        natives = direct[database_of(url)].Observation
        natives.insert_one({"_id": "a", "text": "nobody's"})
        proxy.words = (b"delete\0", b"Observation\0")
        proxy.do = lambda: other.commit([draft("Observation/a", text="back")])
        await store.rebuild()
        assert proxy.do is None
        assert (natives.find_one({"_id": "a"}) or {})["text"] == "back"


async def test_reindex_of_a_server_that_knows_of_no_native_documents_removes_none(url: str, clock: Clock) -> None:
    async with started(url, clock, native=False) as old:
        records = await old.commit([draft("Observation/a"), draft("Observation/b")])
        items = [(record, *derive(record, record.body or b"")) for record in records]
        async with started(url, clock) as new:
            await new.rebuild()
            await new.reindex(items)
        await old.reindex(items)
        assert [sentence async for sentence in old.verify(derive)] == []


async def test_what_begins_while_another_server_makes_the_database_waits_for_it(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tests.proxy.Proxy", Between)
    other = open_store(url, clock=clock)
    async with proxied(url) as (proxy, through):
        assert isinstance(proxy, Between)
        proxy.words, proxy.do = (b"listCollections\0",), other.start
        async with started(through, clock) as store:
            await store.commit([draft("Observation/a")])
            assert await other.get(A) == await store.get(A)
    await other.close()


# -- writers that never stop --

TYPES, PATIENTS, TERMS, LABELS = ("Observation", "Condition"), ("p", "q", "r"), ("t1", "t2", "t3"), ("s|A", "s|B")
CROWD = frozenset(f"patient-{at}" for at in range(1_500))
"""More owners than are sent with each read."""


class Chance:
    """Makes drafts and questions."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)  # noqa: S311 - no secret

    def some(self, values: tuple[str, ...], least: int = 0) -> tuple[str, ...]:
        return tuple(sorted(self._random.sample(values, self._random.randint(least, len(values)))))

    def one_in(self, count: int) -> bool:
        return self._random.randrange(count) == 0

    def drafts(self) -> list[Draft]:
        keys = self._random.sample([f"{type_}/{name}" for type_ in TYPES for name in "abcdefgh"], 4)
        return [
            tombstone(key) if self.one_in(6) else draft(
                key, *self.some(PATIENTS), text=self._random.choice("xyz"), owners=self.some(PATIENTS),
                labels=self.some(LABELS), terms=self.some(TERMS), care=(3, 5) if self.one_in(2) else None,
            )
            for key in keys
        ]  # fmt: skip

    def visible(self) -> Visible:
        crowd = CROWD if self.one_in(2) else frozenset()
        owners = crowd.union(self.some(PATIENTS, 1))
        clause = Clause(any_owner=owners) if self.one_in(3) else Clause(owners=owners)
        return Visible((clause, Clause(unowned=True, without=frozenset(self.some(LABELS)))))

    def query(self, last: int) -> Query:
        since = max(0, last - self._random.randint(0, 60)) if self.one_in(4) else None
        return Query(
            types=frozenset(self.some(TYPES, 1)) if self.one_in(2) else None,
            keys=tuple(Key(TYPES[0], name) for name in self.some(tuple("abcd"))) if self.one_in(6) else None,
            within=self._random.choice(PATIENTS) if since is not None or self.one_in(2) else None,
            beyond=self.some(PATIENTS) if self.one_in(5) else (),
            terms=(self.some(TERMS, 1),) if self.one_in(3) else (),
            care=(1, 2) if self.one_in(5) else None,
            visible=self.visible() if self.one_in(2) else EVERYTHING,
            departed_since=since,
            after=max(0, last - self._random.randint(0, 60)) if self.one_in(3) else 0,
            limit=self._random.randint(1, 10) if self.one_in(5) else None,
            as_of=last - self._random.choice((0, 0, 0, min(last, 9))) if since is None else last,
            bodies=self.one_in(2),
        )


@pytest.mark.parametrize("seed", range(8 if PROOF else 1))
async def test_whatever_is_asked_of_a_moment_while_others_write_is_what_was_then(
    url: str, clock: Clock, seed: int
) -> None:
    chance, drafts, asked = Chance(seed), dict[int, Draft](), list[tuple[Query, list[int], int]]()
    over = asyncio.Event()

    async def write(store: Store) -> None:
        while not over.is_set():
            these = chance.drafts()
            for one, record in zip(these, await store.commit(these), strict=True):
                drafts[record.seq] = one

    async def ask(store: Store) -> None:
        for _ in range(400 if PROOF else 60):
            query = chance.query((await store.high_water()).seq)
            records = await found(store, query, random.choice((1, 2, 7, 40)))  # noqa: S311 - no secret
            asked.append((query, [record.seq for record in records], await store.count(query)))
            after = max(0, (query.as_of or 0) - 9)
            seqs = [record.seq for record in await gathered(store.changes(after))]
            assert seqs == list(range(after + 1, after + 1 + len(seqs)))
            assert not seqs or seqs[-1] >= (query.as_of or 0)

    async with started(url, clock) as one, started(url, clock) as other, started(url, clock) as reader:
        writing = [asyncio.create_task(write(store)) for store in (one, other)]
        await asyncio.gather(*(ask(reader) for _ in range(4)))
        over.set()
        await asyncio.gather(*writing)
        model = model_of(await gathered(reader.changes(0)), drafts)
    for query, seqs, count in asked:
        wanted = model.answer(query)
        assert (seqs, count) == (wanted, len(wanted)), query


def model_of(records: list[Record], drafts: dict[int, Draft]) -> Model:
    model = Model()
    assert [record.seq for record in records] == list(range(1, len(records) + 1)) == sorted(drafts)
    model.versions = [Version(drafts[one.seq], one.version, one.seq, one.ended) for one in records]
    model.updated = [one.updated for one in records]
    return model

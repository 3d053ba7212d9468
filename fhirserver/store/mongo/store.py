"""The MongoDB store: `port.Store` put together from readers, committer, ledger and audit."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple, Protocol

from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession

from fhirserver.core.errors import Fault, Unavailable
from fhirserver.core.model import (
    AuditRow,
    Draft,
    Facts,
    Guard,
    HighWater,
    HistoryQuery,
    Index,
    Key,
    Query,
    Record,
    Tally,
)
from fhirserver.store.bodies import whole
from fhirserver.store.drafts import refuse_repetition
from fhirserver.store.mongo import blobs, codec, history, native, purge, read, scan, schema, totals, verify
from fhirserver.store.mongo.audit import MongoAudit, Order
from fhirserver.store.mongo.client import (
    Client,
    Database,
    Document,
    again,
    connect,
    reaching,
    refuse_standalone,
    understand,
)
from fhirserver.store.mongo.codec import INLINE_BOUND, Prepared, prepare
from fhirserver.store.mongo.committer import Committer, Job
from fhirserver.store.mongo.explain import explain
from fhirserver.store.mongo.ledger import MongoLedger
from fhirserver.store.mongo.presence import Presence
from fhirserver.store.mongo.schema import COUNTER
from fhirserver.store.mongo.together import Together
from fhirserver.store.mongo.write import Transaction

_FEED_BATCH = 256
_SWEEP_SECONDS = 60.0


class _Parts(NamedTuple):
    client: Client
    database: Database
    committer: Committer
    ledger: MongoLedger
    audit: MongoAudit
    order: Order
    presence: Presence
    current: Together[Document]
    sweeper: asyncio.Task[None]


class _Steps(Protocol):
    async def step(self) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""


class MongoStore:
    """See `port.Store`. It belongs to the event loop in which it was started.

    ``url``: see `client.understand`; ``clock`` gives milliseconds since 1970; ``native``: whether native documents
    are wanted, which holds at once for a new store and from the next `rebuild` on for one that is there.
    """

    def __init__(self, url: str, *, clock: Callable[[], int], native: bool = True) -> None:
        self._place = understand(url)
        self._clock = clock
        self._wants_native = native
        self._keeps_native = native
        self._floor = 0
        self._parts: _Parts | None = None
        self._types: set[str] = set()

    @property
    def ledger(self) -> MongoLedger:
        return self._open().ledger

    @property
    def audit(self) -> MongoAudit:
        return self._open().audit

    def _open(self) -> _Parts:
        if self._parts is None:
            raise Unavailable("The store is closed.")
        return self._parts

    @property
    def _database(self) -> Database:
        return self._open().database

    async def start(self) -> None:
        if self._parts is not None:
            return
        client, database = connect(self._place)
        try:
            with reaching():
                refuse_standalone(await client.admin.command("hello"))
                await schema.prepare(database, native=self._wants_native)
                counter = await database.store.find_one({"_id": COUNTER})
                self._types = set(await verify.native_types(database))
                last = await database.audit.find_one({}, {"_id": 1}, sort=[("_id", -1)])
            await blobs.sweep(database, now=self._clock())
        except BaseException:
            await client.close()
            raise
        self._keeps_native = bool(counter and counter["native"])
        schema.tell_of_native(wanted=self._wants_native, kept=self._keeps_native)
        order = Order(self._clock, last["_id"] if last else b"")
        ledger = MongoLedger(database, clock=self._clock)
        presence = Presence(client, database)
        committer = Committer(presence, lambda session: self._begin(database, session))
        audit = MongoAudit(database, order)
        sweeper = asyncio.create_task(_sweep(database, ledger, self._clock))
        current: Together[Document] = Together(lambda keys: read.present(database, keys))
        self._parts = _Parts(client, database, committer, ledger, audit, order, presence, current, sweeper)

    async def close(self) -> None:
        if self._parts is None:
            return
        parts, self._parts = self._parts, None
        parts.sweeper.cancel()
        try:
            await parts.committer.close()
            await parts.audit.close()
            await parts.presence.leave()
        finally:
            await parts.client.close()

    def _now(self, least: int) -> int:
        """The clock's time, never less than it gave before nor than ``least``."""
        self._floor = max(self._floor, least, self._clock())
        return self._floor

    async def _begin(self, database: Database, session: AsyncClientSession) -> Transaction:
        """Lock the counter and see where the store stands.

        Every timestamp that was told to anybody is at most the time of an audit row, so `_since` = a timestamp stays
        true when a clock steps back or another server's is behind.
        """
        counter = await database.store.find_one_and_update(
            {"_id": COUNTER}, {"$inc": {"turn": 1}}, return_document=ReturnDocument.AFTER, session=session
        )
        if counter is None:
            raise Unavailable("The store's commit counter is gone.")
        told = await database.audit.find_one({}, {"at": 1}, sort=[("at", -1)], hint="at", session=session)
        if bool(counter["native"]) != self._keeps_native:  # another server has rebuilt the store
            self._keeps_native = bool(counter["native"])
            self._types = set()
        least = max(int(counter["updated"]), int(told["at"]) if told else 0)
        return Transaction(database, session, counter, max(least, self._now(0)))

    async def get(self, key: Key, version: int | None = None, *, as_of: int | None = None) -> Record | None:
        database = self._database
        if version is None and as_of is None:
            document = await self._open().current.get(str(key))
            with reaching():
                return codec.record(document) if document else None
        return await again(database, lambda: read.get(database, key, version, as_of))

    async def scan(self, query: Query, batch: int = 256) -> AsyncIterator[list[Record]]:
        steps = scan.scanning(self._database, query, batch)
        ahead: asyncio.Task[tuple[list[Record], bool]] | None = None
        given = 0
        try:
            while True:
                records, done = await (ahead or steps.step())
                ahead = None
                if not done and query.as_of is not None and given:
                    # A snapshot does not change, so the next batch is read while this one is sent; only for one who
                    # has come back once: many take a single batch.
                    ahead = asyncio.create_task(steps.step())
                if records:
                    given += 1
                    yield records
                if done:
                    return
                self._open()
        finally:
            if ahead is not None and not ahead.cancel():
                ahead.exception()  # taken, so that asyncio does not report what nobody wants to know

    async def count(self, query: Query) -> int:
        database = self._database
        return await again(database, lambda: totals.count(database, query))

    async def tally(self, query: Query) -> list[Tally]:
        database = self._database
        return await again(database, lambda: totals.tally(database, query))

    async def explain(self, query: Query) -> list[str]:
        database = self._database
        return await again(database, lambda: explain(database, query))

    def history(self, query: HistoryQuery, batch: int = 256) -> AsyncIterator[list[Record]]:
        return self._stepped(lambda database: history.Versions(database, query, batch))

    async def count_history(self, query: HistoryQuery) -> int:
        return await history.Versions(self._database, query, 1).count()

    async def commit(
        self,
        drafts: Sequence[Draft],
        guards: Sequence[Guard] = (),
        *,
        audit: Sequence[AuditRow] = (),
        epochs: Sequence[str] = (),
    ) -> list[Record]:
        refuse_repetition(drafts)
        parts = self._open()
        kept, guards, audit, epochs = tuple(drafts), tuple(guards), tuple(audit), tuple(epochs)
        await self._collections({draft.key.type for draft in kept})
        staged: dict[int, Any] = {}
        job: Job[list[Record]] | None = None

        async def apply(transaction: Transaction, prepared: list[Prepared]) -> list[Record]:
            records = await transaction.commit(prepared, guards)
            transaction.trail(parts.order.documents(audit))
            transaction.move(epochs)
            return records

        try:
            for at, draft in enumerate(kept):
                if len(draft.head) + len(draft.tail) > INLINE_BOUND and not draft.deleted:
                    staged[at] = await blobs.stage(parts.database, draft, now=self._clock())
            with_native = self._keeps_native
            job = Job(
                apply,
                lambda: [prepare(one, with_native=with_native, blob=staged.get(at)) for at, one in enumerate(kept)],
                max(1, len(kept)),
                sum(len(one.head) + len(one.tail) for one in kept),
                [str(draft.key) for draft in kept],
            )
            return await parts.committer.submit(job)
        except BaseException:  # a cancelled request leaves nothing either; what was published meanwhile stays
            if staged:
                await asyncio.shield(self._discard(parts, job, list(staged.values())))
            raise

    async def _discard(self, parts: _Parts, job: Job[list[Record]] | None, staged: Sequence[Any]) -> None:
        if job is not None:
            parts.committer.withdraw(job)
            await job.settled.wait()
        try:
            await blobs.discard(parts.database, staged)
        except Fault:  # the store is away; `sweep` makes up for it
            return

    async def _collections(self, types: set[str]) -> None:
        """Native collections are made before the transaction that writes to them: making them inside collides."""
        fresh = types - self._types if self._keeps_native else set()
        if fresh:
            database = self._database
            await again(database, lambda: schema.keep_types(database, fresh))
            self._types |= fresh

    async def high_water(self) -> HighWater:
        database = self._database
        mark = await again(database, lambda: read.high_water(database))
        return HighWater(mark.seq, self._now(mark.time))

    async def seq_at(self, time: int) -> int:
        database = self._database
        return await again(database, lambda: read.seq_before(database, time))

    def changes(self, after: int) -> AsyncIterator[list[Record]]:
        return self._stepped(lambda database: scan.Changes(database, after, _FEED_BATCH))

    async def _stepped(self, reader: Callable[[Database], _Steps]) -> AsyncIterator[list[Record]]:
        """What a reader gives step by step, as long as the store is open."""
        steps = reader(self._database)
        while True:
            records, done = await steps.step()
            if records:
                yield records
            if done:
                return
            self._open()

    def body(self, record: Record) -> AsyncIterator[bytes]:
        return whole(record, self._pieces(record))

    async def _pieces(self, record: Record) -> AsyncIterator[bytes]:
        if record.body is not None:
            yield record.body
            return
        database = self._database
        found = await again(database, lambda: read.place(database, record.seq))
        if found is None:
            return
        if "blob" not in found:
            yield found.get("body", b"")  # none: damage, which the size tells
            return
        async for piece in blobs.pieces(database, found["blob"]):
            yield piece

    async def reindex(self, items: Sequence[tuple[Record, Facts, Index]]) -> None:
        parts = self._open()
        await self._collections({record.type for record, *_ in items})
        kept = []
        with_native = self._keeps_native
        for record, facts, index in items:
            document = await self._native_of(record, facts) if with_native else None
            kept.append((record, facts, index, document))

        async def apply(transaction: Transaction, _: None) -> None:
            await transaction.reindex(kept, with_native=with_native)

        size = sum(record.size for record, *_ in kept if record.size <= INLINE_BOUND)
        await parts.committer.submit(Job(apply, weight=max(1, len(kept)), size=size))

    async def _native_of(self, record: Record, facts: Facts) -> Document | None:
        if record.deleted or record.size > native.LARGEST:
            return None
        body = b"".join([piece async for piece in self._pieces(record)])
        return native.document(record.key, body, facts) if len(body) == record.size else None

    async def rebuild(self) -> None:
        database = self._database
        with reaching():
            await schema.rebuild(database, native=self._wants_native)
            self._types = set(await verify.native_types(database))
        self._keeps_native = self._wants_native

    async def ever_within(self, patient: str) -> list[Key]:
        database = self._database
        return await again(database, lambda: purge.ever_within(database, patient))

    async def purge(self, keys: Sequence[Key], *, audit: Sequence[AuditRow] = (), epochs: Sequence[str] = ()) -> int:
        parts = self._open()
        kept, audit, epochs = tuple(keys), tuple(audit), tuple(epochs)

        async def apply(transaction: Transaction, _: None) -> int:
            versions = await transaction.purge(kept)
            transaction.trail(parts.order.documents(audit))
            transaction.move(epochs)
            return versions

        return await parts.committer.submit(Job(apply, weight=max(1, len(kept))))

    async def scrub(self) -> None:
        """Its files are MongoDB's."""

    async def verify(self, derive: Callable[[Record, bytes], tuple[Facts, Index]]) -> AsyncIterator[str]:
        try:
            async for sentence in verify.verify(self._database, derive):
                yield sentence
        except Unavailable as fault:
            if not verify.unreadable(fault):
                raise
            yield "The other versions cannot be read: a document is damaged."


async def _sweep(database: Database, ledger: MongoLedger, clock: Callable[[], int]) -> None:
    """Remove what has expired, and what killed processes have staged, now and then."""
    while True:
        await asyncio.sleep(_SWEEP_SECONDS)
        try:
            await ledger.sweep()
            await blobs.sweep(database, now=clock())
        except Unavailable:
            continue

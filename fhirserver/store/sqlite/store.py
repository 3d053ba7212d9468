"""The SQLite store: `port.Store` put together from readers, committer, ledger and audit."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import (
    EVERYTHING,
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
from fhirserver.store.sqlite import history, purge, read, scan, schema, totals, verify
from fhirserver.store.sqlite.asked import high_water, seq_before
from fhirserver.store.sqlite.audit import SqliteAudit, insert
from fhirserver.store.sqlite.blobs import INLINE_BOUND, discard, stage, sweep
from fhirserver.store.sqlite.committer import Committer, Job
from fhirserver.store.sqlite.explain import explain
from fhirserver.store.sqlite.file import StoreFile
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.ledger import SqliteLedger, increment
from fhirserver.store.sqlite.readers import Readers
from fhirserver.store.sqlite.write import Prepared, Transaction, prepare

_FEED_BATCH = 256
_Step = Callable[[sqlite3.Connection], tuple[list[Record], bool]]
"""The next records (perhaps none) and whether that was the last of them."""


class SqliteStore:
    """See `port.Store`. ``path`` is the file's; ``clock`` gives milliseconds since 1970."""

    def __init__(self, path: str, *, clock: Callable[[], int]) -> None:
        self._path = path
        self._clock = clock
        self._parts: tuple[Readers, Committer, SqliteLedger, SqliteAudit] | None = None
        self._texts = Texts()

    @property
    def ledger(self) -> SqliteLedger:
        return self._open()[2]

    @property
    def audit(self) -> SqliteAudit:
        return self._open()[3]

    def _open(self) -> tuple[Readers, Committer, SqliteLedger, SqliteAudit]:
        if self._parts is None:
            raise Unavailable("The store is closed.")
        return self._parts

    @property
    def _readers(self) -> Readers:
        return self._open()[0]

    @property
    def _committer(self) -> Committer:
        return self._open()[1]

    async def start(self) -> None:
        if self._parts is not None:
            return
        await asyncio.to_thread(schema.prepare, self._path)
        file = StoreFile(self._path)
        try:
            readers, committer = Readers(file), Committer(file, clock=self._clock)
        except sqlite3.Error as error:
            raise Unavailable from error
        ledger = SqliteLedger(readers, committer, clock=self._clock)
        self._parts = (readers, committer, ledger, SqliteAudit(readers, committer))
        await committer.submit(Job(lambda transaction, _: sweep(transaction)))
        file.settle()

    async def close(self) -> None:
        if self._parts is None:
            return
        readers, committer, _, _ = self._parts
        self._parts = None
        await asyncio.to_thread(committer.close)
        await asyncio.to_thread(readers.close)

    async def get(self, key: Key, version: int | None = None, *, as_of: int | None = None) -> Record | None:
        return await self._readers.short(lambda connection: read.get(connection, self._texts, key, version, as_of))

    async def scan(self, query: Query, batch: int = 256) -> AsyncIterator[list[Record]]:
        steps = scan.Scan(self._texts, query, batch)
        ahead: asyncio.Future[tuple[list[Record], bool]] | None = None
        given = 0
        try:
            while True:
                records, done = await (
                    ahead or (self._readers.short(steps.step) if steps.short else self._readers.run(steps.step))
                )
                ahead = None
                if not done and query.as_of is not None and given and not self._readers.at_once:
                    # A snapshot does not change, so the next batch may be read while this one is sent; only for
                    # one who has come back once: many take a single batch.
                    ahead = self._readers.ahead(steps.step)
                if records:
                    given += 1
                    yield records
                if done:
                    return
                await asyncio.sleep(0)  # a read at once is no suspension point, and others wait
        finally:
            if ahead is not None and not ahead.cancel():
                ahead.add_done_callback(_forget)

    async def count(self, query: Query) -> int:
        return await self._readers.run(lambda connection: totals.count(connection, self._texts, query))

    async def tally(self, query: Query) -> list[Tally]:
        return await self._readers.run(lambda connection: totals.tally(connection, self._texts, query))

    async def explain(self, query: Query) -> list[str]:
        return await self._readers.run(lambda connection: explain(connection, self._texts, query))

    def history(self, query: HistoryQuery, batch: int = 256) -> AsyncIterator[list[Record]]:
        # What a grant shows may be rare, and is then looked for among thousands: never on the loop.
        short = query.key is not None or query.visible == EVERYTHING
        return self._stepped(history.Versions(self._texts, query, batch).step, short=short)

    async def count_history(self, query: HistoryQuery) -> int:
        return await self._readers.run(history.Versions(self._texts, query, 1).count)

    async def commit(
        self,
        drafts: Sequence[Draft],
        guards: Sequence[Guard] = (),
        *,
        audit: Sequence[AuditRow] = (),
        epochs: Sequence[str] = (),
    ) -> list[Record]:
        refuse_repetition(drafts)
        kept, guards, audit, epochs = tuple(drafts), tuple(guards), tuple(audit), tuple(epochs)
        committer = self._committer
        staged: dict[int, int] = {}

        def apply(transaction: Transaction, prepared: list[Prepared]) -> list[Record]:
            records = transaction.commit(prepared, guards)
            insert(transaction, audit)
            for name in epochs:
                increment(transaction.connection, name, now=self._clock())
            return records

        try:
            for at, draft in enumerate(kept):
                if len(draft.head) + len(draft.tail) > INLINE_BOUND and not draft.deleted:
                    staged[at] = await stage(committer, draft, now=self._clock())
            job = Job(
                apply, lambda: [prepare(draft, staged.get(at, 0)) for at, draft in enumerate(kept)], max(1, len(kept))
            )
            return await committer.submit(job)
        except BaseException:  # a cancelled request leaves nothing either; what was published meanwhile stays
            if staged:
                await discard(committer, list(staged.values()))
            raise

    async def high_water(self) -> HighWater:
        def work(connection: sqlite3.Connection) -> HighWater:
            mark = high_water(connection)
            return HighWater(mark.seq, committer.now(mark.time))

        committer = self._committer
        return await self._readers.short(work)

    async def seq_at(self, time: int) -> int:
        return await self._readers.short(lambda connection: seq_before(connection, time))

    def changes(self, after: int) -> AsyncIterator[list[Record]]:
        return self._stepped(read.Changes(self._texts, after, _FEED_BATCH).step)

    async def _stepped(self, step: _Step, *, short: bool = False) -> AsyncIterator[list[Record]]:
        """What a reader gives step by step; ``short``: each is a read of well below a millisecond."""
        done = False
        while not done:
            records, done = await (self._readers.short(step) if short else self._readers.run(step))
            if records:
                yield records
            await asyncio.sleep(0)  # a read at once is no suspension point, and others wait

    def body(self, record: Record) -> AsyncIterator[bytes]:
        return whole(record, self._pieces(record))

    async def _pieces(self, record: Record) -> AsyncIterator[bytes]:
        if record.body is not None:
            yield record.body
            return
        found = await self._readers.run(lambda connection: read.place(connection, record))
        if found is None:
            return
        blob, body = found
        if not blob:
            yield body or b""
            return
        part = -1
        while True:
            piece = await self._readers.run(lambda connection: read.chunk(connection, blob, part))  # noqa: B023 - awaited at once
            if piece is None:
                return
            part, data = piece
            yield data

    async def reindex(self, items: Sequence[tuple[Record, Facts, Index]]) -> None:
        kept = tuple(items)
        await self._committer.submit(Job(lambda transaction, _: transaction.reindex(kept), weight=max(1, len(kept))))

    async def rebuild(self) -> None:
        await self._committer.submit(Job(lambda transaction, _: transaction.drop_strays()))

    async def ever_within(self, patient: str) -> list[Key]:
        return await self._readers.run(lambda connection: purge.ever_within(connection, self._texts, patient))

    async def purge(self, keys: Sequence[Key], *, audit: Sequence[AuditRow] = (), epochs: Sequence[str] = ()) -> int:
        kept, audit, epochs = tuple(keys), tuple(audit), tuple(epochs)

        def apply(transaction: Transaction, _: None) -> int:
            versions = purge.purge(transaction, kept)
            insert(transaction, audit)
            for name in epochs:
                increment(transaction.connection, name, now=self._clock())
            return versions

        return await self._committer.submit(Job(apply, weight=max(1, len(kept))))

    async def scrub(self) -> None:
        await asyncio.to_thread(purge.scrub, StoreFile(self._path))

    async def verify(self, derive: Callable[[Record, bytes], tuple[Facts, Index]]) -> AsyncIterator[str]:
        for sentence in await self._readers.run(verify.structure):
            yield sentence
        try:
            async for sentence in self._verify_content(derive):
                yield sentence
        except Unavailable as fault:
            if not verify.is_damage(fault.__cause__):
                raise
            yield "The other versions cannot be read: the file is damaged."

    async def _verify_content(self, derive: Callable[[Record, bytes], tuple[Facts, Index]]) -> AsyncIterator[str]:
        async for records in self._stepped(read.Changes(self._texts, 0, _FEED_BATCH, bodies=False).step):
            for record in records:
                pieces = [piece async for piece in self._pieces(record)]
                body = b"".join(pieces)
                if len(body) != record.size:
                    yield f"{record.key} version {record.version}: the body has {len(body)} bytes, not {record.size}."
                elif not record.deleted:
                    check = verify.Content(self._texts, record, body, derive)
                    for sentence in await self._readers.run(check.run):
                        yield sentence


def _forget(future: asyncio.Future[tuple[list[Record], bool]]) -> None:
    """Take the outcome of a read ahead that nobody wants, so that asyncio does not report it."""
    if not future.cancelled():
        future.exception()

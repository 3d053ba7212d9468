"""The audit trail in MongoDB: one document per row, whose ``_id`` orders them.

The order is (millisecond of the append, count within the process, process): rows of one process stand exactly in the
order they were appended, those of several servers in the order of their clocks. Rows are only ever inserted; see
docs/mongodb.md for a database role that can do nothing else.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, PyMongoError

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow
from fhirserver.store.mongo.client import Database, Document, again, answering, passes, reaching

_BATCH = 500
_GROUP = 1000
_ATTEMPTS = 5

_Append = tuple[list[Document], asyncio.Future[None]]
"""The rows, and who waits for them."""


class Order:
    """Gives audit rows their places; one per process. ``after``: the last place that is taken already, if any."""

    def __init__(self, clock: Callable[[], int], after: bytes = b"") -> None:
        self._clock = clock
        self._process = os.urandom(6)
        self._last = int.from_bytes(after[:6], "big") + 1 if after else 0
        self._count = 0

    def documents(self, rows: Sequence[AuditRow]) -> list[Document]:
        """The rows as documents, each with the next place."""
        now = self._clock()
        if now > self._last:
            self._last, self._count = now, 0
        return [{"_id": self._next(), **msgspec.to_builtins(row)} for row in rows]

    def _next(self) -> bytes:
        self._count += 1
        return self._last.to_bytes(6, "big") + self._count.to_bytes(4, "big") + self._process


class MongoAudit:
    """See `port.AuditLog`. Rows that come while others are written are written together after them."""

    def __init__(self, database: Database, order: Order) -> None:
        self._rows = database.audit
        self._order = order
        self._waiting: list[_Append] = []
        self._running: asyncio.Task[None] | None = None
        self._closed = False

    async def append(self, rows: Sequence[AuditRow]) -> None:
        if not rows:
            return
        if self._closed:
            raise Unavailable("The store is closed.")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((self._order.documents(rows), done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await done

    async def close(self) -> None:
        """Finish what was given."""
        self._closed = True
        if self._running is not None:
            await asyncio.wait([self._running])  # which does not end with whoever waits

    async def _run(self) -> None:
        group: list[_Append] = []
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
                outcome = await self._insert([document for documents, _ in group for document in documents])
                for documents, done in group:
                    if outcome is not None and len(group) > 1 and _is_of_one(outcome):
                        _settle(done, await self._insert(documents, again=True))
                    else:
                        _settle(done, outcome)
        finally:
            self._running = None
            for _, done in (*group, *self._waiting):  # nobody, unless the event loop is ending
                _settle(done, Unavailable())
            self._waiting.clear()

    async def _insert(self, documents: list[Document], *, again: bool = False) -> Exception | None:
        """None when all are durable. A lost answer is asked for again: a row that is there is there."""
        for attempt in range(_ATTEMPTS):
            try:
                async with answering():
                    await self._insert_missing(documents, again=again or attempt > 0)
            except Unavailable as fault:
                cause = fault.__cause__
                if not isinstance(cause, PyMongoError | BSONError) or not passes(cause) or attempt == _ATTEMPTS - 1:
                    return fault
                await asyncio.sleep(0.05 * 2**attempt)
            except Exception as error:  # handed to those who wait
                return error
            else:
                return None
        return Unavailable()

    async def _insert_missing(self, documents: list[Document], *, again: bool) -> None:
        if again:
            ids = [document["_id"] for document in documents]
            there = {document["_id"] async for document in self._rows.find({"_id": {"$in": ids}}, {"_id": 1})}
            documents = [document for document in documents if document["_id"] not in there]
        if documents:
            await self._rows.insert_many(documents)

    async def scan(
        self, *, organization: str | None = None, patient: str | None = None, since: int = 0
    ) -> AsyncIterator[list[AuditRow]]:
        conditions: Document = {}
        hint = "_id_"
        if organization is not None:
            conditions["organization"], hint = organization, "organization"
        if patient is not None:
            conditions["patients"], hint = patient, "patients"
        after = b""
        if since:
            conditions["at"] = {"$gte": since}
            first = await again(self._rows.database, lambda: self._first(since))
            if first is None:
                return
            after = first
        inclusive = bool(after)
        while True:
            bounds = {"$gte" if inclusive else "$gt": after} if after else {}
            page = {**conditions, **({"_id": bounds} if bounds else {})}
            found = await again(self._rows.database, lambda: self._page(page, hint))  # noqa: B023 - awaited at once
            if found:
                with reaching():
                    rows = [_row(document) for document in found]
                yield rows
                after, inclusive = found[-1]["_id"], False
            if len(found) < _BATCH:
                return

    async def _first(self, since: int) -> bytes | None:
        """The place of the first row that may count."""
        pipeline: list[Document] = [
            {"$match": {"at": {"$gte": since}}},
            {"$group": {"_id": None, "first": {"$min": "$_id"}}},
        ]
        async with await self._rows.aggregate(pipeline, hint="at") as cursor:
            async for document in cursor:
                return bytes(document["first"])
        return None

    async def _page(self, conditions: Document, hint: str) -> list[Document]:
        cursor = self._rows.find(conditions).sort("_id", 1).limit(_BATCH).batch_size(_BATCH).hint(hint)
        return await cursor.to_list()


def _settle(done: asyncio.Future[None], outcome: Exception | None) -> None:
    if done.done():
        return
    if outcome is None:
        done.set_result(None)
    else:
        done.set_exception(outcome)


def _is_of_one(outcome: Exception) -> bool:
    """Whether it may be a single row that cannot be stored, and not that the store cannot be reached."""
    return not isinstance(outcome.__cause__, ConnectionFailure | TimeoutError)


def _row(document: Document) -> AuditRow:
    content: dict[str, Any] = {name: value for name, value in document.items() if name != "_id"}
    try:
        return msgspec.convert(content, AuditRow, strict=False)
    except msgspec.ValidationError as error:
        raise BSONError("an audit row is damaged") from error

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
from pymongo.errors import PyMongoError

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow
from fhirserver.store.mongo.client import Database, Document, again, passes, reaching

_BATCH = 500
_GROUP = 1000
_ATTEMPTS = 5


class Order:
    """Gives audit rows their places; one per process."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._clock = clock
        self._process = os.urandom(6)
        self._last = 0
        self._count = 0

    def documents(self, rows: Sequence[AuditRow]) -> list[Document]:
        """The rows as documents, each with the next place."""
        self._last = max(self._last, self._clock())
        return [{"_id": self._next(), **msgspec.to_builtins(row)} for row in rows]

    def _next(self) -> bytes:
        self._count += 1
        return self._last.to_bytes(6, "big") + self._count.to_bytes(4, "big") + self._process


class MongoAudit:
    """See `port.AuditLog`. Rows that come while others are written are written together after them."""

    def __init__(self, database: Database, order: Order) -> None:
        self._rows = database.audit
        self._order = order
        self._waiting: list[tuple[list[Document], asyncio.Future[None]]] = []
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
            await self._running

    async def _run(self) -> None:
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
                outcome = await self._insert([document for documents, _ in group for document in documents])
                for _, done in group:
                    if not done.done():
                        done.set_result(None) if outcome is None else done.set_exception(outcome)
        finally:
            self._running = None

    async def _insert(self, documents: list[Document]) -> Exception | None:
        """None when all are durable. A lost answer is asked for again: a row that is there is there."""
        for attempt in range(_ATTEMPTS):
            try:
                with reaching():
                    await self._insert_missing(documents, again=attempt > 0)
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
            first = await again(lambda: self._first(since))
            if first is None:
                return
            after = first
        inclusive = bool(after)
        while True:
            bounds = {"$gte" if inclusive else "$gt": after} if after else {}
            page = {**conditions, **({"_id": bounds} if bounds else {})}
            found = await again(lambda: self._page(page, hint))  # noqa: B023 - awaited at once
            if found:
                with reaching():
                    yield [_row(document) for document in found]
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


def _row(document: Document) -> AuditRow:
    content: dict[str, Any] = {name: value for name, value in document.items() if name != "_id"}
    try:
        return msgspec.convert(content, AuditRow, strict=False)
    except msgspec.ValidationError as error:
        raise BSONError("an audit row is damaged") from error

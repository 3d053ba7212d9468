"""The audit trail in MongoDB: one document per row, whose ``_id`` orders them.

The order is (millisecond of the append, count within the process, process): rows of one process stand exactly in the
order they were appended, those of several servers in the order of their clocks. Rows are only ever inserted; see
docs/mongodb.md for a database role that can do nothing else.

The chain is in lines, each with numbers of its own (``chain``: line, number, link). Rows that commit with a write are
one line for all servers, whose head is in the counter that each commit locks anyway. Rows that are appended by
themselves, before each disclosure, would have to wait for that lock with every writer; they are a line per process
instead, whose inserts follow one another there. A line whose end is not known (an answer was lost) is left, and another
begun. Collection ``lines`` holds where each began, how far retention has dropped it, and now and then its head.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, NamedTuple

import msgspec
from bson.errors import BSONError
from pymongo.errors import ConnectionFailure, PyMongoError

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow
from fhirserver.core.trail import BEGIN, Entry, TrailQuery, canonical, event_of, link
from fhirserver.store.mongo.client import Database, Document, again, answering, passes, reaching

COMMITS = "commits"
"""The line of the rows that commit with a write."""

_BATCH = 500
_GROUP = 1000
_ATTEMPTS = 5
_SETTLED = 60_000
"""Milliseconds after which no row comes any more whose place is older: longer than an insert is tried for."""


class Head(NamedTuple):
    """The last row of a line: its number and link."""

    number: int = 0
    link: bytes = BEGIN


def head_of(value: Any) -> Head:
    """A head as it is stored; BSONError if it is damaged."""
    try:
        number, own = value or Head()
        return Head(int(number), bytes(own))
    except (TypeError, ValueError) as error:
        raise BSONError("the head of a line is damaged") from error


class _Append(NamedTuple):
    """Rows as documents, their canonical bytes, and who waits for them."""

    documents: list[Document]
    rows: list[bytes]
    done: asyncio.Future[None]


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
        return [{"_id": self._next(), **msgspec.to_builtins(row), "event": event_of(row)} for row in rows]

    def settled(self) -> bytes:
        """A place before which nobody puts a row any more, as far as clocks agree."""
        return place_from(self._clock() - _SETTLED)

    def _next(self) -> bytes:
        self._count += 1
        return self._last.to_bytes(6, "big") + self._count.to_bytes(4, "big") + self._process


def place_from(time: int) -> bytes:
    """A place before all rows of this millisecond or later; as long as they are, since length counts first."""
    return max(0, time).to_bytes(6, "big") + bytes(10)


def sealed(line: str, head: Head, documents: Sequence[Document], rows: Sequence[bytes]) -> Head:
    """Give each document its link in this line; the new head. ``rows``: their canonical bytes."""
    number, before = head
    for document, row in zip(documents, rows, strict=True):
        number += 1
        before = link(before, place_of(line, number, document["_id"]), row)
        document["chain"] = [line, number, before]
    return Head(number, before)


def place_of(line: str, number: int, name: bytes) -> bytes:
    """The place of a row as it goes into its link."""
    return line.encode() + number.to_bytes(8, "big") + name


class MongoAudit:
    """See `port.AuditLog`. Rows that come while others are written are written together after them."""

    def __init__(self, database: Database, order: Order) -> None:
        self._database = database
        self._rows = database.audit
        self._order = order
        self._waiting: list[_Append] = []
        self._running: asyncio.Task[None] | None = None
        self._closed = False
        self._line = ""
        self._head = Head()
        self._told = Head()

    async def append(self, rows: Sequence[AuditRow]) -> None:
        if not rows:
            return
        if self._closed:
            raise Unavailable("The store is closed.")
        done: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        packed = [canonical(row) for row in rows]
        self._waiting.append(_Append(self._order.documents(rows), packed, done))
        if self._running is None:
            self._running = asyncio.create_task(self._run())
        await done

    async def close(self) -> None:
        """Finish what was given."""
        self._closed = True
        if self._running is not None:
            await asyncio.wait([self._running])  # which does not end with whoever waits
        try:
            await self.tell()
        except Unavailable:
            return  # the head is told for one check more; nothing hangs on it

    async def tell(self) -> None:
        """Note how far the line has come, so that rows taken away from its end are missed, too."""
        line, head = self._line, self._head
        if line and head != self._told:
            async with answering():
                await self._database.lines.update_one({"_id": line}, {"$set": {"head": [*head]}})
            self._told = head

    async def _run(self) -> None:
        group: list[_Append] = []
        try:
            while self._waiting:
                group, self._waiting = self._waiting[:_GROUP], self._waiting[_GROUP:]
                outcome = await self._write(group)
                if outcome is None or len(group) == 1 or not _is_of_one(outcome):
                    for one in group:
                        _settle(one.done, outcome)
                else:
                    for one in group:  # one of them cannot be stored: it alone shall fail
                        _settle(one.done, await self._write_missing(one))
        finally:
            self._running = None
            for one in (*group, *self._waiting):  # nobody, unless the event loop is ending
                _settle(one.done, Unavailable())
            self._waiting.clear()

    async def _write(self, group: Sequence[_Append]) -> Exception | None:
        """Write all rows as the next of the line; None when they are durable."""
        documents = [document for one in group for document in one.documents]
        rows = [row for one in group for row in one.rows]
        if not self._line:
            line = os.urandom(8).hex()
            outcome = await self._insert("lines", [{"_id": line}])
            if outcome is not None:
                return outcome
            self._line, self._head, self._told = line, Head(), Head()
        head = sealed(self._line, self._head, documents, rows)
        outcome = await self._insert("audit", documents)
        if outcome is None:
            self._head = head
        else:
            self._line = ""  # some of them may be there, and more may yet arrive
        return outcome

    async def _write_missing(self, one: _Append) -> Exception | None:
        """The same of rows that may be there already."""
        try:
            async with answering():
                there = await self._there(self._rows, one.documents)
        except Exception as error:  # handed to who waits
            return error
        missing = [at for at, document in enumerate(one.documents) if document["_id"] not in there]
        if not missing:
            return None
        rest = _Append([one.documents[at] for at in missing], [one.rows[at] for at in missing], one.done)
        return await self._write([rest])

    async def _insert(self, collection: str, documents: list[Document]) -> Exception | None:
        """None when all are durable. A lost answer is asked for again: what is there is there."""
        for attempt in range(_ATTEMPTS):
            try:
                async with answering():
                    await self._insert_missing(self._database[collection], documents, again=attempt > 0)
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

    async def _insert_missing(self, collection: Any, documents: list[Document], *, again: bool) -> None:
        if again:
            there = await self._there(collection, documents)
            documents = [document for document in documents if document["_id"] not in there]
        if documents:
            await collection.insert_many(documents)

    async def _there(self, collection: Any, documents: Sequence[Document]) -> set[Any]:
        ids = [document["_id"] for document in documents]
        return {document["_id"] async for document in collection.find({"_id": {"$in": ids}}, {"_id": 1})}

    async def scan(self, *, since: int = 0) -> AsyncIterator[list[AuditRow]]:
        after = b""
        if since:
            first = await again(self._database, lambda: self._first(since))
            if first is None:
                return
            after = first
        async for entries in self._entries({"at": {"$gte": since}} if since else {}, after, inclusive=True):
            yield [each.row for each in entries]

    async def entries(self, after: str = "", *, settled: bool = False) -> AsyncIterator[list[Entry]]:
        upto = {"$lt": self._order.settled()} if settled else {}
        async for entries in self._entries({}, bytes.fromhex(after), inclusive=False, upto=upto):
            yield entries

    async def _entries(
        self, conditions: Document, after: bytes, *, inclusive: bool, upto: Document | None = None
    ) -> AsyncIterator[list[Entry]]:
        while True:
            bounds = {**({"$gte" if inclusive else "$gt": after} if after else {}), **(upto or {})}
            page = {**conditions, **({"_id": bounds} if bounds else {})}
            found = await again(self._database, lambda: self._page(page))  # noqa: B023 - awaited at once
            if found:
                with reaching():
                    entries = [_entry(document) for document in found]
                yield entries
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

    async def _page(self, conditions: Document) -> list[Document]:
        cursor = self._rows.find(conditions).sort("_id", 1).limit(_BATCH).batch_size(_BATCH).hint("_id_")
        return await cursor.to_list()

    async def find(self, query: TrailQuery) -> list[Entry]:
        found = await again(self._database, lambda: self._found(query))
        with reaching():
            return [_entry(document) for document in found]

    async def _found(self, query: TrailQuery) -> list[Document]:
        conditions: Document = {}
        hint = "at"
        if query.organization is not None:
            conditions["organization"], hint = query.organization, "organization"
        if query.patient is not None:
            conditions["patients"], hint = query.patient, "patients"
        time = {name: at for name, at in (("$gte", query.since), ("$lt", query.until)) if at is not None}
        if query.after is not None:
            at, place = query.after
            beyond, upto = ("$gt", "$gte") if query.oldest_first else ("$lt", "$lte")
            conditions["$or"] = [{"at": {beyond: at}}, {"at": at, "_id": {beyond: bytes.fromhex(place)}}]
            choose = max if query.oldest_first else min
            time[upto] = choose(time[upto], at) if upto in time else at  # where the index is entered
        if time:
            conditions["at"] = time
        way = 1 if query.oldest_first else -1
        cursor = self._rows.find(conditions).sort([("at", way), ("_id", way)]).limit(query.limit)
        return await cursor.batch_size(query.limit).hint(hint).to_list()

    async def events(self, ids: Sequence[str]) -> list[Entry]:
        wanted = {"event": {"$in": list(dict.fromkeys(ids))}}
        found = await again(self._database, lambda: self._rows.find(wanted).hint("event").to_list())
        with reaching():
            return [_entry(document) for document in sorted(found, key=lambda each: each["_id"])]

    async def drop(self, before: int) -> int:
        first = await again(self._database, lambda: self._first(before))
        wanted: Document = {"_id": {"$lt": first}} if first is not None else {}
        dropped = 0
        while found := await again(self._database, lambda: self._page(wanted)):
            heads: dict[str, Head] = {}
            for document in found:
                if "chain" in document:
                    line, number, own = document["chain"]
                    heads[line] = max(heads.get(line, Head()), Head(number, bytes(own)))
            with reaching():
                for line, head in heads.items():  # before the rows go: killed in between, they are dropped next time
                    anchor = {"$set": {"dropped": [*head]}}
                    await self._database.lines.update_one({"_id": line}, anchor, upsert=True)
                await self._rows.delete_many({"_id": {"$lte": found[-1]["_id"]}})
            dropped += len(found)
        return dropped


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


def row_of(document: Document) -> AuditRow:
    """The row of a document; BSONError if it is damaged."""
    content: dict[str, Any] = {name: value for name, value in document.items() if name not in _BESIDE}
    try:
        return msgspec.convert(content, AuditRow, strict=False)
    except msgspec.ValidationError as error:
        raise BSONError("an audit row is damaged") from error


_BESIDE = frozenset({"_id", "event", "chain"})


def _entry(document: Document) -> Entry:
    chain = document.get("chain")
    return Entry(document["_id"].hex(), row_of(document), bytes(chain[2]) if chain else b"")

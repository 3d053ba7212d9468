"""The ledger in MongoDB: one document per entry, each change one atomic command.

A counter is kept as a number in ``n``, anything else as bytes in ``value``; text that is a number counts as a counter,
so that `put_if` and `incr` may meet. Expired entries are not there, whether swept or not.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

from bson.errors import BSONError
from pymongo import ReturnDocument
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import DuplicateKeyError

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import MAX_TIME, LedgerEntry
from fhirserver.store.mongo.client import Database, Document, again, answering
from fhirserver.store.mongo.together import Together

_BATCH = 256
_ATTEMPTS = 8


class MongoLedger:
    """See `port.Ledger`."""

    def __init__(self, database: Database, *, clock: Callable[[], int]) -> None:
        self._database = database
        self._entries = database.ledger
        self._clock = clock
        self._together = Together(self._named)

    async def get(self, name: str) -> LedgerEntry | None:
        document = await self._together.get(name)
        if document is None or document.get("expires", MAX_TIME) <= self._clock():
            return None
        return _entry(document)

    async def several(self, names: Sequence[str]) -> list[LedgerEntry | None]:
        return await asyncio.gather(*map(self.get, names))  # they are put together

    async def _named(self, names: list[str]) -> dict[str, Document]:
        wanted = {"_id": {"$in": names}}
        found = await again(self._database, lambda: self._entries.find(wanted).to_list())
        return {document["_id"]: document for document in found}

    async def put_if(self, name: str, value: bytes | None, *, stamp: int | None, expires: int | None = None) -> bool:
        async with answering():
            if stamp is None:
                return await self._put_new(name, value, expires)
            held = {"_id": name, "stamp": stamp, **_live(self._clock())}
            if value is None:
                return (await self._entries.delete_one(held)).deleted_count == 1
            return (await self._entries.replace_one(held, content(value, expires))).matched_count == 1

    async def _put_new(self, name: str, value: bytes | None, expires: int | None) -> bool:
        if value is None:
            return await self.get(name) is None
        expired = {"_id": name, "expires": {"$lte": self._clock()}}
        try:
            await self._entries.replace_one(expired, content(value, expires), upsert=True)
        except DuplicateKeyError:  # there is one, and it has not expired
            return False
        return True

    async def incr(self, name: str, by: int = 1, *, expires: int | None = None) -> int:
        async with answering():
            return await increment(self._database, name, by, now=self._clock(), expires=expires)

    async def scan(self, prefix: str) -> AsyncIterator[tuple[str, LedgerEntry]]:
        after, first = prefix, True
        while True:
            found = await again(self._database, lambda: self._page(prefix, after, first))  # noqa: B023 - awaited at once
            for document in found:
                yield document["_id"], _entry(document)
            if len(found) < _BATCH:
                return
            after, first = found[-1]["_id"], False

    async def _page(self, prefix: str, after: str, first: bool) -> list[Document]:
        bounds = {"$gte" if first else "$gt": after, "$lt": prefix + "\U0010ffff"}
        cursor = self._entries.find({"_id": bounds, **_live(self._clock())}).sort("_id", 1).limit(_BATCH)
        return await cursor.batch_size(_BATCH).to_list()

    async def sweep(self) -> None:
        """Remove what has expired; it takes room only."""
        async with answering():
            await self._entries.delete_many({"expires": {"$lte": self._clock()}})


async def increment(
    database: Database,
    name: str,
    by: int = 1,
    *,
    now: int,
    expires: int | None = None,
    session: AsyncClientSession | None = None,
) -> int:
    """Add to a counter, in a transaction if ``session`` has one; ValueError if the entry is no counter."""
    begins = {"$or": [{"$eq": [{"$type": "$n"}, "missing"]}, {"$lte": [{"$ifNull": ["$expires", now + 1]}, now]}]}
    until: Any = "$$REMOVE" if expires is None else expires
    change = {
        "n": {"$add": [{"$cond": [begins, 0, "$n"]}, by]},
        "expires": {"$cond": [begins, until, "$expires"]},
        "stamp": _new_stamp(),
    }
    mine = {"_id": name, "$or": [{"n": {"$exists": True}}, {"expires": {"$lte": now}}]}
    for attempt in range(_ATTEMPTS):
        try:
            found = await database.ledger.find_one_and_update(
                mine, [{"$set": change}, {"$unset": "value"}],
                upsert=True, return_document=ReturnDocument.AFTER, session=session,
            )  # fmt: skip
        except DuplicateKeyError:  # another was faster, or the entry holds something else
            if session is not None:
                raise
            if attempt and await database.ledger.find_one({"_id": name, "n": {"$exists": False}}) is not None:
                break
        else:
            return int(found["n"]) if found else by
    raise ValueError(f"The ledger entry {name} is no counter.")


def _live(now: int) -> Document:
    return {"$or": [{"expires": {"$exists": False}}, {"expires": {"$gt": now}}]}


def content(value: bytes, expires: int | None) -> Document:
    """The fields of an entry; a text that reads back the same from a number is kept as one."""
    ends: Document = {} if expires is None else {"expires": expires}
    content: Document = {"value": value}
    if len(value) < 18 and value.removeprefix(b"-").isdigit() and b"%d" % int(value) == value:
        content = {"n": int(value)}
    return {**content, "stamp": _new_stamp(), **ends}


def _entry(document: Mapping[str, Any]) -> LedgerEntry:
    try:
        value = b"%d" % document["n"] if "n" in document else bytes(document["value"])
        return LedgerEntry(value, int(document["stamp"]))
    except (KeyError, TypeError, ValueError) as error:
        raise Unavailable from BSONError(f"a ledger entry is damaged: {type(error).__name__}")


def _new_stamp() -> int:
    """62 random bits: an entry never has the same one twice, without a counter that all servers share."""
    return int.from_bytes(os.urandom(8), "big") >> 2

"""Removing resources for good, inside a transaction that holds the counter.

MongoDB frees what is deleted in its own time: its files, its journal and its oplog keep the bytes until they are
written over, which no client of it can hasten (see docs/hardening.md).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

import msgspec
from pymongo.asynchronous.client_session import AsyncClientSession

from fhirserver.core.model import Key
from fhirserver.store.mongo.client import Database, Document
from fhirserver.store.mongo.ledger import content
from fhirserver.store.purged import PREFIX, gaps, ranges

_SEEN: Document = {"_id": 1, "key": 1}


async def ever_within(database: Database, patient: str) -> list[Key]:
    """See `port.Store.ever_within`."""
    places = (
        (database.current, {"home": patient}, "chart"),
        (database.current, {"also": patient}, "chart_also"),
        (database.history, {"compartments": patient}, "chart"),
    )
    found: set[str] = set()
    for collection, wanted, index in places:
        async for document in collection.find(wanted, _SEEN).hint(index):
            found.add(document["key"] if "key" in document else document["_id"])
    return sorted(map(Key.parse, found))


async def remove(database: Database, keys: Sequence[Key], session: AsyncClientSession, *, native: bool) -> int:
    """Remove every version of these resources; how many there were. What is gathered must have been written."""
    names = [str(key) for key in keys]
    places = ((database.current, "_id", "seq"), (database.history, "key", "_id"))
    seqs: list[int] = []
    blobs: list[Any] = []
    for collection, field, seq in places:
        async for one in collection.find({field: {"$in": names}}, {seq: 1, "blob": 1}, session=session):
            seqs.append(int(one[seq]))
            blobs += [one["blob"]] if "blob" in one else []
        await collection.delete_many({field: {"$in": names}}, session=session)
    if blobs:
        await database.chunks.delete_many({"blob": {"$in": blobs}}, session=session)
        await database.blobs.delete_many({"_id": {"$in": blobs}}, session=session)
    if native:
        for type_ in {key.type for key in keys}:
            ids = [key.id for key in keys if key.type == type_]
            await database[type_].delete_many({"_id": {"$in": ids}}, session=session)
    if seqs:
        entry = content(msgspec.json.encode(ranges(seqs)), None)
        await database.ledger.insert_one({"_id": PREFIX + os.urandom(8).hex(), **entry}, session=session)
    return len(seqs)


async def removed(database: Database) -> set[int]:
    """The seqs that purges took."""
    wanted = {"_id": {"$gte": PREFIX, "$lt": PREFIX + "\U0010ffff"}}
    values = [bytes(document["value"]) async for document in database.ledger.find(wanted)]
    return {seq for first, last in gaps(values) for seq in range(first, last + 1)}

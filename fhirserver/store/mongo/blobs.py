"""Large bodies out of line: staged in chunks before the commit that publishes them, read chunk by chunk.

Not GridFS: the stamp between a resource's head and tail is known only inside the commit, which adds it as one more
chunk, and a body must not be there before its version is.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress
from typing import Any

from bson import ObjectId
from bson.errors import BSONError

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Draft
from fhirserver.store.bodies import KEPT, parts
from fhirserver.store.mongo.client import Database, again, answering

_STAGED_AT_ONCE = 16


async def stage(database: Database, draft: Draft, *, now: int) -> ObjectId:
    """Store a draft's head and tail as chunks under a new id, visible to nobody; see `discard`."""
    blob, over = ObjectId(), asyncio.Event()
    writing = asyncio.create_task(_write(database, blob, draft, now, over))
    try:
        await asyncio.shield(writing)
    except BaseException:
        over.set()
        await asyncio.shield(_take_back(database, blob, writing))
        raise
    return blob


async def _write(database: Database, blob: ObjectId, draft: Draft, now: int, over: asyncio.Event) -> None:
    async with answering():
        await database.blobs.insert_one({"_id": blob, "staged": now})
    pieces = parts(draft)
    for at in range(0, len(pieces), _STAGED_AT_ONCE):
        if over.is_set():
            return
        these = [{"blob": blob, "part": part, "data": data} for part, data in pieces[at : at + _STAGED_AT_ONCE]]
        async with answering():
            await database.chunks.insert_many(these)


async def _take_back(database: Database, blob: ObjectId, writing: asyncio.Task[None]) -> None:
    """Remove what was staged when its caller has gone or it has failed.

    What is on its way is waited for: it would arrive after its removal. What has failed may arrive all the same, and
    stays condemned until `sweep` removes it once more.
    """
    await asyncio.wait([writing])
    with suppress(Unavailable):  # `sweep` makes up for it
        if writing.cancelled() or writing.exception() is not None:
            async with answering():
                await database.chunks.delete_many({"blob": blob})
        else:
            await discard(database, [blob])


async def discard(database: Database, blobs: Sequence[Any]) -> None:
    """Remove those that no commit has published: condemned first, so that none can publish them any more."""
    for blob in blobs:
        async with answering():
            held = await database.blobs.update_one({"_id": blob, "staged": {"$exists": True}}, {"$set": {"staged": 0}})
            if held.matched_count:
                await database.chunks.delete_many({"blob": blob})
                await database.blobs.delete_one({"_id": blob})


async def sweep(database: Database, *, now: int) -> None:
    """Remove what killed processes have staged and never published."""
    async with answering():
        old = await database.blobs.find({"staged": {"$lt": now - KEPT}}, {"_id": 1}).to_list()
    await discard(database, [document["_id"] for document in old])


async def pieces(database: Database, blob: Any) -> AsyncIterator[bytes]:
    """A published body's bytes in order, one short read each."""
    part = -1
    while True:
        wanted = {"blob": blob, "part": {"$gt": part}}
        found = await again(database, lambda: database.chunks.find_one(wanted, sort=[("part", 1)], hint="part"))  # noqa: B023
        if found is None:
            return
        part, data = found["part"], found.get("data")
        if not isinstance(data, bytes):
            raise Unavailable from BSONError("a piece of a body is damaged")
        yield data

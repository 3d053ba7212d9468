"""Reads: each function is one short look, or two whose order makes them one; nothing outlives a hand-over."""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.cursor import AsyncCursor

from fhirserver.core.model import HighWater, Key, Record, Visible
from fhirserver.store.bodies import BATCH_BYTES
from fhirserver.store.mongo import filters
from fhirserver.store.mongo.client import Database, Document, again
from fhirserver.store.mongo.codec import PROJECTION, projection, record
from fhirserver.store.mongo.filters import Arm
from fhirserver.store.mongo.schema import COUNTER

SURVEY = 2_048
"""How many candidates at a time tell which owners can matter."""
_seq = attrgetter("seq")


class Found(NamedTuple):
    """What an arm gave; ``full``: it was cut at its limit, so nothing is known beyond the last one."""

    records: list[Record]
    full: bool


async def high_water(database: Database, session: AsyncClientSession | None = None) -> HighWater:
    """The last seq, and the time of that commit."""
    counter = await database.store.find_one({"_id": COUNTER}, {"last": 1, "updated": 1}, session=session)
    return HighWater(int(counter["last"]), int(counter["updated"])) if counter else HighWater(0, 0)


async def seq_before(database: Database, time: int, session: AsyncClientSession | None = None) -> int:
    """The last seq committed before ``time``."""
    found = await database.commits.find_one(
        {"updated": {"$lt": time}}, {"last": 1}, sort=[("updated", -1), ("_id", -1)], hint="updated", session=session
    )
    return int(found["last"]) if found else 0


async def get(database: Database, key: Key, version: int | None, as_of: int | None) -> Record | None:
    """The version `Store.get` speaks of; current before history, see `filters`."""
    document = await database.current.find_one({"_id": str(key)}, PROJECTION)
    if document is None:
        return None
    one = record(document)
    if (version is None or one.version == version) and (as_of is None or one.seq <= as_of):
        return one
    wanted: Document = {"key": str(key)}
    if as_of is not None:
        wanted["_id"] = {"$lte": as_of}
    if version is not None:
        wanted["version"] = version
    elif as_of is not None:
        wanted["ended"] = {"$gt": as_of}
    document = await database.history.find_one(wanted, PROJECTION, hint="key")
    return record(document) if document else None


async def present(database: Database, keys: Sequence[str]) -> dict[str, Document]:
    """The documents of the current versions under these keys (``Type/id``)."""
    wanted = {"_id": {"$in": list(keys)}}
    found = await again(database, lambda: database.current.find(wanted, PROJECTION).hint("_id_").to_list())
    return {document["_id"]: document for document in found}


async def place(database: Database, seq: int) -> Document | None:
    """Where the body of a version lies, wherever the version lies now: ``blob`` or ``body``."""
    wanted = {"blob": 1, "body": 1}
    document = await database.current.find_one({"seq": seq}, wanted)
    return document or await database.history.find_one({"_id": seq}, wanted)


async def read(
    database: Database,
    arm: Arm,
    after: int,
    upto: int,
    limit: int,
    *,
    bodies: bool,
    sorts: Sequence[str] = (),
    more: Sequence[Document] = (),
    session: AsyncClientSession | None = None,
) -> Found:
    """The first of an arm's versions with ``after < seq <= upto``, in order, with at most `BATCH_BYTES` of bodies."""
    wanted = projection(bodies=bodies, sorts=sorts)
    cursor = database[arm.collection].find(arm.filter(after, upto + 1, *more), wanted, session=session)
    cursor = cursor.sort(arm.seq, 1).limit(limit).batch_size(limit).hint(arm.hint)
    return await taken(cursor, limit, bodies=bodies, sorts=sorts)


async def taken(cursor: AsyncCursor[Document], limit: int, *, bodies: bool, sorts: Sequence[str] = ()) -> Found:
    """The versions of a cursor with that limit, with at most `BATCH_BYTES` of bodies."""
    records: list[Record] = []
    size = 0
    async with cursor:
        async for document in cursor:
            one = record(document, sorts)
            size += one.size if bodies else 0
            if size > BATCH_BYTES and records:
                return Found(records, True)
            records.append(one)
    return Found(records, len(records) == limit)


async def narrowed(
    database: Database,
    arms: Sequence[Arm],
    after: int,
    end: int,
    visible: Visible,
    session: AsyncClientSession | None,
) -> tuple[int, list[Document]]:
    """The condition of what is visible, with owners that candidates have where the grant's own set is large; and the
    end of the range for which that holds."""
    if not filters.is_large(visible):
        return end, filters.seen(visible)
    owners: set[str] = set()
    for arm in arms:
        cursor = database[arm.collection].find(arm.filter(after, end + 1), {"owners": 1, "seq": 1}, session=session)
        found = await cursor.sort(arm.seq, 1).limit(SURVEY).hint(arm.hint).to_list()
        if len(found) == SURVEY:
            end = min(end, int(found[-1]["seq"]))
        owners.update(owner for document in found for owner in document["owners"])
    return end, filters.seen(visible, lambda wanted: sorted(wanted & owners))


def merged(found: Sequence[Found], wanted: int, end: int) -> tuple[list[Record], int]:
    """The first records of all arms, and the seq up to which nothing is left out. Of a version that moved to history
    between two reads the later reading counts."""
    cut = min((each.records[-1].seq for each in found if each.full), default=end)
    if len(found) == 1:
        return found[0].records, cut
    by_seq = {one.seq: one for each in found for one in each.records if one.seq <= cut}
    records = sorted(by_seq.values(), key=_seq)
    fitting = _fitting(records[:wanted])
    if fitting < len(records):
        records = records[:fitting]
        cut = records[-1].seq
    return records, cut


def _fitting(records: Sequence[Record]) -> int:
    """How many of them have at most `BATCH_BYTES` of bodies together; one at least."""
    size = 0
    for count, one in enumerate(records):
        size += 0 if one.body is None else one.size
        if size > BATCH_BYTES and count:
            return count
    return len(records)

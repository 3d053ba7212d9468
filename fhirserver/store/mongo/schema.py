"""Collections and indexes of the MongoDB store; each index with the reason it is there.

`tests/contract/test_store_mongo_plans.py` holds the query shapes to these indexes. Reads name the index they want: a
planner that guesses between the chart and the seq index was measured to read whole collections.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Any, NamedTuple

from pymongo import ASCENDING, DeleteOne, timeout
from pymongo.errors import DuplicateKeyError, OperationFailure

from fhirserver.core.errors import Unavailable
from fhirserver.store.mongo.client import Database, again

SCHEMA_VERSION = 3
"""2: terms hold the keys of texts and spans (`keys`), and ``present``. 3: rows of the audit trail have links, from the
next row on, and are found by event and by time."""
_OLDER = frozenset({1, 2})
"""Versions that are brought up. The search index of version 1 is stale, which a server tells."""
APPLICATION = "fhirserver"
MARKER = "store"
COUNTER = "commits"
"""`_id` of the document in collection ``store`` that every commit locks first: last, updated, turn, native."""

NATIVE = "native"
"""`_id` of the document in collection ``store`` that lists the types with native documents."""

_BATCH = 1000
_INDEXING_SECONDS = 86_400
"""An index over many millions of versions may take hours; the server builds it while others go on."""
_log = logging.getLogger("fhirserver.store")
_EXISTS = 48
_UNAUTHORIZED = 13
_CONFLICTS = frozenset({85, 86})  # IndexOptionsConflict, IndexKeySpecsConflict


class IndexOf(NamedTuple):
    """One index: what it is on, and why it is kept."""

    collection: str
    name: str
    keys: tuple[str, ...]
    reason: str
    unique: bool = False
    partial: str | None = None
    """Only documents that have this field."""


INDEXES = (
    IndexOf("current", "chart", ("home", "seq"), "a chart in seq order; scalar, so every engine reads it in order"),
    IndexOf("current", "chart_type", ("home", "type", "seq"), "`_type`: without it a rare type walks the whole chart"),
    IndexOf("current", "chart_also", ("also", "seq"), "members of a second compartment (few)", partial="also"),
    IndexOf("current", "type", ("type", "seq"), "type lists in seq order"),
    IndexOf("current", "seq", ("seq",), "the change feed, the whole store in order, a version by its seq", unique=True),
    IndexOf("current", "terms", ("terms", "seq"), "search by terms, texts and spans (`keys`); references, guards"),
    IndexOf("history", "key", ("key", "version"), "vread, `_history`, snapshots of single keys", unique=True),
    IndexOf("history", "chart", ("compartments", "ended"), "a chart's snapshot: the few that ended after it"),
    IndexOf("history", "type", ("type", "ended"), "a type list's snapshot"),
    IndexOf("history", "feed", ("type", "_id"), "`_history` of a type, newest first"),
    IndexOf("history", "ended", ("ended",), "the whole store's snapshot"),
    IndexOf("commits", "updated", ("updated", "_id"), "time -> seq for `_since`"),
    IndexOf("ledger", "expires", ("expires",), "what has expired is swept", partial="expires"),
    IndexOf("audit", "organization", ("organization", "at", "_id"), "an organisation's trail in order, and of a time"),
    IndexOf("audit", "patients", ("patients", "at", "_id"), "who has seen a patient, in order, and at a time"),
    IndexOf("audit", "event", ("event",), "an intent and its outcome"),
    IndexOf("audit", "at", ("at", "_id"), "the trail since a time; the latest time that was told to anybody"),
    IndexOf("blobs", "staged", ("staged",), "what killed processes have staged is swept", partial="staged"),
    IndexOf("chunks", "part", ("blob", "part"), "a body out of line, piece by piece", unique=True),
)

COLLECTIONS = ("store", "current", "history", "commits", "ledger", "audit", "lines", "blobs", "chunks", "servers")
"""Ours; native documents stand beside them in collections named after resource types, which begin with a capital."""


async def prepare(database: Database, *, native: bool) -> None:
    """Create what is not there; refuse, with a sentence, what this version cannot read.

    Several servers may start at once on an empty database. ``native``: whether a new store keeps native documents.
    """
    marker = await _marker(database)
    if marker is not None and marker.get("schema") in _OLDER:
        await _bring_up(database)
    elif marker is not None and marker.get("schema") != SCHEMA_VERSION:
        raise Unavailable(
            f"The store has schema version {marker.get('schema')}; this server knows version {SCHEMA_VERSION}. "
            "Use the server version that wrote it, or a later one."
        )
    if marker is None or await _is_half_begun(database):
        await _begin(database, native=native)
    for name in COLLECTIONS:
        await create_collection(database, name)
    used = await database.current.find_one({}, {"_id": 1}) is not None
    for collection in COLLECTIONS:
        there = await _indexes(database, collection)
        for index in wanted(collection):
            if index.name not in there:
                if used:
                    _log.warning("The index %s.%s was missing and is made again.", collection, index.name)
                await create_index(database, index)
        for sentence in foreign(collection, there):
            _log.warning("%s", sentence)


async def _bring_up(database: Database) -> None:
    """The audit trail of an older store: its indexes, its events, and where rows without links end."""
    try:
        there = await _indexes(database, "audit")
        for index in wanted("audit"):
            if index.name in there and not _fits(index, there[index.name]):
                await database.audit.drop_index(index.name)
            await create_index(database, index)
        event = {"$set": {"event": {"$ifNull": ["$intent", "$id"]}}}
        with timeout(_INDEXING_SECONDS):
            await database.audit.update_many({"event": {"$exists": False}}, [event])
    except OperationFailure as error:
        if error.code != _UNAUTHORIZED:
            raise
        raise Unavailable(
            "The audit trail must be brought up once by a MongoDB user who may update it: run `fhirserver check` with "
            "such a user's URL, then start again."
        ) from error
    last = await database.audit.find_one({}, {"_id": 1}, sort=[("_id", -1)])
    unlinked = last["_id"] if last else b""
    await database.store.update_one({"_id": MARKER}, {"$set": {"schema": SCHEMA_VERSION, "unlinked": unlinked}})


async def _marker(database: Database) -> Mapping[str, Any] | None:
    """The store's marker; None for an empty database. Unavailable if the database is another program's."""
    stranger = Unavailable("The MongoDB database holds collections of another program; name one of the store's own.")
    for attempt in range(20):
        marker = await database.store.find_one({"_id": MARKER})
        if marker is not None:
            if marker.get("application") != APPLICATION:
                raise stranger
            return marker
        names = {name for name in await database.list_collection_names() if not name.startswith("system.")}
        if not names:
            return None
        if attempt and names != {"store"}:  # at the first look another server may have begun in between
            raise stranger
        await asyncio.sleep(0.1)  # another server has just begun
    if await database.store.find_one({}) is not None:
        raise stranger
    return None  # it was killed before it wrote anything


async def _is_half_begun(database: Database) -> bool:
    """Whether a server was killed between the marker and the counter: there is no counter, and nothing else either."""
    for name, wanted in (("store", {"_id": COUNTER}), ("commits", {}), ("current", {}), ("history", {})):
        if await database[name].find_one(wanted, {"_id": 1}) is not None:
            return False
    return True


async def _begin(database: Database, *, native: bool) -> None:
    first = {"last": 0, "updated": 0, "turn": 0, "native": native}
    for name, fields in ((MARKER, {"application": APPLICATION, "schema": SCHEMA_VERSION}), (COUNTER, first)):
        for _ in range(3):
            try:
                await database.store.update_one({"_id": name}, {"$setOnInsert": fields}, upsert=True)
                break
            except DuplicateKeyError:  # another server was first
                continue


async def create_collection(database: Database, name: str) -> None:
    """Make it if it is not there, outside of transactions, where making it would collide."""
    try:
        await database.create_collection(name)
    except OperationFailure as error:
        if error.code != _EXISTS:
            raise
    except Exception as error:  # pymongo looks first, and says so in an exception without a code
        if type(error).__name__ != "CollectionInvalid":
            raise


async def keep_types(database: Database, types: Iterable[str]) -> None:
    """Make the collections of native documents of these types, and remember that they are ours."""
    for type_ in sorted(types):
        await create_collection(database, type_)
    for _ in range(3):
        try:
            await database.store.update_one(
                {"_id": NATIVE}, {"$addToSet": {"types": {"$each": sorted(types)}}}, upsert=True
            )
            return
        except DuplicateKeyError:  # another server was first
            continue


async def rebuild(database: Database, *, native: bool) -> None:
    """Make native documents as they are wanted now: from here on every commit of every server follows.

    The counter is what each commit locks and reads, so no commit falls between the two states. Where none are wanted
    their collections are dropped; where they are, those that no current version has are removed, and `reindex` of
    each version writes the others.
    """
    await database.store.update_one({"_id": COUNTER}, {"$set": {"native": native}})
    kept = await database.store.find_one({"_id": NATIVE})
    for type_ in kept["types"] if kept else ():
        if native:
            await _remove_strays(database, type_)
        else:
            await database[type_].drop()
    if not native:
        await database.store.delete_one({"_id": NATIVE})
    for collection in COLLECTIONS:
        for index in wanted(collection):
            await create_index(database, index)


async def _remove_strays(database: Database, type_: str) -> None:
    after: Any = None
    while True:
        bounds: dict[str, Any] = {} if after is None else {"_id": {"$gt": after}}
        found = await database[type_].find(bounds, {"_store.seq": 1}).sort("_id", 1).limit(_BATCH).to_list()
        keys = [f"{type_}/{document['_id']}" for document in found]
        there = database.current.find({"_id": {"$in": keys}, "deleted": False}, {"id": 1})
        known = {document["id"] async for document in there}
        # By its seq as well: a resource that was deleted when it was looked for may have come back.
        strays = [
            DeleteOne({"_id": document["_id"], "_store.seq": document.get("_store", {}).get("seq")})
            for document in found
            if document["_id"] not in known
        ]
        if strays:
            await database[type_].bulk_write(strays, ordered=False)
        if len(found) < _BATCH:
            return
        after = found[-1]["_id"]


def tell_of_native(*, wanted: bool, kept: bool) -> None:
    """Say in the log that the setting differs from what the store does."""
    if wanted and not kept:
        _log.warning("Native documents are wanted and not kept: `fhirserver reindex` makes them.")
    elif kept and not wanted:
        _log.warning("Native documents are kept and not wanted: `fhirserver reindex` removes them.")


async def create_index(database: Database, index: IndexOf) -> None:
    """Make one index; Unavailable, naming it, if another definition has its name or its keys."""
    options: dict[str, Any] = {"name": index.name}
    if index.unique:
        options["unique"] = True
    if index.partial:
        options["partialFilterExpression"] = {index.partial: {"$exists": True}}
    try:
        with timeout(_INDEXING_SECONDS):
            await database[index.collection].create_index([(key, ASCENDING) for key in index.keys], **options)
    except OperationFailure as error:
        if error.code in _CONFLICTS:
            raise Unavailable(_misfit(index)) from error
        raise


def wanted(collection: str) -> list[IndexOf]:
    return [index for index in INDEXES if index.collection == collection]


def foreign(collection: str, there: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """One sentence per index that is not ours; Unavailable if one of ours is not what it must be."""
    known = {index.name: index for index in wanted(collection)}
    sentences = []
    for name, definition in there.items():
        if name == "_id_":
            continue
        if name not in known:
            sentences.append(f"The index {collection}.{name} is not one of the store's; every write pays for it.")
        elif not _fits(known[name], definition):
            raise Unavailable(_misfit(known[name]))
    return sentences


async def inconsistencies(database: Database) -> AsyncIterator[str]:
    """One sentence per index that is missing, foreign or not what it must be."""
    for collection in COLLECTIONS:
        there = await again(database, lambda: _indexes(database, collection))  # noqa: B023 - awaited at once
        for index in wanted(collection):
            if index.name not in there:
                yield f"The index {collection}.{index.name} is missing."
        try:
            for sentence in foreign(collection, there):
                yield sentence
        except Unavailable as fault:
            yield fault.message


def _misfit(index: IndexOf) -> str:
    return (
        f"The index {index.collection}.{index.name} is not the store's own: it must be on "
        f"({', '.join(index.keys)}){', unique' if index.unique else ''}. Drop it and start again."
    )


def _fits(index: IndexOf, definition: Mapping[str, Any]) -> bool:
    keys = tuple((name, int(direction)) for name, direction in definition["key"])
    return (
        keys == tuple((key, ASCENDING) for key in index.keys)
        and bool(definition.get("unique")) == index.unique
        and ("partialFilterExpression" in definition) == (index.partial is not None)
        and not definition.get("sparse")
        and not definition.get("hidden")
        and "expireAfterSeconds" not in definition
    )


async def _indexes(database: Database, collection: str) -> Mapping[str, Mapping[str, Any]]:
    return await database[collection].index_information()

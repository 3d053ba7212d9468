"""Inconsistencies of a MongoDB store, one sentence each.

Versions are looked at in seq order while others go on writing: what was superseded since it was read is passed over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import bson
from bson.codec_options import CodecOptions

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import CURRENT, Facts, Index, Record
from fhirserver.store.mongo import native, schema
from fhirserver.store.mongo.blobs import pieces
from fhirserver.store.mongo.client import Database, Document, again, reaching
from fhirserver.store.mongo.codec import fields, record
from fhirserver.store.mongo.schema import COUNTER

Derive = Callable[[Record, bytes], tuple[Facts, Index]]

_BATCH = 200
_OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)


async def verify(database: Database, derive: Derive) -> AsyncIterator[str]:
    """See `port.Store.verify`."""
    async for sentence in schema.inconsistencies(database):
        yield sentence
    counter = await again(lambda: database.store.find_one({"_id": COUNTER}))
    if counter is None:
        yield "The commit counter is gone."
        return
    async for sentence in _commits(database, int(counter["turn"]), int(counter["last"])):
        yield sentence
    versions = _Versions(database, derive, int(counter["last"]), keeps_native=bool(counter["native"]))
    async for sentence in versions.check():
        yield sentence
    async for sentence in _native_strays(database, keeps_native=bool(counter["native"])):
        yield sentence


async def _commits(database: Database, turn: int, last: int) -> AsyncIterator[str]:
    """Every turn left a row, and each follows the one before it."""
    before = {"_id": 0, "last": 0, "updated": 0}
    while before["_id"] < turn:
        wanted = {"_id": {"$gt": before["_id"], "$lte": turn}}
        found = await again(lambda: database.commits.find(wanted).sort("_id", 1).limit(1000).to_list())  # noqa: B023
        if not found:
            break
        for row in found:
            if (
                row["_id"] != before["_id"] + 1
                or row["first"] != before["last"] + 1
                or row["last"] < before["last"]
                or row["updated"] < before["updated"]
            ):
                yield f"The commit that ends at seq {row['last']} does not follow the one before it."
            before = row
    if (before["_id"], before["last"]) != (turn, last):
        yield "The commit counter is not where the last commit ended."


class _Versions:
    """Every version up to ``last``: its neighbours in time, its body, its index entries, its native document."""

    def __init__(self, database: Database, derive: Derive, last: int, *, keeps_native: bool) -> None:
        self._database = database
        self._derive = derive
        self._last = last
        self._keeps_native = keeps_native

    async def check(self) -> AsyncIterator[str]:
        after, expected, blobs = 0, 1, 0
        while after < self._last:
            found, past = await again(lambda: self._batch(after))  # noqa: B023 - awaited at once
            if not found and not past:
                break
            every = sorted([*found, *past], key=lambda document: document["seq"])
            for document in every:
                seq = int(document["seq"])
                if seq > expected:
                    yield f"The versions from seq {expected} to {seq - 1} are missing."
                expected = max(expected, seq + 1)
            twice = {document["_id"] for document in past} & {document["seq"] for document in found}
            if twice:
                for name in await self._still([document for document in found if document["seq"] in twice]):
                    yield f"{name} is both current and superseded."
            async for sentence in self._neighbours(found, past):
                yield sentence
            blobs += len({document["blob"] for document in every if "blob" in document})
            for document in every:
                async for sentence in self._content(document):
                    yield sentence
            after = int(every[-1]["seq"])
        if expected <= self._last:
            yield f"The versions from seq {expected} to {self._last} are missing."
        async for sentence in self._beyond(blobs):
            yield sentence

    async def _batch(self, after: int) -> tuple[list[Document], list[Document]]:
        """The next versions of both collections, current ones read first, up to where both are known."""
        found = []
        for collection, seq in ((self._database.current, "seq"), (self._database.history, "_id")):
            cursor = collection.find({seq: {"$gt": after, "$lte": self._last}}).sort(seq, 1).limit(_BATCH)
            found.append(await cursor.hint(seq if seq == "seq" else "_id_").to_list())
        cut = min((part[-1]["seq"] for part in found if len(part) == _BATCH), default=self._last)
        current, past = ([document for document in part if document["seq"] <= cut] for part in found)
        return current, past

    async def _still(self, documents: Sequence[Mapping[str, Any]]) -> list[str]:
        """Names of the versions among these that are current even now."""
        seqs = {document["_id"]: document["seq"] for document in documents}
        cursor = self._database.current.find({"_id": {"$in": list(seqs)}}, {"seq": 1, "version": 1})
        with reaching():
            return [_name(now) async for now in cursor if now["seq"] == seqs[now["_id"]]]

    async def _neighbours(self, current: Sequence[Document], past: Sequence[Document]) -> AsyncIterator[str]:
        followers: dict[int, Document] = {}
        ends = [document["ended"] for document in past]
        later = [document["seq"] for document in (*current, *past) if document["version"] > 1]
        with reaching():
            for collection, seq in ((self._database.history, "_id"), (self._database.current, "seq")):
                cursor = collection.find({seq: {"$in": ends}}, {"seq": 1, "key": 1, "version": 1})
                followers.update({int(document["seq"]): document async for document in cursor})
            cursor = self._database.history.find({"ended": {"$in": later}}, {"key": 1, "version": 1, "ended": 1})
            ended = {(one["key"], one["version"] + 1, int(one["ended"])) async for one in cursor}
        for document in past:
            after = followers.get(int(document["ended"]))
            if document["ended"] <= document["seq"]:
                yield f"{_name(document)} ended before it began."
            elif after is None or (_key(after), after["version"]) != (document["key"], document["version"] + 1):
                yield f"{_name(document)} has no successor where it ended."
        lost = [
            document
            for document in (*current, *past)
            if document["version"] > 1 and (_key(document), document["version"], int(document["seq"])) not in ended
        ]
        for document in lost:
            yield f"{_name(document)} has no predecessor."

    async def _content(self, document: Document) -> AsyncIterator[str]:
        one = record(document)
        name = _name(document)
        body = document.get("body")
        if "blob" in document:
            body = b"".join([piece async for piece in pieces(self._database, document["blob"])])
            with reaching():
                published = await self._database.blobs.find_one({"_id": document["blob"]})
            if published is None or "staged" in published:
                yield f"{name} has a body out of line whose chunks are missing or unpublished."
        if body is None or len(body) != one.size:
            yield f"{name}: the body has {len(body or b'')} bytes, not {one.size}."
            return
        if one.ended != CURRENT or one.deleted:
            return
        try:
            facts, index = self._derive(one, body)
        except Exception:  # whatever a damaged body makes the caller's code do
            yield f"{name}: the content cannot be understood."
            return
        sentences = list(_differences(name, document, fields(one.key, facts, index)))
        if self._keeps_native:
            sentences += await self._copy(one, body, facts)
        if sentences and await self._still([document]):
            for sentence in sentences:
                yield sentence

    async def _copy(self, one: Record, body: bytes, facts: Facts) -> list[str]:
        """The native document against what the body says."""
        copy = native.document(one.key, body, facts)
        with reaching():
            there = await self._database[one.type].find_one({"_id": one.id})
        if copy is None:
            return [] if there is None else [f"{one.key} has a native document, and cannot have one."]
        wanted = native.stamped(copy, version=one.version, seq=one.seq, updated=one.updated)
        if there == bson.decode(bson.encode(wanted), _OPTIONS):
            return []
        return [f"{one.key}: the native document is not what its content says; `fhirserver reindex` makes it anew."]

    async def _beyond(self, blobs: int) -> AsyncIterator[str]:
        """What belongs to no version, if nobody has written meanwhile."""
        database = self._database
        with reaching():
            published = await database.blobs.count_documents({"staged": {"$exists": False}})
            stray = await database.current.find_one({"seq": {"$gt": self._last}}, {"seq": 1})
            now = await database.store.find_one({"_id": COUNTER}, {"last": 1})
        if now is None or now["last"] != self._last:
            return
        if stray is not None:
            yield f"Seq {stray['seq']} lies above the last commit."
        if published != blobs:
            yield f"{published} bodies stand out of line where {blobs} versions have one."


def _differences(name: str, document: Document, wanted: Document) -> list[str]:
    def differs(*names: str) -> bool:
        return any(document.get(field) != wanted.get(field) for field in names)

    found = []
    if differs("facts"):
        found.append(f"{name}: the stored facts are not what its content says.")
    if differs("care_lo", "care_hi"):
        found.append(f"{name}: the stored care period is not what its content says.")
    if differs("supports"):
        found.append(f"{name}: the stored supporting references are not what its content says.")
    if differs("terms", "texts", "spans", "sorts"):
        found.append(f"{name}: the stored index entries are not what its content says.")
    if differs("custodian", "parties", "owners", "labels", "compartments", "home", "also"):
        found.append(f"{name}: what access is decided by is not what the stored facts say.")
    return found


async def _native_strays(database: Database, *, keeps_native: bool) -> AsyncIterator[str]:
    """Native documents that no current version has."""
    for type_ in await again(lambda: native_types(database)):
        after: Any = None
        while True:
            bounds: Document = {} if after is None else {"_id": {"$gt": after}}
            cursor = database[type_].find(bounds, {"_id": 1}).sort("_id", 1).limit(1000)
            with reaching():
                ids = [document["_id"] for document in await cursor.to_list()]
                keys = [f"{type_}/{each}" for each in ids]
                there = database.current.find({"_id": {"$in": keys}, "deleted": False}, {"_id": 1})
                known = {document["_id"] async for document in there} if keeps_native else set()
            stray = [key for key in keys if key not in known]
            if stray and not keeps_native:
                yield f"{type_} holds native documents although none are kept; `fhirserver reindex` removes them."
                break
            for key in stray:
                if await again(lambda: _is_stray(database, key)):  # noqa: B023 - awaited at once
                    yield f"The native document of {key} belongs to no current version."
            if len(ids) < 1000:
                break
            after = ids[-1]


async def _is_stray(database: Database, key: str) -> bool:
    type_, _, name = key.partition("/")
    there = await database.current.find_one({"_id": key, "deleted": False}, {"_id": 1})
    return there is None and await database[type_].find_one({"_id": name}, {"_id": 1}) is not None


async def native_types(database: Database) -> list[str]:
    """The types that have a collection of native documents."""
    found = await database.store.find_one({"_id": schema.NATIVE})
    return sorted(found["types"]) if found else []


def _key(document: Mapping[str, Any]) -> str:
    return str(document["key"] if "key" in document else document["_id"])


def _name(document: Mapping[str, Any]) -> str:
    return f"{_key(document)} version {document['version']}"


def unreadable(error: Unavailable) -> bool:
    """Whether a document cannot be decoded, and not that the store cannot be reached."""
    return isinstance(error.__cause__, bson.errors.BSONError)

"""Inconsistencies of a MongoDB store, one sentence each.

Versions are looked at in seq order while others go on writing: what was superseded since it was read is passed over.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from typing import Any

import bson
import msgspec
from bson import ObjectId
from bson.codec_options import CodecOptions

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import CURRENT, Facts, Index, Record, parse_facts
from fhirserver.core.stamp import digest, instant
from fhirserver.store.bodies import stamp_part
from fhirserver.store.mongo import native, schema
from fhirserver.store.mongo.blobs import pieces
from fhirserver.store.mongo.client import Database, Document, again, answering
from fhirserver.store.mongo.codec import fields, record
from fhirserver.store.mongo.purge import removed
from fhirserver.store.mongo.schema import COUNTER
from fhirserver.store.purged import ranges

Derive = Callable[[Record, bytes], tuple[Facts, Index]]

_BATCH = 200
_OPTIONS: CodecOptions[Document] = CodecOptions(tz_aware=True)
_COUNTER = {"turn": int, "last": int, "updated": int, "native": bool}
_COMMIT = {"first": int, "last": int, "updated": int}
_VERSION = {
    "type": str, "id": str, "version": int, "seq": int, "updated": int, "deleted": bool, "facts": str, "supports": str,
    "digest": bytes, "size": int, "custodian": str, "home": str, "care_lo": int, "care_hi": int,
    **dict.fromkeys(("parties", "owners", "labels", "compartments"), list),
    **dict.fromkeys(("terms", "texts", "spans", "sorts", "present"), list),
}  # fmt: skip
_PAST = {**_VERSION, "key": str, "ended": int}
_ACCESS = ("custodian", "parties", "owners", "labels", "compartments", "home", "also")


async def verify(database: Database, derive: Derive) -> AsyncIterator[str]:
    """See `port.Store.verify`."""
    async for sentence in schema.inconsistencies(database):
        yield sentence
    counter = await again(database, lambda: database.store.find_one({"_id": COUNTER}))
    if counter is None or _misfits(counter, _COUNTER):
        yield "The commit counter is gone or damaged."
        return
    async for sentence in _commits(database, counter):
        yield sentence
    versions = _Versions(database, derive, int(counter["last"]), keeps_native=counter["native"])
    async for sentence in versions.check():
        yield sentence
    async for sentence in _native_strays(database, keeps_native=counter["native"]):
        yield sentence


async def _commits(database: Database, counter: Document) -> AsyncIterator[str]:
    """Every turn left a row, and each follows the one before it."""
    turn, before = 0, {"last": 0, "updated": 0}
    while turn < counter["turn"]:
        wanted = {"_id": {"$gt": turn, "$lte": counter["turn"]}}
        found = await again(database, lambda: database.commits.find(wanted).sort("_id", 1).limit(1000).to_list())  # noqa: B023
        if not found:
            break
        for row in found:
            if _misfits(row, _COMMIT):
                yield f"The commit of turn {row['_id']} is damaged."
                row = {"_id": turn + 1, **{name: row[name] if _is(row, name, int) else before[name] for name in before}}
            elif (
                row["_id"] != turn + 1
                or row["first"] != before["last"] + 1
                or row["last"] < before["last"]
                or row["updated"] < before["updated"]
            ):
                yield f"The commit that ends at seq {row['last']} does not follow the one before it."
            turn, before = int(row["_id"]), {name: row[name] for name in before}
    if (turn, before) != (counter["turn"], {name: counter[name] for name in before}):
        yield "The commit counter is not where the last commit ended."


class _Versions:
    """Every version up to ``last``: its neighbours in time, its body, its index entries, its native document."""

    def __init__(self, database: Database, derive: Derive, last: int, *, keeps_native: bool) -> None:
        self._database = database
        self._derive = derive
        self._last = last
        self._keeps_native = keeps_native
        self._blobs: set[Any] = set()
        self._chunks = 0

    async def check(self) -> AsyncIterator[str]:
        after, updated = 0, 0
        taken = await again(self._database, lambda: removed(self._database))
        while after < self._last:
            found, past = await again(self._database, lambda: self._batch(after))  # noqa: B023 - awaited at once
            every = {_seq(one): one for one in (*found, *past)}  # of what moved meanwhile the later reading
            for seq in sorted(every):
                async for sentence in self._gap(after, seq, taken):
                    yield sentence
                after = seq
            if not every:
                break
            if twice := every.keys() & {_seq(one) for one in found} & {_seq(one) for one in past}:
                for name in await self._still([one for one in found if _seq(one) in twice]):
                    yield f"{name} is both current and superseded."
            whole: list[Document] = []
            for seq in sorted(every):
                if wrong := _misfits(every[seq], _VERSION if isinstance(every[seq]["_id"], str) else _PAST):
                    yield f"{_name(every[seq])} is damaged: {', '.join(wrong)}."
                    continue
                whole.append(every[seq])
                if every[seq]["updated"] < updated:
                    yield f"{_name(every[seq])} is older than the version before it."
                updated = every[seq]["updated"]
            async for sentence in self._neighbours(whole):
                yield sentence
            for document in whole:
                async for sentence in self._content(document):
                    yield sentence
        async for sentence in self._gap(after, self._last + 1, taken):
            yield sentence
        async for sentence in self._beyond():
            yield sentence

    async def _gap(self, after: int, until: int, taken: set[int]) -> AsyncIterator[str]:
        """The seqs between these two that no purge took."""
        lost = [seq for seq in range(after + 1, until) if seq not in taken]
        if lost and not taken.issuperset(lost):
            taken |= await again(self._database, lambda: removed(self._database))  # a purge in between
            lost = [seq for seq in lost if seq not in taken]
        for first, last in ranges(lost):
            yield f"The versions from seq {first} to {last} are missing."

    async def _batch(self, after: int) -> tuple[list[Document], list[Document]]:
        """The next versions of both collections, current ones read first, up to where both are known."""
        found = []
        for collection, seq in ((self._database.current, "seq"), (self._database.history, "_id")):
            cursor = collection.find({seq: {"$gt": after, "$lte": self._last}}).sort(seq, 1).limit(_BATCH)
            found.append(await cursor.hint(seq if seq == "seq" else "_id_").to_list())
        cut = min((_seq(part[-1]) for part in found if len(part) == _BATCH), default=self._last)
        current, past = ([document for document in part if _seq(document) <= cut] for part in found)
        return current, past

    async def _still(self, documents: Sequence[Document]) -> list[str]:
        """Names of the versions among these that are current even now."""
        seqs = {document["_id"]: document["seq"] for document in documents}
        cursor = self._database.current.find({"_id": {"$in": list(seqs)}}, {"seq": 1, "version": 1})
        async with answering():
            return [_name(now) async for now in cursor if now["seq"] == seqs[now["_id"]]]

    async def _neighbours(self, versions: Sequence[Document]) -> AsyncIterator[str]:
        followers: dict[int, tuple[str, Any]] = {}
        ends = [one["ended"] for one in versions if not isinstance(one["_id"], str)]
        later = [one["seq"] for one in versions if one["version"] > 1]
        async with answering():
            # What is current now may be superseded before the second look, which finds it in history then.
            for collection, seq in ((self._database.current, "seq"), (self._database.history, "_id")):
                cursor = collection.find({seq: {"$in": ends}}, {"seq": 1, "key": 1, "version": 1})
                followers.update({_seq(one): (_key(one), one.get("version")) async for one in cursor})
            cursor = self._database.history.find({"ended": {"$in": later}}, {"key": 1, "version": 1, "ended": 1})
            ended = {(_key(one), one["version"], int(one["ended"])) async for one in cursor if _is(one, "version", int)}
        for one in versions:
            key, version = _key(one), one["version"]
            if version > 1 and (key, version - 1, int(one["seq"])) not in ended:
                yield f"{_name(one)} has no predecessor."
            if "key" not in one:
                continue
            if one["ended"] <= one["seq"]:
                yield f"{_name(one)} ended before it began."
            elif followers.get(int(one["ended"])) != (key, version + 1):
                yield f"{_name(one)} has no successor where it ended."

    async def _content(self, document: Document) -> AsyncIterator[str]:
        one, name = record(document), _name(document)
        body = document.get("body")
        if "blob" in document:
            self._blobs.add(document["blob"])
            try:
                parts = [piece async for piece in pieces(self._database, document["blob"])]
            except Unavailable as fault:
                if not unreadable(fault):
                    raise
                yield f"{name}: a piece of the body is damaged."
                return
            body = b"".join(parts)
            self._chunks += len(parts)
            async with answering():
                published = await self._database.blobs.find_one({"_id": document["blob"]})
            if published is None or "staged" in published:
                yield f"{name} has a body out of line whose chunks are missing or unpublished."
        if not isinstance(body, bytes) or len(body) != one.size:
            yield f"{name}: the body has {len(body or b'')} bytes, not {one.size}."
        elif not _is_as_committed(one, body):
            yield f"{name}: the body is not the one that was committed as that version."
        elif one.ended != CURRENT or one.deleted:
            for sentence in _access_differs(name, document, fields(one.key, parse_facts(one.facts), Index())):
                yield sentence
        else:
            async for sentence in self._derived(document, one, body):
                yield sentence

    async def _derived(self, document: Document, one: Record, body: bytes) -> AsyncIterator[str]:
        """A current version against what its body says, unless it is superseded or derived anew meanwhile."""
        name = _name(document)
        try:
            facts, index = self._derive(one, body)
        except Exception:  # whatever a damaged body makes the caller's code do
            yield f"{name}: the content cannot be understood."
            return
        sentences = _differences(name, document, fields(one.key, facts, index))
        if self._keeps_native:
            sentences += await self._copy(one, body, facts)
        if not sentences:
            return
        now = await again(
            self._database, lambda: self._database.current.find_one({"_id": document["_id"], "seq": one.seq})
        )
        if now == document:
            for sentence in sentences:
                yield sentence
        elif now is not None and not _misfits(now, _VERSION):
            async for sentence in self._derived(now, record(now), body):
                yield sentence

    async def _copy(self, one: Record, body: bytes, facts: Facts) -> list[str]:
        """The native document against what the body says."""
        copy = native.document(one.key, body, facts)
        async with answering():
            there = await self._database[one.type].find_one({"_id": one.id})
        if copy is None:
            return [] if there is None else [f"{one.key} has a native document, and cannot have one."]
        wanted = native.stamped(copy, version=one.version, seq=one.seq, updated=one.updated)
        if there == bson.decode(bson.encode(wanted), _OPTIONS):
            return []
        return [f"{one.key}: the native document is not what its content says; `fhirserver reindex` makes it anew."]

    async def _beyond(self) -> AsyncIterator[str]:
        """What belongs to no version, if nobody has written meanwhile."""
        database = self._database
        async with answering():
            staged = await database.blobs.count_documents({"staged": {"$exists": True}})
            chunks = await database.chunks.count_documents({})
            published = await database.blobs.count_documents({"staged": {"$exists": False}})
            strays = [
                await database.current.find_one({"seq": {"$gt": self._last}}, {"seq": 1}),
                await database.history.find_one({"_id": {"$gt": self._last}}, {"seq": 1}),
            ]
            still = await database.blobs.count_documents({"staged": {"$exists": True}})
            now = await database.store.find_one({"_id": COUNTER}, {"last": 1})
        if now is None or now["last"] != self._last:
            return
        for stray in strays:
            if stray is not None:
                yield f"Seq {_seq(stray)} lies above the last commit."
        if published != len(self._blobs):
            yield f"{published} bodies stand out of line where {len(self._blobs)} versions have one."
        if staged == still == 0 and chunks != self._chunks:
            yield f"{chunks} pieces of bodies are kept where the versions have {self._chunks}."


def _misfits(document: Mapping[str, Any], shape: Mapping[str, type]) -> list[str]:
    """The fields that are missing or hold what is never written there."""
    wrong = [name for name, kind in shape.items() if not _is(document, name, kind)]
    if "facts" not in shape or wrong:
        return wrong
    if _key(document) != f"{document['type']}/{document['id']}":
        wrong.append("type or id")
    if document["seq"] != _seq(document):
        wrong.append("seq")
    if "blob" in document and not _is(document, "blob", ObjectId):
        wrong.append("blob")
    try:
        parse_facts(document["facts"])
    except msgspec.MsgspecError:
        wrong.append("facts")
    return wrong


def _is(document: Mapping[str, Any], name: str, kind: type) -> bool:
    return isinstance(document.get(name), kind)


def _is_as_committed(one: Record, body: bytes) -> bool:
    """Whether the digest of what stands around the stamp is the one that was written."""
    if one.deleted:
        return not body
    try:
        stamp = stamp_part(one.version, instant(one.updated))
    except OverflowError:
        return False
    at = body.find(stamp)
    while at >= 0:  # the same text may stand in a contained resource before it
        if digest(body[:at], body[at + len(stamp) :]) == one.digest:
            return True
        at = body.find(stamp, at + 1)
    return False


def _differences(name: str, document: Document, wanted: Document) -> list[str]:
    found = []
    if _differs(document, wanted, "facts"):
        found.append(f"{name}: the stored facts are not what its content says.")
    if _differs(document, wanted, "care_lo", "care_hi"):
        found.append(f"{name}: the stored care period is not what its content says.")
    if _differs(document, wanted, "supports"):
        found.append(f"{name}: the stored supporting references are not what its content says.")
    if _differs(document, wanted, "terms", "texts", "spans", "sorts", "present"):
        found.append(f"{name}: the stored index entries are not what its content says.")
    return found + _access_differs(name, document, wanted)


def _access_differs(name: str, document: Document, wanted: Document) -> list[str]:
    differs = _differs(document, wanted, *_ACCESS)
    return [f"{name}: what access is decided by is not what the stored facts say."] if differs else []


def _differs(document: Document, wanted: Document, *names: str) -> bool:
    return any(document.get(name) != wanted.get(name) for name in names)


async def _native_strays(database: Database, *, keeps_native: bool) -> AsyncIterator[str]:
    """Native documents that no current version has."""
    for type_ in await again(database, lambda: native_types(database)):
        after: Any = None
        while True:
            bounds: Document = {} if after is None else {"_id": {"$gt": after}}
            cursor = database[type_].find(bounds, {"_id": 1}).sort("_id", 1).limit(1000)
            async with answering():
                ids = [document["_id"] for document in await cursor.to_list()]
                keys = [f"{type_}/{each}" for each in ids]
                there = database.current.find({"_id": {"$in": keys}, "deleted": False}, {"_id": 1})
                known = {document["_id"] async for document in there} if keeps_native else set()
            stray = [key for key in keys if key not in known]
            if stray and not keeps_native:
                yield f"{type_} holds native documents although none are kept; `fhirserver reindex` removes them."
                break
            for key in stray:
                if await again(database, lambda: _is_stray(database, key)):  # noqa: B023 - awaited at once
                    yield f"The native document of {key} belongs to no current version."
            if len(ids) < 1000:
                break
            after = ids[-1]


async def _is_stray(database: Database, key: str) -> bool:
    """Whether there is one and the same native document before and after there was no current version."""
    type_, _, name = key.partition("/")
    before = await database[type_].find_one({"_id": name}, {"_store": 1})
    there = await database.current.find_one({"_id": key, "deleted": False}, {"_id": 1})
    after = await database[type_].find_one({"_id": name}, {"_store": 1})
    return there is None and before is not None and before == after


async def native_types(database: Database) -> list[str]:
    """The types that have a collection of native documents."""
    found = await database.store.find_one({"_id": schema.NATIVE})
    return sorted(found["types"]) if found else []


def _key(document: Mapping[str, Any]) -> str:
    return str(document["key"] if "key" in document else document["_id"])


def _seq(document: Mapping[str, Any]) -> int:
    """By which it is read in order: ``seq`` in current, ``_id`` in history."""
    return int(document["seq"] if isinstance(document["_id"], str) else document["_id"])


def _name(document: Mapping[str, Any]) -> str:
    return f"{_key(document)} version {document.get('version')}"


def unreadable(error: Unavailable) -> bool:
    """Whether a document cannot be decoded, and not that the store cannot be reached."""
    return isinstance(error.__cause__, bson.errors.BSONError)

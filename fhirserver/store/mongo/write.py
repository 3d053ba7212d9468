"""Writing versions: what happens inside the serialised section, between locking the counter and raising it."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import msgspec
from pymongo import DeleteOne, InsertOne, ReplaceOne
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.read_concern import ReadConcern

from fhirserver.core.errors import Conflict, Unavailable
from fhirserver.core.model import CURRENT, Facts, Guard, Index, Key, Record
from fhirserver.core.stamp import instant, render
from fhirserver.store.bodies import STAMP_PART, stamp_part
from fhirserver.store.drafts import check_version
from fhirserver.store.mongo import filters, native, purge, totals
from fhirserver.store.mongo.client import Database, Document
from fhirserver.store.mongo.codec import Prepared, fields, native_of, superseded
from fhirserver.store.mongo.ledger import increment
from fhirserver.store.mongo.schema import COUNTER

T = TypeVar("T")

_SLICE = 250
_SLICE_BYTES = 1 << 20
"""Documents sent at once, and from how many bytes on no more: encoding them holds the loop."""
_AT_ONCE = 100
"""Drafts made into versions at once, for the same reason."""


class Transaction:
    """An open transaction that holds the counter: numbers, time, and what is to be written when it ends.

    Jobs are applied one after another, each seeing what those before it did; what they write is gathered and sent
    together, at the end or when a guard has to see it.
    """

    def __init__(self, database: Database, session: AsyncClientSession, counter: Mapping[str, Any], now: int) -> None:
        self.database = database
        self.session = session
        self.turn = int(counter["turn"])
        self.last = int(counter["last"])
        self.first = self.last + 1
        self.now = now
        self.keeps_native = bool(counter["native"])
        self._known: dict[str, Document | None] = {}
        """What stands in ``current`` now, this transaction's own writes included; None: nothing."""
        self._stored: set[str] = set()
        self._current: dict[str, Document] = {}
        self._history: list[Document] = []
        self._native: dict[Key, Document | None] = {}
        self._chunks: list[Document] = []
        self._audit: list[Document] = []
        self._epochs: Counter[str] = Counter()
        self.wrote = False

    async def holds(self, turn: int, token: bytes) -> bool:
        """Whether the attempt that had this turn and token has committed after all."""
        found = await self.database.commits.find_one({"_id": turn, "token": token}, session=self.session)
        return found is not None

    async def outlasts(self, turn: int, token: bytes) -> bool:
        """Whether that attempt is on a majority of the nodes; asked outside of the transaction."""
        commits = self.database.commits.with_options(read_concern=ReadConcern("majority"))
        return await commits.find_one({"_id": turn, "token": token}) is not None

    async def commit(self, drafts: Sequence[Prepared], guards: Sequence[Guard]) -> list[Record]:
        """Check everything, then take the drafts as new versions."""
        for guard in guards:
            if await self._count(guard) != guard.count:
                raise Conflict(guard.reason)
        await self.look([one.fields["_id"] for one in drafts])
        for one in drafts:
            there = self._known[one.fields["_id"]]
            check_version(one.draft, 0 if there is None or there["deleted"] else there["version"])
        await self._publish([one.blob for one in drafts if one.blob is not None])
        records = []
        for at, one in enumerate(drafts, 1):
            records.append(self._put(one))
            if at % _AT_ONCE == 0:
                await asyncio.sleep(0)  # others have a turn
        return records

    async def _count(self, guard: Guard) -> int:
        await self._flush()
        query = guard.query
        if query.departed_since is not None or filters.is_large(query.visible):
            # Read batch by batch up to a seq: the counter's own is raised only at the end.
            query = msgspec.structs.replace(query, as_of=self.last if query.as_of is None else query.as_of)
        return await totals.count(self.database, query, self.session)

    async def look(self, keys: Sequence[str]) -> None:
        """Read what stands under these keys, each once."""
        missing = [key for key in dict.fromkeys(keys) if key not in self._known]
        for at in range(0, len(missing), _SLICE):
            part = missing[at : at + _SLICE]
            found = self.database.current.find({"_id": {"$in": part}}, session=self.session).hint("_id_")
            self._known.update(dict.fromkeys(part))
            async for document in found:
                self._known[document["_id"]] = document
                self._stored.add(document["_id"])

    async def _publish(self, blobs: Sequence[Any]) -> None:
        """Chunks that were staged belong to a version from now on; Unavailable if they were swept meanwhile."""
        if not blobs:
            return
        here = {"_id": {"$in": list(blobs)}, "staged": {"$gt": 0}}
        if await self.database.blobs.count_documents(here, session=self.session) != len(blobs):
            raise Unavailable
        await self.database.blobs.update_many(here, {"$unset": {"staged": 1}}, session=self.session)
        self.wrote = True

    def _put(self, one: Prepared) -> Record:
        draft, name = one.draft, one.fields["_id"]
        there = self._known[name]
        self.last += 1
        seq, version = self.last, there["version"] + 1 if there is not None else 1
        if there is not None:
            self._history.append(superseded(there, seq))
        body = b"" if draft.deleted else render(draft.head, draft.tail, version, self.now)
        document = {**one.fields, "version": version, "seq": seq, "updated": self.now, "size": len(body)}
        if one.blob is None:
            document["body"] = body
        else:
            document["blob"] = one.blob
            data = stamp_part(version, instant(self.now))
            self._chunks.append({"blob": one.blob, "part": STAMP_PART, "data": data})
        self._known[name] = self._current[name] = document
        if self.keeps_native:
            copy = one.native if one.tried else native_of(draft)
            self._native[draft.key] = copy and native.stamped(copy, version=version, seq=seq, updated=self.now)
        self.wrote = True
        return Record(
            draft.key.type, draft.key.id, version, seq, CURRENT, self.now, draft.deleted, document["facts"],
            document["supports"], document["digest"], len(body), body,
        )  # fmt: skip

    async def reindex(
        self, items: Sequence[tuple[Record, Facts, Index, Document | None]], *, with_native: bool
    ) -> None:
        """Replace facts, index entries and, if they were made, native documents of versions that are still current."""
        await self.look([str(record.key) for record, *_ in items])
        for record, facts, index, document in items:
            name = str(record.key)
            there = self._known[name]
            if there is None or there["seq"] != record.seq or record.deleted:
                continue
            kept = {field: value for field, value in there.items() if field != "also"}
            self._known[name] = self._current[name] = {**kept, **fields(record.key, facts, index)}
            if with_native:
                self._native[record.key] = document and native.stamped(
                    document, version=record.version, seq=record.seq, updated=record.updated
                )
            self.wrote = True

    async def purge(self, keys: Sequence[Key]) -> int:
        """Remove every version of these resources; how many there were."""
        await self._flush()
        versions = await purge.remove(self.database, keys, self.session, native=self.keeps_native)
        for key in map(str, keys):
            self._known[key] = None
            self._stored.discard(key)
        self.wrote = self.wrote or bool(versions)
        return versions

    def trail(self, rows: Sequence[Document]) -> None:
        """Audit rows that commit with the rest."""
        self._audit += rows
        self.wrote = self.wrote or bool(rows)

    def move(self, epochs: Sequence[str]) -> None:
        """Counters of the ledger that move with the rest."""
        self._epochs.update(epochs)
        self.wrote = self.wrote or bool(epochs)

    async def finish(self, token: bytes) -> None:
        """Send everything and raise the counter."""
        await self._flush()
        session = self.session
        if self._audit:
            await self.database.audit.insert_many(self._audit, session=session)
        for name, by in self._epochs.items():
            await increment(self.database, name, by, now=self.now, session=session)
        numbers = {"last": self.last, "updated": self.now}
        await self.database.commits.insert_one(
            {"_id": self.turn, "first": self.first, **numbers, "token": token}, session=session
        )
        await self.database.store.update_one({"_id": COUNTER}, {"$set": numbers}, session=session)

    async def _flush(self) -> None:
        """Send the versions gathered so far; later reads of this transaction see them."""
        session, chunks = self.session, self._chunks
        for part in _slices(self._history, self._history):
            await self.database.history.insert_many(part, session=session)
        if chunks:
            await self.database.chunks.insert_many(chunks, session=session)
        writes = [
            ReplaceOne({"_id": name}, document) if name in self._stored else InsertOne(document)
            for name, document in self._current.items()
        ]
        for some in _slices(writes, self._current.values()):
            await self.database.current.bulk_write(some, session=session, ordered=False)
        self._stored.update(self._current)
        if self.keeps_native:
            await self._flush_native()
        self._history, self._chunks, self._current, self._native = [], [], {}, {}

    async def _flush_native(self) -> None:
        by_type: dict[str, list[Any]] = {}
        versions: dict[str, list[Document]] = {}
        for key, document in self._native.items():
            write = (
                DeleteOne({"_id": key.id}) if document is None else ReplaceOne({"_id": key.id}, document, upsert=True)
            )
            by_type.setdefault(key.type, []).append(write)
            versions.setdefault(key.type, []).append(self._known[str(key)] or {})
        for type_, writes in by_type.items():
            for part in _slices(writes, versions[type_]):
                await self.database[type_].bulk_write(part, session=self.session, ordered=False)


def _slices(items: Sequence[T], versions: Iterable[Document]) -> Iterator[list[T]]:
    """The items in parts of at most `_SLICE`, and of `_SLICE_BYTES` going by the sizes of the versions behind them."""
    part: list[T] = []
    size = 0
    for item, version in zip(items, versions, strict=True):
        if len(part) == _SLICE or size > _SLICE_BYTES:
            yield part
            part, size = [], 0
        part.append(item)
        size += version.get("size", 0)
    if part:
        yield part

"""Writing versions: what happens inside the serialised section, between locking the counter and raising it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from pymongo import DeleteOne, InsertOne, ReplaceOne
from pymongo.asynchronous.client_session import AsyncClientSession

from fhirserver.core.errors import Conflict, Unavailable
from fhirserver.core.model import CURRENT, Facts, Guard, Index, Key, Record
from fhirserver.core.stamp import instant, render
from fhirserver.store.drafts import STAMP_PART, check_version, stamp_part
from fhirserver.store.mongo import filters, native, totals
from fhirserver.store.mongo.client import Database, Document
from fhirserver.store.mongo.codec import Prepared, fields, native_of, superseded
from fhirserver.store.mongo.ledger import increment
from fhirserver.store.mongo.schema import COUNTER

_SLICE = 250
"""Documents sent at once: encoding more of them would hold the loop."""


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

    async def commit(self, drafts: Sequence[Prepared], guards: Sequence[Guard]) -> list[Record]:
        """Check everything, then take the drafts as new versions."""
        for guard in guards:
            if await self._count(guard) != guard.count:
                raise Conflict(guard.reason)
        await self._look([one.fields["_id"] for one in drafts])
        for one in drafts:
            there = self._known[one.fields["_id"]]
            check_version(one.draft, 0 if there is None or there["deleted"] else there["version"])
        await self._publish([one.blob for one in drafts if one.blob is not None])
        return [self._put(one) for one in drafts]

    async def _count(self, guard: Guard) -> int:
        await self._flush()
        query = guard.query
        if query.departed_since is not None or filters.is_large(query.visible):
            # Read batch by batch up to a seq: the counter's own is raised only at the end.
            query = msgspec.structs.replace(query, as_of=self.last if query.as_of is None else query.as_of)
        return await totals.count(self.database, query, self.session)

    async def _look(self, keys: Sequence[str]) -> None:
        missing = [key for key in keys if key not in self._known]
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

    async def reindex(self, items: Sequence[tuple[Record, Facts, Index, Document | None]]) -> None:
        """Replace facts, index entries and native documents of versions that are still current."""
        await self._look([str(record.key) for record, *_ in items])
        for record, facts, index, document in items:
            name = str(record.key)
            there = self._known[name]
            if there is None or there["seq"] != record.seq or record.deleted:
                continue
            kept = {field: value for field, value in there.items() if field != "also"}
            self._known[name] = self._current[name] = {**kept, **fields(record.key, facts, index)}
            self._native[record.key] = document and native.stamped(
                document, version=record.version, seq=record.seq, updated=record.updated
            )
            self.wrote = True

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
        session, chunks, history = self.session, self._chunks, self._history
        for at in range(0, len(history), _SLICE):
            await self.database.history.insert_many(history[at : at + _SLICE], session=session)
        if chunks:
            await self.database.chunks.insert_many(chunks, session=session)
        writes = [
            ReplaceOne({"_id": name}, document) if name in self._stored else InsertOne(document)
            for name, document in self._current.items()
        ]
        for at in range(0, len(writes), _SLICE):
            await self.database.current.bulk_write(writes[at : at + _SLICE], session=session, ordered=False)
        self._stored.update(self._current)
        if self.keeps_native:
            await self._flush_native()
        self._history, self._chunks, self._current, self._native = [], [], {}, {}

    async def _flush_native(self) -> None:
        by_type: dict[str, list[Any]] = {}
        for key, document in self._native.items():
            write = (
                DeleteOne({"_id": key.id}) if document is None else ReplaceOne({"_id": key.id}, document, upsert=True)
            )
            by_type.setdefault(key.type, []).append(write)
        for type_, writes in by_type.items():
            for at in range(0, len(writes), _SLICE):
                await self.database[type_].bulk_write(writes[at : at + _SLICE], session=self.session, ordered=False)

"""Versions newest first: a `HistoryQuery` read batch by batch from `current` and `history`, merged by seq.

What a superseded version's own facts admit the database decides; whether the version that is current at the snapshot
is admitted, too, is asked for each batch. Current versions are read before superseded ones, see `filters`.
"""

from __future__ import annotations

from collections.abc import Sequence
from operator import attrgetter

import msgspec
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.asynchronous.cursor import AsyncCursor

from fhirserver.core.model import CURRENT, Clause, HistoryQuery, Record
from fhirserver.store.mongo.client import Database, Document, again
from fhirserver.store.mongo.codec import projection
from fhirserver.store.mongo.filters import MERGED_TYPES, Arm, is_large, joined, seen
from fhirserver.store.mongo.read import SURVEY, Found, high_water, taken
from fhirserver.store.mongo.totals import added_up, still

_COUNTED = 2_048
_seq = attrgetter("seq")


def arms(query: HistoryQuery) -> list[Arm]:
    """What is to be read: current versions first; nothing where nothing can match."""
    if not query.visible.clauses or query.types == frozenset() or query.limit == 0:
        return []
    standing: list[Document] = []
    past: list[Document] = []
    if query.standing_after is not None:
        standing = [{"$or": [{"deleted": False}, {"seq": {"$gt": query.standing_after}}]}]
        past = [{"ended": {"$gt": query.standing_after}}]
    types = sorted(query.types or ())
    among: list[Document] = [] if query.types is None else [{"type": {"$in": types}}]
    if query.key is not None:
        key = str(query.key)
        return [
            Arm("current", ({"_id": key}, *among, *standing), "_id_"),
            Arm("history", ({"key": key}, *among, *standing, *past), "key"),
        ]
    if 0 < len(types) <= MERGED_TYPES:
        return [
            *(Arm("current", ({"type": each}, *standing), "type") for each in types),
            *(Arm("history", ({"type": each}, *standing, *past), "feed") for each in types),
        ]
    return [
        Arm("current", (*among, *standing), "seq"),
        Arm("history", (*among, *standing, *past), "_id_"),
    ]


def _order(arm: Arm) -> str:
    """The field that rises with seq and whose order the arm's index gives; empty where there is one version at most.

    For the arms of this module only: those by ``key`` and by the ``_id_`` of a current version are of one resource.
    """
    if arm.hint == "key":
        return "version"
    return "" if (arm.collection, arm.hint) == ("current", "_id_") else arm.seq


class Versions:
    """A query read batch by batch, newest first; between two `step`s it holds nothing but its position."""

    def __init__(self, database: Database, query: HistoryQuery, batch: int) -> None:
        self._database = database
        self._query = query
        self._batch = max(1, batch)
        self._left = query.limit
        self._arms = arms(query)
        self._open = Clause() in query.visible.clauses
        self._as_of = query.as_of
        self._before = CURRENT if query.before is None else query.before

    async def step(self) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""
        return await again(self._database, self._step)

    async def count(self) -> int:
        """How many there are from here on."""
        if self._open:
            return await again(self._database, lambda: still(self._database, self._total))
        self._batch, self._query = _COUNTED, msgspec.structs.replace(self._query, bodies=False)
        total, done = 0, False
        while not done:
            records, done = await self.step()
            total += len(records)
        return total

    async def _total(self, session: AsyncClientSession) -> int:
        """All that is there at one moment: what moves from one collection to the other is counted once."""
        await self._begin(session)
        ranges = [(arm, arm.filter(self._query.after, self._before)) for arm in self._arms]
        return await added_up(self._database, ranges, self._query.limit, session)

    async def _begin(self, session: AsyncClientSession | None = None) -> int:
        if self._as_of is None:
            self._as_of = (await high_water(self._database, session)).seq
        self._before = min(self._before, self._as_of + 1)
        return self._as_of

    async def _step(self) -> tuple[list[Record], bool]:
        as_of, after = await self._begin(), self._query.after
        wanted = self._batch if self._left is None else min(self._batch, self._left)
        if not self._arms or not wanted or self._before <= after + 1:
            return [], True
        lowest, admitted = await self._narrowed()
        found = [await self._read(arm, lowest, wanted, admitted) for arm in self._arms]
        cut = max((each.records[-1].seq for each in found if each.full), default=lowest + 1)
        # Of a version that moved to history between two reads the later reading counts.
        by_seq = {one.seq: one for each in found for one in each.records if one.seq >= cut}
        records = sorted(by_seq.values(), key=_seq, reverse=True)
        if len(records) > wanted:
            records = records[:wanted]
            cut = records[-1].seq
        shown = records if self._open else await self._still_shown(records, as_of)
        self._before = cut
        if self._left is not None:
            self._left -= len(shown)
        return shown, cut <= after + 1 or self._left == 0

    async def _read(self, arm: Arm, after: int, limit: int, admitted: Sequence[Document]) -> Found:
        """The newest of an arm's versions, with at most `BATCH_BYTES` of bodies."""
        bodies = self._query.bodies
        wanted = arm.filter(after, self._before, *admitted)
        return await taken(self._cursor(arm, wanted, projection(bodies=bodies), limit), limit, bodies=bodies)

    def _cursor(self, arm: Arm, wanted: Document, fields: Document, limit: int) -> AsyncCursor[Document]:
        cursor = self._database[arm.collection].find(wanted, fields).limit(limit).batch_size(limit).hint(arm.hint)
        order = _order(arm)
        return cursor.sort(order, -1) if order else cursor

    async def _narrowed(self) -> tuple[int, list[Document]]:
        """The condition of what is visible, with owners that candidates have where the grant's own set is large; and
        the seq above which that holds."""
        lowest, visible = self._query.after, self._query.visible
        if not is_large(visible):
            return lowest, seen(visible)
        owners: set[str] = set()
        for arm in self._arms:
            candidates = arm.filter(lowest, self._before)
            found = await self._cursor(arm, candidates, {"owners": 1, "seq": 1}, SURVEY).to_list()
            if len(found) == SURVEY:
                lowest = max(lowest, int(found[-1]["seq"]) - 1)
            owners.update(owner for document in found for owner in document["owners"])
        return lowest, seen(visible, lambda wanted: sorted(wanted & owners))

    async def _still_shown(self, records: Sequence[Record], as_of: int) -> list[Record]:
        """Those whose resource's version at ``as_of`` is admitted, too."""
        keys = sorted({str(one.key) for one in records if one.ended <= as_of})
        if not keys:
            return list(records)
        shown = await self._admitted("current", {"_id": {"$in": keys}, "seq": {"$lte": as_of}}, "_id", "_id_")
        rest = [key for key in keys if key not in shown]
        if rest:
            then = {"key": {"$in": rest}, "_id": {"$lte": as_of}, "ended": {"$gt": as_of}}
            shown |= await self._admitted("history", then, "key", "key")
        return [one for one in records if one.ended > as_of or str(one.key) in shown]

    async def _admitted(self, collection: str, wanted: Document, name: str, hint: str) -> set[str]:
        """The keys of those of the ``wanted`` versions that are visible."""
        visible, source = self._query.visible, self._database[collection]
        conditions = seen(visible)
        if is_large(visible):
            found = await source.find(wanted, {"owners": 1}).hint(hint).to_list()
            owners = {owner for document in found for owner in document["owners"]}
            conditions = seen(visible, lambda given: sorted(given & owners))
        return {document[name] async for document in source.find(joined(wanted, *conditions), {name: 1}).hint(hint)}

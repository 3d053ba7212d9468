"""Queries read batch by batch: between two steps a reader holds nothing but its position."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from pymongo.asynchronous.client_session import AsyncClientSession

from fhirserver.core.model import CURRENT, Query, Record
from fhirserver.store.mongo import filters, ways
from fhirserver.store.mongo.client import Database, Document, again
from fhirserver.store.mongo.filters import Arm
from fhirserver.store.mongo.read import Found, high_water, merged, narrowed, read, seq_before
from fhirserver.store.mongo.ways import Plan, bounds, planned

_WINDOW = 768
_THIN = 8
"""A look that finds less than this part of what is wanted has gone a way that is too wide."""


def scanning(
    database: Database, query: Query, batch: int, session: AsyncClientSession | None = None
) -> Scan | Departed:
    """The reader of a query's batches."""
    kind = Scan if query.departed_since is None else Departed
    return kind(database, query, batch, session)


class Scan:
    """A query read batch by batch; between two `step`s it holds its position, and of a snapshot at most the rest of one
    window of records: windows grow, since a chart read by 768 costs half of one read by 192."""

    def __init__(self, database: Database, query: Query, batch: int, session: AsyncClientSession | None = None) -> None:
        self._database = database
        self._session = session
        self._query = query
        self._batch = max(1, batch)
        self._left = query.limit
        self._after = query.after
        self._plan: Plan | None = None
        self._thoroughly = False
        """Whether the plan that is to be made must be the best, since a look by the first one found little."""
        self._until = CURRENT
        self._range: int | None = None
        """How many seqs the next look takes; None: all there are."""
        self._room: int | None = None
        self._window = self._batch
        self._ready: list[Record] = []
        self._done = False

    async def step(self) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""
        if not self._ready and not self._done:
            work = self._step
            self._ready, self._done = await (again(self._database, work) if self._session is None else work())
        records, self._ready = self._ready[: self._batch], self._ready[self._batch :]
        return records, self._done and not self._ready

    async def _step(self) -> tuple[list[Record], bool]:
        query = self._query
        if filters.empty(query):
            return [], True
        plan = self._plan or await self._begin()
        as_of = await self._moment(plan)
        end = last_one = self._until if as_of is None else min(self._until, as_of)
        if self._range is not None:  # so that no look tests or sorts all there is
            end = min(end, self._after + self._range)
        if end <= self._after:
            return [], True
        last = end == last_one
        arms = [*plan.arms, *([] if as_of is None else [filters.past(query, as_of)])]
        cut_short, more = await narrowed(self._database, arms, self._after, end, query.visible, self._session)
        last = last and cut_short == end
        wanted = self._window if self._left is None else min(self._window, self._left)
        found = await self._read(arms, cut_short, wanted, more)
        records, cut = merged(found, wanted, cut_short)
        if last and query.as_of is not None:
            self._plan = _without_exhausted(plan, found, cut)
        self._widen(plan, len(records), wanted)
        if query.as_of is not None:  # what is read without a snapshot should not grow old
            self._window = max(self._batch, min(4 * self._batch, _WINDOW))
        self._after = cut
        if self._left is not None:
            self._left -= len(records)
        return records, (last and cut >= end) or self._left == 0

    async def _read(self, arms: Sequence[Arm], end: int, wanted: int, more: Sequence[Document]) -> list[Found]:
        """Of each arm its first versions: those of current versions together, history after them (see `filters`)."""

        def begin(arm: Arm) -> Coroutine[Any, Any, Found]:
            query, session = self._query, self._session
            return read(
                self._database, arm, self._after, end, wanted,
                bodies=query.bodies, sorts=query.sorts, more=more, session=session,
            )  # fmt: skip

        now = [arm for arm in arms if arm.collection == "current"]
        if len(now) == 1 or self._session is not None:  # a transaction does one thing at a time
            return [await begin(arm) for arm in arms]
        found = await asyncio.gather(*map(begin, now))
        return [*found, *[await begin(arm) for arm in arms[len(now) :]]]

    async def _moment(self, plan: Plan) -> int | None:
        """The seq right after which a step shows the store; None: what one read in order finds, as it finds it.

        Between the reads of a step a resource that is superseded moves to where none of them looks any more (beyond
        the range, or into an arm that was read before), and of a commit one half may be met. A step of several reads
        shows the moment at which it began.
        """
        query = self._query
        if query.as_of is not None:
            return query.as_of
        if len(plan.arms) > 1 or plan.first is not None or filters.is_large(query.visible):
            return (await high_water(self._database, self._session)).seq
        return None

    async def _begin(self) -> Plan:
        if not self._thoroughly:
            self._after, until, self._room = await bounds(self._database, self._query, self._session)
            self._until = CURRENT if until is None else until
        plan = await planned(self._database, self._query, self._room, self._session, thoroughly=self._thoroughly)
        self._plan, self._range = plan, plan.first
        return plan

    def _widen(self, plan: Plan, found: int, wanted: int) -> None:
        """The next look takes about as many seqs as hold what is wanted, going by this one."""
        if self._range is None:
            return
        if plan.tentative and found * _THIN < wanted:
            self._plan, self._thoroughly = None, True
        else:
            factor = min(8.0, 1.5 * wanted / found) if found else 8.0
            self._range = max(ways.RANGE, min(int(self._range * factor), plan.reach))


def _without_exhausted(plan: Plan, found: Sequence[Found], cut: int) -> Plan:
    """A snapshot of current versions only shrinks: an arm that had nothing beyond needs no further look."""
    left = [
        arm
        for arm, each in zip(plan.arms, found, strict=False)
        if each.full or (each.records and each.records[-1].seq > cut)
    ]
    return plan._replace(arms=left)


class Departed:
    """The last chart versions of resources that stood in the chart right after ``since`` and no longer do.

    Candidates are the superseded chart versions that ended since; each one's resource is looked at as a whole. All
    of a step is asked as of one seq.
    """

    def __init__(self, database: Database, query: Query, batch: int, session: AsyncClientSession | None = None) -> None:
        self._database = database
        self._session = session
        self._query = query
        self._batch = max(1, batch)
        self._left = query.limit
        self._after = query.after

    async def step(self) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""
        return await (again(self._database, self._step) if self._session is None else self._step())

    async def _step(self) -> tuple[list[Record], bool]:
        query, since = self._query, self._query.departed_since or 0
        if filters.empty(query):
            return [], True
        if query.updated_from is not None:
            self._after = max(self._after, await seq_before(self._database, query.updated_from, self._session))
        as_of = query.as_of if query.as_of is not None else (await high_water(self._database, self._session)).seq
        wanted = self._batch if self._left is None else min(self._batch, self._left)
        arm = filters.left(query, since, as_of)
        end, more = await narrowed(self._database, [arm], self._after, as_of, query.visible, self._session)
        found = await read(
            self._database, arm, self._after, end, wanted,
            bodies=query.bodies, sorts=query.sorts, more=more, session=self._session,
        )  # fmt: skip
        left = await self._gone(found.records, since, as_of) if found.records else []
        self._after = found.records[-1].seq if found.full else end
        if self._left is not None:
            self._left -= len(left)
        return left, (end == as_of and not found.full) or self._left == 0

    async def _gone(self, candidates: Sequence[Record], since: int, as_of: int) -> list[Record]:
        keys = sorted({str(one.key) for one in candidates})
        here: Document = {"deleted": False}
        now = self._database.current.find(
            {"_id": {"$in": keys}, "compartments": self._query.within, **here}, {"seq": 1}, session=self._session
        )
        present = {document["_id"] async for document in now if document["seq"] <= as_of}
        then = self._database.history.find(
            {"key": {"$in": keys}, "compartments": self._query.within, "ended": {"$gt": since}, **here},
            {"key": 1, "ended": 1},
            session=self._session,
        ).hint("key")
        last: dict[str, int] = {}
        stood: set[str] = set()
        async for document in then:
            key, seq, ended = document["key"], int(document["_id"]), int(document["ended"])
            if seq <= since:
                stood.add(key)
            if seq <= as_of:
                last[key] = max(seq, last.get(key, 0))
                if ended > as_of:
                    present.add(key)
        return [
            one for one in candidates if (key := str(one.key)) in stood and key not in present and last[key] == one.seq
        ]


class Changes:
    """Every version in seq order, read batch by batch."""

    def __init__(self, database: Database, after: int, batch: int, *, bodies: bool = True) -> None:
        self._database = database
        self._after = after
        self._batch = batch
        self._bodies = bodies

    async def step(self) -> tuple[list[Record], bool]:
        """The next versions and whether those were the last at this moment."""
        return await again(self._database, self._step)

    async def _step(self) -> tuple[list[Record], bool]:
        end = (await high_water(self._database)).seq
        found = [
            await read(self._database, arm, self._after, end, self._batch, bodies=self._bodies)
            for arm in (Arm("current", (), "seq"), Arm("history", (), "_id_"))
        ]
        records, cut = merged(found, self._batch, end)
        self._after = cut
        return records, cut >= end

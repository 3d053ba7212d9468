"""Reads: every batch is a few short finds, each by its own range; nothing outlives a hand-over."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Mapping, Sequence
from operator import attrgetter
from typing import Any, NamedTuple, TypeVar

import msgspec
from pymongo.asynchronous.client_session import AsyncClientSession

from fhirserver.core.model import CURRENT, HighWater, Key, Query, Record, Tally, Visible
from fhirserver.store.mongo import filters
from fhirserver.store.mongo.client import TRANSACTION, Database, Document, again
from fhirserver.store.mongo.codec import BARE, PROJECTION, record
from fhirserver.store.mongo.filters import Arm
from fhirserver.store.mongo.schema import COUNTER

T = TypeVar("T")

BATCH_BYTES = 4 << 20
"""A batch ends before its bodies grow beyond this (one record at least)."""
_RANGE = 16_384
"""How many seqs an arm without an ordered index is asked for at first."""
_SURVEY = 2_048
_PROBE = 2_000
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
        {"updated": {"$lt": time}}, {"last": 1}, sort=[("updated", -1), ("_id", -1)], session=session
    )
    return int(found["last"]) if found else 0


async def get(database: Database, key: Key, version: int | None, as_of: int | None) -> Record | None:
    """The version `Store.get` speaks of; current before history, see `filters`."""
    document = await database.current.find_one({"_id": str(key)}, PROJECTION)
    if document is None:
        return None
    if (version is None or document["version"] == version) and (as_of is None or document["seq"] <= as_of):
        return record(document)
    wanted: Document = {"key": str(key)}
    if version is not None:
        wanted["version"] = version
    if as_of is not None:
        wanted |= {"_id": {"$lte": as_of}, "ended": {"$gt": as_of}}
    document = await database.history.find_one(wanted, PROJECTION)
    return record(document) if document else None


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
    more: Sequence[Document] = (),
    session: AsyncClientSession | None = None,
) -> Found:
    """The first of an arm's versions with ``after < seq <= upto``, in order, with at most `BATCH_BYTES` of bodies."""
    wanted = PROJECTION if bodies else BARE
    cursor = database[arm.collection].find(arm.filter(after, upto, *more), wanted, session=session)
    cursor = cursor.sort(arm.seq, 1).limit(limit).batch_size(limit).hint(arm.hint)
    records: list[Record] = []
    size = 0
    async with cursor:
        async for document in cursor:
            one = record(document)
            size += one.size
            if size > BATCH_BYTES and records:
                return Found(records, True)
            records.append(one)
    return Found(records, len(records) == limit)


class Scan:
    """A query read batch by batch; between two `step`s it holds nothing but its position."""

    def __init__(self, database: Database, query: Query, batch: int, session: AsyncClientSession | None = None) -> None:
        self._database = database
        self._session = session
        self._query = query
        self._batch = max(1, batch)
        self._left = query.limit
        self._after = query.after
        self._arms: list[Arm] | None = None
        self._range = _RANGE

    async def step(self) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""
        return await (again(self._step) if self._session is None else self._step())

    async def _step(self) -> tuple[list[Record], bool]:
        query = self._query
        if self._arms is None:
            if filters.empty(query):
                return [], True
            if query.updated_from is not None:
                self._after = max(self._after, await seq_before(self._database, query.updated_from, self._session))
            self._arms = await self._plan()
        end, last = await self._end(self._arms)
        if end <= self._after:
            return [], True
        arms = [*self._arms, *([] if query.as_of is None else [filters.past(query, query.as_of)])]
        cut_short, more = await narrowed(self._database, arms, self._after, end, query.visible, self._session)
        last = last and cut_short == end
        wanted = self._batch if self._left is None else min(self._batch, self._left)
        found = await self._read(arms, cut_short, wanted, more)
        records, cut = merged(found, wanted, cut_short)
        if last:
            self._drop_exhausted(found, cut)
        self._widen(records, wanted)
        self._after = cut
        if self._left is not None:
            self._left -= len(records)
        return records, (last and cut >= end) or self._left == 0

    async def _read(self, arms: Sequence[Arm], end: int, wanted: int, more: Sequence[Document]) -> list[Found]:
        """Of each arm its first versions: those of current versions together, history after them (see `filters`)."""

        def begin(arm: Arm) -> Coroutine[Any, Any, Found]:
            bodies, session = self._query.bodies, self._session
            return read(self._database, arm, self._after, end, wanted, bodies=bodies, more=more, session=session)

        now = [arm for arm in arms if arm.collection == "current"]
        if len(now) == 1 or self._session is not None:  # a transaction does one thing at a time
            return [await begin(arm) for arm in arms]
        found = await asyncio.gather(*map(begin, now))
        return [*found, *[await begin(arm) for arm in arms[len(now) :]]]

    async def _plan(self) -> list[Arm]:
        """The arms over current versions; where a chart and terms meet, the rarer one leads."""
        query = self._query
        if query.within is None or not query.terms or query.keys is not None:
            return filters.current(query)
        chart, terms = [
            await self._database.current.count_documents(condition, limit=_PROBE, hint=hint, session=self._session)
            for condition, hint in zip(filters.probes(query), ("chart", "terms"), strict=True)
        ]
        return filters.current(query, by_terms=terms < chart)

    async def _end(self, arms: Sequence[Arm]) -> tuple[int, bool]:
        """The end of the next range and whether it is the last one. Ranges are bounded where an index gives no order,
        so that no read sorts all there is."""
        as_of = self._query.as_of
        if all(arm.ordered for arm in arms):
            return CURRENT if as_of is None else as_of, True
        upto = (await high_water(self._database, self._session)).seq if as_of is None else as_of
        end = min(upto, self._after + self._range)
        return end, end == upto

    def _drop_exhausted(self, found: Sequence[Found], cut: int) -> None:
        """A snapshot of current versions only shrinks: an arm that had nothing beyond needs no further look."""
        if self._query.as_of is not None and self._arms is not None:
            self._arms = [
                arm
                for arm, each in zip(self._arms, found, strict=False)
                if each.full or (each.records and each.records[-1].seq > cut)
            ]

    def _widen(self, records: Sequence[Record], wanted: int) -> None:
        if len(records) < wanted:
            self._range *= 8
        else:
            self._range = max(_RANGE, 2 * (records[-1].seq - self._after))


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
        cursor = database[arm.collection].find(arm.filter(after, end), {"owners": 1, "seq": 1}, session=session)
        found = await cursor.sort(arm.seq, 1).limit(_SURVEY).hint(arm.hint).to_list()
        if len(found) == _SURVEY:
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
    if len(records) > wanted:
        records = records[:wanted]
        cut = records[-1].seq
    return records, cut


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
        return await (again(self._step) if self._session is None else self._step())

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
            self._database, arm, self._after, end, wanted, bodies=query.bodies, more=more, session=self._session
        )
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
        )
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


async def count(database: Database, query: Query, session: AsyncClientSession | None = None) -> int:
    """How many records a scan would give; ``session``: of a transaction that is to be counted in."""
    if filters.empty(query):
        return 0
    if query.departed_since is not None or filters.is_large(query.visible):
        return sum([len(records) async for records in _steps(database, query, session)])
    if query.as_of is None or session is not None:
        total = await _total(database, query, session)
    else:
        total = await again(lambda: _still(database, lambda held: _total(database, query, held)))
    return total if query.limit is None else min(total, query.limit)


async def _total(database: Database, query: Query, session: AsyncClientSession | None) -> int:
    total = 0
    for arm, condition in await _ranges(database, query, session):
        options: dict[str, Any] = {} if query.limit is None else {"limit": query.limit}
        total += await database[arm.collection].count_documents(condition, session=session, hint=arm.hint, **options)
    return total


async def tally(database: Database, query: Query) -> list[Tally]:
    """The records a scan would give, counted by (type, facts, supports)."""
    if filters.empty(query):
        return []
    totals: Counter[tuple[str, str, str]] = Counter()
    if query.departed_since is not None or query.limit is not None or filters.is_large(query.visible):
        async for records in _steps(database, query):
            totals.update((one.type, one.facts, one.supports) for one in records)
    elif query.as_of is None:
        totals = await again(lambda: _groups(database, query, None))
    else:
        totals = await again(lambda: _still(database, lambda held: _groups(database, query, held)))
    return [Tally(*group, number) for group, number in totals.items()]


async def _groups(
    database: Database, query: Query, session: AsyncClientSession | None
) -> Counter[tuple[str, str, str]]:
    totals: Counter[tuple[str, str, str]] = Counter()
    by = {"type": "$type", "facts": "$facts", "supports": "$supports"}
    for arm, condition in await _ranges(database, query, session):
        pipeline: list[Mapping[str, Any]] = [{"$match": condition}, {"$group": {"_id": by, "n": {"$sum": 1}}}]
        async with await database[arm.collection].aggregate(pipeline, session=session, hint=arm.hint) as groups:
            async for group in groups:
                one = group["_id"]
                totals[one["type"], one["facts"], one["supports"]] += int(group["n"])
    return totals


async def _ranges(database: Database, query: Query, session: AsyncClientSession | None) -> list[tuple[Arm, Document]]:
    after = query.after
    if query.updated_from is not None:
        after = max(after, await seq_before(database, query.updated_from, session))
    if query.as_of is not None and query.as_of <= after:
        return []
    arms = filters.current(query)
    if query.as_of is not None:
        arms.append(filters.past(query, query.as_of))
    return [(arm, arm.filter(after, query.as_of, *filters.seen(query.visible))) for arm in arms]


async def _still(database: Database, work: Callable[[AsyncClientSession], Awaitable[T]]) -> T:
    """Read both collections as they are at one moment: what moves from one to the other is counted once."""
    async with (
        database.client.start_session(default_transaction_options=TRANSACTION) as session,
        await session.start_transaction(),
    ):
        return await work(session)


async def _steps(
    database: Database, query: Query, session: AsyncClientSession | None = None
) -> AsyncIterator[list[Record]]:
    steps = scanning(database, msgspec.structs.replace(query, bodies=False), _SURVEY, session)
    done = False
    while not done:
        records, done = await steps.step()
        yield records


def scanning(
    database: Database, query: Query, batch: int, session: AsyncClientSession | None = None
) -> Scan | Departed:
    """The reader of a query's batches."""
    kind = Scan if query.departed_since is None else Departed
    return kind(database, query, batch, session)


class Changes:
    """Every version in seq order, read batch by batch."""

    def __init__(self, database: Database, after: int, batch: int, *, bodies: bool = True) -> None:
        self._database = database
        self._after = after
        self._batch = batch
        self._bodies = bodies

    async def step(self) -> tuple[list[Record], bool]:
        """The next versions and whether those were the last at this moment."""
        return await again(self._step)

    async def _step(self) -> tuple[list[Record], bool]:
        end = (await high_water(self._database)).seq
        found = [
            await read(self._database, arm, self._after, end, self._batch, bodies=self._bodies)
            for arm in (Arm("current", (), "seq", True), Arm("history", (), "_id_", True))
        ]
        records, cut = merged(found, self._batch, end)
        self._after = cut
        return records, cut >= end

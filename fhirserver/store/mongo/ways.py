"""Which way in a query is read by: the narrowest, told by bounded counts of what each would have to read.

An index on an array is bounded by one condition, so of several criteria one leads and the others are tested on what it
finds (20 us each, measured). Where all are wide (a date of this century, a code that every chart has) what matches is
soon met in order of seq, and that is tried first; the wider counts are made only when little was met.

What is found in an index on an array is read in ranges of seq: where seq is bounded the engine does not read such an
index in order, but all there is within the bounds.
"""

from __future__ import annotations

from typing import NamedTuple

from pymongo.asynchronous.client_session import AsyncClientSession

from fhirserver.core.model import Query
from fhirserver.store.mongo import filters
from fhirserver.store.mongo.client import Database
from fhirserver.store.mongo.criteria import Way, asked, ways, written
from fhirserver.store.mongo.filters import Arm
from fhirserver.store.mongo.read import high_water, seq_before

RANGE = 4_096
"""How many seqs a look takes at first where it does not read in order or may find little."""
_REACH = 1 << 16
"""How many at most, or `_PART` of the store if that is more: it may have to test each of them."""
_PART = 64
_FEW = 100
"""A way in with no more entries is taken at once: to compare it with the others would take longer."""
_MANY = 500
"""A group of more terms is not counted (3 us each) where another way in is narrow enough."""
_SMALL = 300
"""A way in with fewer is read whole by each look; of one with more, about so many."""
_PROBE = 2_000
"""Entries up to which ways in are compared (5 ms)."""
_WIDE = 16_000
"""The same once a look has found little. Where all have more, it does not matter which has least."""


class Plan(NamedTuple):
    """How a query is read. ``first``: how many seqs the first look takes; None: all there are; ``reach``: how many a
    later one may take. ``tentative``: once a look finds less than is wanted, it is to be planned again, thoroughly."""

    arms: list[Arm]
    first: int | None = None
    reach: int = 0
    tentative: bool = False


class Bounds(NamedTuple):
    """What time says of seq: ``after < seq <= until`` (None: however late); ``room``: how many that are now."""

    after: int
    until: int | None = None
    room: int | None = None


async def bounds(database: Database, query: Query, session: AsyncClientSession | None) -> Bounds:
    """Where everything lies that was committed when the query says."""
    after, first, last = query.after, query.updated_from, None
    if (times := written(asked(query))) is not None:
        first, last = max(times[0], times[0] if first is None else first), times[1]
    if first is not None:
        after = max(after, await seq_before(database, first, session))
    if last is None:
        return Bounds(after)
    mark = await high_water(database, session)
    if last >= mark.time:
        return Bounds(after, None, mark.seq - after)
    until = await seq_before(database, last + 1, session)
    return Bounds(after, until, until - after)


async def planned(
    database: Database,
    query: Query,
    room: int | None,
    session: AsyncClientSession | None,
    *,
    thoroughly: bool = False,
) -> Plan:
    """How a scan is read; ``room``: see `Bounds`."""
    if query.keys is not None or (room is not None and room < _SMALL):
        return Plan(filters.current(query))
    choices = _choices(query)
    if choices == [None]:
        return Plan(filters.current(query))
    if not choices and not query.criteria:
        return Plan(filters.current(query))
    last = (await high_water(database, session)).seq
    reach = max(_REACH, last // _PART)
    if not choices:
        return Plan(filters.current(query), RANGE, reach)
    bound = _WIDE if thoroughly else _PROBE
    lead, size = await _narrowest(database, query, choices, bound, session)
    arms = filters.current(query, lead)
    if lead is None or size < _SMALL:
        return Plan(arms)
    if size < bound:
        return Plan(arms, max(RANGE, last * _SMALL // size), last)
    if not thoroughly and not lead.ordered:
        arms = filters.current(query)
    return Plan(arms, RANGE, reach, tentative=not thoroughly)


async def leading(database: Database, query: Query, session: AsyncClientSession | None) -> Way | None:
    """The way in by which everything is read that matches; None: the chart, or everything."""
    choices = _choices(query)
    if query.keys is not None or not choices:
        return None
    if len(choices) == 1:
        return choices[0]
    lead, size = await _narrowest(database, query, choices, _PROBE, session)
    if size == _PROBE:
        lead, _ = await _narrowest(database, query, choices, _WIDE, session)
    return lead


def _choices(query: Query) -> list[Way | None]:
    """The ways in, None for the chart."""
    return [*([] if query.within is None else [None]), *ways(query)]


async def _narrowest(
    database: Database, query: Query, choices: list[Way | None], bound: int, session: AsyncClientSession | None
) -> tuple[Way | None, int]:
    """The way in with the fewest entries, and how many it has, counted up to ``bound``; the first if all have more."""
    for limit in (min(_FEW, bound), bound):
        best, least = choices[0], limit
        for choice in choices:
            if least == limit or choice is None or len(choice.terms) <= _MANY:
                size = await _size(database, query, choice, least, session)
                if size < least:
                    best, least = choice, size
            if least == 0:
                break
        if least < limit:
            break
    return best, least


async def _size(
    database: Database, query: Query, way: Way | None, limit: int, session: AsyncClientSession | None
) -> int:
    """How many entries of its index a way in takes, counted up to ``limit``; one piece after another, since of several
    at once the engine counts all before it heeds the limit."""
    current = database.current
    if way is None:
        return await current.count_documents({"home": query.within}, limit=limit, hint="chart", session=session)
    size = 0
    for piece in way.pieces():
        size += await current.count_documents(piece, limit=limit - size, hint="terms", session=session)
        if size >= limit:
            return limit
    return size

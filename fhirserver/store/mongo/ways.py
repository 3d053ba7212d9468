"""Which way in a query is read by: the narrowest, told by bounded counts of what each would have to read.

The engine bounds an index on an array by one condition, so of several criteria one leads and the others are tested on
what it finds. Where every way in is wide (a date of this century, a code that every chart has) what matches is soon
met in order of seq, and that is tried first; where it is not, the lead is read in ranges of seq.
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

RANGE = 16_384
"""How many seqs a look takes at first where it does not read in order or may find little."""
_REACH = 1 << 18
"""How many at most: it may have to test each of them, some microseconds each."""
_FEW = 100
"""A way in with no more entries is taken at once: to look at the others would take longer."""
_SMALL = 2_000
"""A way in with fewer is read whole by each look."""
_WIDE = 16_000
"""Where all have more, it does not matter which has least: the first is taken."""


class Plan(NamedTuple):
    """How a query is read. ``reach``: how many seqs one look may take; None: as many as there are. ``then``: the plan
    for the rest once a look did not find what was wanted."""

    arms: list[Arm]
    reach: int | None = None
    then: Plan | None = None


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


async def planned(database: Database, query: Query, room: int | None, session: AsyncClientSession | None) -> Plan:
    """How a scan is read; ``room``: see `Bounds`."""
    if query.keys is not None or (room is not None and room < _SMALL):
        return Plan(filters.current(query))
    lead, size = await _narrowest(database, query, session, sized=True)
    arms = filters.current(query, lead)
    if lead is None:
        return Plan(arms, _REACH if query.criteria and query.within is None else None)
    if size < _SMALL:
        return Plan(arms)
    if lead.ordered:
        return Plan(arms, None if lead.exact and len(asked(query)) == 1 else _REACH)
    if size < _WIDE:
        return Plan(arms, _REACH)
    return Plan(filters.current(query), RANGE, Plan(arms, _REACH))


async def leading(database: Database, query: Query, session: AsyncClientSession | None) -> Way | None:
    """The way in by which everything is read that matches; None: the chart, or everything."""
    if query.keys is not None:
        return None
    lead, _ = await _narrowest(database, query, session, sized=False)
    return lead


async def _narrowest(
    database: Database, query: Query, session: AsyncClientSession | None, *, sized: bool
) -> tuple[Way | None, int]:
    """The way in with the fewest entries, None for the chart or if there is no other, and how many it has, `_WIDE` for
    more; 0 where nobody has to know (``sized``)."""
    found = ways(query)
    choices = [*([] if query.within is None else [None]), *found]
    if not found or (len(choices) == 1 and not sized):
        return (choices or [None])[0], 0
    for bound in (_SMALL, _WIDE):
        best, least = choices[0], bound
        for choice in choices:
            size = await _size(database, query, choice, least, session)
            if size < least:
                best, least = choice, size
            if least <= _FEW:
                break
        if least < bound:
            return best, least
        if len(choices) == 1:
            break
    return choices[0], _WIDE


async def _size(
    database: Database, query: Query, way: Way | None, limit: int, session: AsyncClientSession | None
) -> int:
    """How many entries of its index a way in takes, counted up to ``limit``; one piece after another, since of several
    at once the engine counts all before it heeds the limit."""
    if way is None:
        return await database.current.count_documents(
            {"home": query.within}, limit=limit, hint="chart", session=session
        )
    size = 0
    for piece in way.pieces():
        size += await database.current.count_documents(piece, limit=limit - size, hint="terms", session=session)
        if size >= limit:
            return limit
    return size

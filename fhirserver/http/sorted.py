"""`_sort`: all matches of a search in the order of their sort keys.

Source: R4 search §3.1.1.5.2. A resource without the key comes last, whichever the direction; of several values the
first counts (the earliest date); equal ones stay in the order in which they were written. The index keeps one key per
parameter, so the order is that of all matches at the snapshot, and each page is cut from it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence

from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.model import Record
from fhirserver.core.search import Order
from fhirserver.policy.search import Matches

MOST = 100_000
"""Matches that are put in order, and candidates that are asked one by one for it; beyond, a search has to be
narrower."""
_AT_ONCE = 2_000
"""Matches that are put in order while others wait; of more, others are served meanwhile."""


async def in_order(matches: Matches, types: Sequence[str], order: Sequence[Order]) -> list[Record]:
    """All matches without their bodies, in this order; Fault BAD_REQUEST (too-costly) for too many."""
    wanted = [each for each in order if not each.name.startswith("_")]
    sorts = tuple(f"{type_}|{each.name}" for each in wanted for type_ in types)
    records: list[Record] = []
    looked = 0
    async for look in matches.looks(limit=MOST + 1, bodies=False, sorts=sorts):
        records += look.records
        looked += look.looked_at
        if len(records) > MOST or looked > MOST:
            told = f"More than {MOST} resources match or must be looked at; narrow the search, or leave _sort out."
            raise Fault(Kind.BAD_REQUEST, told, issues=[Issue("too-costly", told, "_sort")])
    columns = {each.name: range(at * len(types), (at + 1) * len(types)) for at, each in enumerate(wanted)}
    if len(records) <= _AT_ONCE:
        return _ordered(records, order, columns)
    return await asyncio.to_thread(_ordered, records, order, columns)


def _ordered(records: list[Record], order: Sequence[Order], columns: Mapping[str, Sequence[int]]) -> list[Record]:
    for each in reversed(order):
        keyed = [(_key(record, each.name, columns.get(each.name, ())), record) for record in records]
        known = [pair for pair in keyed if pair[0] is not None]
        known.sort(key=lambda pair: pair[0], reverse=each.descending)  # type: ignore[arg-type,return-value]  # one kind of key per parameter
        records = [record for _, record in known] + [record for key, record in keyed if key is None]
    return records


def _key(record: Record, name: str, columns: Sequence[int]) -> str | float | None:
    if name == "_id":
        return record.id
    if name == "_lastUpdated":
        return record.seq  # which agrees with the time, and is one's own
    return next((record.sorts[at] for at in columns if record.sorts[at] is not None), None)

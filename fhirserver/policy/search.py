"""A search at one snapshot, seen through one grant.

What the index answers is one `Query` to the store. Links (chains and `_has`) and what only the content can tell are
worked out here, through the same `Scoped` as everything else: a chain leads over no resource that its caller may not
see. A link is followed from its far end where few resources stand there, else it is asked of each candidate; either
way a page costs what its own candidates cost, and nothing is held but one look of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import msgspec

from fhirserver.core.criteria import Criterion, holds
from fhirserver.core.definitions import search_parameters
from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.index import extract, terms_of
from fhirserver.core.model import CURRENT, Key, Query, Record
from fhirserver.core.search import Link, Residual, Search, meets
from fhirserver.policy.derive import local_target
from fhirserver.policy.scoped import Scoped

MOST_CHAINED = 1_000
"""Resources at the far end of a chain up to which their references are looked for."""
MOST_REFERRING = 250
"""The same of a reverse chain: each must be read to see whom it names."""
MOST_SOUGHT = 20_000
"""Candidates that are asked one by one to find those few; a page that is asked for costs as many at most."""
MOST_COUNTED = 100_000
"""Candidates that are asked one by one for a total."""
LOOK = 128
"""Candidates that are asked one by one at a time."""
NAMED = 64
"""Candidates that one query asks after by name: up to so many terms, a store's ways in are quick."""


class Look(NamedTuple):
    """Matches, the seq up to which there are no others, and how many candidates were looked at."""

    records: list[Record]
    upto: int
    looked_at: int = 0


class Filter(Protocol):
    """What is asked of candidates that come with their bodies; gives those that meet it, in order."""

    async def __call__(self, records: list[Record]) -> list[Record]: ...


class Matches:
    """The matches of one search, made by `matches_of`. ``query``: what the store answers; ``filters``: what it does
    not."""

    def __init__(self, scoped: Scoped, query: Query, filters: Sequence[Filter]) -> None:
        self.query = query
        self._scoped = scoped
        self._filters = tuple(filters)

    @property
    def indexed(self) -> bool:
        """Whether the index alone answers."""
        return not self._filters

    @property
    def asked_singly(self) -> list[str]:
        """What is asked of each candidate, by name."""
        return [type(each).__name__.strip("_").lower() for each in self._filters]

    async def looks(
        self, *, after: int = 0, limit: int | None = None, bodies: bool = True, sorts: tuple[str, ...] = ()
    ) -> AsyncIterator[Look]:
        """The matches behind ``after`` in seq order, at most ``limit``; `Scoped.tell` is left to who shows them. The
        last look is up to `CURRENT` where there are no more. Where candidates are asked one by one a look may hold
        none."""
        query = msgspec.structs.replace(
            self.query, after=max(after, self.query.after), sorts=sorts, bodies=bodies or not self.indexed
        )
        if self.indexed:
            given = 0
            async for records in self._scoped.scan(msgspec.structs.replace(query, limit=limit), told=False):
                given += len(records)
                yield Look(records, records[-1].seq)
            if limit is None or given < limit:
                yield Look([], CURRENT)
            return
        left = limit
        async for records in self._scoped.scan(query, LOOK, told=False):
            kept = records
            for each in self._filters:
                kept = await each(kept) if kept else kept
            upto = records[-1].seq
            if left is not None and len(kept) >= left:
                kept = kept[:left]
                yield Look(kept, kept[-1].seq)
                return
            left = None if left is None else left - len(kept)
            yield Look(kept, upto, len(records))
        yield Look([], CURRENT)

    def among(self, keys: Collection[Key]) -> Matches:
        """Those of them that have one of these keys."""
        return Matches(self._scoped, _narrowed(self.query, keys), self._filters)

    def referring(self, code: str, keys: Collection[Key]) -> Matches:
        """Those of them that refer to one of these by their reference parameter ``code``."""
        names = tuple(f"{type_}|{code}={key}" for type_ in self.query.types or () for key in sorted(keys))
        query = msgspec.structs.replace(self.query, terms=(*self.query.terms, names))
        return Matches(self._scoped, query, self._filters)

    async def count(self, limit: int | None = None) -> int:
        """How many there are, counted no further than ``limit``."""
        if self.indexed:
            return await self._scoped.count(msgspec.structs.replace(self.query, limit=limit))
        total = looked = 0
        async for look in self.looks(limit=limit, bodies=False):
            total += len(look.records)
            looked += look.looked_at
            if looked > MOST_COUNTED:
                told = f"More than {MOST_COUNTED} resources have to be looked at one by one; narrow the search."
                raise Fault(Kind.BAD_REQUEST, told, issues=[Issue("too-costly", told, "_total")])
        return total


async def matches_of(scoped: Scoped, search: Search, *, as_of: int | None, within: str | None = None) -> Matches:
    """The matches at a snapshot (None: as things are). ``within``: in the chart of this Patient only."""
    query = Query(
        types=frozenset(search.types),
        keys=search.keys,
        within=within,
        terms=search.terms,
        criteria=search.criteria,
        as_of=as_of,
    )
    for ids in search.lists:
        query = _narrowed(query, [key for id_ in ids for key in await _listed(scoped, id_, as_of)])
    filters: list[Filter] = []
    for link in search.links:
        query, filter_ = await _linked(scoped, query, search, link, as_of)
        filters += [] if filter_ is None else [filter_]
    if search.residuals:
        filters.append(_Content(scoped, search.residuals))
    if "Person" in search.types and scoped.limited and search.criteria:
        filters.insert(0, _Shown(scoped, search.criteria))
    return Matches(scoped, query, filters)


def _narrowed(query: Query, keys: Iterable[Key]) -> Query:
    wanted = set(keys) if query.keys is None else set(keys) & set(query.keys)
    return msgspec.structs.replace(query, keys=tuple(sorted(wanted)))


# -- links -------------------------------------------------------------------------------------------------------


async def _linked(
    scoped: Scoped, query: Query, search: Search, link: Link, as_of: int | None
) -> tuple[Query, Filter | None]:
    ends = [await matches_of(scoped, each, as_of=as_of) for each in link.of]
    far = await _few(ends, MOST_REFERRING if link.reverse else MOST_CHAINED)
    if far and link.reverse:  # only now is it worth while to read them
        far = await _few(ends, MOST_REFERRING, bodies=True)
    if far is None:
        kind = _Referred if link.reverse else _Refers
        return query, kind(scoped, link.code, ends)
    if not link.reverse:
        names = tuple(f"{type_}|{link.code}={record.key}" for type_ in search.types for record in far)
        return msgspec.structs.replace(query, terms=(*query.terms, names)), None
    named: set[Key] = set()
    for record in far:
        named |= await _targets(scoped, record, link.code)
    return _narrowed(query, (key for key in named if key.type in search.types)), None


async def _few(ends: Sequence[Matches], limit: int, *, bodies: bool = False) -> list[Record] | None:
    found: list[Record] = []
    looked = 0
    for end in ends:
        async for look in end.looks(limit=limit + 1 - len(found), bodies=bodies):
            found += look.records
            looked += look.looked_at
            if looked > MOST_SOUGHT:
                return None
        if len(found) > limit:
            return None
    return found


class _Refers:
    """A chain: one of the resources that the candidate refers to is found at one of its ends."""

    def __init__(self, scoped: Scoped, code: str, ends: Sequence[Matches]) -> None:
        self._scoped, self._code, self._ends = scoped, code, ends

    async def __call__(self, records: list[Record]) -> list[Record]:
        targets = {record.key: await _targets(self._scoped, record, self._code) for record in records}
        wanted = frozenset().union(*targets.values())
        found: set[Key] = set()
        for end in self._ends:
            among = [key for key in wanted if key.type in (end.query.types or ())]
            if among:
                async for look in end.among(among).looks(bodies=False):
                    found |= {record.key for record in look.records}
        return [record for record in records if not targets[record.key].isdisjoint(found)]


class _Referred:
    """A reverse chain: one of the resources found at its ends refers to the candidate."""

    def __init__(self, scoped: Scoped, code: str, ends: Sequence[Matches]) -> None:
        self._scoped, self._code, self._ends = scoped, code, ends

    async def __call__(self, records: list[Record]) -> list[Record]:
        named: set[Key] = set()
        # What was written together is mostly referred to together, so few are asked about at a time, in their order.
        for at in range(0, len(records), NAMED):
            asked = {record.key for record in records[at : at + NAMED]}
            open_ = set(asked)
            for end in self._ends:
                after = 0
                while open_ and after < CURRENT:
                    after = await self._look(end, open_, after)
            named |= asked - open_
        return [record for record in records if record.key in named]

    async def _look(self, end: Matches, open_: set[Key], after: int) -> int:
        """Strike out whom the next referring resources name; the seq up to which that has been done.

        Asked anew after each look: who has been named need not be asked about again."""
        async for look in end.referring(self._code, open_).looks(after=after, limit=LOOK):
            for record in look.records:
                open_ -= await _targets(self._scoped, record, self._code)
            after = look.upto
        return after


async def _content(scoped: Scoped, record: Record) -> Mapping[str, Any]:
    await asyncio.sleep(0)  # decoding takes its time, and others wait
    resource: dict[str, Any] = msgspec.json.decode(await scoped.whole(record))
    return resource


async def _targets(scoped: Scoped, record: Record, code: str) -> set[Key]:
    """The local resources that a record refers to under a reference parameter."""
    return references(await _content(scoped, record), code)


def references(resource: Mapping[str, Any], code: str) -> set[Key]:
    """The local resources that a resource refers to under a reference parameter (``*``: under any)."""
    terms = extract(resource).terms if code == "*" else terms_of(resource, code)
    type_ = resource.get("resourceType")
    parameters = search_parameters(str(type_))
    codes = [each.code for each in parameters.values() if each.type == "reference"] if code == "*" else [code]
    begins = tuple(f"{type_}|{each}=" for each in codes)
    found = (local_target(term.partition("=")[2]) for term in terms if term.startswith(begins))
    return {key for key in found if key is not None}


# -- lists, content, views -----------------------------------------------------------------------------------------


async def _listed(scoped: Scoped, id_: str, as_of: int | None) -> set[Key]:
    """The resources that a List names and has not struck out; none where the caller does not see the List."""
    query = Query(types=frozenset({"List"}), keys=(Key("List", id_),), as_of=as_of)
    async for records in scoped.scan(query):
        for record in records:
            listing = msgspec.json.decode(await scoped.whole(record), type=_Listing)
            named = (each.item.reference for each in listing.entry if not each.deleted)
            return {key for key in map(local_target, named) if key is not None}
    return set()


class _Item(msgspec.Struct):
    reference: str = ""


class _Entry(msgspec.Struct):
    item: _Item
    deleted: bool = False


class _Listing(msgspec.Struct):
    entry: list[_Entry] = []


class _Content:
    """What no entry of the index answers."""

    def __init__(self, scoped: Scoped, residuals: Sequence[Residual]) -> None:
        self._scoped, self._residuals = scoped, residuals

    async def __call__(self, records: list[Record]) -> list[Record]:
        return [record for record in records if self._meets(await _content(self._scoped, record))]

    def _meets(self, resource: Mapping[str, Any]) -> bool:
        return all(meets(residual, resource) for residual in self._residuals)


class _Shown:
    """Of Persons: what was asked holds for the view that the caller gets, too. What the view leaves out must not be
    found by asking for it, nor by asking for its absence."""

    def __init__(self, scoped: Scoped, criteria: Sequence[Criterion]) -> None:
        self._scoped, self._criteria = scoped, criteria

    async def __call__(self, records: list[Record]) -> list[Record]:
        return [record for record in records if record.type != "Person" or await self._holds(record)]

    async def _holds(self, record: Record) -> bool:
        index = extract(await _content(self._scoped, record))
        return all(holds(each, index, record.updated) for each in self._criteria)

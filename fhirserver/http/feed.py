"""The way through every chart that a caller may open, in bounded memory: `$everything` of a type.

Chart by chart would ask the store once for each of a million Patients, also where nothing has changed. So the members
of all charts are read in one sweep by seq, and each record's own facts say in whose charts it stands; with `_since` the
sweep begins there, which makes it a feed. Three things follow:

* A resource that stands in several charts comes once, where the sweep meets it.
* A Binary comes behind the sweep at the place of the first member that names it. Binaries are as many as documents, so
  a list of them would grow with the store; the directory is not, so the rest is a list (see `Closures`).
* The charts of patients of whom the caller came to see more since `_since` are sent whole, before the sweep.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Sequence
from contextlib import aclosing

import msgspec

from fhirserver.core.definitions import PATIENT, RESOURCE_TYPES, patient_compartment
from fhirserver.core.model import REFERENCE_TERM, Key, Query, Record, parse_facts
from fhirserver.core.page import Position
from fhirserver.http.journey import BATCH, Journey, Listing, Part, Scan
from fhirserver.http.labels import labels_of
from fhirserver.http.selection import Selection
from fhirserver.http.supporting import DEPTH, Closures, Naming, Supports, keys_of, namings_of, one_by_one
from fhirserver.http.walk import NEVER_MEMBERS, OVERLAP_MILLISECONDS
from fhirserver.policy.gate import OPERATOR_ORGANIZATION, Scoped

REMEMBERED = 50_000
"""Patients of whom it is remembered whether their charts may be opened."""

ANYWHERE = "*"
"""No Patient has this id."""

_MEMBER_TYPES = frozenset({*patient_compartment, PATIENT}) - NEVER_MEMBERS
_SHIFT = 20
"""Bits of a position that count the Binaries of one member."""


class Feed(Journey):
    """The entries of `Patient/$everything` or `Person/$everything` at one snapshot, seen through one grant."""

    def __init__(self, scoped: Scoped, selection: Selection, *, persons: bool, as_of: int, closures: Closures) -> None:
        """``persons``: Persons are asked for, so that those without a Patient are entries, too."""
        super().__init__()
        self.scoped = scoped
        self.as_of = as_of
        self.since = None if selection.since is None else selection.since - OVERLAP_MILLISECONDS
        self._persons = persons
        self._care = selection.care
        self._types = selection.types
        self._closures = closures
        self._supports = Supports(scoped, patients=None, as_of=as_of)
        self._open: dict[str, bool] = {}
        self._met: set[Naming] | None = None
        self._named: dict[Key, str] = {}
        widened = widened_since(scoped, self.since)
        self._widened = {patient: index for index, patient in enumerate(sorted(widened))}
        self._sweeps = [*(Sweep(self, self._chart(patient)) for patient in self._widened), Sweep(self, self.query())]
        self.parts = [*self._ways(), Listing(Rest(self))]

    def query(self, *, types: frozenset[str] | None = None) -> Query:
        """The sweep, of members of these types."""
        types = _MEMBER_TYPES if types is None else types & _MEMBER_TYPES
        # Naming what is left out lets the store read on by seq; as many ranges as types would have to be merged.
        wanted, never = (types, NEVER_MEMBERS) if len(types) < 8 else (None, RESOURCE_TYPES - types)
        return Query(types=wanted, not_types=never, updated_from=self.since, care=self._care, as_of=self.as_of)

    def _chart(self, patient: str) -> Query:
        return msgspec.structs.replace(self.query(), within=patient, updated_from=None)

    def _ways(self) -> list[Part]:
        parts: list[Part] = []
        for sweep in self._sweeps:
            wanted = self.query(types=self._types)
            query = msgspec.structs.replace(sweep.query, types=wanted.types, not_types=wanted.not_types)
            parts.append(Sweep(self, query))
            if self._types is None or "Binary" in self._types:
                parts.append(Binaries(self, sweep))
        return parts

    # -- whose charts

    async def members(self, records: list[Record], *, place: str | None) -> list[Record]:
        """Those that stand in a chart that may be opened and are sent with ``place``: a widened chart, None for the
        sweep over all, or `ANYWHERE`."""
        await self._learn({patient for record in records for patient in _charts(record)})
        return [record for record in records if self._is_member(record) and place in (ANYWHERE, self._place(record))]

    def _is_member(self, record: Record) -> bool:
        charts = _charts(record)
        alone = self._persons and not charts and record.type == "Person" and self.scoped.sees_persons_alone
        return alone or any(self._open.get(patient) for patient in charts)

    def _place(self, record: Record) -> str | None:
        """The widened chart that a record is sent with; None: the sweep over all."""
        within = [patient for patient in _charts(record) if patient in self._widened and self._open.get(patient)]
        return min(within) if within else None

    async def _learn(self, patients: set[str]) -> None:
        unknown = patients - self._open.keys()
        if not unknown:
            return
        if len(self._open) > REMEMBERED:
            self._open = {patient: self._open[patient] for patient in patients & self._open.keys()}
        open_ = await self.scoped.openable(unknown, as_of=self.as_of)
        self._open.update((patient, patient in open_) for patient in unknown)

    def _is_sent(self, record: Record) -> bool:
        """Whether a member is sent, and not just there."""
        return self.since is None or record.updated >= self.since or self._place(record) is not None

    def _order(self, record: Record) -> tuple[int, int]:
        """Where on the way a member is sent."""
        place = self._place(record)
        return (len(self._widened) if place is None else self._widened[place], record.seq)

    # -- what accompanies them

    def begun(self, start: Position, entries: int | None) -> None:
        whole = start == Position(0, 0) and entries is None and self._types is None
        self._met = set() if whole else None

    def passed(self, part: Part, batch: list[Record]) -> None:
        facts = {record.facts for record in batch}
        self.facts |= labels_of(facts)
        if self._met is not None and isinstance(part, Sweep):
            self._met |= _without_binaries(namings_of(batch, facts))

    async def _namers(self, keys: Iterable[Key], *, sent: bool) -> AsyncGenerator[tuple[Record, set[Key]], None]:
        """The members that name any of these, in seq order, each with those it names; ``sent``: only those that are
        sent."""
        wanted = set(keys)
        query = Query(terms=(_terms(wanted),), types=_MEMBER_TYPES, care=self._care, as_of=self.as_of, bodies=False)
        if sent and not self._widened:
            query = msgspec.structs.replace(query, updated_from=self.since)
        async for batch in self.scoped.scan(query):
            for record in await self.members(batch, place=ANYWHERE):
                if not sent or self._is_sent(record):
                    yield record, wanted.intersection(keys_of(record.supports))

    async def first_namers(self, keys: Sequence[Key]) -> dict[Key, Record]:
        """The member that each of these comes with: the first on the way that may bring it along."""
        if not keys:
            return {}
        waiting = {record.key: record for record in await self._companions(keys)}
        first: dict[Key, Record] = {}
        async with aclosing(self._namers(waiting, sent=True)) as namers:
            async for namer, named in namers:
                for key in named & waiting.keys():
                    if _may_bring(namer, waiting[key]):
                        first[key] = min(first.get(key, namer), namer, key=self._order)
                        if not self._widened:  # they come in the order of the way
                            del waiting[key]
                if not waiting:
                    break
        return {key: first[key] for key in await self._given(_by_custodian(first))}

    async def _companions(self, keys: Iterable[Key]) -> list[Record]:
        query = Query(keys=tuple(keys), as_of=self.as_of)
        return [record async for batch in self.scoped.companions(query) for record in batch]

    async def _given(self, named: dict[str, list[Key]]) -> set[Key]:
        """Those that may be sent; ``named``: custodian of what names them -> keys."""
        given: set[Key] = set()
        for custodian, keys in named.items():
            given |= {record.key for record in await self._supports.of_one(keys, custodian, bodies=False)}
        return given

    async def rest(self) -> dict[Key, str]:
        """The supporting resources that do not come with a member: key -> custodian of what names it."""
        widened = tuple(self._widened)
        view = ("feed", self.as_of, self.scoped.grant.digest, self.since, self._care, self._persons, widened)
        found = self._closures.get(view)
        if found is None:
            found = await self._look()
            self._closures.put(view, found)
        self._named = found
        return found

    async def _look(self) -> dict[Key, str]:
        met = self._met if self._met is not None else await self._namings()
        found = {key: custodian for key, (custodian, _) in (await self._supports.follow(met)).items()}
        if self.since is not None:
            async for batch in self.scoped.companions(Query(updated_from=self.since, as_of=self.as_of)):
                found = {**await self._led_to([record.key for record in batch]), **found}
        binaries = sorted(key for key in found if key.type == "Binary")
        for at in range(0, len(binaries), BATCH):
            for key in await self.first_namers(binaries[at : at + BATCH]):
                del found[key]
        return found

    async def _namings(self) -> set[Naming]:
        met: set[Naming] = set()
        for sweep in self._sweeps:
            async with aclosing(sweep.bare(0)) as batches:
                async for batch in batches:
                    met |= _without_binaries(namings_of(batch, {record.facts for record in batch}))
        return met

    async def _led_to(self, keys: Sequence[Key]) -> dict[Key, str]:
        """Those of these changed resources that any member leads to, sent or not: looked for backwards, from them to
        what names them. key -> custodian of what names it."""
        found: dict[Key, str] = {}
        # What is looked at -> which of ``keys`` it leads to, and by whose resource each of them is named.
        ends: dict[Key, dict[Key, str]] = {key: {key: ""} for key in keys}
        for _ in range(DEPTH):
            async with aclosing(self._namers(ends, sent=False)) as namers:
                async for namer, named in namers:
                    custodian = parse_facts(namer.facts).custodian
                    for key in await self._given({custodian: sorted(named & ends.keys())}):
                        for end, by in ends.pop(key).items():
                            found.setdefault(end, by or custodian)
                    if not ends:
                        break
            ends = await self._behind(ends, found)
            if not ends:
                break
        return found

    async def _behind(self, ends: dict[Key, dict[Key, str]], found: dict[Key, str]) -> dict[Key, dict[Key, str]]:
        """The same one step further back, through the supporting resources that name what is looked at."""
        behind: dict[Key, dict[Key, str]] = {}
        if not ends:
            return behind
        async for batch in self.scoped.companions(Query(terms=(_terms(ends),), as_of=self.as_of)):
            for record in batch:
                custodian = parse_facts(record.facts).custodian
                named = sorted(set(keys_of(record.supports)) & ends.keys())
                for key in await self._given({custodian: named}):
                    left = {end: by or custodian for end, by in ends[key].items() if end not in found}
                    if left:
                        behind.setdefault(record.key, {}).update(left)
        return behind

    def wanted(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the types that were asked for, in order."""
        return sorted(key for key in keys if self._types is None or key.type in self._types)

    async def read_binaries(self, named: dict[Key, str]) -> list[Record]:
        """These with their bodies; ``named`` as in `Supports.read`."""
        return await self._supports.read(list(named), named)

    async def read_rest(self, keys: Sequence[Key]) -> list[Record]:
        """These with their bodies, without what is hidden meanwhile."""
        return await self._supports.read(keys, self._named)


class Sweep(Scan):
    """The members that one query finds."""

    keeps_all = False

    def __init__(self, feed: Feed, query: Query) -> None:
        super().__init__(feed.scoped, query)
        self._feed = feed

    async def kept(self, batch: list[Record]) -> list[Record]:
        return await self._feed.members(batch, place=self.query.within)

    def bare(self, after: int) -> AsyncGenerator[list[Record], None]:
        """All members behind a position, without bodies."""
        return self._batches(after, None, bodies=False)


class Binaries:
    """The Binaries that come with the members of one sweep, each with the first that may bring it along. A position is
    that member's seq and how many of its Binaries have been passed."""

    def __init__(self, feed: Feed, sweep: Sweep) -> None:
        self._feed = feed
        self._sweep = sweep

    async def count(self) -> int:
        return sum([len(batch) async for batch in self._found(0)])

    async def scan(self, after: int, limit: int | None) -> AsyncGenerator[list[Record], None]:
        left = limit
        async with aclosing(self._found(after)) as batches:
            async for batch in batches:
                part = batch[:left]
                if left is not None:
                    left -= len(part)
                yield await self._read(part)
                if left == 0:
                    return

    async def advance(self, after: int, entries: int) -> tuple[int | None, int]:
        place, left = after, entries
        async with aclosing(self._found(after)) as batches:
            async for batch in batches:
                if len(batch) > left:
                    return (batch[left - 1][0] if left else place), 0
                left -= len(batch)
                place = batch[-1][0]
        return None, left

    async def _found(self, after: int) -> AsyncGenerator[list[tuple[int, Key, str]], None]:
        """(the position behind it, the Binary, its namer's custodian), in non-empty batches."""
        # The member at the position may have more of them.
        async with aclosing(self._sweep.bare(max(0, (after >> _SHIFT) - 1))) as batches:
            async for batch in batches:
                naming = [(record, _binaries(record)) for record in batch if "Binary/" in record.supports]
                first = await self._feed.first_namers(sorted({key for _, keys in naming for key in keys}))
                found = [
                    ((record.seq << _SHIFT) + number + 1, key, parse_facts(record.facts).custodian)
                    for record, keys in naming
                    for number, key in enumerate(key for key in keys if key in first and first[key].seq == record.seq)
                ]
                found = [each for each in found if each[0] > after]
                if found:
                    yield found

    async def _read(self, found: Sequence[tuple[int, Key, str]]) -> list[Record]:
        return await self._feed.read_binaries({key: custodian for _, key, custodian in found})


class Rest:
    """The supporting resources that do not come with a member, in key order."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    async def keys(self) -> list[Key]:
        return self._feed.wanted(await self._feed.rest())

    async def read(self, keys: Sequence[Key]) -> list[Record]:
        return await self._feed.read_rest(keys)


def widened_since(scoped: Scoped, since: int | None) -> frozenset[str]:
    """The patients of whom the caller came to see more only after ``since`` (milliseconds)."""
    if since is None:
        return frozenset()
    return frozenset(patient for patient, time in scoped.grant.widened_at.items() if time >= since)


def _by_custodian(namers: dict[Key, Record]) -> dict[str, list[Key]]:
    found: dict[str, list[Key]] = {}
    for key, namer in namers.items():
        found.setdefault(parse_facts(namer.facts).custodian, []).append(key)
    return found


def _charts(record: Record) -> tuple[str, ...]:
    return parse_facts(record.facts).compartments


def _terms(keys: Iterable[Key]) -> tuple[str, ...]:
    return tuple(sorted(f"{REFERENCE_TERM}{key}" for key in keys))


def _binaries(record: Record) -> list[Key]:
    return [key for key in keys_of(record.supports) if key.type == "Binary"]


def _without_binaries(namings: Iterable[Naming]) -> set[Naming]:
    return {(custodian, key) for custodian, key in one_by_one(namings) if not key.startswith("Binary/")}


def _may_bring(namer: Record, record: Record) -> bool:
    """Whether what names a resource without an owner may bring it along: see `Scoped.supporting`."""
    facts = parse_facts(record.facts)
    return bool(facts.owners) or facts.custodian in (parse_facts(namer.facts).custodian, OPERATOR_ORGANIZATION)

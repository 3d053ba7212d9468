"""The way through one Encounter: itself, what refers to it, what those refer to, and the supporting resources.

Source: R4 encounter-operation-everything. All but the supporting resources stands in the chart of the Encounter's
Patient; an Encounter without one leads to nothing else.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

import msgspec

from fhirserver.core.definitions import SUPPORTING_TYPES
from fhirserver.core.index import extract
from fhirserver.core.model import REFERENCE_TERM, Key, Query, Record, parse_facts
from fhirserver.http.journey import Journey, Listing, Scan
from fhirserver.http.selection import Selection
from fhirserver.http.supporting import Closures, Naming, Supports
from fhirserver.http.walk import NEVER_MEMBERS, OVERLAP_MILLISECONDS
from fhirserver.policy.gate import Chart, Scoped

_T = TypeVar("_T")
_AT_ONCE = 500


class Visit(Journey):
    """The entries of `Encounter/{id}/$everything` at one snapshot, seen through one grant."""

    def __init__(self, chart: Chart, selection: Selection, *, as_of: int, closures: Closures) -> None:
        super().__init__()
        self.scoped = chart.scoped
        self.encounter = chart.anchor.key
        self.as_of = as_of
        self.since = None if selection.since is None else selection.since - OVERLAP_MILLISECONDS
        self._patients = chart.patients
        self._types = selection.types
        self._care = selection.care
        self._closures = closures
        self._supports = Supports(chart.scoped, patients=frozenset(chart.patients), as_of=as_of)
        own, linked = (self._asked(query, self._types) for query in self._sources())
        self.parts = (
            Scan(self.scoped, own),
            Linked(self.scoped, linked, self.encounter),
            Listing(Referred(self)),
            Listing(Accompanying(self)),
        )

    def _sources(self) -> tuple[Query, Query]:
        """The Encounter, and what refers to it in the chart."""
        patient = self._patients[0] if len(self._patients) == 1 else None
        terms = ((f"{REFERENCE_TERM}{self.encounter}",),) if patient is not None else ((),)
        linked = Query(within=patient, terms=terms, not_types=NEVER_MEMBERS, care=self._care, as_of=self.as_of)
        return Query(keys=(self.encounter,), as_of=self.as_of), linked

    def _asked(self, query: Query, types: frozenset[str] | None) -> Query:
        return msgspec.structs.replace(query, types=types, updated_from=self.since)

    async def referred(self) -> dict[Key, str]:
        """What the Encounter, and what refers to it, refers to in the chart; with `_since` what changed itself or is
        referred to by what did."""
        return (await self._found())[0]

    async def accompanying(self) -> dict[Key, str]:
        """The supporting resources: key -> custodian of what names it."""
        return (await self._found())[1]

    async def _found(self) -> tuple[dict[Key, str], dict[Key, str]]:
        view = (self.as_of, self.scoped.grant.digest, self.encounter, self.since, self._care)
        found = self._closures.get(("referred", *view)), self._closures.get(("accompanying", *view))
        if found[0] is None or found[1] is None:
            referred, accompanying = await self._look()
            self._closures.put(("referred", *view), referred)
            self._closures.put(("accompanying", *view), accompanying)
            return referred, accompanying
        return found[0], found[1]

    async def _look(self) -> tuple[dict[Key, str], dict[Key, str]]:
        sources: set[Key] = set()
        named: dict[Key, bool] = {}
        namings: dict[Naming, bool] = {}
        for query in self._sources():
            async for batch in self.scoped.scan(query):
                for record in batch:
                    news = self._is_news(record)
                    sources.add(record.key)
                    _note(named, await self._references(record), news=news)
                    _note(namings, [(parse_facts(record.facts).custodian, record.supports)], news=news)
        referred: dict[Key, str] = {}
        for record in await self._in_chart(sorted(named.keys() - sources)):
            news = self._is_news(record) or named[record.key]
            if news:
                referred[record.key] = parse_facts(record.facts).custodian
            _note(namings, [(parse_facts(record.facts).custodian, record.supports)], news=news)
        everything = await self._supports.follow(namings)
        sent = await self._supports.follow(naming for naming, news in namings.items() if news)
        accompanying = {
            key: custodian
            for key, (custodian, updated) in everything.items()
            if key in sent or (self.since is not None and updated >= self.since)
        }
        return referred, accompanying

    def _is_news(self, record: Record) -> bool:
        return self.since is None or record.updated >= self.since

    async def _references(self, record: Record) -> list[Key]:
        """The resources that a record names and that may stand in a chart."""
        body = await self.scoped.whole(record)
        keys = (Key.parse(reference) for reference in extract(msgspec.json.decode(body)).references)
        return [key for key in keys if key.type not in SUPPORTING_TYPES and key != self.encounter]

    async def _in_chart(self, keys: Sequence[Key], *, bodies: bool = False) -> list[Record]:
        """Those that stand in the chart, in the order of ``keys``."""
        if len(self._patients) != 1:
            return []
        found: dict[Key, Record] = {}
        for at in range(0, len(keys), _AT_ONCE):
            query = Query(
                keys=tuple(keys[at : at + _AT_ONCE]),
                not_types=NEVER_MEMBERS,
                within=self._patients[0],
                care=self._care,
                as_of=self.as_of,
                bodies=bodies,
            )
            async for batch in self.scoped.scan(query):
                found.update((record.key, record) for record in batch)
        return [found[key] for key in keys if key in found]

    async def read_referred(self, keys: Sequence[Key]) -> list[Record]:
        """These with their bodies, without what is hidden meanwhile."""
        return await self._in_chart(keys, bodies=True)

    async def read_accompanying(self, keys: Sequence[Key]) -> list[Record]:
        """These with their bodies, without what is hidden meanwhile."""
        return await self._supports.read(keys, await self.accompanying())

    def wanted(self, keys: Iterable[Key]) -> list[Key]:
        """Those of the types that were asked for, in order."""
        return sorted(key for key in keys if self._types is None or key.type in self._types)


class Linked(Scan):
    """What refers to the Encounter, without itself."""

    keeps_all = False

    def __init__(self, scoped: Scoped, query: Query, encounter: Key) -> None:
        super().__init__(scoped, query)
        self._encounter = encounter

    async def kept(self, batch: list[Record]) -> list[Record]:
        return [record for record in batch if record.key != self._encounter]


class Referred:
    """What the Encounter's resources refer to in the chart, in key order."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    async def keys(self) -> list[Key]:
        return self._visit.wanted(await self._visit.referred())

    async def read(self, keys: Sequence[Key]) -> list[Record]:
        return await self._visit.read_referred(keys)


class Accompanying:
    """The supporting resources, in key order."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit

    async def keys(self) -> list[Key]:
        return self._visit.wanted(await self._visit.accompanying())

    async def read(self, keys: Sequence[Key]) -> list[Record]:
        return await self._visit.read_accompanying(keys)


def _note(found: dict[_T, bool], items: Iterable[_T], *, news: bool) -> None:
    for item in items:
        found[item] = found.get(item, False) or news

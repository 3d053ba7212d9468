"""One walk over charts: the anchor, each Patient's members by seq, then the supporting resources, each once."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence

import msgspec

from fhirserver.core.model import Key, Query, Record, Tally, parse_facts
from fhirserver.core.page import Position
from fhirserver.http.journey import Journey, Listing, Part, Scan
from fhirserver.http.labels import labels_of
from fhirserver.http.selection import Selection
from fhirserver.http.supporting import Closures, Naming, Supports, namings_of, one_by_one
from fhirserver.policy.gate import Chart

OVERLAP_MILLISECONDS = 5_000
"""`_since` reaches back by this much, so that a commit in flight at a client's snapshot is never missed."""

NEVER_MEMBERS = frozenset({"AuditEvent"})
"""Reading a chart must not change the chart."""

FEW = 32
"""Up to so many charts, the store is told which of them come earlier; of more, each record's own facts tell."""


class Anchor(msgspec.Struct, frozen=True):
    """The Person itself, already read and cut for the caller."""

    record: Record

    async def count(self) -> int:
        return 1

    async def scan(self, after: int, limit: int | None) -> AsyncGenerator[list[Record], None]:
        if after == 0 and limit != 0:
            yield [self.record]

    async def advance(self, after: int, entries: int) -> tuple[int | None, int]:
        return (0, 0) if (after, entries) == (0, 0) else (None, entries if after else entries - 1)


class Members(Scan):
    """The members of the compartment of the Patient at ``index`` that no earlier Patient of the walk has."""

    def __init__(self, walk: Walk, index: int, query: Query) -> None:
        super().__init__(walk.scoped, query)
        self._walk = walk
        self._index = index
        self.keeps_all = walk.few

    async def count(self) -> int:
        tallies = await self._walk.tally(self.query)
        return sum(tally.count for tally in tallies if self._walk.is_first(tally.facts, self._index))

    async def kept(self, batch: list[Record]) -> list[Record]:
        first = {facts: self._walk.is_first(facts, self._index) for facts in {record.facts for record in batch}}
        return [record for record in batch if first[record.facts]]


class Supporting:
    """The supporting resources of the visible charts, in key order."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk

    async def keys(self) -> list[Key]:
        return await self._walk.supporting_keys()

    async def read(self, keys: Sequence[Key]) -> list[Record]:
        return await self._walk.read_supporting(keys)


class Walk(Journey):
    """The entries of `$everything` for one anchor at one snapshot, seen through one grant."""

    def __init__(
        self,
        chart: Chart,
        selection: Selection,
        *,
        as_of: int,
        closures: Closures,
        widened: frozenset[str] = frozenset(),
    ) -> None:
        """``widened``: the patients whose chart is sent whole although `_since` is given, because the caller's view
        of them widened after it."""
        super().__init__()
        self.scoped = chart.scoped
        self.patients = chart.patients
        self.closures = closures
        self.selection = selection
        self.as_of = as_of
        self.since = None if selection.since is None else selection.since - OVERLAP_MILLISECONDS
        self.widened = widened
        self._anchored_at_person = chart.anchor.type == "Person"
        self._person = chart.anchor if self._anchored_at_person and chart.shown else None
        self.few = len(chart.patients) <= FEW
        self._order = {} if self.few else {patient: index for index, patient in enumerate(chart.patients)}
        self._supports = Supports(chart.scoped, patients=frozenset(chart.patients), as_of=as_of)
        self._named: dict[Key, str] = {}
        self._tallies: dict[Query, list[Tally]] = {}
        self._met: set[Naming] | None = None
        self.parts = self._parts()

    def _parts(self) -> list[Part]:
        parts: list[Part] = []
        wanted = self.selection.types
        if self._person is not None and (wanted is None or "Person" in wanted) and self._is_news(self._person):
            parts.append(Anchor(self._person))
        parts += [Members(self, index, self.members(index, types=wanted)) for index in range(len(self.patients))]
        parts.append(Listing(Supporting(self)))
        return parts

    def members(self, index: int, *, types: frozenset[str] | None, whole: bool = False) -> Query:
        """The query for the Patient at ``index``; ``whole`` leaves `_since` out."""
        patient = self.patients[index]
        never = NEVER_MEMBERS | {"Person"} if self._anchored_at_person else NEVER_MEMBERS
        return Query(
            types=types,
            not_types=never,
            within=patient,
            beyond=self.patients[:index] if self.few else (),
            updated_from=None if whole or patient in self.widened else self.since,
            care=self.selection.care,
            as_of=self.as_of,
        )

    def is_first(self, facts: str, index: int) -> bool:
        """Whether no Patient of the walk before ``index`` has what has these facts."""
        return self.few or min(self._order.get(each, index) for each in parse_facts(facts).compartments) == index

    def begun(self, start: Position, entries: int | None) -> None:
        # Who reads every member sees what they refer to on the way, and need not ask the store for it again.
        whole = start == Position(0, 0) and entries is None and self.selection.types is None and self.since is None
        self._met = set() if whole else None

    def passed(self, part: Part, batch: list[Record]) -> None:
        facts = {record.facts for record in batch}
        self.facts |= facts if self.few else labels_of(facts)
        if self._met is not None:
            self._met |= namings_of(batch, facts) if self.few else one_by_one(namings_of(batch, facts))

    async def supporting_keys(self) -> list[Key]:
        """The supporting resources to send, in key order, remembered per snapshot and view.

        All references that lead out of the visible charts are followed; `_type` filters afterwards. With `_since`, one
        is sent if it changed itself or a sent member leads to it.
        """
        identity = (self.as_of, self.scoped.grant.digest, self.patients, self.widened, self.since, self.selection.care)
        found = self.closures.get(identity)
        if found is None:
            found = await self._closure()
            self.closures.put(identity, found)
        self._named.update(found)
        wanted = self.selection.types
        return sorted(key for key in found if wanted is None or key.type in wanted)

    async def read_supporting(self, keys: Sequence[Key]) -> list[Record]:
        """These supporting resources with their bodies, in the order of ``keys``, without what is hidden meanwhile."""
        return await self._supports.read(keys, self._named)

    async def _closure(self) -> dict[Key, str]:
        met = self._met if self._met is not None else await self._namings(whole=True)
        everything = await self._supports.follow(met)
        if self.since is None:
            return {key: custodian for key, (custodian, _) in everything.items()}
        sent = await self._supports.follow(await self._namings(whole=False))
        return {
            key: custodian for key, (custodian, updated) in everything.items() if key in sent or updated >= self.since
        }

    async def _namings(self, *, whole: bool) -> set[Naming]:
        queries = [self.members(index, types=None, whole=whole) for index in range(len(self.patients))]
        namings: set[Naming] = set()
        for query in queries:
            found = {(parse_facts(tally.facts).custodian, tally.supports) for tally in await self.tally(query)}
            namings |= found if self.few else one_by_one(found)
        if self._person is not None and (whole or self._is_news(self._person)):
            namings |= namings_of([self._person], {self._person.facts})
        return namings

    def _is_news(self, person: Record) -> bool:
        return self.since is None or person.updated >= self.since or bool(self.widened)

    async def tally(self, query: Query) -> list[Tally]:
        """`Scoped.tally`, asked once: total and closure need the same one. Those of many charts are not kept."""
        if query in self._tallies:
            return self._tallies[query]
        tallies = await self.scoped.tally(query)
        if self.few:
            self._tallies[query] = tallies
        return tallies

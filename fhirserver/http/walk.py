"""One walk over a chart: the anchor, each Patient's members by seq, then the supporting resources, each once.

One engine serves both forms of the answer: the stream is the walk from its start to its end, a page is the same walk
cut after n entries. A walk is a pure function of (snapshot, grant, selection), so a page needs no state on the
server: its place is a part of the walk and the seq (for the supporting resources: the list index) before it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Protocol

import msgspec

from fhirserver.core.model import Key, Query, Record, Tally, parse_facts
from fhirserver.core.page import Position
from fhirserver.http.selection import Selection
from fhirserver.policy.gate import Chart

OVERLAP_MILLISECONDS = 5_000
"""`_since` reaches back by this much, so that a commit in flight at a client's snapshot is never missed."""

DEPTH = 3
"""How far supporting resources are followed from the chart."""

NEVER_MEMBERS = frozenset({"AuditEvent"})
"""Reading a chart must not change the chart."""

_BATCH = 192
"""Measured: with 256 a chart comes a twentieth faster and others wait longer (p95 7 ms for 5), with 128 the reverse."""


Naming = tuple[str, str]
"""(custodian, supports) of members: whose resources name which supporting ones."""


class Closures:
    """Supporting keys already found, so that later pages of a walk need not follow the references again.

    Only keys are remembered, and what they stand for never changes (snapshot and view are part of the identity);
    every record still passes the gate when it is read. Bounded by walks and by keys, least recently used first out.
    """

    def __init__(self, *, walks: int = 256, keys: int = 200_000) -> None:
        self._walks = walks
        self._keys = keys
        self._held = 0
        self._found: OrderedDict[object, dict[Key, str]] = OrderedDict()

    def get(self, identity: object) -> dict[Key, str] | None:
        if identity in self._found:
            self._found.move_to_end(identity)
        return self._found.get(identity)

    def put(self, identity: object, found: dict[Key, str]) -> None:
        self._found[identity] = found
        self._held += len(found)
        while len(self._found) > 1 and (len(self._found) > self._walks or self._held > self._keys):
            self._held -= len(self._found.popitem(last=False)[1])


class Part(Protocol):
    """One stretch of the walk; positions inside it are integers that only it understands, 0 being its start."""

    async def count(self) -> int: ...

    def scan(self, after: int, limit: int | None) -> AsyncIterator[list[Record]]: ...

    def place(self, record: Record) -> int:
        """The position right after this record, which the part has just given."""


class Anchor(msgspec.Struct, frozen=True):
    """The Person itself, already read and cut for the caller."""

    record: Record

    async def count(self) -> int:
        return 1

    async def scan(self, after: int, limit: int | None) -> AsyncIterator[list[Record]]:
        if after == 0 and limit != 0:
            yield [self.record]

    def place(self, record: Record) -> int:
        return 1


class Members(msgspec.Struct, frozen=True):
    """The members of one Patient's compartment that no earlier Patient of the walk has, in seq order."""

    walk: Walk
    query: Query

    async def count(self) -> int:
        return sum(tally.count for tally in await self.walk.tally(self.query))

    async def scan(self, after: int, limit: int | None) -> AsyncIterator[list[Record]]:
        query = msgspec.structs.replace(self.query, after=after, limit=limit)
        async for batch in self.walk.scoped.scan(query, batch=_BATCH):
            yield batch

    def place(self, record: Record) -> int:
        return record.seq


class Supporting(msgspec.Struct, frozen=True):
    """The supporting resources of the visible chart in key order; positions are indexes into that list."""

    walk: Walk

    async def count(self) -> int:
        return len(await self.walk.supporting_keys())

    async def scan(self, after: int, limit: int | None) -> AsyncIterator[list[Record]]:
        keys = await self.walk.supporting_keys()
        end = len(keys) if limit is None else min(len(keys), after + limit)
        for at in range(after, end, _BATCH):
            yield await self.walk.read_supporting(keys[at : min(end, at + _BATCH)])

    def place(self, record: Record) -> int:
        raise AssertionError("places among supporting resources are counted, not read off a record")


class Walk:
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
        of them widened after it. ``facts`` holds those of the records given so far, for the labels of the answer."""
        self.scoped = chart.scoped
        self.patients = chart.patients
        self.closures = closures
        self.selection = selection
        self.as_of = as_of
        self.since = None if selection.since is None else selection.since - OVERLAP_MILLISECONDS
        self.widened = widened
        self._anchored_at_person = chart.anchor.type == "Person"
        self._person = chart.anchor if self._anchored_at_person and chart.shown else None
        self._named: dict[Key, str] = {}
        self._tallies: dict[Query, list[Tally]] = {}
        self._met: set[Naming] | None = None
        self.facts: set[str] = set()
        self.parts = self._parts()

    def _parts(self) -> list[Part]:
        parts: list[Part] = []
        wanted = self.selection.types
        if self._person is not None and (wanted is None or "Person" in wanted) and self._is_news(self._person):
            parts.append(Anchor(self._person))
        parts += [Members(self, self.members(index, types=wanted)) for index in range(len(self.patients))]
        parts.append(Supporting(self))
        return parts

    def members(self, index: int, *, types: frozenset[str] | None, whole: bool = False) -> Query:
        """The query for the Patient at ``index``; ``whole`` leaves `_since` out."""
        patient = self.patients[index]
        never = NEVER_MEMBERS | {"Person"} if self._anchored_at_person else NEVER_MEMBERS
        return Query(
            types=types,
            not_types=never,
            within=patient,
            beyond=self.patients[:index],
            updated_from=None if whole or patient in self.widened else self.since,
            care=self.selection.care,
            as_of=self.as_of,
        )

    async def count(self) -> int:
        """Every entry of the walk, the Person included."""
        return sum([await part.count() for part in self.parts])

    async def locate(self, start: Position, entries: int) -> Position | None:
        """The place ``entries`` further on; None at or past the end of the walk."""
        left = entries
        for number in range(start.part, len(self.parts)):
            part = self.parts[number]
            after = start.after if number == start.part else 0
            if isinstance(part, Supporting):
                found = after + left
                return Position(number, found) if found < await part.count() else None
            place = after
            async for batch in self._narrow(part, after, left + 1):
                if len(batch) > left:
                    return Position(number, part.place(batch[left - 1]) if left else place)
                left -= len(batch)
                place = part.place(batch[-1])
        return None

    def _narrow(self, part: Part, after: int, limit: int) -> AsyncIterator[list[Record]]:
        if isinstance(part, Members):
            bare = msgspec.structs.replace(part.query, bodies=False)
            return Members(self, bare).scan(after, limit)
        return part.scan(after, limit)

    async def batches(self, start: Position, entries: int | None) -> AsyncIterator[list[Record]]:
        """The entries from ``start`` on, at most ``entries``, in batches."""
        left = entries
        # Who reads every member sees what they refer to on the way, and need not ask the store for it again.
        whole = start == Position(0, 0) and entries is None and self.selection.types is None and self.since is None
        met: set[Naming] = set()
        for number in range(start.part, len(self.parts)):
            if left == 0:
                return
            part = self.parts[number]
            if whole and isinstance(part, Supporting):
                self._met = met
            after = start.after if number == start.part else 0
            async for batch in part.scan(after, left):
                if left is not None:
                    left -= len(batch)
                facts = {record.facts for record in batch}
                self.facts |= facts
                if whole:
                    met |= _namings(batch, facts)
                yield batch

    async def supporting_keys(self) -> list[Key]:
        """The supporting resources to send, in key order, remembered per snapshot and view.

        All references that lead out of the visible chart are followed to `DEPTH`; `_type` filters afterwards. With
        `_since`, one is sent if it changed itself or a sent member leads to it.
        """
        identity = (self.as_of, self.scoped.grant.digest, self.patients, self.widened, self.since, self.selection.care)
        found = self.closures.get(identity)
        if found is None:
            found = await self._closure()
            self.closures.put(identity, found)
        self._named.update(found)
        wanted = self.selection.types
        return sorted(key for key in found if wanted is None or key.type in wanted)

    async def _closure(self) -> dict[Key, str]:
        everything = await self._follow(self._met if self._met is not None else await self._namings(whole=True))
        if self.since is None:
            return {key: custodian for key, (custodian, _) in everything.items()}
        sent = await self._follow(await self._namings(whole=False))
        return {
            key: custodian for key, (custodian, updated) in everything.items() if key in sent or updated >= self.since
        }

    async def _namings(self, *, whole: bool) -> set[Naming]:
        queries = [self.members(index, types=None, whole=whole) for index in range(len(self.patients))]
        namings = {
            (parse_facts(tally.facts).custodian, tally.supports)
            for query in queries
            for tally in await self.tally(query)
        }
        if self._person is not None and (whole or self._is_news(self._person)):
            namings |= _namings([self._person], {self._person.facts})
        return namings

    def _is_news(self, person: Record) -> bool:
        return self.since is None or person.updated >= self.since or bool(self.widened)

    async def tally(self, query: Query) -> list[Tally]:
        """`Scoped.tally`, asked once: the total and the closure need the same one."""
        if query not in self._tallies:
            self._tallies[query] = await self.scoped.tally(query)
        return self._tallies[query]

    async def _follow(self, namings: Iterable[Naming]) -> dict[Key, tuple[str, int]]:
        """key -> (custodian of the resource that names it, time of its last change)."""
        named: dict[str, set[Key]] = {}
        for custodian, supports in namings:
            if supports:
                named.setdefault(custodian, set()).update(_keys(supports))
        found: dict[Key, tuple[str, int]] = {}
        for _ in range(DEPTH):
            following: dict[str, set[Key]] = {}
            for custodian, keys in named.items():
                for record in await self._supporting(sorted(keys - found.keys()), custodian, bodies=False):
                    found[record.key] = (custodian, record.updated)
                    if record.supports:
                        own = parse_facts(record.facts).custodian
                        following.setdefault(own, set()).update(_keys(record.supports))
            named = following
        return found

    async def read_supporting(self, keys: Sequence[Key]) -> list[Record]:
        """These supporting resources with their bodies, in the order of ``keys``, without what is hidden meanwhile."""
        found: dict[Key, Record] = {}
        for custodian in {self._named[key] for key in keys}:
            of_one = [key for key in keys if self._named[key] == custodian]
            found.update({record.key: record for record in await self._supporting(of_one, custodian, bodies=True)})
        return [found[key] for key in keys if key in found]

    async def _supporting(self, keys: Sequence[Key], custodian: str, *, bodies: bool) -> list[Record]:
        if not keys:
            return []
        return await self.scoped.supporting(
            keys,
            custodians=frozenset({custodian}),
            patients=frozenset(self.patients),
            as_of=self.as_of,
            bodies=bodies,
        )


def _namings(records: Sequence[Record], facts: set[str]) -> set[Naming]:
    # A batch nearly always has one custodian; a tuple per record was measured to cost a tenth of the stream.
    custodians = {parse_facts(text).custodian for text in facts}
    if len(custodians) == 1:
        (custodian,) = custodians
        return {(custodian, supports) for supports in {record.supports for record in records}}
    return {(parse_facts(record.facts).custodian, record.supports) for record in records}


def _keys(supports: str) -> list[Key]:
    return [Key.parse(reference) for reference in supports.split(" ")]

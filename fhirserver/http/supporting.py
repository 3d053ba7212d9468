"""The resources that accompany charts: what leads out of them is followed, and each is read through the gate."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence

from fhirserver.core.model import Key, Record, parse_facts
from fhirserver.policy.gate import Scoped

DEPTH = 3
"""How far supporting resources are followed from the chart."""

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


class Supports:
    """The supporting resources at one snapshot, through one grant; ``patients`` as in `Scoped.supporting`."""

    def __init__(self, scoped: Scoped, *, patients: frozenset[str] | None, as_of: int) -> None:
        self.scoped = scoped
        self.patients = patients
        self.as_of = as_of

    async def follow(self, namings: Iterable[Naming]) -> dict[Key, tuple[str, int]]:
        """All that these lead to, to `DEPTH`: key -> (custodian of the resource that names it, time of its last
        change)."""
        named: dict[str, set[Key]] = {}
        for custodian, supports in namings:
            if supports:
                named.setdefault(custodian, set()).update(keys_of(supports))
        found: dict[Key, tuple[str, int]] = {}
        for _ in range(DEPTH):
            following: dict[str, set[Key]] = {}
            for custodian, keys in named.items():
                for record in await self.of_one(sorted(keys - found.keys()), custodian, bodies=False):
                    found[record.key] = (custodian, record.updated)
                    if record.supports:
                        own = parse_facts(record.facts).custodian
                        following.setdefault(own, set()).update(keys_of(record.supports))
            named = following
        return found

    async def read(self, keys: Sequence[Key], named: Mapping[Key, str]) -> list[Record]:
        """These with their bodies, in the order of ``keys``, without what is hidden meanwhile. ``named``: key ->
        custodian of what names it."""
        found: dict[Key, Record] = {}
        for custodian in {named[key] for key in keys}:
            of_one = [key for key in keys if named[key] == custodian]
            found.update({record.key: record for record in await self.of_one(of_one, custodian, bodies=True)})
        return [found[key] for key in keys if key in found]

    async def of_one(self, keys: Sequence[Key], custodian: str, *, bodies: bool) -> list[Record]:
        """Those of ``keys`` that resources of this custodian may bring along."""
        if not keys:
            return []
        return await self.scoped.supporting(
            keys, custodians=frozenset({custodian}), patients=self.patients, as_of=self.as_of, bodies=bodies
        )


def namings_of(records: Sequence[Record], facts: set[str]) -> set[Naming]:
    """The namings of these records, whose `facts` these are."""
    # A batch nearly always has one custodian; a tuple per record was measured to cost a tenth of the stream.
    custodians = {parse_facts(text).custodian for text in facts}
    if len(custodians) == 1:
        (custodian,) = custodians
        return {(custodian, supports) for supports in {record.supports for record in records}}
    return {(parse_facts(record.facts).custodian, record.supports) for record in records}


def keys_of(supports: str) -> list[Key]:
    """`Record.supports` as keys."""
    return [Key.parse(reference) for reference in supports.split(" ")] if supports else []


def one_by_one(namings: Iterable[Naming]) -> set[Naming]:
    """The same with one key each: of many charts there are far fewer keys than combinations of them."""
    return {(custodian, key) for custodian, supports in namings if supports for key in supports.split(" ")}

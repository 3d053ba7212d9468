# ruff: noqa: S608 - every statement is our own text; values are bound
"""A `Query` in the store's own numbers, and each of its conditions as SQL or as a test of packed entries."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from fhirserver.core.criteria import AllOf, Criterion, Has, Not, Written
from fhirserver.core.model import HighWater, Query
from fhirserver.store.sqlite.codec import hash_term, joined
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.meaning import FEW, NEVER, Test, all_of, compiled, simple
from fhirserver.store.sqlite.schema import REGION_BITS
from fhirserver.store.sqlite.visible import SHIFT
from fhirserver.store.sqlite.ways import ARRAY, Value, Way, way_of

_COLUMNS = "x.type AS type, x.facts AS facts, x.supports AS supports, x.size AS size"
_PAIR = f"(x.type << {SHIFT} | x.facts) IN ({ARRAY})"
LIVE = "x.deleted = 0"
AMONG_KEYS = "(x.type, x.id) IN (SELECT CAST(value ->> 0 AS INTEGER), CAST(value ->> 1 AS TEXT) FROM json_each(?))"
BY_KEY = (
    "json_each(?) k CROSS JOIN {0} x INDEXED BY {0}_key "
    "ON x.type = CAST(k.value ->> 0 AS INTEGER) AND x.id = CAST(k.value ->> 1 AS TEXT)"
)


class Arm(NamedTuple):
    """One ordered range: ``order`` is the seq column that the index gives in order."""

    source: str
    conditions: tuple[str, ...]
    values: tuple[Value, ...]
    order: str


class Piece(NamedTuple):
    """What can be read at once: candidates with ``after < seq <= upto``; no two arms give the same row.

    ``tests``: what a candidate's entries must meet besides. Without arms there is no candidate. ``dear``: a first
    candidate costs nearly what some hundred do.
    """

    arms: tuple[Arm, ...]
    after: int
    upto: int
    tests: tuple[Test, ...] = ()
    dear: bool = False

    def select(
        self, after: int, upto: int, *, admitted: str | None = None, limit: int | None = None
    ) -> tuple[str, list[Value]]:
        """The candidates with ``after < seq <= upto`` (within the piece), ordered if there is a limit, and their
        values.

        ``admitted``: JSON array of the pairs that may come out (see `visible`).
        """
        texts, values = [], []
        for arm in self.arms:
            conditions = [*arm.conditions, f"{arm.order} > ?", f"{arm.order} <= ?"]
            values += [*arm.values, after, upto]
            if admitted is not None:
                conditions.append(_PAIR)
                values.append(admitted)
            texts.append(f"SELECT {arm.order} AS seq, {_COLUMNS} FROM {arm.source} WHERE {' AND '.join(conditions)}")
        text = " UNION ALL ".join(texts)
        if limit is not None:
            text += f" ORDER BY {'seq' if len(self.arms) > 1 else self.arms[0].order} LIMIT ?"
            values.append(limit)
        return text, values


class Part(NamedTuple):
    """One of the criteria: its way in; as a condition on a current version ``x``; as one on a superseded version, whose
    entries are ``e``; as a test. The conditions only where they cost less than the test."""

    way: Way | None
    probe: tuple[str, tuple[Value, ...]] | None
    past: tuple[str, tuple[Value, ...]] | None
    test: Test


class Asked:
    """The query as the connection sees the store now (new types, patients or names may appear later)."""

    def __init__(self, connection: sqlite3.Connection, texts: Texts, query: Query) -> None:
        self.query = query
        self._connection = connection
        self._texts = texts
        self.types = self._ids(query.types)
        self._not_types = self._ids(query.not_types) or []
        self.within = None if query.within is None else self._name(query.within)
        self.beyond = [number for number in map(self._name, query.beyond) if number is not None]
        self.keys: str | None = None
        known = []
        if query.keys is not None:
            types = {name: texts.find(connection, "types", name) for name in {key.type for key in query.keys}}
            known = [(types[key.type], key.id) for key in sorted(set(query.keys)) if types[key.type] is not None]
            self.keys = msgspec.json.encode(known).decode()
        groups = (Has(tuple(sorted(set(group)))) for group in query.terms)
        whole = all_of([*groups, *(simple(each, self._name) for each in query.criteria)])
        conjunction = whole.of if isinstance(whole, AllOf) else (whole,)
        self.empty = (
            (self.types is not None and not self.types)
            or (query.keys is not None and not known)
            or (query.within is not None and self.within is None)
            or (query.departed_since is not None and query.within is None)
            or NEVER in conjunction
            or not query.visible.clauses
            or query.limit == 0
        )
        self.parts: tuple[Part, ...] = ()
        self.written: list[tuple[int, int]] = []
        """``after < seq <= upto`` for each criterion of time."""
        if not self.empty:
            self.written = [self._seqs(each) for each in conjunction if isinstance(each, Written)]
            self.parts = tuple(self._part(each) for each in conjunction if not isinstance(each, Written))

    def _name(self, text: str) -> int | None:
        return self._texts.find(self._connection, "names", text)

    def _ids(self, names: frozenset[str] | None) -> list[int] | None:
        if names is None:
            return None
        found = (self._texts.find(self._connection, "types", name) for name in sorted(names))
        return [number for number in found if number is not None]

    def _seqs(self, written: Written) -> tuple[int, int]:
        return seq_before(self._connection, written.first), seq_before(self._connection, written.last + 1)

    def _part(self, criterion: Criterion) -> Part:
        way, test = way_of(criterion, self._name), compiled(criterion, self._name, self._seqs)
        match criterion:
            case Has(terms) if len(terms) <= FEW:
                return Part(way, _probe(terms), _looks(terms), test)
            case Not(Has(terms)) if len(terms) <= FEW:
                (probe, values), (looks, raws) = _probe(terms), _looks(terms)
                return Part(way, (f"NOT {probe}", values), (f"NOT {looks}", raws), test)
            case _:
                return Part(way, None, None, test)

    def arm(
        self,
        source: str,
        conditions: Sequence[str],
        values: Sequence[Value],
        *,
        chart: bool = False,
        types: bool = False,
        answered: Collection[int] = (),
        probed: bool = True,
    ) -> Arm:
        """An arm of current versions with every condition that its source has not answered: the chart, the types, the
        parts with these places. ``probed``: the parts that can be are conditions, too (see `tests`)."""
        more, bound = self.common(types=not types)
        if self.within is not None and not chart:
            more.append("EXISTS (SELECT 1 FROM chart b WHERE b.compartment = ? AND b.seq = x.seq)")
            bound.append(self.within)
        for at, part in enumerate(self.parts):
            if probed and part.probe is not None and at not in answered:
                more.append(part.probe[0])
                bound += part.probe[1]
        if self.beyond:
            among = f"o.compartment IN ({marks(self.beyond)})"
            more.append(f"NOT EXISTS (SELECT 1 FROM chart o WHERE {among} AND o.seq = x.seq)")
            bound += self.beyond
        return Arm(source, (*conditions, *more), (*values, *bound), "x.seq")

    def tests(self, *, answered: Collection[int] = (), probed: bool = True) -> tuple[Test, ...]:
        """The tests of the parts that neither the source nor a condition of `arm` answers."""
        return tuple(
            part.test
            for at, part in enumerate(self.parts)
            if at not in answered and not (probed and part.probe is not None)
        )

    def common(self, *, types: bool) -> tuple[list[str], list[Value]]:
        """Conditions on the row of a version, current or superseded."""
        conditions: list[str] = []
        bound: list[Value] = []
        if types and self.types is not None:
            conditions.append(f"x.type IN ({marks(self.types)})")
            bound += self.types
        if self._not_types:
            conditions.append(f"x.type NOT IN ({marks(self._not_types)})")
            bound += self._not_types
        if self.query.care is not None:
            first, last = self.query.care
            conditions.append("(x.care_lo IS NULL OR (x.care_lo <= ? AND x.care_hi >= ?))")
            bound += [last, first]
        return conditions, bound


def _probe(terms: Sequence[str]) -> tuple[str, tuple[Value, ...]]:
    place = f"g.region = x.seq >> {REGION_BITS} AND g.hash IN ({ARRAY}) AND g.seq = x.seq"
    return f"EXISTS (SELECT 1 FROM terms g WHERE {place})", (joined(hash_term(term).number for term in terms),)


def _looks(terms: Sequence[str]) -> tuple[str, tuple[Value, ...]]:
    text = " OR ".join(["instr(e.packed, ?) > 0"] * len(terms))
    return f"EXISTS (SELECT 1 FROM entries e WHERE e.seq = x.seq AND ({text}))", tuple(hash_term(t).raw for t in terms)


def marks(values: Sequence[object]) -> str:
    """A question mark for each."""
    return ",".join("?" * len(values))


def seq_before(connection: sqlite3.Connection, time: int) -> int:
    """The last seq committed before ``time``."""
    row = connection.execute(
        "SELECT last FROM commits WHERE updated < ? ORDER BY updated DESC, last DESC LIMIT 1", (time,)
    ).fetchone()
    return row[0] if row else 0


def high_water(connection: sqlite3.Connection) -> HighWater:
    """The last seq, and the time of that commit."""
    row = connection.execute("SELECT last, updated FROM commits ORDER BY last DESC LIMIT 1").fetchone()
    return HighWater(*row) if row else HighWater(0, 0)

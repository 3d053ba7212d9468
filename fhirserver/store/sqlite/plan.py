# ruff: noqa: S608 - every statement is our own text; values are bound
"""A `Query` as SQL: which index drives it, and what is asked of each candidate.

Every plan gives rows ``(seq, type, facts, supports, size)`` in seq order from one index range (or from a merge of
a few), so that a batch is a short keyset read wherever it begins. `tests/contract/test_store_sqlite_plans.py` holds
each shape to its index. With ``as_of`` there are two sides, current versions and the few that ended later; each is
ordered by itself and they are merged in Python, because SQLite plans their UNION as a walk through both (188 times
slower).

What gives little in the whole store is taken at once. Else the way in is the rarest of the chart and of what the search
tables give for each criterion, chosen region by region.
The ranges of some terms come in seq order, and so do a chart, a type and the whole store; what a text or a span gives
does not, and is collected while it is little, together with whatever else is. Criteria that are all frequent are not: a
walk over one of them, or over the type, meets the others soon, if they meet at all. Where they do not, the region is
read `thorough`: all ways in meet each other in one statement (some 30 ms for a region full of each).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection
from typing import NamedTuple

from fhirserver.core.model import CURRENT, Query
from fhirserver.store.sqlite.asked import BY_KEY, LIVE, Arm, Asked, Piece, high_water, marks, seq_before
from fhirserver.store.sqlite.codec import joined
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.past import Past, departed, past
from fhirserver.store.sqlite.schema import REGION_BITS
from fhirserver.store.sqlite.ways import ARRAY, Way, chart_way, count_in, every, next_region, seqs_of

_PROBE = 2000
"""How far a chart is counted before it is called large; a smaller one is read as a whole."""
_TINY = 16
"""A chart so small is not compared with other ways in."""
_SMALL = 256
"""A way in that gives so few in a region is taken by itself, and each candidate asked for the rest."""
_SCARCE = 512
"""A way in that gives fewer than this in all regions together is not taken region by region."""
_LARGE = 5000
"""How far a way in is counted within a region. To collect so much costs what a walk over some 300 candidates does."""
_MERGED = 64
"""More types of a chart than this are filtered instead of merged."""
_STRIDE = 16
"""Regions that one statement looks at where a way in reads more than it gives."""
_CHART = -1
"""Stands for the chart among the places of the criteria."""


class Walk:
    """Current versions as one index gives them in seq order: keys, a chart, types or the whole store."""

    table = "current"

    def __init__(self, asked: Asked, *, chart: bool = False) -> None:
        self._asked = asked
        self._chart = chart
        self._known: dict[bool, tuple[Arm, ...]] = {}

    def piece(self, connection: sqlite3.Connection, after: int, upto: int, *, thorough: bool = False) -> Piece | None:
        """The first part of ``after < seq <= upto`` to be read; None: nothing is left.

        Conditions could make one statement walk far before it has found enough; so they are asked of a few keys or of
        a small chart, else of a region at a time when it is ``thorough``, else as tests of a bounded window.
        """
        if after >= upto:
            return None
        bounded = self._chart or self._asked.keys is not None
        probed = thorough or bounded
        if thorough and not bounded and self._asked.parts:
            last = high_water(connection).seq
            if after >= last:
                return None
            upto = min(upto, (((after + 1) >> REGION_BITS) + 1 << REGION_BITS) - 1)
        if probed not in self._known:
            self._known[probed] = walks(self._asked, chart=self._chart, probed=probed)
        return Piece(self._known[probed], after, upto, self._asked.tests(probed=probed))


def walks(asked: Asked, *, chart: bool, answered: Collection[int] = (), probed: bool = True) -> tuple[Arm, ...]:
    """The arms of a `Walk`."""
    if asked.keys is not None:
        return (asked.arm(BY_KEY.format("current"), (LIVE,), (asked.keys,), probed=probed),)
    if chart:
        within, types = asked.within or 0, asked.types
        if types is None or len(types) > _MERGED:
            whole = asked.arm(
                "chart x NOT INDEXED", ("x.compartment = ?",), (within,), chart=True, answered=answered, probed=probed
            )
            return (whole,)
        source, conditions = "chart x INDEXED BY chart_type", ("x.compartment = ?", "x.type = ?")
        return tuple(
            asked.arm(source, conditions, (within, type_), chart=True, types=True, answered=answered, probed=probed)
            for type_ in types
        )
    if asked.types is not None:
        source, conditions = "current x INDEXED BY current_type", ("x.type = ?", LIVE)
        return tuple(
            asked.arm(source, conditions, (type_,), types=True, answered=answered, probed=probed)
            for type_ in asked.types
        )
    return (asked.arm("current x NOT INDEXED", (LIVE,), (), answered=answered, probed=probed),)


class _Choice(NamedTuple):
    """How a region is read: by what these ways all give (none: by a walk over the types), and how much that is."""

    used: tuple[int, ...]
    found: int


class _Scarce(NamedTuple):
    """What a way in gives everywhere, as a JSON array; ``place``: of what it answers (None: of nothing for certain)."""

    place: int | None
    seqs: str


class Regions:
    """Current versions by the search tables, one region at a time."""

    table = "current"

    def __init__(self, asked: Asked, *, chart: bool) -> None:
        self._asked = asked
        found = [(at, part.way) for at, part in enumerate(asked.parts) if part.way is not None]
        if chart:
            found.append((_CHART, chart_way(asked.within or 0, REGION_BITS)))
        # In the order in which they are asked: what comes in seq order, what is quickly known, the rest.
        found.sort(key=lambda one: (not _ordered(*one), not one[1].quick))
        self._places = [at for at, _ in found]
        self._ways = [way for _, way in found]
        self._quick = [way for way in self._ways if way.quick] or self._ways
        """Those that are counted; the others lead in where there are no others, or when it is `thorough`."""
        self._chosen: dict[int, _Choice | None] = {}
        self._scarce: _Scarce | None = None
        self._searched = False

    def piece(self, connection: sqlite3.Connection, after: int, upto: int, *, thorough: bool = False) -> Piece | None:
        """The first part of ``after < seq <= upto`` to be read (what lies before it holds no candidate), or one that
        holds none; None: nothing is left."""
        if after >= upto:
            return None
        first, last = (after + 1) >> REGION_BITS, min(upto, high_water(connection).seq) >> REGION_BITS
        if first > last:
            return None
        if first < last or self._searched:
            if not self._searched:
                self._scarce, self._searched = self._find_scarce(connection, joined(range(first, last + 1))), True
            if self._scarce is not None:
                return self._collected(self._scarce, after, upto)
        if first < last:
            ways = self._ways if thorough else self._quick
            stop = last if all(way.quick for way in ways) else min(last, first + _STRIDE - 1)
            region = next_region(connection, ways, joined(range(first, stop + 1)), after, upto)
            if region is None:
                return None if stop == last else Piece((), after, (stop + 1 << REGION_BITS) - 1)
            first = region
        after, upto = max(after, (first << REGION_BITS) - 1), min(upto, (first + 1 << REGION_BITS) - 1)
        if first not in self._chosen:
            self._chosen[first] = self._choose(connection, first)
        choice = self._chosen[first]
        return Piece((), after, upto) if choice is None else self._read(choice, first, after, upto, thorough=thorough)

    def _find_scarce(self, connection: sqlite3.Connection, regions: str) -> _Scarce | None:
        """The first way in that gives little anywhere, if there is one."""
        for at, way in enumerate(self._ways):
            if way.quick and (seqs := seqs_of(connection, way, regions, _SCARCE)) is not None:
                return _Scarce(self._places[at] if way.exact else None, joined(seqs))
        return None

    def _collected(self, scarce: _Scarce, after: int, upto: int) -> Piece:
        """All that a scarce way gives, as one piece."""
        answered = set[int]() if scarce.place is None else {scarce.place}
        conditions = (LIVE, f"x.seq IN ({ARRAY})")
        source, chart = "current x NOT INDEXED", scarce.place == _CHART
        arm = self._asked.arm(source, conditions, (scarce.seqs,), chart=chart, answered=answered)
        return Piece((arm,), after, upto, self._asked.tests(answered=answered))

    def _choose(self, connection: sqlite3.Connection, region: int) -> _Choice | None:
        """The rarest way in, with others that are not too frequent; None where one of them gives nothing."""
        ordered = _ordered(self._places[0], self._ways[0])
        if len(self._quick) == 1 and ordered:
            return _Choice((0,), _LARGE if len(self._asked.parts) > 1 else 0)
        counts: list[int] = []
        fewest = _LARGE
        for way in self._quick:
            counts.append(count_in(connection, way, region, 0, CURRENT, _LARGE if fewest > _SMALL else fewest))
            fewest = min(fewest, counts[-1])
            if not fewest:
                return None
        if fewest <= _SMALL:
            return _Choice((counts.index(fewest),), fewest)
        used = tuple(at for at, count in enumerate(counts) if count < _LARGE)
        return _Choice(used or ((0,) if ordered else ()), fewest)

    def _read(self, choice: _Choice, region: int, after: int, upto: int, *, thorough: bool) -> Piece:
        asked, used, probed = self._asked, choice.used, thorough or choice.found < _LARGE
        if thorough and choice.found > _SMALL:
            used = tuple(range(len(self._ways)))
        places = [self._places[at] for at in used]
        answered = {place for place, at in zip(places, used, strict=True) if self._ways[at].exact}
        tests = asked.tests(answered=answered, probed=probed)
        if not used or places == [_CHART]:
            arms = walks(asked, chart=bool(used), answered=answered, probed=probed)
        elif len(used) == 1 and self._ways[used[0]].terms:
            arms = self._merged(self._ways[used[0]].terms, region, answered, probed=probed)
        else:
            text, values = every([self._ways[at] for at in used]).select(str(region), after, upto)
            # By its own choice SQLite walks through the type and asks of each whether it is among them.
            source, conditions, chart = "current x NOT INDEXED", (LIVE, f"x.seq IN ({text})"), _CHART in places
            arms = (asked.arm(source, conditions, values, chart=chart, answered=answered, probed=probed),)
            return Piece(arms, after, upto, tests, dear=thorough or not all(self._ways[at].quick for at in used))
        return Piece(arms, after, upto, tests)

    def _merged(
        self, terms: tuple[int, ...], region: int, answered: Collection[int], *, probed: bool
    ) -> tuple[Arm, ...]:
        source = "terms t CROSS JOIN current x ON x.seq = t.seq"
        arms = []
        for at, term in enumerate(terms):
            # What an earlier arm gives is left out here: a UNION would have to sort each arm to drop repetitions.
            earlier = terms[:at]
            among = f"d.region = t.region AND d.hash IN ({marks(earlier)}) AND d.seq = t.seq"
            fresh = f"NOT EXISTS (SELECT 1 FROM terms d WHERE {among})"
            range_ = f"t.region = {region} AND t.hash = ?"
            conditions = (range_, fresh) if earlier else (range_,)
            arms.append(self._asked.arm(source, conditions, (term, *earlier), answered=answered, probed=probed))
        return tuple(arm._replace(order="t.seq") for arm in arms)


def _ordered(place: int, way: Way) -> bool:
    """Whether it comes in seq order and need not be collected."""
    return place == _CHART or bool(way.terms)


Side = Walk | Regions | Past


class Plan(NamedTuple):
    """What to read: the sides, and the seq bounds that hold besides a batch's own."""

    sides: tuple[Side, ...]
    after: int
    upto: int


NOTHING = Plan((), 0, 0)


def compile_query(connection: sqlite3.Connection, texts: Texts, query: Query) -> Plan:
    """The plan for a query as the connection sees the store now (new types or patients may appear later)."""
    after = query.after
    if query.updated_from is not None:
        after = max(after, seq_before(connection, query.updated_from))
    upto = CURRENT if query.as_of is None else query.as_of
    asked = Asked(connection, texts, query)
    for first, last in asked.written:
        after, upto = max(after, first), min(upto, last)
    if asked.empty or upto <= after:
        return NOTHING
    if query.departed_since is not None:
        return Plan((departed(asked, query.departed_since),), after, upto)
    sides: list[Side] = [current(connection, asked)]
    if query.as_of is not None:
        sides.append(past(asked, query.as_of))
    return Plan(tuple(sides), after, upto)


def current(connection: sqlite3.Connection, asked: Asked) -> Side:
    """The cheapest way in: keys; else a small chart, or what is rarer; else the search tables; else types; else all."""
    if asked.keys is not None:
        return Walk(asked)
    ways = [part.way for part in asked.parts if part.way is not None]
    if asked.within is None:
        return Regions(asked, chart=False) if ways else Walk(asked)
    return Regions(asked, chart=True) if ways and _rarer(connection, asked, ways) else Walk(asked, chart=True)


def _rarer(connection: sqlite3.Connection, asked: Asked, ways: list[Way]) -> bool:
    """Whether the chart is large, or one of the ways gives less."""
    members = f"SELECT 1 FROM chart WHERE compartment = ? LIMIT {_PROBE}"
    chart = connection.execute(f"SELECT count(*) FROM ({members})", (asked.within,)).fetchone()[0]
    if chart <= _TINY or chart >= _PROBE:
        return bool(chart >= _PROBE)
    regions = joined(range((high_water(connection).seq >> REGION_BITS) + 1))
    return any(seqs_of(connection, way, regions, chart) is not None for way in ways if way.quick)

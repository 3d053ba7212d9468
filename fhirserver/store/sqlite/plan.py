# ruff: noqa: S608 - every statement is our own text; values are bound
"""A `Query` as SQL: which index drives it, and what is asked of each candidate.

Every plan gives rows ``(seq, type, facts, supports, size)`` in seq order from one index range (or from a merge of
a few), so that a batch is a short keyset read wherever it begins. `tests/contract/test_store_sqlite_plans.py` holds
each shape to its index. With ``as_of`` there are two sides, current versions and the few that ended later; each is
ordered by itself and they are merged in Python, because SQLite plans their UNION as a walk through both (188 times
slower).
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from typing import NamedTuple

import msgspec

from fhirserver.core.model import CURRENT, HighWater, Query
from fhirserver.store.sqlite.codec import Term, hash_term, joined
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.schema import REGION_BITS
from fhirserver.store.sqlite.visible import SHIFT

Value = int | str | bytes | float
_COLUMNS = "x.type AS type, x.facts AS facts, x.supports AS supports, x.size AS size"
_PAIR = f"(x.type << {SHIFT} | x.facts) IN (SELECT value FROM json_each(?))"
_PROBE = 2000
"""How far a candidate driver is counted before it is called large."""
_MERGED, _MERGED_TERMS = 64, 16
"""More alternatives (types, terms of a group) than this are filtered or collected instead of merged."""


class Arm(NamedTuple):
    """One ordered range: ``order`` is the seq column that the index gives in order."""

    source: str
    conditions: tuple[str, ...]
    values: tuple[Value, ...]
    order: str


class Side(NamedTuple):
    """Candidates of one table of versions; no two arms give the same row.

    ``hashes`` (JSON array): the arms read terms, one region at a time: ask `region` for the next piece first.
    """

    table: str
    arms: tuple[Arm, ...]
    hashes: str | None = None

    def piece(self, connection: sqlite3.Connection, after: int, upto: int) -> tuple[int, int] | None:
        """The first part of ``after < seq <= upto`` that `select` can read at once; None: nothing is left.

        What lies before it holds no candidate.
        """
        if after >= upto:
            return None
        if self.hashes is None:
            return after, upto
        first, last = (after + 1) >> REGION_BITS, min(upto >> REGION_BITS, last_region(connection))
        if first < last:
            row = connection.execute(_NEXT_REGION, (joined(range(first, last + 1)), self.hashes, after)).fetchone()
            first = row[0] if row else last + 1
        if first > last:
            return None
        return max(after, (first << REGION_BITS) - 1), min(upto, ((first + 1) << REGION_BITS) - 1)

    def select(
        self, after: int, upto: int, *, admitted: str | None = None, limit: int | None = None
    ) -> tuple[str, list[Value]]:
        """The candidates with ``after < seq <= upto`` (a `piece`), ordered if there is a limit, and their values.

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
        text = " UNION ALL ".join(texts).replace("@region", str((after + 1) >> REGION_BITS))
        if limit is not None:
            text += f" ORDER BY {'seq' if len(self.arms) > 1 else self.arms[0].order} LIMIT ?"
            values.append(limit)
        return text, values


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
    compiler = _Compiler(connection, texts, query)
    if compiler.empty or upto <= after:
        return NOTHING
    if query.departed_since is not None:
        return Plan((compiler.departed(query.departed_since),), after, upto)
    sides = [compiler.current()]
    if query.as_of is not None:
        sides.append(compiler.past(query.as_of))
    return Plan(tuple(sides), after, upto)


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


def last_region(connection: sqlite3.Connection) -> int:
    """The region of the last version."""
    return high_water(connection).seq >> REGION_BITS


_NEXT_REGION = (
    "SELECT r.value FROM json_each(?) r WHERE EXISTS (SELECT 1 FROM terms t WHERE t.region = r.value "
    "AND t.hash IN (SELECT value FROM json_each(?)) AND t.seq > ?) LIMIT 1"
)


class _Compiler:
    def __init__(self, connection: sqlite3.Connection, texts: Texts, query: Query) -> None:
        self._connection = connection
        self._query = query
        self._types = self._ids(texts, query.types)
        self._not_types = self._ids(texts, query.not_types) or []
        self._within = None if query.within is None else texts.find(connection, "names", query.within)
        beyond = (texts.find(connection, "names", patient) for patient in query.beyond)
        self._beyond = [number for number in beyond if number is not None]
        self._groups = [[hash_term(term) for term in sorted(set(group))] for group in query.terms]
        self._keys: str | None = None
        known = []
        if query.keys is not None:
            types = {name: texts.find(connection, "types", name) for name in {key.type for key in query.keys}}
            known = [(types[key.type], key.id) for key in sorted(set(query.keys)) if types[key.type] is not None]
            self._keys = msgspec.json.encode(known).decode()
        self.empty = (
            (self._types is not None and not self._types)
            or (query.keys is not None and not known)
            or (query.within is not None and self._within is None)
            or (query.departed_since is not None and query.within is None)
            or not all(self._groups)
            or not query.visible.clauses
            or query.limit == 0
        )

    def _ids(self, texts: Texts, names: frozenset[str] | None) -> list[int] | None:
        if names is None:
            return None
        found = (texts.find(self._connection, "types", name) for name in sorted(names))
        return [number for number in found if number is not None]

    # -- the side of current versions --

    def current(self) -> Side:
        driver = self._driver()
        if driver == "keys":
            return Side("current", (self._arm(_BY_KEY.format("current"), (_LIVE,), (self._keys or "",)),))
        if driver == "chart":
            return Side("current", self._chart_arms())
        if driver == "types":
            source, types = "current x INDEXED BY current_type", self._types or ()
            arms = [self._arm(source, ("x.type = ?", _LIVE), (number,), {"types"}) for number in types]
            return Side("current", tuple(arms))
        if driver == "all":
            return Side("current", (self._arm("current x NOT INDEXED", (_LIVE,), ()),))
        return self._term_side(driver)

    def _driver(self) -> str:
        """The cheapest way in: keys; else the rarest of the chart and the groups of terms; else types; else all."""
        if self._keys is not None:
            return "keys"
        ways = ["chart"] if self._within is not None else []
        ways += [f"terms {at}" for at in range(len(self._groups))]
        if len(ways) > 1:
            return min(ways, key=self._probe)
        return ways[0] if ways else "types" if self._types is not None else "all"

    def _probe(self, way: str) -> int:
        """How many candidates it gives, counted no further than `_PROBE`."""
        values: tuple[Value, ...] = (self._within or 0,)
        source = "chart WHERE compartment = ?"
        if way != "chart":
            hashes = joined(term.number for term in self._groups[int(way.split()[1])])
            values = (joined(range(last_region(self._connection) + 1)), hashes)
            source = f"json_each(?) r CROSS JOIN terms t WHERE t.region = r.value AND t.hash IN ({_ARRAY})"
        statement = f"SELECT count(*) FROM (SELECT 1 FROM {source} LIMIT {_PROBE})"
        return int(self._connection.execute(statement, values).fetchone()[0])

    def _chart_arms(self) -> tuple[Arm, ...]:
        within = self._within or 0
        if self._types is None or len(self._types) > _MERGED:
            return (self._arm("chart x NOT INDEXED", ("x.compartment = ?",), (within,), {"chart"}),)
        source, conditions = "chart x INDEXED BY chart_type", ("x.compartment = ?", "x.type = ?")
        return tuple(self._arm(source, conditions, (within, number), {"chart", "types"}) for number in self._types)

    def _term_side(self, driver: str) -> Side:
        group = self._groups[int(driver.split()[1])]
        hashes = joined(term.number for term in group)
        if len(group) > _MERGED_TERMS:
            condition = f"x.seq IN (SELECT seq FROM terms WHERE region = @region AND hash IN ({_ARRAY}))"
            return Side("current", (self._arm("current x", (_LIVE, condition), (hashes,), {driver}),), hashes)
        source = "terms t CROSS JOIN current x ON x.seq = t.seq"
        arms = []
        for at, term in enumerate(group):
            # What an earlier arm gives is left out here: a UNION would have to sort each arm to drop repetitions.
            earlier = [other.number for other in group[:at]]
            among = f"d.region = t.region AND d.hash IN ({_marks(earlier)}) AND d.seq = t.seq"
            fresh = f"NOT EXISTS (SELECT 1 FROM terms d WHERE {among})"
            range_ = "t.region = @region AND t.hash = ?"
            conditions = (range_, fresh) if earlier else (range_,)
            arms.append(self._arm(source, conditions, (term.number, *earlier), {driver}))
        return Side("current", tuple(arm._replace(order="t.seq") for arm in arms), hashes)

    def _arm(
        self, source: str, conditions: tuple[str, ...], values: tuple[Value, ...], answered: Collection[str] = ()
    ) -> Arm:
        """An arm with every condition that its source has not ``answered`` ("chart", "types", "terms 0", …)."""
        more, bound = self._common(with_types="types" not in answered)
        if self._within is not None and "chart" not in answered:
            more.append("EXISTS (SELECT 1 FROM chart b WHERE b.compartment = ? AND b.seq = x.seq)")
            bound.append(self._within)
        for at, group in enumerate(self._groups):
            if f"terms {at}" not in answered:
                place = f"g.region = x.seq >> {REGION_BITS} AND g.hash IN ({_ARRAY}) AND g.seq = x.seq"
                more.append(f"EXISTS (SELECT 1 FROM terms g WHERE {place})")
                bound.append(joined(term.number for term in group))
        if self._beyond:
            among = f"o.compartment IN ({_marks(self._beyond)})"
            more.append(f"NOT EXISTS (SELECT 1 FROM chart o WHERE {among} AND o.seq = x.seq)")
            bound += self._beyond
        return Arm(source, (*conditions, *more), (*values, *bound), "x.seq")

    def _common(self, *, with_types: bool) -> tuple[list[str], list[Value]]:
        conditions: list[str] = []
        bound: list[Value] = []
        if with_types and self._types is not None:
            conditions.append(f"x.type IN ({_marks(self._types)})")
            bound += self._types
        if self._not_types:
            conditions.append(f"x.type NOT IN ({_marks(self._not_types)})")
            bound += self._not_types
        if self._query.care is not None:
            first, last = self._query.care
            conditions.append("(x.care_lo IS NULL OR (x.care_lo <= ? AND x.care_hi >= ?))")
            bound += [last, first]
        return conditions, bound

    # -- the side of superseded versions --

    def past(self, as_of: int) -> Side:
        """Versions that were current right after ``as_of`` and have been superseded since."""
        if self._keys is not None:
            return self._past_side(_BY_KEY.format("history"), ("x.ended > ?",), (self._keys, as_of), within=True)
        if self._within is not None:
            source = "chart_past p CROSS JOIN history x ON x.seq = p.seq"
            return self._past_side(source, ("p.compartment = ?", "p.ended > ?"), (self._within, as_of), within=False)
        if self._types is not None and len(self._types) == 1:
            return self._past_side("history x INDEXED BY history_type", ("x.ended > ?",), (as_of,), within=False)
        return self._past_side("history x INDEXED BY history_ended", ("x.ended > ?",), (as_of,), within=False)

    def departed(self, since: int) -> Side:
        """The last chart versions of resources that stood in the chart right after ``since`` and no longer do."""
        within, as_of = self._within or 0, CURRENT if self._query.as_of is None else self._query.as_of
        return self._past_side(
            "chart_past p CROSS JOIN history x ON x.seq = p.seq",
            ("p.compartment = ?", "p.ended > ?", "p.ended <= ?", *_DEPARTED),
            (within, since, as_of, within, as_of, within, as_of, within, since, since),
            within=False,
        )

    def _past_side(self, source: str, conditions: tuple[str, ...], values: tuple[Value, ...], *, within: bool) -> Side:
        more, bound = self._common(with_types=True)
        if self._keys is not None and self._query.departed_since is not None:
            more.append(_AMONG_KEYS)
            bound.append(self._keys)
        if within and self._within is not None:
            more.append(f"EXISTS (SELECT 1 FROM chart_past b WHERE {_STANDS.format('b', 'x')})")
            bound.append(self._within)
        for group in self._groups:
            more.append(f"EXISTS (SELECT 1 FROM entries e WHERE e.seq = x.seq AND ({_looks(group)}))")
            bound += [term.raw for term in group]
        if self._beyond:
            among = f"o.compartment IN ({_marks(self._beyond)})"
            more.append(
                f"NOT EXISTS (SELECT 1 FROM chart_past o WHERE {among} AND o.ended = x.ended AND o.seq = x.seq)"
            )
            bound += self._beyond
        # Where a chart's past drives, its own seq is asked, so that what was read before costs no look at the version.
        order = "p.seq" if source.startswith("chart_past") else "x.seq"
        return Side("history", (Arm(source, (_LIVE, *conditions, *more), (*values, *bound), order),))


_LIVE = "x.deleted = 0"
_ARRAY = "SELECT value FROM json_each(?)"
_AMONG_KEYS = "(x.type, x.id) IN (SELECT CAST(value ->> 0 AS INTEGER), CAST(value ->> 1 AS TEXT) FROM json_each(?))"
_BY_KEY = (
    "json_each(?) k CROSS JOIN {0} x INDEXED BY {0}_key "
    "ON x.type = CAST(k.value ->> 0 AS INTEGER) AND x.id = CAST(k.value ->> 1 AS TEXT)"
)
_STANDS = "{0}.compartment = ? AND {0}.ended = {1}.ended AND {0}.seq = {1}.seq"
_OTHER = (
    f"FROM history g INDEXED BY history_key CROSS JOIN chart_past y ON {_STANDS.format('y', 'g')} "
    "WHERE g.type = x.type AND g.id = x.id"
)
_DEPARTED = (
    # no later version stands in the chart now …
    "NOT EXISTS (SELECT 1 FROM current c CROSS JOIN chart d ON d.compartment = ? AND d.seq = c.seq "
    "WHERE c.type = x.type AND c.id = x.id AND c.seq <= ?)",
    # … nor stood there later (this is the last one that did) …
    f"NOT EXISTS (SELECT 1 {_OTHER} AND g.seq > x.seq AND g.seq <= ?)",
    # … and one stood there right after `since`.
    f"EXISTS (SELECT 1 {_OTHER} AND g.seq <= ? AND g.ended > ?)",
)


def _looks(group: list[Term]) -> str:
    """Any of the terms; in parts, because SQLite takes an OR of a thousand for too deep."""
    parts = [" OR ".join(["instr(e.packed, ?) > 0"] * len(group[at : at + 100])) for at in range(0, len(group), 100)]
    return " OR ".join(f"({part})" for part in parts)


def _marks(values: Sequence[object]) -> str:
    return ",".join("?" * len(values))

# ruff: noqa: S608 - every statement is our own text; values are bound
"""Ways in: what the search tables give for a criterion, region by region (see `schema.REGION_BITS`)."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from fhirserver.core.criteria import AllOf, AnyOf, Criterion, Has, Span, Text
from fhirserver.store.sqlite.codec import hash_term, joined
from fhirserver.store.sqlite.meaning import Find, quick
from fhirserver.store.widths import beginnings

_ints = msgspec.json.Decoder(list[int]).decode
Value = int | str | bytes | float
ARRAY = "SELECT value FROM json_each(?)"
MERGED_TERMS = 16
"""Terms of a group whose ranges are merged in seq order; more are collected."""
_ALTERNATIVES = 50
"""SQLite takes a compound of some hundred statements, and a span is up to four; more alternatives are asked of each
candidate instead."""
_LAST = "\U0010ffff"


class Range(NamedTuple):
    """Rows of a search table; ``@region`` in the condition stands for the region's number."""

    table: str
    condition: str
    values: tuple[Value, ...]


class Way(NamedTuple):
    """What an index gives in one region: the rows of all ranges, or of every one of them.

    ``exact``: everything it gives meets the criterion. ``terms``: their ranges can be merged in seq order.
    ``quick``: it reads no more than it gives.
    """

    ranges: tuple[Range | Way, ...]
    together: str = "UNION ALL"
    exact: bool = True
    terms: tuple[int, ...] = ()
    quick: bool = True

    def select(self, region: str, after: int, upto: int) -> tuple[str, list[Value]]:
        """The seqs in ``region`` (a number, or a column of an outer statement) with ``after < seq <= upto``; perhaps
        some of them twice."""
        texts: list[str] = []
        values: list[Value] = []
        for each in self.ranges:
            if isinstance(each, Range):
                condition = each.condition.replace("@region", region)
                texts.append(f"SELECT seq FROM {each.table} WHERE {condition} AND seq > ? AND seq <= ?")
                values += [*each.values, after, upto]
            else:
                text, more = each.select(region, after, upto)
                texts.append(f"SELECT seq FROM ({text})")
                values += more
        return f" {self.together} ".join(texts), values


def way_of(criterion: Criterion, find: Find) -> Way | None:
    """How the index gives what meets a criterion (`meaning.simple`); None where it would be the whole store."""
    match criterion:
        case Has(terms):
            numbers = [hash_term(term).number for term in terms]
            return Way(
                (Range("terms", f"region = @region AND hash IN ({ARRAY})", (joined(numbers),)),),
                terms=tuple(numbers) if len(numbers) <= MERGED_TERMS else (),
                quick=quick(criterion),
            )
        case Text(name, text, how):
            return Way((_text_range(find(name) or 0, text, how),), quick=quick(criterion))
        case Span(name, low, high):
            return Way(_span_ranges(find(name) or 0, low, high), quick=quick(criterion))
        case AnyOf(of) if len(of) <= _ALTERNATIVES:
            ways = [way_of(each, find) for each in of]
            known = [way for way in ways if way is not None]
            return _together(known, "UNION ALL", exact=True) if len(known) == len(ways) else None
        case AllOf(of):
            ways = [way_of(each, find) for each in of]
            known = [way for way in ways if way is not None]
            return _together(known, "INTERSECT", exact=len(known) == len(ways)) if known else None
        case _:
            return None


def every(ways: Sequence[Way]) -> Way:
    """What all of these give."""
    return _together(ways, "INTERSECT", exact=True)


def chart_way(compartment: int, bits: int) -> Way:
    """What stands in a chart."""
    condition = f"compartment = ? AND seq >= @region << {bits} AND seq < (@region + 1) << {bits}"
    return Way((Range("chart", condition, (compartment,)),))


def _together(ways: Sequence[Way], together: str, *, exact: bool) -> Way:
    if len(ways) == 1:
        return ways[0]._replace(exact=exact and ways[0].exact)
    quickly = all(way.quick for way in ways) if together == "UNION ALL" else any(way.quick for way in ways)
    return Way(tuple(ways), together, exact and all(way.exact for way in ways), quick=quickly)


def _text_range(name: int, text: str, how: str) -> Range:
    if how == "contains":
        return Range("texts", "region = @region AND name = ? AND instr(text, ?) > 0", (name, text))
    bound = beyond(text)
    if bound is None:
        return Range("texts", "region = @region AND name = ? AND text >= ?", (name, text))
    return Range("texts", "region = @region AND name = ? AND text >= ? AND text < ?", (name, text, bound))


def _span_ranges(name: int, low: tuple[float, float], high: tuple[float, float]) -> tuple[Range, ...]:
    """By their widths, ordered by where they begin: few rows are read whose end does not meet the bound."""
    condition = "region = @region AND name = ? AND width = ? AND lo >= ? AND lo <= ? AND hi >= ? AND hi <= ?"
    ends = tuple(map(float, high))
    found = [
        Range("spans", condition, (name, number, float(first), float(last), *ends))
        for number, first, last in beginnings(low, high)
    ]
    return tuple(found) or (Range("spans", "region = @region AND 0", ()),)


def beyond(text: str) -> str | None:
    """The first text after all that begin with ``text``, in the order of code points; None if there is none."""
    stem = text.rstrip(_LAST)
    if not stem:
        return None
    following = ord(stem[-1]) + 1
    return stem[:-1] + chr(0xE000 if 0xD800 <= following <= 0xDFFF else following)


# --- how much there is


def count_in(connection: sqlite3.Connection, way: Way, region: int, after: int, upto: int, limit: int) -> int:
    """How many rows it has in one region, counted no further than ``limit``."""
    select, values = way.select(str(region), after, upto)
    statement = f"SELECT count(*) FROM (SELECT 1 FROM ({select}) LIMIT {limit})"
    return int(connection.execute(statement, values).fetchone()[0])


def seqs_of(connection: sqlite3.Connection, way: Way, regions: str, limit: int) -> list[int] | None:
    """What a way of ranges gives in all ``regions`` (a JSON array), perhaps some of it twice; None where that is
    ``limit`` rows or more, which is known after as many, and for other ways."""
    texts: list[str] = []
    values: list[Value] = []
    for each in way.ranges:
        if not isinstance(each, Range):
            return None
        condition = each.condition.replace("@region", "r.value")
        texts.append(f"SELECT {each.table}.seq FROM json_each(?) r CROSS JOIN {each.table} WHERE {condition}")
        values += [regions, *each.values]
    select = f"SELECT * FROM ({' UNION ALL '.join(texts)} LIMIT {limit})"
    seqs = _ints(connection.execute(f"SELECT json_group_array(seq) FROM ({select})", values).fetchone()[0])
    return seqs if len(seqs) < limit else None


def next_region(connection: sqlite3.Connection, ways: Sequence[Way], regions: str, after: int, upto: int) -> int | None:
    """The first of the ``regions`` (a JSON array) in which each of the ways gives something."""
    conditions: list[str] = []
    values: list[Value] = [regions]
    for way in ways:
        text, more = way.select("r.value", after, upto)
        conditions.append(f"EXISTS ({text})")
        values += more
    statement = f"SELECT r.value FROM json_each(?) r WHERE {' AND '.join(conditions)} LIMIT 1"
    row = connection.execute(statement, values).fetchone()
    return None if row is None else int(row[0])

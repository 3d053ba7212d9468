# ruff: noqa: S608 - every statement is our own text; values are bound
"""Superseded versions that a snapshot still shows, and those that were the last in a chart."""

from __future__ import annotations

import sqlite3

from fhirserver.core.model import CURRENT
from fhirserver.store.sqlite.asked import AMONG_KEYS, BY_KEY, LIVE, Arm, Asked, Piece, marks
from fhirserver.store.sqlite.meaning import Test
from fhirserver.store.sqlite.ways import Value

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


class Past:
    """Candidates of `history`, read at once: they are few."""

    table = "history"

    def __init__(self, arm: Arm, tests: tuple[Test, ...]) -> None:
        self._arm = arm
        self._tests = tests

    def piece(self, connection: sqlite3.Connection, after: int, upto: int, *, thorough: bool = False) -> Piece | None:  # noqa: ARG002 - as of the other sides
        """All there is."""
        return Piece((self._arm,), after, upto, self._tests) if after < upto else None


def past(asked: Asked, as_of: int) -> Past:
    """Versions that were current right after ``as_of`` and have been superseded since."""
    if asked.keys is not None:
        return _side(asked, BY_KEY.format("history"), ("x.ended > ?",), (asked.keys, as_of), within=True)
    if asked.within is not None:
        source = "chart_past p CROSS JOIN history x ON x.seq = p.seq"
        return _side(asked, source, ("p.compartment = ?", "p.ended > ?"), (asked.within, as_of))
    if asked.types is not None and len(asked.types) == 1:
        return _side(asked, "history x INDEXED BY history_type", ("x.ended > ?",), (as_of,))
    return _side(asked, "history x INDEXED BY history_ended", ("x.ended > ?",), (as_of,))


def departed(asked: Asked, since: int) -> Past:
    """The last chart versions of resources that stood in the chart right after ``since`` and no longer do."""
    within, as_of = asked.within or 0, CURRENT if asked.query.as_of is None else asked.query.as_of
    return _side(
        asked,
        "chart_past p CROSS JOIN history x ON x.seq = p.seq",
        ("p.compartment = ?", "p.ended > ?", "p.ended <= ?", *_DEPARTED),
        (within, since, as_of, within, as_of, within, as_of, within, since, since),
    )


def _side(
    asked: Asked, source: str, conditions: tuple[str, ...], values: tuple[Value, ...], *, within: bool = False
) -> Past:
    more, bound = asked.common(types=True)
    if asked.keys is not None and asked.query.departed_since is not None:
        more.append(AMONG_KEYS)
        bound.append(asked.keys)
    if within and asked.within is not None:
        more.append(f"EXISTS (SELECT 1 FROM chart_past b WHERE {_STANDS.format('b', 'x')})")
        bound.append(asked.within)
    for part in asked.parts:
        if part.past is not None:
            more.append(part.past[0])
            bound += part.past[1]
    if asked.beyond:
        among = f"o.compartment IN ({marks(asked.beyond)})"
        more.append(f"NOT EXISTS (SELECT 1 FROM chart_past o WHERE {among} AND o.ended = x.ended AND o.seq = x.seq)")
        bound += asked.beyond
    # Where a chart's past drives, its own seq is asked, so that what was read before costs no look at the version.
    order = "p.seq" if source.startswith("chart_past") else "x.seq"
    tests = tuple(part.test for part in asked.parts if part.past is None)
    return Past(Arm(source, (LIVE, *conditions, *more), (*values, *bound), order), tests)

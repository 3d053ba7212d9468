"""How a query would be read: SQLite's own plan of each statement that its first look asks, without a value."""

from __future__ import annotations

import re
import sqlite3

import msgspec

from fhirserver.core.model import Query
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.scan import Scan

_FIRST = 51
_INFINITE = re.compile(r"\bInf\b")
"""A bound that SQLite traces in a form that it does not read itself."""


def explain(connection: sqlite3.Connection, texts: Texts, query: Query) -> list[str]:
    """One sentence per step; ``query`` is looked at as far as its first page."""
    asked: list[str] = []
    connection.set_trace_callback(asked.append)
    try:
        Scan(texts, msgspec.structs.replace(query, limit=_FIRST, bodies=False), _FIRST).step(connection)
    finally:
        connection.set_trace_callback(None)
    steps: dict[str, None] = {}
    for statement in asked:
        if statement.lstrip().upper().startswith("SELECT"):
            readable = _INFINITE.sub("9e999", statement)
            for *_, detail in connection.execute(f"EXPLAIN QUERY PLAN {readable}"):
                steps[detail] = None
    return list(steps)

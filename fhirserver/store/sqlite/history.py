# ruff: noqa: S608 - every statement is our own text; values are bound
"""Versions newest first: a `HistoryQuery` read batch by batch from `current` and `history`, merged by seq.

A superseded version is visible if its own facts are and those of the version that is current at the snapshot. So each
candidate is surveyed as two pairs (see `visible`), and only what both admit is fetched.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from fhirserver.core.model import CURRENT, HistoryQuery, Record
from fhirserver.store.bodies import BATCH_BYTES
from fhirserver.store.sqlite.asked import high_water
from fhirserver.store.sqlite.codec import joined, understood
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.read import fetch, reading
from fhirserver.store.sqlite.visible import SHIFT, admission

Value = int | str
TABLES = ("current", "history")
MERGED = 16
"""Up to so many types are read each by its own range; more are filtered."""

_WINDOW = 4096
_LOOKS = 4
_seq = attrgetter("seq")
_ints = msgspec.json.Decoder(list[int]).decode
_ARRAY = "SELECT value FROM json_each(?)"
_PRESENT = (
    "CASE WHEN x.ended > @as_of THEN x.facts ELSE coalesce("
    "(SELECT c.facts FROM current c INDEXED BY current_key "
    "WHERE c.type = x.type AND c.id = x.id AND c.seq <= @as_of), "
    "(SELECT h.facts FROM history h INDEXED BY history_key "
    "WHERE h.type = x.type AND h.id = x.id AND h.seq <= @as_of AND h.ended > @as_of)) END"
)
"""The facts of the version that is current at the snapshot, for a superseded one."""


class Arm(NamedTuple):
    """One range that its index gives in order of ``order``, which rises with seq."""

    source: str
    condition: str
    values: tuple[Value, ...]
    order: str


class Side(NamedTuple):
    """The candidates of one table. ``open``: all of them are admitted, so that facts need not be looked at."""

    table: str
    arms: tuple[Arm, ...]
    as_of: int
    standing_after: int | None
    open: bool

    def select(self, after: int, before: int, *, admitted: str | None = None, limit: int) -> tuple[str, list[Value]]:
        """Rows (seq, type, facts, present, size) with ``after < seq < before``, newest first, and their values.

        ``admitted``: JSON array of the pairs that may come out.
        """
        present = "x.facts" if self.open or self.table == "current" else _PRESENT.replace("@as_of", str(self.as_of))
        texts: list[str] = []
        values: list[Value] = []
        for arm in self.arms:
            conditions = [arm.condition, "x.seq > ?", "x.seq < ?"]
            values += [*arm.values, after, before]
            if self.standing_after is not None:
                conditions.append("(x.deleted = 0 OR x.seq > ?)")
                values.append(self.standing_after)
                if self.table == "history":
                    conditions.append("x.ended > ?")
                    values.append(self.standing_after)
            if admitted is not None:
                conditions += [f"(x.type << {SHIFT} | {facts}) IN ({_ARRAY})" for facts in ("x.facts", f"({present})")]
                values += [admitted, admitted]
            columns = f"x.seq AS seq, x.type AS type, x.facts AS facts, {present} AS present, x.size AS size"
            texts.append(f"SELECT {columns} FROM {arm.source} WHERE {' AND '.join(conditions)}")
        order = "seq" if len(texts) > 1 else self.arms[0].order
        return " UNION ALL ".join(texts) + f" ORDER BY {order} DESC LIMIT ?", [*values, limit]


def sides(connection: sqlite3.Connection, texts: Texts, query: HistoryQuery, as_of: int, *, open_: bool) -> list[Side]:
    """What is to be read of each table; nothing where nothing can match."""
    names = {query.key.type} if query.key is not None else query.types
    types = None if names is None else [texts.find(connection, "types", name) for name in sorted(names)]
    numbers = None if types is None else [number for number in types if number is not None]
    if query.key is not None and query.types is not None and query.key.type not in query.types:
        return []
    if numbers == [] or not query.visible.clauses:
        return []
    return [Side(table, _arms(table, query, numbers), as_of, query.standing_after, open_) for table in TABLES]


def _arms(table: str, query: HistoryQuery, types: Sequence[int] | None) -> tuple[Arm, ...]:
    if query.key is not None and types is not None:
        order = "x.version" if table == "history" else "x.seq"
        source = f"{table} x INDEXED BY {table}_key"
        return (Arm(source, "x.type = ? AND x.id = ?", (types[0], query.key.id), order),)
    if types is None:
        return (Arm(f"{table} x NOT INDEXED", "1", (), "x.seq"),)
    if len(types) > MERGED:
        return (Arm(f"{table} x NOT INDEXED", f"x.type IN ({_ARRAY})", (joined(types),), "x.seq"),)
    if table == "history":
        return tuple(Arm("history x INDEXED BY history_feed", "x.type = ?", (type_,), "x.seq") for type_ in types)
    source, condition = "current x INDEXED BY current_type", "x.type = ? AND x.deleted = ?"
    return tuple(Arm(source, condition, (type_, deleted), "x.seq") for type_ in types for deleted in (0, 1))


class _Window(NamedTuple):
    found: int
    first: int
    size: int
    pairs: list[int]


class Versions:
    """A query read batch by batch, newest first; between two `step`s it holds nothing but its position."""

    def __init__(self, texts: Texts, query: HistoryQuery, batch: int) -> None:
        self._texts = texts
        self._query = query
        self._batch = max(1, batch)
        self._left = query.limit
        self._admission = admission(texts, query.visible, None)
        self._sides: list[Side] | None = None
        self._before = CURRENT if query.before is None else query.before
        self._window = self._batch

    def step(self, connection: sqlite3.Connection) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""
        with reading(connection):
            for _ in range(_LOOKS):
                records, done = self._look(connection)
                if records or done:
                    break
        if self._left is not None:
            self._left -= len(records)
            done = done or self._left <= 0
        return records, done

    def count(self, connection: sqlite3.Connection) -> int:
        """How many there are from here on."""
        total, done = 0, self._left == 0
        with reading(connection):
            while not done and (self._left is None or total < self._left):
                windows, cut, admitted = self._survey(connection, _WINDOW)
                for side, window in zip(self._sides or (), windows, strict=True):
                    if window.found and admitted != "[]":
                        select, values = side.select(cut - 1, self._before, admitted=admitted, limit=window.found)
                        total += connection.execute(f"SELECT count(*) FROM ({select})", values).fetchone()[0]
                self._before, done = cut, cut <= self._query.after + 1
        return total if self._left is None else min(total, self._left)

    def _look(self, connection: sqlite3.Connection) -> tuple[list[Record], bool]:
        wanted = self._batch if self._left is None else min(self._batch, self._left)
        if not wanted:
            return [], True
        size = max(wanted, self._window)
        windows, cut, admitted = self._survey(connection, size)
        if self._query.bodies and sum(window.size for window in windows) > BATCH_BYTES:
            cut = max(cut, self._fitting(connection, cut, size))
        records: list[Record] = []
        for side, window in zip(self._sides or (), windows, strict=True):
            if window.found and admitted != "[]":
                select, values = side.select(cut - 1, self._before, admitted=admitted, limit=wanted)
                records += fetch(connection, self._texts, side.table, select, values, bodies=self._query.bodies)
        records.sort(key=_seq, reverse=True)
        cut_short = len(records) >= wanted
        del records[wanted:]
        self._window = self._batch if 2 * len(records) >= wanted else min(_WINDOW, 2 * size)
        self._before = records[-1].seq if cut_short else cut
        return records, self._before <= self._query.after + 1

    def _survey(self, connection: sqlite3.Connection, size: int) -> tuple[list[_Window], int, str | None]:
        """Up to ``size`` candidates of each side; the first seq of the range in which nothing is left out; and the
        pairs that are admitted (None: all)."""
        if self._sides is None:
            self._begin(connection)
        windows = [self._look_at(connection, side, size) for side in self._sides or ()]
        cut = max((window.first for window in windows if window.found == size), default=self._query.after + 1)
        if self._admission.open:
            return windows, cut, None
        pairs = {pair for window in windows for pair in window.pairs}
        admitted = self._admission.decide(connection, self._texts, pairs) if pairs else []
        return windows, cut, None if admitted is None else joined(admitted)

    def _begin(self, connection: sqlite3.Connection) -> None:
        as_of = self._query.as_of
        if as_of is None:
            as_of = high_water(connection).seq
        self._sides = sides(connection, self._texts, self._query, as_of, open_=self._admission.open)
        self._before = min(self._before, as_of + 1)

    def _look_at(self, connection: sqlite3.Connection, side: Side, size: int) -> _Window:
        if self._before <= self._query.after + 1:
            return _Window(0, 0, 0, [])
        select, values = side.select(self._query.after, self._before, limit=size)
        told = [f"json_group_array(DISTINCT type << {SHIFT} | {facts})" for facts in ("facts", "present")]
        columns = "NULL, NULL" if self._admission.open else ", ".join(told)
        found, first, total, own, present = connection.execute(
            f"SELECT count(*), min(seq), total(size), {columns} FROM ({select})", values
        ).fetchone()
        pairs = [pair for text in (own, present) if text is not None for pair in understood(_ints, text.encode())]
        return _Window(found, first or 0, int(total), pairs)

    def _fitting(self, connection: sqlite3.Connection, cut: int, size: int) -> int:
        """The first seq from which on the bodies stay below the bound; that of the newest record at least."""
        rows: list[tuple[int, int]] = []
        for side in self._sides or ():
            select, values = side.select(cut - 1, self._before, limit=size)
            rows += connection.execute(f"SELECT seq, size FROM ({select})", values).fetchall()
        rows.sort(reverse=True)
        total, first = 0, rows[0][0]
        for seq, length in rows:
            total += length
            if total > BATCH_BYTES:
                break
            first = seq
        return first

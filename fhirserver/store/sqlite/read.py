# ruff: noqa: S608 - every statement is our own text; values are bound
"""Reads: each function is one short look at the store on one connection, inside one read transaction."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter
from typing import NamedTuple

import msgspec

from fhirserver.core.model import CURRENT, Key, Query, Record, Tally
from fhirserver.store.bodies import BATCH_BYTES
from fhirserver.store.sqlite.codec import Meta, joined, unpack_metas
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.plan import Plan, Side, compile_query
from fhirserver.store.sqlite.visible import SHIFT, Admission

_WINDOW = 4096
_LOOKS = 4
_ints = msgspec.json.Decoder(list[int]).decode
_sizes = msgspec.json.Decoder(list[tuple[int, int]]).decode
_tallies = msgspec.json.Decoder(list[tuple[int, int, int, int]]).decode
_seq = attrgetter("seq")


@contextmanager
def reading(connection: sqlite3.Connection) -> Iterator[None]:
    """All statements inside see one state of the store."""
    inside = connection.in_transaction  # the writer evaluates guards inside its own transaction
    if not inside:
        connection.execute("BEGIN")
    try:
        yield
    finally:
        if not inside and connection.in_transaction:
            connection.execute("COMMIT")


def build(connection: sqlite3.Connection, texts: Texts, metas: Sequence[Meta], bodies: bytes | None) -> list[Record]:
    """Records from packed rows; ``bodies`` are the in-line ones, concatenated (None: not asked for)."""
    types, facts, supports = texts.by_id["types"], texts.by_id["facts"], texts.by_id["supports"]
    try:
        return _build(types, facts, supports, metas, bodies)
    except KeyError:
        types = texts.load(connection, "types", (meta[0] for meta in metas))
        facts = texts.load(connection, "facts", (meta[7] for meta in metas))
        supports = texts.load(connection, "supports", (meta[8] for meta in metas))
    try:
        return _build(types, facts, supports, metas, bodies)
    except KeyError as error:
        raise sqlite3.DatabaseError("a version speaks of a text that is not there") from error


def _build(
    types: Mapping[int, str],
    facts: Mapping[int, str],
    supports: Mapping[int, str],
    metas: Sequence[Meta],
    bodies: bytes | None,
) -> list[Record]:
    if bodies is None:
        return [
            Record(types[t], i, v, s, e, u, d, facts[f], supports[p], g, n, None)
            for t, i, v, s, e, u, d, f, p, g, n, _ in metas
        ]
    records, at = [], 0
    for t, i, v, s, e, u, d, f, p, g, n, blob in metas:
        if blob:
            body = None
        else:
            end = at + n
            body = bodies[at:end]
            at = end
        records.append(Record(types[t], i, v, s, e, u, d, facts[f], supports[p], g, n, body))
    if at != len(bodies):  # a damaged row would shift the bodies behind it: never give one resource's as another's
        raise sqlite3.DatabaseError("bodies do not have the sizes that were written")
    return records


def fetch(
    connection: sqlite3.Connection,
    texts: Texts,
    table: str,
    select: str,
    values: Sequence[object],
    *,
    bodies: bool = True,
) -> list[Record]:
    """The versions in ``table`` whose seqs ``select`` gives in order, as one row (see `schema`)."""
    wanted = "CAST(group_concat(c.body, '') AS BLOB)" if bodies else "NULL"
    count, packed, joined_bodies = connection.execute(
        f"SELECT count(*), CAST(group_concat(c.meta, '') AS BLOB), {wanted} "
        f"FROM ({select}) w CROSS JOIN {table} c ON c.seq = w.seq",
        values,
    ).fetchone()
    if not count:
        return []
    records = build(connection, texts, unpack_metas(count, packed), (joined_bodies or b"") if bodies else None)
    records.sort(key=_seq)  # one pass over what is sorted: group_concat follows the subquery, but does not promise to
    return records


class _Window(NamedTuple):
    found: int
    last: int
    size: int
    pairs: list[int] | None


class _Part(NamedTuple):
    side: Side
    after: int
    upto: int


class Scan:
    """A query read batch by batch; between two `step`s it holds nothing but its position."""

    def __init__(self, texts: Texts, query: Query, batch: int) -> None:
        self._texts = texts
        self._query = query
        self._batch = max(1, batch)
        self._left = query.limit
        self._plan: Plan | None = None
        self._admission = Admission(query.visible, query.other_than)
        self._after = query.after
        self._window = self._batch

    def step(self, connection: sqlite3.Connection) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""
        with reading(connection):
            if self._plan is None or self._query.as_of is None:
                self._plan = compile_query(connection, self._texts, self._query)
                self._after = max(self._after, self._plan.after)
            found: list[Record] = []
            for _ in range(_LOOKS):
                found, done = self._look(connection, self._plan)
                if found or done:
                    break
        if self._left is not None:
            self._left -= len(found)
            done = done or self._left <= 0
        return found, done

    def _look(self, connection: sqlite3.Connection, plan: Plan) -> tuple[list[Record], bool]:
        wanted = self._batch if self._left is None else min(self._batch, self._left)
        if not plan.sides or not wanted:
            return [], True
        size = max(wanted, self._window)
        pieces = [(side, side.piece(connection, self._after, plan.upto)) for side in plan.sides]
        parts = [_Part(side, *piece) for side, piece in pieces if piece is not None]
        end = min((part.upto for part in parts), default=plan.upto)
        windows = [self._survey(connection, part, end, size) for part in parts]
        cut = min((window.last for window in windows if window.found == size), default=end)
        if self._query.bodies and sum(window.size for window in windows) > BATCH_BYTES:
            cut = min(cut, self._fitting(connection, parts, cut, size))
        admitted = self._admit(connection, windows)
        records: list[Record] = []
        bound = None if admitted is None else joined(admitted)
        for part, window in zip(parts, windows, strict=True):
            if window.found and part.after < cut and admitted != []:
                select, values = part.side.select(part.after, cut, admitted=bound, limit=wanted)
                records += fetch(connection, self._texts, part.side.table, select, values, bodies=self._query.bodies)
        if len(parts) > 1 and windows[1].found:
            records.sort(key=_seq)
        cut_short = len(records) >= wanted
        del records[wanted:]
        self._window = self._batch if 2 * len(records) >= wanted else min(_WINDOW, 2 * size)
        self._after = records[-1].seq if cut_short else cut
        return records, not cut_short and cut >= plan.upto

    def _survey(self, connection: sqlite3.Connection, part: _Part, upto: int, size: int) -> _Window:
        if part.after >= upto:
            return _Window(0, 0, 0, None)
        select, values = part.side.select(part.after, upto, limit=size)
        pairs = "NULL" if self._admission.open else f"json_group_array(DISTINCT type << {SHIFT} | facts)"
        count, last, total, found = connection.execute(
            f"SELECT count(*), max(seq), total(size), {pairs} FROM ({select})",
            values,
        ).fetchone()
        return _Window(count, last or 0, int(total), None if found is None else _ints(found))

    def _admit(self, connection: sqlite3.Connection, windows: list[_Window]) -> list[int] | None:
        if self._admission.open:
            return None if any(window.found for window in windows) else []
        pairs = {pair for window in windows for pair in window.pairs or ()}
        return self._admission.decide(connection, self._texts, pairs) if pairs else []

    def _fitting(self, connection: sqlite3.Connection, parts: Sequence[_Part], cut: int, size: int) -> int:
        """The last seq up to which the bodies stay below the bound; the first record's at least."""
        rows: list[tuple[int, int]] = []
        for part in parts:
            if part.after < cut:
                select, values = part.side.select(part.after, cut, limit=size)
                statement = f"SELECT json_group_array(json_array(seq, size)) FROM ({select})"
                rows += _sizes(connection.execute(statement, values).fetchone()[0])
        rows.sort()
        total, last = 0, rows[0][0]
        for seq, length in rows:
            total += length
            if total > BATCH_BYTES:
                return last
            last = seq
        return cut


def _pieces(connection: sqlite3.Connection, plan: Plan) -> Iterator[tuple[Side, int, int]]:
    """What has to be read of each side, piece by piece."""
    for side in plan.sides:
        after = plan.after
        while (piece := side.piece(connection, after, plan.upto)) is not None:
            yield side, *piece
            after = piece[1]


def count(connection: sqlite3.Connection, texts: Texts, query: Query) -> int:
    """How many records a scan would give."""
    with reading(connection):
        plan = compile_query(connection, texts, query)
        admitted = _admitted(connection, texts, query, plan)
        total = 0
        for side, after, upto in _pieces(connection, plan):
            select, values = side.select(after, upto, admitted=admitted, limit=query.limit)
            total += connection.execute(f"SELECT count(*) FROM ({select})", values).fetchone()[0]
    return total if query.limit is None else min(total, query.limit)


def tally(connection: sqlite3.Connection, texts: Texts, query: Query) -> list[Tally]:
    """The records a scan would give, counted by (type, facts, supports)."""
    totals: Counter[tuple[str, str, str]] = Counter()
    with reading(connection):
        if query.limit is not None:
            steps, done = Scan(texts, msgspec.structs.replace(query, bodies=False), _WINDOW), False
            while not done:
                records, done = steps.step(connection)
                totals.update((record.type, record.facts, record.supports) for record in records)
        else:
            plan = compile_query(connection, texts, query)
            admitted = _admitted(connection, texts, query, plan)
            for side, after, upto in _pieces(connection, plan):
                select, values = side.select(after, upto, admitted=admitted)
                _add_groups(connection, texts, select, values, totals)
    return [Tally(*group, number) for group, number in totals.items()]


def _add_groups(
    connection: sqlite3.Connection,
    texts: Texts,
    select: str,
    values: Sequence[object],
    totals: Counter[tuple[str, str, str]],
) -> None:
    found = connection.execute(
        "SELECT json_group_array(json_array(type, facts, supports, n)) FROM "
        f"(SELECT type, facts, supports, count(*) AS n FROM ({select}) GROUP BY type, facts, supports)",
        values,
    ).fetchone()[0]
    rows = _tallies(found)
    types, facts, supports = (
        texts.load(connection, table, (row[column] for row in rows))
        for column, table in enumerate(("types", "facts", "supports"))
    )
    for t, f, s, n in rows:
        if t not in types or f not in facts or s not in supports:
            raise sqlite3.DatabaseError("a version speaks of a text that is not there")
        totals[types[t], facts[f], supports[s]] += n


def _admitted(connection: sqlite3.Connection, texts: Texts, query: Query, plan: Plan) -> str | None:
    admission = Admission(query.visible, query.other_than)
    if admission.open:
        return None
    pairs: set[int] = set()
    for side, after, upto in _pieces(connection, plan):
        select, values = side.select(after, upto)
        statement = f"SELECT json_group_array(DISTINCT type << {SHIFT} | facts) FROM ({select})"
        pairs.update(_ints(connection.execute(statement, values).fetchone()[0]))
    admitted = admission.decide(connection, texts, pairs)
    return None if admitted is None else joined(admitted)


_KEY = "SELECT seq FROM {} WHERE type = ? AND id = ? AND {}"


def get(
    connection: sqlite3.Connection, texts: Texts, key: Key, version: int | None, as_of: int | None
) -> Record | None:
    """The version `Store.get` speaks of."""
    type_ = texts.find(connection, "types", key.type)
    if type_ is None:
        return None
    condition, bound = "1", []
    if version is not None:
        condition, bound = "version = ?", [version]
    if as_of is not None:
        condition, bound = f"{condition} AND seq <= ?", [*bound, as_of]
    with reading(connection):
        found = fetch(connection, texts, "current", _KEY.format("current", condition), (type_, key.id, *bound))
        if not found and not (version is None and as_of is None):
            if as_of is not None and version is None:
                condition, bound = f"{condition} AND ended > ?", [*bound, as_of]
            found = fetch(connection, texts, "history", _KEY.format("history", condition), (type_, key.id, *bound))
    return found[0] if found else None


class Changes:
    """The change feed: every version after a seq, tombstones and superseded ones too."""

    def __init__(self, texts: Texts, after: int, batch: int, *, bodies: bool = True) -> None:
        self._texts = texts
        self._after = after
        self._bodies = bodies
        self._batch = batch

    def step(self, connection: sqlite3.Connection) -> tuple[list[Record], bool]:
        """The next records and whether the feed ended there."""
        tables = ("current", "history")
        with reading(connection):
            windows = [self._survey(connection, table) for table in tables]
            cut = min((last for count, last, _ in windows if count == self._batch), default=CURRENT)
            if self._bodies and sum(size for _, _, size in windows) > BATCH_BYTES:
                cut = min(cut, self._fitting(connection, cut))
            records: list[Record] = []
            for table in tables:
                select = f"SELECT seq FROM {table} WHERE seq > ? AND seq <= ? ORDER BY seq"
                records += fetch(connection, self._texts, table, select, (self._after, cut), bodies=self._bodies)
        records.sort(key=_seq)
        if records:
            self._after = records[-1].seq
        return records, cut == CURRENT

    def _survey(self, connection: sqlite3.Connection, table: str) -> tuple[int, int, float]:
        select = f"SELECT seq, size FROM {table} WHERE seq > ? ORDER BY seq LIMIT ?"
        row: tuple[int, int | None, float] = connection.execute(
            f"SELECT count(*), max(seq), total(size) FROM ({select})",
            (self._after, self._batch),
        ).fetchone()
        return row[0], row[1] or 0, row[2]

    def _fitting(self, connection: sqlite3.Connection, cut: int) -> int:
        rows = connection.execute(
            "SELECT seq, size FROM current WHERE seq > ?1 AND seq <= ?2 "
            "UNION ALL SELECT seq, size FROM history WHERE seq > ?1 AND seq <= ?2 ORDER BY seq LIMIT ?3",
            (self._after, cut, self._batch),
        ).fetchall()
        total, last = 0, int(rows[0][0])
        for seq, size in rows:
            total += size
            if total > BATCH_BYTES:
                break
            last = seq
        return last


def place(connection: sqlite3.Connection, record: Record) -> tuple[int, bytes | None] | None:
    """(blob id or 0, body in line) of a version wherever it lies now; None if there is no such version."""
    row: tuple[int, bytes | None] | None = connection.execute(
        "SELECT blob, body FROM current WHERE seq = ?1 UNION ALL SELECT blob, body FROM history WHERE seq = ?1",
        (record.seq,),
    ).fetchone()
    return row


def chunk(connection: sqlite3.Connection, blob: int, after: int) -> tuple[int, bytes] | None:
    """The next chunk of a body out of line, and its number."""
    row: tuple[int, bytes] | None = connection.execute(
        "SELECT part, data FROM chunks WHERE blob = ? AND part > ? ORDER BY part LIMIT 1", (blob, after)
    ).fetchone()
    return row

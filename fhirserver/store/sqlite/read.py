# ruff: noqa: S608 - every statement is our own text; values are bound
"""Reads: each function is one short look at the store on one connection, inside one read transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from operator import attrgetter

from fhirserver.core.model import CURRENT, Key, Record
from fhirserver.store.bodies import BATCH_BYTES
from fhirserver.store.sqlite.codec import Entries, Meta, joined, unpack_entries, unpack_metas
from fhirserver.store.sqlite.intern import Texts

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


def entries_of(connection: sqlite3.Connection, seqs: Iterable[int]) -> list[tuple[int, Entries]]:
    """(seq, index rows as they were written) of those of the versions that have a record of them."""
    count, packed = connection.execute(
        "SELECT count(*), CAST(group_concat(e.packed, '') AS BLOB) FROM json_each(?) n "
        "CROSS JOIN entries e ON e.seq = n.value",
        (joined(seqs),),
    ).fetchone()
    return unpack_entries(count, packed or b"")


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

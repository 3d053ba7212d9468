# ruff: noqa: S608 - every statement is our own text; values are bound
"""The audit trail in SQLite: appends share the committer's flush, reads are short keyset reads.

One chain for the whole store: rows are numbered by the one transaction that may write at a time, whichever process it
belongs to, and each carries the link to the one before it (`core.trail`).
"""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence

import msgspec

from fhirserver.core.model import AuditRow
from fhirserver.core.trail import BEGIN, Entry, TrailQuery, canonical, event_of, link
from fhirserver.store.sqlite.codec import understood
from fhirserver.store.sqlite.committer import Committer, Job
from fhirserver.store.sqlite.intern import insert_rows
from fhirserver.store.sqlite.readers import Readers
from fhirserver.store.sqlite.write import Transaction

_BATCH = 500
_AT_ONCE = 200
_DROPPED_AT_ONCE = 5000
"""Rows that one transaction drops: others wait for it."""

_decode = msgspec.msgpack.Decoder(AuditRow).decode
_Row = tuple[int, bytes, bytes | None]


class SqliteAudit:
    """See `port.AuditLog`."""

    def __init__(self, readers: Readers, committer: Committer) -> None:
        self._readers = readers
        self._committer = committer

    async def append(self, rows: Sequence[AuditRow]) -> None:
        if rows:
            kept = tuple(rows)
            await self._committer.submit(Job(lambda transaction, _: insert(transaction, kept)))

    async def scan(self, *, since: int = 0) -> AsyncIterator[list[AuditRow]]:
        after = await self._readers.run(lambda connection: _before(connection, since)) if since else 0
        async for entries in self.entries(str(after)):
            rows = [each.row for each in entries if each.row.at >= since]
            if rows:
                yield rows

    async def entries(self, after: str = "", *, settled: bool = False) -> AsyncIterator[list[Entry]]:  # noqa: ARG002 - all are
        place = int(after or 0)
        while True:
            rows = await self._readers.run(lambda connection: page(connection, place))  # noqa: B023 - awaited at once
            if rows:
                yield [_entry(row) for row in rows]
                place = rows[-1][0]
            if len(rows) < _BATCH:
                return

    async def find(self, query: TrailQuery) -> list[Entry]:
        return await self._readers.run(lambda connection: [_entry(row) for row in _found(connection, query)])

    async def events(self, ids: Sequence[str]) -> list[Entry]:
        kept = tuple(dict.fromkeys(ids))
        return await self._readers.run(lambda connection: _of_events(connection, kept))

    async def drop(self, before: int) -> int:
        dropped = 0
        while True:
            number = await self._committer.submit(Job(lambda transaction, _: _drop(transaction.connection, before)))
            dropped += number
            if number < _DROPPED_AT_ONCE:
                return dropped


def insert(transaction: Transaction, rows: Sequence[AuditRow]) -> None:
    """Append inside the writer's transaction."""
    if not rows:
        return
    number, before = transaction.audit_head or _head(transaction.connection)
    kept: list[tuple[object, ...]] = []
    events: list[tuple[object, ...]] = []
    patients: list[tuple[object, ...]] = []
    for row in rows:
        number, packed = number + 1, canonical(row)
        before = link(before, place_of(number), packed)
        kept.append((number, row.at, row.organization, packed, before))
        events.append((event_of(row), number))
        patients += [(patient, row.at, number) for patient in set(row.patients)]
    # A statement that inserts them all gives the interpreter away once; see `schema`.
    insert_rows(transaction.connection, "audit", 5, kept)
    insert_rows(transaction.connection, "audit_events", 2, events)
    insert_rows(transaction.connection, "audit_patients", 3, patients)
    transaction.audit_head = number, before


def place_of(number: int) -> bytes:
    """The place of a row as it goes into its link."""
    return number.to_bytes(8, "big")


def _head(connection: sqlite3.Connection) -> tuple[int, bytes]:
    """The last number that was ever given, so that none is given twice, and the link to go on from."""
    found = connection.execute(
        "SELECT s.seq, coalesce(a.link, (SELECT link FROM audit_dropped WHERE n = s.seq)) "
        "FROM sqlite_sequence s LEFT JOIN audit a ON a.n = s.seq WHERE s.name = 'audit'"
    ).fetchone()
    return (found[0], found[1] or BEGIN) if found else (0, BEGIN)


def page(connection: sqlite3.Connection, after: int) -> list[_Row]:
    """The rows behind a number, in order."""
    statement = f"SELECT n, row, link FROM audit WHERE n > ? ORDER BY n LIMIT {_BATCH}"
    return connection.execute(statement, (after,)).fetchall()


def _entry(row: _Row) -> Entry:
    return Entry(str(row[0]), understood(_decode, row[1]), row[2] or b"")


def _before(connection: sqlite3.Connection, since: int) -> int:
    first = connection.execute("SELECT min(n) FROM audit WHERE at >= ?", (since,)).fetchone()[0]
    return int(first) - 1 if first else 0


def _found(connection: sqlite3.Connection, query: TrailQuery) -> list[_Row]:
    order, direction = (">", "") if query.oldest_first else ("<", " DESC")
    if query.patient is not None:
        source, by = "audit_patients p CROSS JOIN audit a ON a.n = p.n", "p"
    else:
        source, by = f"audit a INDEXED BY {'audit_organization' if query.organization is not None else 'audit_at'}", "a"
    conditions: list[str] = []
    values: list[str | int] = []
    for condition, value in (
        ("p.patient = ?", query.patient),
        ("a.organization = ?", query.organization),
        (f"{by}.at >= ?", query.since),
        (f"{by}.at < ?", query.until),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if query.after is not None:
        conditions.append(f"({by}.at, {by}.n) {order} (?, ?)")
        values += [query.after[0], int(query.after[1])]
    where = f"WHERE {' AND '.join(conditions)} " if conditions else ""
    statement = f"SELECT a.n, a.row, a.link FROM {source} {where}ORDER BY {by}.at{direction}, {by}.n{direction} LIMIT ?"
    return connection.execute(statement, [*values, query.limit]).fetchall()


def _of_events(connection: sqlite3.Connection, ids: Sequence[str]) -> list[Entry]:
    found: list[_Row] = []
    for at in range(0, len(ids), _AT_ONCE):
        part = ids[at : at + _AT_ONCE]
        statement = (
            "SELECT a.n, a.row, a.link FROM audit_events e CROSS JOIN audit a ON a.n = e.n "
            f"WHERE e.event IN ({','.join('?' * len(part))})"
        )
        found += connection.execute(statement, part).fetchall()
    return [_entry(row) for row in sorted(found)]


def _drop(connection: sqlite3.Connection, before: int) -> int:
    """Drop some of the oldest rows, up to the first that is not from before this time."""
    kept = connection.execute("SELECT min(n) FROM audit WHERE at >= ?", (before,)).fetchone()[0]
    rows = connection.execute(
        "SELECT n, row, link FROM audit WHERE n < ? ORDER BY n LIMIT ?", (kept or 2**62, _DROPPED_AT_ONCE)
    ).fetchall()
    if not rows:
        return 0
    last, _, anchor = rows[-1]
    connection.execute("UPDATE audit_dropped SET n = ?, link = ?", (last, anchor))
    for entry in map(_entry, rows):
        number, row = int(entry.place), entry.row
        connection.execute("DELETE FROM audit_events WHERE event = ? AND n = ?", (event_of(row), number))
        for patient in set(row.patients):
            connection.execute(
                "DELETE FROM audit_patients WHERE patient = ? AND at = ? AND n = ?", (patient, row.at, number)
            )
    connection.execute("DELETE FROM audit WHERE n <= ?", (last,))
    return len(rows)

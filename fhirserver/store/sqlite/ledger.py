# ruff: noqa: S608 - every statement is our own text; values are bound
"""The ledger in SQLite: short reads, and writes through the committer."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Callable, Sequence

from fhirserver.core.model import LedgerEntry
from fhirserver.store.sqlite.committer import Committer, Job
from fhirserver.store.sqlite.readers import Readers
from fhirserver.store.sqlite.write import Transaction

_BATCH = 256


class SqliteLedger:
    """See `port.Ledger`."""

    def __init__(self, readers: Readers, committer: Committer, *, clock: Callable[[], int]) -> None:
        self._readers = readers
        self._committer = committer
        self._clock = clock

    async def get(self, name: str) -> LedgerEntry | None:
        return (await self.several((name,)))[0]

    async def several(self, names: Sequence[str]) -> list[LedgerEntry | None]:
        now = self._clock()
        return await self._readers.short(lambda connection: [_entry(connection, name, now) for name in names])

    async def put_if(self, name: str, value: bytes | None, *, stamp: int | None, expires: int | None = None) -> bool:
        def apply(transaction: Transaction, _: None) -> bool:
            connection = transaction.connection
            entry = _entry(connection, name, self._clock())
            if (entry.stamp if entry else None) != stamp:
                return False
            if value is None:
                connection.execute("DELETE FROM ledger WHERE name = ?", (name,))
            else:
                put(connection, name, value, expires)
            return True

        return await self._committer.submit(Job(apply))

    async def incr(self, name: str, by: int = 1, *, expires: int | None = None) -> int:
        def apply(transaction: Transaction, _: None) -> int:
            return increment(transaction.connection, name, by, now=self._clock(), expires=expires)

        return await self._committer.submit(Job(apply))

    async def scan(self, prefix: str) -> AsyncIterator[tuple[str, LedgerEntry]]:
        after, first = prefix, True
        while True:
            rows = await self._readers.run(lambda connection: self._page(connection, prefix, after, first))  # noqa: B023 - awaited at once
            for name, value, stamp in rows:
                yield name, LedgerEntry(value, stamp)
            if len(rows) < _BATCH:
                return
            after, first = rows[-1][0], False

    def _page(
        self, connection: sqlite3.Connection, prefix: str, after: str, first: bool
    ) -> list[tuple[str, bytes, int]]:
        return connection.execute(
            f"SELECT name, value, stamp FROM ledger WHERE name {'>=' if first else '>'} ? AND name < ? "
            "AND substr(name, 1, length(?)) = ? AND (expires IS NULL OR expires > ?) ORDER BY name LIMIT ?",
            (after, prefix + "\U0010ffff", prefix, prefix, self._clock(), _BATCH),
        ).fetchall()


def increment(connection: sqlite3.Connection, name: str, by: int = 1, *, now: int, expires: int | None = None) -> int:
    """Add to a counter inside the writer's transaction; ValueError if the entry is no counter."""
    row = connection.execute("SELECT value, expires FROM ledger WHERE name = ?", (name,)).fetchone()
    if row is None or (row[1] is not None and row[1] <= now):
        value = by
    else:
        value, expires = int(row[0]) + by, row[1]
    put(connection, name, b"%d" % value, expires)
    return value


def _entry(connection: sqlite3.Connection, name: str, now: int) -> LedgerEntry | None:
    row = connection.execute(
        "SELECT value, stamp FROM ledger WHERE name = ? AND (expires IS NULL OR expires > ?)", (name, now)
    ).fetchone()
    return LedgerEntry(*row) if row else None


def put(connection: sqlite3.Connection, name: str, value: bytes, expires: int | None) -> None:
    stamp = connection.execute("UPDATE stamps SET last = last + 1 RETURNING last").fetchone()[0]
    connection.execute("REPLACE INTO ledger VALUES (?, ?, ?, ?)", (name, value, stamp, expires))

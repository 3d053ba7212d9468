# ruff: noqa: S608 - every statement is our own text; values are bound
"""The audit trail in SQLite: appends share the committer's flush, scans are short keyset reads."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Sequence

import msgspec

from fhirserver.core.model import AuditRow
from fhirserver.store.sqlite.codec import understood
from fhirserver.store.sqlite.committer import Committer, Job
from fhirserver.store.sqlite.readers import Readers
from fhirserver.store.sqlite.write import Transaction

_BATCH = 500
_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(AuditRow).decode


class SqliteAudit:
    """See `port.AuditLog`."""

    def __init__(self, readers: Readers, committer: Committer) -> None:
        self._readers = readers
        self._committer = committer

    async def append(self, rows: Sequence[AuditRow]) -> None:
        if rows:
            kept = tuple(rows)
            await self._committer.submit(Job(lambda transaction, _: insert(transaction, kept)))

    async def scan(
        self, *, organization: str | None = None, patient: str | None = None, since: int = 0
    ) -> AsyncIterator[list[AuditRow]]:
        after = await self._readers.run(lambda connection: _before(connection, since)) if since else 0
        while True:
            rows = await self._readers.run(lambda connection: _page(connection, organization, patient, since, after))  # noqa: B023 - awaited at once
            if rows:
                yield [understood(_decode, row) for _, row in rows]
                after = rows[-1][0]
            if len(rows) < _BATCH:
                return


def insert(transaction: Transaction, rows: Sequence[AuditRow]) -> None:
    """Append inside the writer's transaction."""
    for row in rows:
        number = transaction.connection.execute(
            "INSERT INTO audit(at, organization, row) VALUES (?, ?, ?)", (row.at, row.organization, _encode(row))
        ).lastrowid
        for patient in set(row.patients):
            transaction.connection.execute("INSERT INTO audit_patients VALUES (?, ?)", (patient, number))


def _before(connection: sqlite3.Connection, since: int) -> int:
    first = connection.execute("SELECT min(n) FROM audit WHERE at >= ?", (since,)).fetchone()[0]
    return int(first) - 1 if first else 0


def _page(
    connection: sqlite3.Connection, organization: str | None, patient: str | None, since: int, after: int
) -> list[tuple[int, bytes]]:
    source, conditions, values = "audit a", ["a.at >= ?"], [since]
    bound: list[str | int] = list(values)
    order = "a.n"
    if patient is not None:
        source, order = "audit_patients p CROSS JOIN audit a ON a.n = p.n", "p.n"
        conditions.append("p.patient = ?")
        bound.append(patient)
        if organization is not None:
            conditions.append("a.organization = ?")
            bound.append(organization)
    elif organization is not None:
        source = "audit a INDEXED BY audit_organization"
        conditions.append("a.organization = ?")
        bound.append(organization)
    statement = (
        f"SELECT a.n, a.row FROM {source} WHERE {' AND '.join(conditions)} AND {order} > ? "
        f"ORDER BY {order} LIMIT {_BATCH}"
    )
    return connection.execute(statement, [*bound, after]).fetchall()

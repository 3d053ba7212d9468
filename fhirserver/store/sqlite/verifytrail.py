# ruff: noqa: S608 - every statement is our own text; values are bound
"""The audit trail against its chain and its indexes, one sentence for what does not fit."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence

import msgspec

from fhirserver.core.model import AuditRow
from fhirserver.core.trail import BEGIN, event_of, link
from fhirserver.store.sqlite.audit import page, place_of

_SHOWN = 100
_AT_ONCE = 400


def trail(connection: sqlite3.Connection) -> list[str]:
    """Every row fits the link before it, none is missing, and each is found where it is looked for."""
    walk = _Walk(connection)
    found: list[str] = []
    for sentence in walk.sentences():
        found.append(sentence)
        if len(found) >= _SHOWN:
            break
    return found


class _Walk:
    """The rows in order, from the last that retention has dropped."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self._named = self._patients = 0

    def sentences(self) -> Iterator[str]:
        connection = self._connection
        number, anchor = connection.execute("SELECT n, link FROM audit_dropped").fetchone()
        last = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'audit'").fetchone()
        before: bytes | None = anchor or None
        bound = anchor is not None
        while rows := page(connection, number):
            kept: list[tuple[int, AuditRow]] = []
            for place, packed, own in rows:
                missed = place != number + 1
                if missed:
                    yield _missing(number + 1, place - 1)
                if own is None and bound:
                    yield f"Row {place} of the audit trail has no link: it was put in, or its link was taken away."
                elif own is not None and not missed and link(before or BEGIN, place_of(place), packed) != own:
                    yield (
                        f"Row {place} of the audit trail does not fit its link: it was changed, or put in, "
                        "or the row before it was."
                    )
                bound, before, number = bound or own is not None, own or before, place
                try:
                    row = msgspec.msgpack.decode(packed, type=AuditRow)
                except (msgspec.MsgspecError, UnicodeDecodeError):
                    yield f"Row {place} of the audit trail cannot be read."
                else:
                    kept.append((place, row))
            yield from self._findable(kept)
        if last is not None and last[0] > number:
            yield _missing(number + 1, last[0])
        yield from self._no_others()

    def _findable(self, rows: Sequence[tuple[int, AuditRow]]) -> Iterator[str]:
        """Each row stands in every index that it is looked for by."""
        if not rows:
            return
        statement = "SELECT n, at, organization FROM audit WHERE n BETWEEN ? AND ?"
        told = {each[0]: each[1:] for each in self._connection.execute(statement, (rows[0][0], rows[-1][0]))}
        for place, row in rows:
            if told.get(place) != (row.at, row.organization):
                yield f"Row {place} of the audit trail is not found by its time or organisation."
        events = [(event_of(row), place) for place, row in rows]
        patients = [(patient, row.at, place) for place, row in rows for patient in set(row.patients)]
        self._named += len(events)
        self._patients += len(patients)
        for place in self._absent("audit_events", ("event", "n"), events):
            yield f"Row {place} of the audit trail is not found by its event."
        for place in self._absent("audit_patients", ("patient", "at", "n"), patients):
            yield f"Row {place} of the audit trail is not found by its patient."

    def _absent(self, table: str, columns: Sequence[str], rows: Sequence[tuple[str | int, ...]]) -> list[int]:
        absent: list[int] = []
        same = " AND ".join(f"t.{name} = k.column{at}" for at, name in enumerate(columns, 1))
        for at in range(0, len(rows), _AT_ONCE):
            part = rows[at : at + _AT_ONCE]
            values = ",".join([f"({','.join('?' * len(columns))})"] * len(part))
            statement = (
                f"SELECT DISTINCT k.column{len(columns)} FROM (VALUES {values}) k "
                f"WHERE NOT EXISTS (SELECT 1 FROM {table} t WHERE {same})"
            )
            absent += [row[0] for row in self._connection.execute(statement, [each for one in part for each in one])]
        return absent

    def _no_others(self) -> Iterator[str]:
        for table, wanted in (("audit_events", self._named), ("audit_patients", self._patients)):
            there = self._connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
            if there > wanted:
                yield f"{there - wanted} entries of {table} belong to no row of the audit trail."


def _missing(first: int, last: int) -> str:
    return (
        f"Row {first} of the audit trail is missing."
        if first == last
        else f"Rows {first} to {last} of the audit trail are missing."
    )

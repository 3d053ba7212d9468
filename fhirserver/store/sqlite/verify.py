# ruff: noqa: S608 - every statement is our own text; values are bound
"""Inconsistencies of a SQLite store, one sentence each."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from fhirserver.core.model import CURRENT, Facts, Index, Record
from fhirserver.store.sqlite.codec import Entries, pack
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.purge import removed
from fhirserver.store.sqlite.read import entries_of, reading
from fhirserver.store.sqlite.schema import REGION_BITS
from fhirserver.store.sqlite.write import INDEX_TABLES, make_entries, term_numbers

_SHOWN = 100
_BATCH = 1000

_NAMED = "(SELECT text FROM types WHERE id = v.type) || '/' || v.id || ' version ' || v.version"
_CHECKS = (
    (
        "{} has no successor where it ended.",
        f"SELECT {_NAMED} FROM history v WHERE NOT EXISTS (SELECT 1 FROM history n WHERE n.type = v.type "
        "AND n.id = v.id AND n.version = v.version + 1 AND n.seq = v.ended) AND NOT EXISTS (SELECT 1 FROM current n "
        "WHERE n.type = v.type AND n.id = v.id AND n.version = v.version + 1 AND n.seq = v.ended)",
    ),
    (
        "{} has no predecessor.",
        f"SELECT {_NAMED} FROM (SELECT type, id, version FROM current "
        "UNION ALL SELECT type, id, version FROM history) v "
        "WHERE v.version > 1 AND NOT EXISTS (SELECT 1 FROM history p WHERE p.type = v.type AND p.id = v.id "
        "AND p.version = v.version - 1)",
    ),
    (
        "{} is both current and superseded.",
        f"SELECT {_NAMED} FROM history v JOIN current c ON c.seq = v.seq",
    ),
    (
        "{} ended before it began.",
        f"SELECT {_NAMED} FROM history v WHERE v.ended <= v.seq OR v.ended >= {CURRENT}",
    ),
    (
        "{} has a body out of line whose chunks are missing or unpublished.",
        f"SELECT {_NAMED} FROM (SELECT type, id, version, blob FROM current UNION ALL "
        "SELECT type, id, version, blob FROM history) v WHERE v.blob <> 0 AND NOT EXISTS "
        "(SELECT 1 FROM blobs b WHERE b.id = v.blob AND b.staged IS NULL)",
    ),
    (
        "The commit that ends at seq {} does not follow the one before it.",
        "SELECT last FROM (SELECT last, first, lag(last, 1, 0) OVER (ORDER BY last) AS before, updated, "
        "lag(updated, 1, 0) OVER (ORDER BY last) AS earlier FROM commits) WHERE first <> before + 1 OR last < first "
        "OR updated < earlier",
    ),
    (
        "Seq {} lies above the last commit.",
        "SELECT seq FROM (SELECT seq FROM current UNION ALL SELECT seq FROM history) "
        "WHERE seq > coalesce((SELECT max(last) FROM commits), 0)",
    ),
    (
        "A chart remembers seq {}, which is no superseded version.",
        "SELECT p.seq FROM chart_past p WHERE NOT EXISTS "
        "(SELECT 1 FROM history h WHERE h.seq = p.seq AND h.ended = p.ended AND h.deleted = 0)",
    ),
    ("Body {} out of line belongs to no version.",
        "SELECT b.id FROM blobs b WHERE b.staged IS NULL AND NOT EXISTS (SELECT 1 FROM current WHERE blob = b.id) "
        "AND NOT EXISTS (SELECT 1 FROM history WHERE blob = b.id)"),
    *(
        (
            f"A row of {table} belongs to seq {{}}, which is no current version.",
            f"SELECT DISTINCT i.seq FROM {table} i WHERE NOT EXISTS "
            "(SELECT 1 FROM current c WHERE c.seq = i.seq AND c.deleted = 0)",
        )
        for table in INDEX_TABLES
    ),
)  # fmt: skip


def structure(connection: sqlite3.Connection) -> list[str]:
    """What can be seen without deriving anything: versions, commits, index rows against what was written."""
    found: list[str] = []
    try:
        with reading(connection):
            if connection.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
                found.append("SQLite reports the file as damaged.")
            for sentence, query in _CHECKS:
                rows = connection.execute(f"{query} LIMIT {_SHOWN}").fetchall()
                found += [sentence.format(row[0]) for row in rows]
            found += _missing(connection)
            found += _index_rows(connection)
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        found.append("Versions or index rows cannot be read: the file is damaged.")
    return found


def _missing(connection: sqlite3.Connection) -> Iterable[str]:
    """Each seq of a finished commit has its version, unless a purge took it."""
    written = connection.execute("SELECT coalesce(sum(last - first + 1), 0) FROM commits").fetchone()[0]
    there = sum(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0] for table in ("current", "history"))
    if missing := abs(written - there - removed(connection)):
        yield f"{missing} versions are missing from finished commits, or belong to none."


def is_damage(error: BaseException | None) -> bool:
    """Whether the file's content is the reason, and not that it cannot be reached now."""
    code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT)  # none: we or Python found it undecodable
    return isinstance(error, sqlite3.DatabaseError) and code & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB)


def _index_rows(connection: sqlite3.Connection) -> Iterable[str]:
    """Every row that was written is there, and no other: presence one by one, absence by the totals."""
    totals = dict.fromkeys(INDEX_TABLES, 0)
    after = 0
    while True:
        seqs = [
            row[0]
            for row in connection.execute(
                "SELECT seq FROM current WHERE deleted = 0 AND seq > ? ORDER BY seq LIMIT ?", (after, _BATCH)
            )
        ]
        if not seqs:
            break
        after = seqs[-1]
        written = dict(entries_of(connection, seqs))
        for seq in seqs:
            entries = written.get(seq)
            if entries is None:
                yield f"The version with seq {seq} has no record of its index rows."
                continue
            for table, rows in _rows(entries).items():
                totals[table] += len(rows)
                missing = sum(not _there(connection, table, row, seq) for row in rows)
                if missing:
                    yield f"{missing} rows of {table} are missing for seq {seq}."
    for table, total in totals.items():
        there = connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
        if there != total:
            yield f"{table} holds {there} rows where {total} were written."


def _rows(entries: Entries) -> dict[str, list[tuple[object, ...]]]:
    return {
        "chart": [(compartment,) for compartment in entries.compartments],
        "terms": [(number,) for number in entries.hashes()],
        "texts": list(entries.texts),
        "spans": list(entries.spans),
    }


_KEYS = {
    "chart": "compartment = ?",
    "terms": "region = ? AND hash = ?",
    "texts": "region = ? AND name = ? AND text = ?",
    "spans": "region = ? AND name = ? AND lo = ? AND hi = ?",
}


def _there(connection: sqlite3.Connection, table: str, row: tuple[object, ...], seq: int) -> bool:
    statement = f"SELECT 1 FROM {table} WHERE {_KEYS[table]} AND seq = ?"
    place = row if table == "chart" else (seq >> REGION_BITS, *row)
    return connection.execute(statement, (*place, seq)).fetchone() is not None


class Content:
    """One version's facts and index against what its body says now."""

    def __init__(
        self, texts: Texts, record: Record, body: bytes, derive: Callable[[Record, bytes], tuple[Facts, Index]]
    ) -> None:
        self._texts = texts
        self._record = record
        self._body = body
        self._derive = derive

    def run(self, connection: sqlite3.Connection) -> list[str]:
        record = self._record
        if record.ended != CURRENT:
            return []
        try:
            facts, index = self._derive(record, self._body)
        except Exception:  # whatever a damaged body makes the caller's code do
            return [f"{record.key} version {record.version}: the content cannot be understood."]
        with reading(connection):
            row = connection.execute("SELECT care_lo, care_hi FROM current WHERE seq = ?", (record.seq,)).fetchone()
            if row is None:  # superseded meanwhile
                return []
            found = []
            name = f"{record.key} version {record.version}"
            if facts.text != record.facts:
                found.append(f"{name}: the stored facts are not what its content says.")
            if (index.care or (None, None)) != row:
                found.append(f"{name}: the stored care period is not what its content says.")
            if " ".join(index.supports) != record.supports:
                found.append(f"{name}: the stored supporting references are not what its content says.")
            written = dict(entries_of(connection, [record.seq])).get(record.seq)
            if written is None or not self._same(connection, written, facts, index):
                found.append(f"{name}: the stored index entries are not what its content says.")
        return found

    def _same(self, connection: sqlite3.Connection, written: Entries, facts: Facts, index: Index) -> bool:
        names = {
            name: self._texts.find(connection, "names", name)
            for name in (
                *facts.compartments,
                *index.present,
                *(entry[0] for part in (index.texts, index.spans, index.sorts) for entry in part),
            )
        }
        if None in names.values():
            return False
        known = {name: number for name, number in names.items() if number is not None}
        return pack(make_entries(known, facts, index, term_numbers(index))) == pack(written)

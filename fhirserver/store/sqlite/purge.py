# ruff: noqa: S608 - every statement is our own text; values are bound
"""Removing resources for good: every version with its rows, and afterwards every trace of them in the file.

Deleting leaves the bytes in free pages, in the slack of pages and in the log. While a purge deletes, SQLite overwrites
what it frees (`secure_delete`); what earlier moves and deletions left behind goes when `scrub` writes the file anew.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Key
from fhirserver.store.purged import PREFIX, gaps, ranges
from fhirserver.store.sqlite.codec import joined
from fhirserver.store.sqlite.file import StoreFile
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.ledger import put
from fhirserver.store.sqlite.read import entries_of
from fhirserver.store.sqlite.write import Transaction

_PATIENCE = 30.0


def ever_within(connection: sqlite3.Connection, texts: Texts, patient: str) -> list[Key]:
    """See `port.Store.ever_within`."""
    compartment = texts.find(connection, "names", patient)
    rows = connection.execute(
        "SELECT DISTINCT (SELECT text FROM types t WHERE t.id = v.type), v.id FROM ("
        "SELECT c.type, c.id FROM chart m CROSS JOIN current c ON c.seq = m.seq WHERE m.compartment = ?1 UNION "
        "SELECT h.type, h.id FROM chart_past m CROSS JOIN history h ON h.seq = m.seq WHERE m.compartment = ?1) v "
        "ORDER BY 1, 2",
        (compartment,),
    )
    return [Key(type_, id_) for type_, id_ in rows]


def purge(transaction: Transaction, keys: Sequence[Key]) -> int:
    """Remove every version of these resources inside the writer's transaction; how many versions there were."""
    connection = transaction.connection
    with _overwriting(connection):
        current = _versions(connection, "current", "0", keys)
        past = _versions(connection, "history", "v.ended", keys)
        living = [(seq, 0) for seq, _, _, deleted in current if not deleted]
        transaction.unindex(living, keep=False)
        _leave_charts(connection, {seq: ended for seq, ended, _, _ in past})
        every = [*current, *past]
        seqs = joined(seq for seq, _, _, _ in every)
        for table in ("current", "history", "entries"):
            connection.execute(f"DELETE FROM {table} WHERE seq IN (SELECT value FROM json_each(?))", (seqs,))
        for blob in {blob for _, _, blob, _ in every if blob}:
            connection.execute("DELETE FROM chunks WHERE blob = ?", (blob,))
            connection.execute("DELETE FROM blobs WHERE id = ?", (blob,))
        if every:
            name = PREFIX + os.urandom(8).hex()
            put(connection, name, msgspec.json.encode(ranges(seq for seq, _, _, _ in every)), None)
    return len(every)


@contextmanager
def _overwriting(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("PRAGMA secure_delete = ON")
    try:
        yield
    finally:
        connection.execute("PRAGMA secure_delete = OFF")


def _versions(
    connection: sqlite3.Connection, table: str, ended: str, keys: Sequence[Key]
) -> list[tuple[int, int, int, int]]:
    """(seq, ended, blob, deleted) of the versions of these resources."""
    wanted = msgspec.json.encode([list(key) for key in keys]).decode()
    return connection.execute(
        f"SELECT v.seq, {ended}, v.blob, v.deleted FROM json_each(?) k "
        "CROSS JOIN types t ON t.text = json_extract(k.value, '$[0]') "
        f"CROSS JOIN {table} v ON v.type = t.id AND v.id = json_extract(k.value, '$[1]')",
        (wanted,),
    ).fetchall()


def _leave_charts(connection: sqlite3.Connection, ended: dict[int, int]) -> None:
    """Take superseded versions out of the charts that remember them."""
    known = entries_of(connection, ended)
    rows = [(compartment, ended[seq], seq) for seq, entries in known for compartment in entries.compartments]
    connection.executemany("DELETE FROM chart_past WHERE compartment = ? AND ended = ? AND seq = ?", rows)


def removed(connection: sqlite3.Connection) -> int:
    """How many versions all purges took."""
    rows = connection.execute("SELECT value FROM ledger WHERE name >= ? AND name < ?", (PREFIX, PREFIX + "\U0010ffff"))
    return sum(last - first + 1 for first, last in gaps(row[0] for row in rows))


def scrub(file: StoreFile) -> None:
    """Write the file anew without its free pages, and empty its log. Blocks; Unavailable if others do not let it."""
    # What SQLite puts aside meanwhile holds everything: it stays beside the store, and is nameless.
    os.environ["SQLITE_TMPDIR"] = str(Path(file.path).absolute().parent)
    connection = file.connect(cache_mb=8, read_only=False)
    try:
        connection.execute("PRAGMA temp_store = FILE")
        connection.execute("PRAGMA secure_delete = ON")
        connection.execute(f"PRAGMA busy_timeout = {int(_PATIENCE * 1000)}")
        connection.execute("VACUUM")
        until = time.monotonic() + _PATIENCE
        while True:
            busy, _, _ = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if not busy:
                return
            if time.monotonic() > until:
                raise Unavailable("The store's log is in use by other servers and could not be emptied; try again.")
            time.sleep(0.05)
    except sqlite3.Error as error:
        raise Unavailable from error
    finally:
        with suppress(sqlite3.Error):
            connection.close()

# ruff: noqa: S608 - every statement is our own text; values are bound
"""Tables and indexes of the SQLite store, and how a connection is opened.

Two rules shape the tables:

* ``current`` and ``history`` lie apart, so charts and searches never pay for superseded versions; both are keyed by
  seq, so what was ingested together lies together.
* Python's sqlite3 gives the interpreter lock away once per step, and a thread that has given it away may wait 5 ms
  to have it back while the event loop is busy. Therefore a read is one or two statements that each give ONE row
  (`group_concat` of packed rows and of bodies), and a write inserts hundreds of rows per statement.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress

import msgspec

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow
from fhirserver.core.trail import event_of

SCHEMA_VERSION = 3
_APPLICATION = 0x46484952  # "FHIR"; tells our file from another program's database
PAGE_SIZE = 4096
"""Measured (tests/bench/store_probe.py): a commit of one resource changes some thirty pages, so small pages make it
half as fast again as 8192 (860 to 590/s); whole charts read alike, because SQLite works beside the interpreter."""

REGION_BITS = 16
"""Search rows are kept by regions of 65,536 versions.

Identifiers and dates fall anywhere in an index: in one tree over the whole store each resource dirties a dozen pages
of its own, and bulk writing fell from 9,500 to 4,600 versions/s within the first 100,000. Within a region the pages
stay in memory and are shared. A term search visits the regions in seq order and passes over those without the term
(a probe of some 2 µs each)."""

_VERSION_COLUMNS = """
    type INTEGER NOT NULL, id TEXT NOT NULL, version INTEGER NOT NULL, deleted INTEGER NOT NULL,
    facts INTEGER NOT NULL, supports INTEGER NOT NULL, care_lo INTEGER, care_hi INTEGER,
    size INTEGER NOT NULL, blob INTEGER NOT NULL
"""

HISTORY_FEED = "CREATE INDEX IF NOT EXISTS history_feed ON history(type)"
"""`_history` of a type: its superseded versions by seq, which every index ends with. Made at the start where a store
was written before there was one."""

_SPANS = """
CREATE TABLE spans(
    region INTEGER NOT NULL, name INTEGER NOT NULL, width INTEGER NOT NULL, lo REAL NOT NULL, hi REAL NOT NULL,
    seq INTEGER NOT NULL, PRIMARY KEY (region, name, width, lo, hi, seq)) WITHOUT ROWID;
"""
"""``width``: see `store.widths`."""

_AUDIT = """
CREATE INDEX audit_organization ON audit(organization, at, n);
CREATE TABLE audit_patients(
    patient TEXT NOT NULL, at INTEGER NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (patient, at, n)) WITHOUT ROWID;
-- The rows of one event: an intent and its outcome.
CREATE TABLE audit_events(event TEXT NOT NULL, n INTEGER NOT NULL, PRIMARY KEY (event, n)) WITHOUT ROWID;
-- The last row that retention has dropped, and its link: the chain goes on from it.
CREATE TABLE audit_dropped(only INTEGER PRIMARY KEY CHECK (only = 1), n INTEGER NOT NULL, link BLOB);
INSERT INTO audit_dropped VALUES (1, 0, NULL);
CREATE TRIGGER audit_stays BEFORE DELETE ON audit WHEN OLD.n > (SELECT n FROM audit_dropped)
BEGIN SELECT RAISE(ABORT, 'audit rows are append-only'); END;
CREATE TRIGGER audit_stands BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'audit rows are append-only'); END;
"""

_OLDER = {
    1: ("DROP TABLE sorts", "DROP TABLE spans", _SPANS),
    2: (
        "DROP TRIGGER audit_stays",
        "DROP TRIGGER audit_stands",
        "ALTER TABLE audit ADD COLUMN link BLOB",
        "DROP INDEX audit_organization",
        "ALTER TABLE audit_patients RENAME TO audit_patients_before",
        _AUDIT,
        "INSERT INTO audit_patients SELECT p.patient, a.at, a.n FROM audit_patients_before p JOIN audit a ON a.n = p.n",
        "DROP TABLE audit_patients_before",
        "INSERT INTO audit_events SELECT event_of(row), n FROM audit",
    ),
}
"""What leads from each older version to the one after it. Since version 2 sort keys are read from ``entries`` alone,
and spans know their width; they come back with `reindex`, without which no server takes an older version's index.
Since version 3 rows of the audit trail have links, from the next row on, and are found by event and by time."""

_TABLES = f"""
-- Interned texts; ids never change their text, so both sides may cache them once committed.
CREATE TABLE types(id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, text TEXT NOT NULL);
CREATE TABLE names(id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, text TEXT NOT NULL);
CREATE TABLE facts(id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, text TEXT NOT NULL);
CREATE TABLE supports(id INTEGER PRIMARY KEY, hash INTEGER NOT NULL, text TEXT NOT NULL);
CREATE INDEX types_hash ON types(hash);
CREATE INDEX names_hash ON names(hash);
CREATE INDEX facts_hash ON facts(hash);
CREATE INDEX supports_hash ON supports(hash);

-- One row per commit; high water and `updated -> seq` in O(log n).
CREATE TABLE commits(last INTEGER PRIMARY KEY, first INTEGER NOT NULL, updated INTEGER NOT NULL);
CREATE INDEX commits_updated ON commits(updated, last);

-- The version of each resource that nothing has superseded (tombstones too). ``meta`` is the packed Record.
CREATE TABLE current(seq INTEGER PRIMARY KEY, {_VERSION_COLUMNS}, meta BLOB NOT NULL, body BLOB);
-- get, If-Match, conditional writes: one probe.
CREATE UNIQUE INDEX current_key ON current(type, id);
-- Type lists, counts and tallies in seq order without touching a body.
CREATE INDEX current_type ON current(type, deleted, seq, facts, supports, care_lo, care_hi, size);

CREATE TABLE history(
    seq INTEGER PRIMARY KEY, ended INTEGER NOT NULL, {_VERSION_COLUMNS}, meta BLOB NOT NULL, body BLOB);
-- vread, _history and snapshots of single keys.
CREATE UNIQUE INDEX history_key ON history(type, id, version);
-- Snapshots: the few versions superseded after ``as_of``.
CREATE INDEX history_type ON history(type, ended);
CREATE INDEX history_ended ON history(ended);
{HISTORY_FEED};

-- What stands in a patient's compartment. A count over 100,000 resources reads this and nothing else.
CREATE TABLE chart(
    compartment INTEGER NOT NULL, seq INTEGER NOT NULL, type INTEGER NOT NULL, facts INTEGER NOT NULL,
    supports INTEGER NOT NULL, care_lo INTEGER, care_hi INTEGER, size INTEGER NOT NULL,
    PRIMARY KEY (compartment, seq)) WITHOUT ROWID;
-- `_type`: without it a rare type costs the walk through the whole chart.
CREATE INDEX chart_type ON chart(compartment, type, seq);
-- Superseded members, by when they ended: a snapshot looks at those with ended > as_of only.
CREATE TABLE chart_past(
    compartment INTEGER NOT NULL, ended INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (compartment, ended, seq)) WITHOUT ROWID;

-- Search rows of current versions, and per version (superseded ones too) what was written, packed.
-- ``region`` is ``seq >> REGION_BITS``: see there.
CREATE TABLE terms(
    region INTEGER NOT NULL, hash INTEGER NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (region, hash, seq)) WITHOUT ROWID;
CREATE TABLE texts(
    region INTEGER NOT NULL, name INTEGER NOT NULL, text TEXT NOT NULL, seq INTEGER NOT NULL,
    PRIMARY KEY (region, name, text, seq)) WITHOUT ROWID;
{_SPANS}CREATE TABLE entries(seq INTEGER PRIMARY KEY, packed BLOB NOT NULL);

-- Bodies out of line; ``staged`` is when an unpublished one was begun, NULL once a version has it.
CREATE TABLE blobs(id INTEGER PRIMARY KEY, staged INTEGER);
CREATE TABLE chunks(blob INTEGER NOT NULL, part INTEGER NOT NULL, data BLOB NOT NULL);
CREATE UNIQUE INDEX chunks_part ON chunks(blob, part);

CREATE TABLE ledger(
    name TEXT PRIMARY KEY, value BLOB NOT NULL, stamp INTEGER NOT NULL, expires INTEGER) WITHOUT ROWID;
CREATE INDEX ledger_expires ON ledger(expires) WHERE expires IS NOT NULL;
CREATE TABLE stamps(only INTEGER PRIMARY KEY CHECK (only = 1), last INTEGER NOT NULL);
INSERT INTO stamps VALUES (1, 0);

CREATE TABLE audit(
    n INTEGER PRIMARY KEY AUTOINCREMENT, at INTEGER NOT NULL, organization TEXT NOT NULL, row BLOB NOT NULL,
    link BLOB);
CREATE INDEX audit_at ON audit(at, n);
{_AUDIT}"""


def connect(path: str, *, cache_mb: int, read_only: bool) -> sqlite3.Connection:
    """A connection in autocommit mode, ready for use; the caller handles `sqlite3.Error`."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False, cached_statements=256, timeout=5)
    for pragma in (
        f"cache_size = {-1024 * cache_mb}",
        "synchronous = FULL",
        "mmap_size = 0",
        "temp_store = MEMORY",
        f"query_only = {int(read_only)}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    return connection


def prepare(path: str) -> None:
    """Create the file and its tables if they are not there; refuse what this version cannot read.

    Raises Unavailable with one sentence; it names neither the path nor anything in the file.
    """
    try:
        # Charts are nobody else's business; SQLite gives its log the mode of the file.
        with suppress(FileExistsError):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        connection = sqlite3.connect(path, isolation_level=None, timeout=30)
    except (OSError, sqlite3.Error) as error:
        raise Unavailable("The store's file cannot be opened or created.") from error
    try:
        connection.execute(f"PRAGMA page_size = {PAGE_SIZE}")
        connection.execute("BEGIN")  # a look before the first write: a refused file keeps every byte
        try:
            _is_ours(connection)
        finally:
            if connection.in_transaction:
                connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("BEGIN IMMEDIATE")  # of two processes that start together one creates
        try:
            if _is_ours(connection):
                _bring_up(connection)
                connection.execute(HISTORY_FEED)
            else:
                _create(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
    except sqlite3.OperationalError as error:
        raise Unavailable("The store's file cannot be opened, or another program holds it.") from error
    except sqlite3.DatabaseError as error:
        raise Unavailable("The store's file is damaged or is not a SQLite database.") from error
    finally:
        connection.close()


def _is_ours(connection: sqlite3.Connection) -> bool:
    """False: there is nothing yet. Unavailable if it is another program's, or of another schema version."""
    application = connection.execute("PRAGMA application_id").fetchone()[0]
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if application == _APPLICATION:
        if version != SCHEMA_VERSION and version not in _OLDER:
            raise Unavailable(
                f"The store has schema version {version}; this server knows version {SCHEMA_VERSION}. "
                "Use the server version that wrote it, or a later one."
            )
        return True
    if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise Unavailable("The store's file is a database of another program.")
    return False


def _bring_up(connection: sqlite3.Connection) -> None:
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.create_function("event_of", 1, _event, deterministic=True)
    for number in range(version, SCHEMA_VERSION):
        for statements in _OLDER[number]:
            for statement in split(f"{statements};"):
                connection.execute(statement)
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _event(row: bytes) -> str:
    return event_of(msgspec.msgpack.decode(row, type=AuditRow))


def _create(connection: sqlite3.Connection) -> None:
    for statement in split(_TABLES):
        connection.execute(statement)
    connection.execute(f"PRAGMA application_id = {_APPLICATION}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def split(script: str) -> list[str]:
    """The script's statements (`executescript` would commit the transaction that makes creation atomic)."""
    statements, text = [], ""
    for line in script.splitlines(keepends=True):
        text += line
        if sqlite3.complete_statement(text):
            statements.append(text)
            text = ""
    return statements

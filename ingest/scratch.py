"""What the first pass learned about the input, in a temporary SQLite file, so that memory does not grow with it.

It is no store: nothing here outlives the run, nothing is durable, and one thread uses it at a time.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator, Sequence
from hashlib import blake2b
from pathlib import Path
from typing import Any, NamedTuple

from fhirserver.core.model import Key
from ingest.identify import Condition, Named, localise

_SCHEMA = """
PRAGMA journal_mode = OFF;
PRAGMA synchronous = OFF;
PRAGMA cache_size = -8000;
-- Bundles by number: how each ended (no type: its text is broken), and a hash over its entries
CREATE TABLE bundles (number INTEGER PRIMARY KEY, type TEXT, problem TEXT, fingerprint BLOB);
-- fullUrl (and Type/id spelled otherwise) -> resource; an empty id: two resources claim the name
CREATE TABLE names (bundle INTEGER, name TEXT, type TEXT, id TEXT, PRIMARY KEY (bundle, name)) WITHOUT ROWID;
CREATE INDEX names_by_name ON names (name);
-- business identifiers of the resources; `claim` 1: it is stored only if nothing meets its condition
CREATE TABLE identifiers (bundle INTEGER, type TEXT, value TEXT, system TEXT, id TEXT, claim INTEGER);
CREATE INDEX identifiers_by_value ON identifiers (type, value);
-- entries that create or update conditionally, in the order of the input
CREATE TABLE claims (place INTEGER PRIMARY KEY, bundle INTEGER, entry INTEGER, type TEXT, token TEXT, id TEXT);
CREATE INDEX claims_by_condition ON claims (type, token);
CREATE INDEX claims_by_entry ON claims (bundle, entry);
-- every condition (of a claim or a reference) and what it leads to; `stored` 1: a resource of the store
CREATE TABLE conditions (
    type TEXT, token TEXT, claimed INTEGER, id TEXT, stored INTEGER, winner INTEGER, PRIMARY KEY (type, token, claimed)
) WITHOUT ROWID;
-- resources of the input that are not stored because another meets their condition
CREATE TABLE aliases (type TEXT, id TEXT, other TEXT, stored INTEGER, PRIMARY KEY (type, id)) WITHOUT ROWID;
-- 64-bit hashes of all Type/id, and how often each occurs
CREATE TABLE seen (hash INTEGER PRIMARY KEY, times INTEGER NOT NULL);
-- resources that occur several times, kept until the end of the input
CREATE TABLE later (
    place INTEGER PRIMARY KEY, type TEXT, id TEXT, digest BLOB, raw BLOB, source TEXT, line INTEGER, entry INTEGER
);
CREATE INDEX later_by_key ON later (type, id);
"""
_LOTS = 2000
LOCAL = "~"
"""Prefix of an id that becomes final (`identify.localise`) when its Bundle has ended; no FHIR id has it."""


class Target(NamedTuple):
    """What a condition or name leads to: an empty ``id`` means nothing, or more than one (``several``)."""

    type: str
    id: str
    stored: bool = False
    several: bool = False


class Verdict(NamedTuple):
    """How the conditional entry must be treated: ``target`` meets its condition; ``mine``: it does so itself."""

    target: Target
    mine: bool


class Ending(NamedTuple):
    """What is known of a Bundle once it has ended; ``type`` None: its text is no JSON to the end."""

    type: str | None
    problem: str
    fingerprint: bytes

    @property
    def broken(self) -> bool:
        return self.type is None


class Late(NamedTuple):
    """A valid, cleaned resource, the digest of its content, and where it came from."""

    type: str
    id: str
    digest: bytes
    raw: bytes
    source: str
    line: int
    entry: int | None


class Scratch:
    """Tables for one run in the directory ``folder``; writes are gathered until `flush`."""

    def __init__(self, folder: Path) -> None:
        self._db = sqlite3.connect(folder / "scratch.db", check_same_thread=False, isolation_level=None)
        self._db.executescript(_SCHEMA)
        self._rows: dict[str, list[Sequence[object]]] = {}
        self._waiting = 0
        self.duplicates = self.binaries = self.urns = self.aliased = self.persons = False
        self._db.execute("BEGIN")

    def close(self) -> None:
        self._db.close()

    def _add(self, statement: str, row: Sequence[object]) -> None:
        self._rows.setdefault(statement, []).append(row)
        self._waiting += 1
        if self._waiting >= _LOTS:
            self.flush()

    def flush(self) -> None:
        """Make what was added visible to the questions below."""
        for statement, rows in self._rows.items():
            self._db.executemany(statement, rows)
        self._rows.clear()
        self._waiting = 0

    # The first pass

    def add_name(self, bundle: int, name: str, named: Named) -> None:
        """In this Bundle, ``name`` stands for that resource."""
        self._add(
            "INSERT INTO names VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET id = '' "
            "WHERE type <> excluded.type OR id <> excluded.id",
            (bundle, name, named.type, named.id),
        )

    def add_identifier(self, bundle: int, named: Named, system: str, value: str, *, claim: bool) -> None:
        self._add(
            "INSERT INTO identifiers VALUES (?, ?, ?, ?, ?, ?)", (bundle, named.type, value, system, named.id, claim)
        )

    def add_claim(self, bundle: int, entry: int, condition: Condition, id_: str) -> None:
        """The entry creates (or updates) a resource under this condition."""
        self._add(
            "INSERT INTO claims (bundle, entry, type, token, id) VALUES (?, ?, ?, ?, ?)",
            (bundle, entry, condition.type, condition.token, id_),
        )

    def add_wanted(self, condition: Condition) -> None:
        """Some reference is by this condition."""
        self._add("INSERT OR IGNORE INTO conditions VALUES (?, ?, 0, NULL, 0, NULL)", condition)

    def add_key(self, named: Named) -> None:
        self.persons = self.persons or named.type == "Person"
        self._add(
            "INSERT INTO seen VALUES (?, 1) ON CONFLICT DO UPDATE SET times = times + 1",
            (_hash(named.type, named.id),),
        )

    def close_bundle(self, bundle: int, ending: Ending) -> None:
        """The Bundle has ended; one with a problem contributes nothing."""
        self._add("INSERT INTO bundles VALUES (?, ?, ?, ?)", (bundle, *ending))
        if ending.broken or ending.problem:
            self.flush()
            for table in ("names", "identifiers", "claims"):
                self._db.execute(f"DELETE FROM {table} WHERE bundle = ?", (bundle,))  # noqa: S608 - own table names

    def localise(self, bundle: int, fingerprint: bytes) -> None:
        """Make the ids marked `LOCAL` final, now that the Bundle's fingerprint is known."""
        self.flush()

        def final(marked: str) -> str:
            return localise(Named("", marked.removeprefix(LOCAL), local=True), fingerprint).id

        self._db.create_function("final", 1, final, deterministic=True)
        for table in ("names", "identifiers", "claims"):
            self._db.execute(
                f"UPDATE {table} SET id = final(id) WHERE bundle = ? AND id LIKE '{LOCAL}%'",  # noqa: S608 - constants
                (bundle,),
            )

    # Between the passes

    def finish(self) -> None:
        """The first pass is over."""
        self.flush()
        self._db.execute(
            "INSERT OR IGNORE INTO conditions SELECT type, token, 1, NULL, 0, NULL FROM claims GROUP BY type, token"
        )
        self.duplicates = bool(self._one("SELECT 1 FROM seen WHERE times > 1 LIMIT 1"))
        self.binaries = bool(self._one("SELECT 1 FROM names WHERE type = 'Binary' LIMIT 1"))
        self.urns = bool(self._one("SELECT 1 FROM names WHERE name > 'urn:' AND name < 'urn;' LIMIT 1"))

    def open_conditions(self, *, claimed: bool, batch: int) -> Iterator[list[Condition]]:
        """The conditions of claims, or of references, in batches of one type."""
        last: tuple[str, str] = ("", "")
        while True:
            rows = self._db.execute(
                "SELECT type, token FROM conditions WHERE claimed = ? AND (type, token) > (?, ?) "
                "ORDER BY type, token LIMIT ?",
                (claimed, *last, batch),
            ).fetchall()
            if not rows:
                return
            yield [Condition(*row) for row in rows if row[0] == rows[0][0]]
            last = max(row for row in rows if row[0] == rows[0][0])

    def matching(self, condition: Condition, *, claims: bool) -> list[str]:
        """Ids of the input's resources with that identifier, in order; with those that are themselves conditional?"""
        system, bar, value = condition.token.partition("|")
        value = value if bar else system
        rows = self._db.execute(
            "SELECT id, system, claim FROM identifiers WHERE type = ? AND value = ? ORDER BY rowid",
            (condition.type, value),
        )
        return list(dict.fromkeys(id_ for id_, own, claim in rows if (not bar or own == system) and claims >= claim))

    def first_claim(self, condition: Condition) -> tuple[int, str]:
        """(place, id) of the first entry with this condition."""
        row = self._one("SELECT place, id FROM claims WHERE type = ? AND token = ? ORDER BY place LIMIT 1", condition)
        assert row is not None  # noqa: S101 - conditions of claims are made from them
        return row[0], row[1]

    def decide(self, condition: Condition, *, claimed: bool, target: Target, winner: int | None = None) -> None:
        """What the condition leads to; ``winner`` is the place of the entry that meets it itself."""
        found = target.id if not target.several else ""
        self._db.execute(
            "UPDATE conditions SET id = ?, stored = ?, winner = ? WHERE type = ? AND token = ? AND claimed = ?",
            (found, 2 if target.several else int(target.stored), winner, *condition, claimed),
        )

    def alias(self) -> None:
        """Make the names of conditional entries that are not stored lead to what is there instead."""
        self._db.execute(
            "INSERT OR IGNORE INTO aliases SELECT cl.type, cl.id, co.id, co.stored FROM claims cl "
            "JOIN conditions co ON co.type = cl.type AND co.token = cl.token AND co.claimed = 1 "
            "WHERE co.id <> '' AND (co.id <> cl.id OR co.stored = 1)"
        )
        self.aliased = bool(self._one("SELECT 1 FROM aliases LIMIT 1"))

    # The second pass

    def ending(self, number: int) -> Ending:
        """How a Bundle ended."""
        row = self._one("SELECT type, problem, fingerprint FROM bundles WHERE number = ?", (number,))
        return Ending(*row) if row else Ending("", "the input changed while it was read", b"")

    def target_of_name(self, bundle: int, name: str) -> Target | None:
        """What ``name`` stands for in this Bundle, or else in all of the input; None: nothing."""
        row = self._one("SELECT type, id FROM names WHERE bundle = ? AND name = ?", (bundle, name))
        if row is None:
            rows = self._db.execute("SELECT DISTINCT type, id FROM names WHERE name = ? LIMIT 2", (name,)).fetchall()
            if not rows:
                return None
            row = rows[0] if len(rows) == 1 else (rows[0][0], "")
        return self.follow(Target(row[0], row[1], several=not row[1]))

    def target_of_condition(self, condition: Condition) -> Target | None:
        """What a reference by this condition leads to; None when it was not asked for."""
        row = self._one(
            "SELECT id, stored FROM conditions WHERE type = ? AND token = ? AND claimed = 0 AND id IS NOT NULL",
            condition,
        )
        return None if row is None else Target(condition.type, row[0], row[1] == 1, row[1] == 2)

    def verdict(self, condition: Condition, bundle: int, entry: int) -> Verdict:
        """What is to be done with a conditional entry."""
        row = self._one(
            "SELECT co.id, co.stored, co.winner = cl.place FROM conditions co, claims cl "
            "WHERE co.type = ? AND co.token = ? AND co.claimed = 1 AND cl.bundle = ? AND cl.entry = ?",
            (*condition, bundle, entry),
        )
        if row is None:
            return Verdict(Target(condition.type, ""), mine=True)
        return Verdict(Target(condition.type, row[0], row[1] == 1, row[1] == 2), bool(row[2]))

    def follow(self, target: Target) -> Target:
        """The resource that stands in for this one, if it is an alias."""
        if not self.aliased or not target.id:
            return target
        row = self._one("SELECT other, stored FROM aliases WHERE type = ? AND id = ?", (target.type, target.id))
        return target if row is None else Target(target.type, row[0], row[1] == 1)

    def other_name(self, bundle: int, name: str) -> Target | None:
        """What ``Type/id`` stands for where a fullUrl of this Bundle says otherwise than the id; None: itself."""
        row = self._one("SELECT type, id FROM names WHERE bundle = ? AND name = ?", (bundle, name))
        if row is None or not row[1] or self.times(Named(*Key.parse(name))):
            return None
        return self.follow(Target(*row))

    def times(self, named: Named) -> int:
        """How often a key occurs in the input (rarely too high, by a collision of hashes)."""
        row = self._one("SELECT times FROM seen WHERE hash = ?", (_hash(named.type, named.id),))
        return row[0] if row else 0

    # Resources that occur several times

    def put_off(self, late: Late) -> None:
        """Keep a resource until all of the input has been seen."""
        self._db.execute(
            "INSERT INTO later (type, id, digest, raw, source, line, entry) VALUES (?, ?, ?, ?, ?, ?, ?)", late
        )

    def put_off_keys(self, batch: int) -> Iterator[list[Key]]:
        """The keys of what was put off, in batches."""
        last = ("", "")
        while rows := self._db.execute(
            "SELECT DISTINCT type, id FROM later WHERE (type, id) > (?, ?) ORDER BY type, id LIMIT ?", (*last, batch)
        ).fetchall():
            yield [Key(*row) for row in rows]
            last = rows[-1]

    def occurrences(self, key: Key) -> list[tuple[int, bytes]]:
        """(place, digest) of each occurrence, in the order of the input."""
        return self._db.execute(
            "SELECT place, digest FROM later WHERE type = ? AND id = ? ORDER BY place", key
        ).fetchall()

    def occurrence(self, place: int) -> Late:
        """One resource that was put off."""
        row = self._one("SELECT type, id, digest, raw, source, line, entry FROM later WHERE place = ?", (place,))
        assert row is not None  # noqa: S101 - places come from `occurrences`
        return Late(*row)

    def _one(self, statement: str, values: Sequence[object] = ()) -> tuple[Any, ...] | None:
        found: tuple[Any, ...] | None = self._db.execute(statement, values).fetchone()
        return found


def _hash(type_: str, id_: str) -> int:
    return int.from_bytes(blake2b(f"{type_}/{id_}".encode(), digest_size=8).digest(), "big", signed=True)

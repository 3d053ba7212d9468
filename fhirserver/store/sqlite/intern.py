# ruff: noqa: S608 - every statement is our own text; values are bound
"""Texts kept once under small integer ids: types, names, facts, supports."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable, Sequence

import msgspec

from fhirserver.store.sqlite.codec import hash_term, joined

TABLES = ("types", "names", "facts", "supports")
_rows = msgspec.json.Decoder(list[tuple[int, str]]).decode
_CACHE = 200_000


class Texts:
    """id -> text and text -> id of committed rows, shared by a process's readers (an id never changes its text).

    Looked up without a lock: entries are only added, a full cache is replaced by an empty one.
    """

    def __init__(self) -> None:
        self.by_id: dict[str, dict[int, str]] = {table: {} for table in TABLES}
        self.by_text: dict[str, dict[str, int]] = {table: {} for table in TABLES}
        self.by_id["supports"][0] = ""

    def load(self, connection: sqlite3.Connection, table: str, ids: Iterable[int]) -> dict[int, str]:
        """id -> text for at least these ids; the connection sees them (they stand in rows it has read).

        The mapping stays as it is for the caller, though another thread may meanwhile begin a new one.
        """
        known = self.by_id[table]
        wanted = set(ids)
        missing = [number for number in wanted if number not in known]
        if not missing:
            return known
        if len(known) > _CACHE:
            known = {0: ""} if table == "supports" else {}
            missing = list(wanted)
        statement = (
            f"SELECT json_group_array(json_array(id, text)) FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
        )
        known.update(_rows(connection.execute(statement, (joined(missing),)).fetchone()[0]))
        self.by_id[table] = known
        return known

    def find(self, connection: sqlite3.Connection, table: str, text: str) -> int | None:
        """The id of a text, or None when no committed row has it."""
        known = self.by_text[table]
        number = known.get(text)
        if number is None:
            row = connection.execute(
                f"SELECT id FROM {table} WHERE hash = ? AND text = ?",
                (hash_term(text).number, text),
            ).fetchone()
            if row is None:
                return None
            number = int(row[0])
            if len(known) > _CACHE:
                known = self.by_text[table] = {}
            known[text] = number
        return number


class Interner:
    """The writer's side: gives ids to new texts inside the write transaction.

    Ids given in a transaction become known only when it commits: after a rollback, of a savepoint too, another
    text may get them.
    """

    def __init__(self) -> None:
        self._known: dict[str, dict[str, int]] = {table: {} for table in TABLES}
        self._new: list[tuple[str, str, int]] = []

    def mark(self) -> int:
        """A point `rewind` can go back to."""
        return len(self._new)

    def rewind(self, mark: int) -> None:
        """Forget what was interned after ``mark``; its rows were rolled back."""
        for table, text, _ in self._new[mark:]:
            del self._known[table][text]
        del self._new[mark:]

    def settle(self) -> None:
        """The transaction has committed."""
        self._new.clear()
        for table, known in self._known.items():
            if len(known) > _CACHE:
                self._known[table] = {}

    def ids(self, connection: sqlite3.Connection, table: str, texts: Sequence[str]) -> dict[str, int]:
        """text -> id for at least these texts; new ones are inserted."""
        known = self._known[table]
        missing = {text for text in texts if text not in known}
        if missing:
            self._find(connection, table, missing)
            self._insert(connection, table, sorted(text for text in missing if text not in known))
        return known

    def _find(self, connection: sqlite3.Connection, table: str, texts: set[str]) -> None:
        found = _rows(
            connection.execute(
                f"SELECT json_group_array(json_array(id, text)) FROM {table} "
                "WHERE hash IN (SELECT value FROM json_each(?))",
                (joined(hash_term(text).number for text in texts),),
            ).fetchone()[0]
        )
        self._known[table].update((text, number) for number, text in found)

    def _insert(self, connection: sqlite3.Connection, table: str, texts: list[str]) -> None:
        if not texts:
            return
        last = connection.execute(f"SELECT coalesce(max(id), 0) FROM {table}").fetchone()[0]
        fresh = [(last + at, text) for at, text in enumerate(texts, 1)]
        insert_rows(connection, table, 3, [(number, hash_term(text).number, text) for number, text in fresh])
        for number, text in fresh:
            self._known[table][text] = number
            self._new.append((table, text, number))


def insert_rows(connection: sqlite3.Connection, table: str, width: int, rows: Sequence[Sequence[object]]) -> None:
    """Insert many rows with few statements (see `schema`): halving chunks, so that their texts stay prepared."""
    at, size = 0, 4096 if width < 6 else 512
    row = "(" + ",".join("?" * width) + ")"
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2
        values = [value for one in rows[at : at + size] for value in one]
        connection.execute(f"INSERT INTO {table} VALUES {','.join([row] * size)}", values)
        at += size


_KEYS = {
    "current": (("seq", "INTEGER"),),
    "chart": (("compartment", "INTEGER"), ("seq", "INTEGER")),
    "terms": (("region", "INTEGER"), ("hash", "INTEGER"), ("seq", "INTEGER")),
    "texts": (("region", "INTEGER"), ("name", "INTEGER"), ("text", "TEXT"), ("seq", "INTEGER")),
    "spans": (
        ("region", "INTEGER"),
        ("name", "INTEGER"),
        ("width", "INTEGER"),
        ("lo", "REAL"),
        ("hi", "REAL"),
        ("seq", "INTEGER"),
    ),
    "entries": (("seq", "INTEGER"),),
}
"""Primary keys with their affinities: without the casts SQLite compares row values by scanning the table."""


def delete_statement(table: str, size: int) -> str:
    """Delete ``size`` rows by their full primary key."""
    key = _KEYS[table]
    columns = ", ".join(name for name, _ in key)
    casts = ", ".join(
        f"CAST(column{at} AS {affinity})" if affinity else f"column{at}" for at, (_, affinity) in enumerate(key, 1)
    )
    rows = ",".join(["(" + ",".join("?" * len(key)) + ")"] * size)
    return f"DELETE FROM {table} WHERE ({columns}) IN (SELECT {casts} FROM (VALUES {rows}))"


def delete_rows(connection: sqlite3.Connection, table: str, rows: Sequence[Sequence[object]]) -> None:
    """Delete rows by their full primary key with few statements."""
    at, size = 0, 512
    while at < len(rows):
        while size > len(rows) - at:
            size //= 2
        values = [value for one in rows[at : at + size] for value in one]
        connection.execute(delete_statement(table, size), values)
        at += size

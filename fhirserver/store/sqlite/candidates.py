# ruff: noqa: S608 - every statement is our own text; values are bound
"""Candidates of a plan, and what the grant and their entries leave of them."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import NamedTuple

import msgspec

from fhirserver.core.model import Query
from fhirserver.store.bodies import BATCH_BYTES
from fhirserver.store.sqlite.asked import Piece
from fhirserver.store.sqlite.codec import joined, understood
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.read import entries_of
from fhirserver.store.sqlite.visible import SHIFT, admission

WINDOW = 4096
"""Candidates of one look, at most."""
TESTED = 512
"""Candidates whose entries are unpacked in one look: some 8 µs each."""
_TRIED, _RARE = 1000, 64
"""After so many tests of which at most every 64th held, all ways in are made to meet (see `plan`)."""
_seq = attrgetter("seq")


class Row(NamedTuple):
    """A candidate: what is asked of it before it is fetched; ``pair`` as in `visible`."""

    seq: int
    pair: int
    supports: int
    size: int


_ints = msgspec.json.Decoder(list[int]).decode
_rows = msgspec.json.Decoder(list[Row]).decode
_ROW = f"json_array(seq, type << {SHIFT} | facts, supports, size)"


def survey(connection: sqlite3.Connection, piece: Piece, after: int, upto: int, limit: int) -> list[Row]:
    """The first candidates of a piece with ``after < seq <= upto``, in order."""
    if not piece.arms or after >= upto:
        return []
    select, values = piece.select(after, upto, limit=limit)
    text = connection.execute(f"SELECT json_group_array({_ROW}) FROM ({select})", values).fetchone()[0]
    rows = understood(_rows, text.encode())
    rows.sort(key=_seq)  # one pass over what is sorted, as in `fetch`
    return rows


class Window(NamedTuple):
    found: int
    last: int
    size: int
    pairs: list[int]


def window(connection: sqlite3.Connection, piece: Piece, after: int, upto: int, limit: int, open_: bool) -> Window:
    """The first candidates of a piece, together; their pairs only where not everything is ``open_``."""
    if not piece.arms or after >= upto:
        return Window(0, 0, 0, [])
    select, values = piece.select(after, upto, limit=limit)
    pairs = "'[]'" if open_ else f"json_group_array(DISTINCT type << {SHIFT} | facts)"
    found, last, size, told = connection.execute(
        f"SELECT count(*), max(seq), total(size), {pairs} FROM ({select})", values
    ).fetchone()
    return Window(found, last or 0, int(size), understood(_ints, told.encode()))


def fitting(rows: Sequence[Row]) -> int:
    """How many have bodies that stay together below the bound; one at least."""
    return max(1, sum(total <= BATCH_BYTES for total in accumulate(row.size for row in rows)))


class Sieve:
    """What is left of candidates: those that the grant admits and that meet the piece's tests."""

    def __init__(self, texts: Texts, query: Query) -> None:
        self._texts = texts
        self._admission = admission(texts, query.visible, query.other_than)
        self.open = self._admission.open
        self.tested = self.met = 0

    def decide(self, connection: sqlite3.Connection, pairs: Collection[int]) -> list[int] | None:
        """Those of the pairs that are admitted; None when all of them are."""
        return None if self.open or not pairs else self._admission.decide(connection, self._texts, pairs)

    def admitted(self, connection: sqlite3.Connection, rows: list[Row]) -> list[Row]:
        pairs = self.decide(connection, {row.pair for row in rows})
        if pairs is None:
            return rows
        open_ = set(pairs)
        return [row for row in rows if row.pair in open_]

    def among(self, connection: sqlite3.Connection, piece: Piece) -> str | None:
        """The pairs of the piece's candidates that are admitted, as a JSON array; None: all of them."""
        if self.open:
            return None
        select, values = piece.select(piece.after, piece.upto)
        statement = f"SELECT json_group_array(DISTINCT type << {SHIFT} | facts) FROM ({select})"
        pairs = understood(_ints, connection.execute(statement, values).fetchone()[0].encode())
        admitted = self.decide(connection, pairs)
        return None if admitted is None else joined(admitted)

    def meeting(self, connection: sqlite3.Connection, piece: Piece, rows: list[Row]) -> list[Row]:
        if not piece.tests or not rows:
            return rows
        known = dict(entries_of(connection, [row.seq for row in rows]))
        try:
            left = [row for row in rows if all(test(row.seq, known[row.seq]) for test in piece.tests)]
        except KeyError as error:
            raise sqlite3.DatabaseError("a version has no record of its index rows") from error
        self.tested += len(rows)
        self.met += len(left)
        return left

    @property
    def in_vain(self) -> bool:
        """Whether hardly any of many candidates met the tests."""
        return self.tested >= _TRIED and self.met * _RARE < self.tested

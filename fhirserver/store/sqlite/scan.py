"""A query read batch by batch: candidates by the plan, then the grant, then what entries tell."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from operator import attrgetter
from typing import NamedTuple

import msgspec

from fhirserver.core.model import Query, Record
from fhirserver.store.bodies import BATCH_BYTES
from fhirserver.store.sqlite.asked import Piece
from fhirserver.store.sqlite.candidates import TESTED, WINDOW, Row, Sieve, fitting, survey, window
from fhirserver.store.sqlite.codec import joined
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.meaning import quick
from fhirserver.store.sqlite.plan import Plan, compile_query
from fhirserver.store.sqlite.read import entries_of, fetch, reading

_LOOKS = 4
_SHORT = 256
"""A window up to which a look is well below a few milliseconds."""
_seq = attrgetter("seq")


class _Part(NamedTuple):
    table: str
    piece: Piece


class Scan:
    """A query read batch by batch; between two `step`s it holds nothing but its position.

    ``short``: whether the next step is expected to take well below some milliseconds.
    """

    def __init__(self, texts: Texts, query: Query, batch: int) -> None:
        self._texts = texts
        self._query = query
        self._batch = max(1, batch)
        self._left = query.limit
        self._plan: Plan | None = None
        self._sieve = Sieve(texts, query)
        self._after = query.after
        self._window = self._batch
        self._most = WINDOW
        self._thorough = False
        # What left a chart is looked for among all that ended since, and sorted.
        bounded = query.keys is not None or query.within is not None or bool(query.terms)
        self._quick = query.departed_since is None and (
            bounded or not query.criteria or any(map(quick, query.criteria))
        )

    @property
    def short(self) -> bool:
        return self._quick and not (self._query.criteria and (self._thorough or self._window > _SHORT))

    @property
    def tested(self) -> int:
        """Candidates so far whose entries had to be unpacked."""
        return self._sieve.tested

    def step(self, connection: sqlite3.Connection) -> tuple[list[Record], bool]:
        """The next records (perhaps none) and whether that was the last of them."""
        began_short = self.short
        with reading(connection):
            if self._plan is None or self._query.as_of is None:
                self._plan = compile_query(connection, self._texts, self._query)
                self._after = max(self._after, self._plan.after)
            found: list[Record] = []
            for _ in range(_LOOKS):
                found, done = self._look(connection, self._plan)
                if found or done or self.short != began_short:
                    break
        if self._left is not None:
            self._left -= len(found)
            done = done or self._left <= 0
        return found, done

    def _look(self, connection: sqlite3.Connection, plan: Plan) -> tuple[list[Record], bool]:
        wanted = self._batch if self._left is None else min(self._batch, self._left)
        if not plan.sides or not wanted:
            return [], True
        size = max(wanted, min(self._window, self._most))
        found = [(side, side.piece(connection, self._after, plan.upto, thorough=self._thorough)) for side in plan.sides]
        parts = [_Part(side.table, piece) for side, piece in found if piece is not None]
        if any(part.piece.dear for part in parts):
            size = max(size, TESTED)
        end = min((part.piece.upto for part in parts), default=plan.upto)
        read = self._tested if any(part.piece.tests for part in parts) else self._untested
        records, left, cut = read(connection, parts, end, size, wanted)
        self._window = self._batch if 2 * left >= wanted else min(WINDOW, 2 * size)
        cut_short = len(records) < left or len(records) >= wanted
        self._after = records[-1].seq if cut_short else cut
        if self._query.sorts:
            records = with_sorts(connection, self._texts, records, self._query.sorts)
        return records, not cut_short and cut >= plan.upto

    def _untested(
        self, connection: sqlite3.Connection, parts: Sequence[_Part], end: int, size: int, wanted: int
    ) -> tuple[list[Record], int, int]:
        """The next records, how many were left by the grant, and the seq up to which nothing was left out.

        What no test is asked of need not come into Python: this is how charts are read, a third faster than by
        `_tested`."""
        cut, total, pairs = end, 0, set[int]()
        found: list[_Part] = []
        for part in parts:
            first = window(connection, part.piece, max(part.piece.after, self._after), end, size, self._sieve.open)
            if first.found:
                found.append(part)
                total += first.size
                pairs.update(first.pairs)
            if first.found == size:
                cut = min(cut, first.last)
        admitted = self._sieve.decide(connection, pairs)
        if not found or admitted == []:
            return [], 0, cut
        if self._query.bodies and total > BATCH_BYTES:
            rows = [
                row
                for part in found
                for row in survey(connection, part.piece, max(part.piece.after, self._after), cut, size)
            ]
            rows.sort()
            cut = rows[fitting(rows) - 1].seq if fitting(rows) < len(rows) else cut
        records: list[Record] = []
        bound = None if admitted is None else joined(admitted)
        for table, piece in found:
            if max(piece.after, self._after) < cut:
                select, values = piece.select(max(piece.after, self._after), cut, admitted=bound, limit=wanted)
                records += fetch(connection, self._texts, table, select, values, bodies=self._query.bodies)
        records.sort(key=_seq)
        left = len(records)
        del records[wanted:]
        return records, left, cut

    def _tested(
        self, connection: sqlite3.Connection, parts: Sequence[_Part], end: int, size: int, wanted: int
    ) -> tuple[list[Record], int, int]:
        """The same where entries have to be asked."""
        cut = end
        candidates: list[list[Row]] = []
        for _, piece in parts:
            rows = survey(connection, piece, max(piece.after, self._after), end, size)
            if len(rows) == size:
                cut = min(cut, rows[-1].seq)
            rows = self._sieve.admitted(connection, rows)
            if len(rows) > TESTED:
                cut = min(cut, rows[TESTED - 1].seq)
            candidates.append(rows)
        # Of what the grant admits no more is wanted than can be tested.
        most = max(map(len, candidates), default=0)
        self._most = size * TESTED // most if most > TESTED else min(WINDOW, 2 * self._most)
        left: list[tuple[Row, str]] = []
        for (table, piece), rows in zip(parts, candidates, strict=True):
            met = self._sieve.meeting(connection, piece, [row for row in rows if row.seq <= cut])
            left += [(row, table) for row in met]
        left.sort()
        self._thorough = self._thorough or self._sieve.in_vain
        taken = left[:wanted]
        if self._query.bodies:
            taken = taken[: fitting([row for row, _ in taken])]
        return self._fetched(connection, taken), len(left), cut

    def _fetched(self, connection: sqlite3.Connection, taken: Sequence[tuple[Row, str]]) -> list[Record]:
        records: list[Record] = []
        for table in {table for _, table in taken}:
            seqs = joined(row.seq for row, of in taken if of == table)
            select = "SELECT value AS seq FROM json_each(?)"
            records += fetch(connection, self._texts, table, select, (seqs,), bodies=self._query.bodies)
        if len(records) != len(taken):
            raise sqlite3.DatabaseError("an index knows of a version that is not there")
        records.sort(key=_seq)
        return records


def with_sorts(
    connection: sqlite3.Connection, texts: Texts, records: list[Record], names: tuple[str, ...]
) -> list[Record]:
    """The records with their sort keys of these names."""
    numbers = [texts.find(connection, "names", name) for name in names]
    known = dict(entries_of(connection, [record.seq for record in records]))
    found: list[Record] = []
    for record in records:
        entries = known.get(record.seq)
        keys = dict(entries.sorts) if entries is not None else {}
        sorts = tuple([None if number is None else keys.get(number) for number in numbers])
        found.append(msgspec.structs.replace(record, sorts=sorts))
    return found

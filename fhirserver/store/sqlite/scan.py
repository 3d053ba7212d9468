# ruff: noqa: S608 - every statement is our own text; values are bound
"""A query read batch by batch, counted and tallied: candidates by the plan, then the grant, then what entries tell."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from itertools import accumulate
from operator import attrgetter
from typing import NamedTuple

import msgspec

from fhirserver.core.model import Query, Record, Tally
from fhirserver.store.bodies import BATCH_BYTES
from fhirserver.store.sqlite.asked import Piece
from fhirserver.store.sqlite.codec import joined, understood
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.meaning import quick
from fhirserver.store.sqlite.plan import Plan, compile_query
from fhirserver.store.sqlite.read import entries_of, fetch, reading
from fhirserver.store.sqlite.visible import MASK, SHIFT, Admission

_WINDOW = 4096
"""Candidates of one look, at most."""
_TESTED = 512
"""Candidates whose entries are unpacked in one look: some 8 µs each."""
_LOOKS = 4
_SHORT = 256
"""A window up to which a look is well below a few milliseconds."""
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
_groups = msgspec.json.Decoder(list[tuple[int, int, int]]).decode
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


class _Part(NamedTuple):
    table: str
    piece: Piece


class _Window(NamedTuple):
    found: int
    last: int
    size: int
    pairs: list[int]


def _window(connection: sqlite3.Connection, piece: Piece, after: int, upto: int, limit: int, open_: bool) -> _Window:
    """The first candidates of a piece, together; their pairs only where not everything is ``open_``."""
    if not piece.arms or after >= upto:
        return _Window(0, 0, 0, [])
    select, values = piece.select(after, upto, limit=limit)
    pairs = "'[]'" if open_ else f"json_group_array(DISTINCT type << {SHIFT} | facts)"
    found, last, size, told = connection.execute(
        f"SELECT count(*), max(seq), total(size), {pairs} FROM ({select})", values
    ).fetchone()
    return _Window(found, last or 0, int(size), understood(_ints, told.encode()))


def _fitting(rows: Sequence[Row]) -> int:
    """How many have bodies that stay together below the bound; one at least."""
    return max(1, sum(total <= BATCH_BYTES for total in accumulate(row.size for row in rows)))


class _Sieve:
    """What is left of candidates: those that the grant admits and that meet the piece's tests."""

    def __init__(self, texts: Texts, query: Query) -> None:
        self._texts = texts
        self._admission = Admission(query.visible, query.other_than)
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
        self._sieve = _Sieve(texts, query)
        self._after = query.after
        self._window = self._batch
        self._most = _WINDOW
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
            size = max(size, _TESTED)
        end = min((part.piece.upto for part in parts), default=plan.upto)
        read = self._tested if any(part.piece.tests for part in parts) else self._untested
        records, left, cut = read(connection, parts, end, size, wanted)
        self._window = self._batch if 2 * left >= wanted else min(_WINDOW, 2 * size)
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
            window = _window(connection, part.piece, max(part.piece.after, self._after), end, size, self._sieve.open)
            if window.found:
                found.append(part)
                total += window.size
                pairs.update(window.pairs)
            if window.found == size:
                cut = min(cut, window.last)
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
            cut = rows[_fitting(rows) - 1].seq if _fitting(rows) < len(rows) else cut
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
            if len(rows) > _TESTED:
                cut = min(cut, rows[_TESTED - 1].seq)
            candidates.append(rows)
        # Of what the grant admits no more is wanted than can be tested.
        most = max(map(len, candidates), default=0)
        self._most = size * _TESTED // most if most > _TESTED else min(_WINDOW, 2 * self._most)
        left: list[tuple[Row, str]] = []
        for (table, piece), rows in zip(parts, candidates, strict=True):
            met = self._sieve.meeting(connection, piece, [row for row in rows if row.seq <= cut])
            left += [(row, table) for row in met]
        left.sort()
        self._thorough = self._thorough or self._sieve.in_vain
        taken = left[:wanted]
        if self._query.bodies:
            taken = taken[: _fitting([row for row, _ in taken])]
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


def _pieces(connection: sqlite3.Connection, plan: Plan) -> Iterator[Piece]:
    """What has to be read, piece by piece."""
    for side in plan.sides:
        after = plan.after
        while (piece := side.piece(connection, after, plan.upto, thorough=True)) is not None:
            if piece.arms:
                yield piece
            after = piece.upto


def _left(connection: sqlite3.Connection, sieve: _Sieve, piece: Piece) -> Iterator[list[Row]]:
    """What is left of a piece, window by window."""
    after = piece.after
    while after < piece.upto:
        rows = survey(connection, piece, after, piece.upto, _WINDOW)
        after = rows[-1].seq if len(rows) == _WINDOW else piece.upto
        rows = sieve.admitted(connection, rows)
        for at in range(0, len(rows), _TESTED):
            yield sieve.meeting(connection, piece, rows[at : at + _TESTED])


def count(connection: sqlite3.Connection, texts: Texts, query: Query) -> int:
    """How many records a scan would give."""
    total = 0
    sieve = _Sieve(texts, query)
    with reading(connection):
        for piece in _pieces(connection, compile_query(connection, texts, query)):
            if piece.tests:
                for rows in _left(connection, sieve, piece):
                    total += len(rows)
                    if query.limit is not None and total >= query.limit:
                        return query.limit
            else:
                total += _count(connection, sieve, piece, query.limit)
            if query.limit is not None and total >= query.limit:
                return query.limit
    return total


def _count(connection: sqlite3.Connection, sieve: _Sieve, piece: Piece, limit: int | None) -> int:
    select, values = piece.select(piece.after, piece.upto, admitted=sieve.among(connection, piece), limit=limit)
    return int(connection.execute(f"SELECT count(*) FROM ({select})", values).fetchone()[0])


def tally(connection: sqlite3.Connection, texts: Texts, query: Query) -> list[Tally]:
    """The records a scan would give, counted by (type, facts, supports)."""
    totals: Counter[tuple[int, int]] = Counter()
    with reading(connection):
        if query.limit is not None:
            return _tally_of_first(connection, texts, query)
        sieve = _Sieve(texts, query)
        for piece in _pieces(connection, compile_query(connection, texts, query)):
            if piece.tests:
                for rows in _left(connection, sieve, piece):
                    totals.update((row.pair, row.supports) for row in rows)
            else:
                _add_groups(connection, sieve, piece, totals)
        types, facts, supports = (
            texts.load(connection, "types", {pair >> SHIFT for pair, _ in totals}),
            texts.load(connection, "facts", {pair & MASK for pair, _ in totals}),
            texts.load(connection, "supports", {number for _, number in totals}),
        )
    try:
        return [
            Tally(types[pair >> SHIFT], facts[pair & MASK], supports[number], total)
            for (pair, number), total in totals.items()
        ]
    except KeyError as error:
        raise sqlite3.DatabaseError("a version speaks of a text that is not there") from error


def _tally_of_first(connection: sqlite3.Connection, texts: Texts, query: Query) -> list[Tally]:
    totals: Counter[tuple[str, str, str]] = Counter()
    steps, done = Scan(texts, msgspec.structs.replace(query, bodies=False, sorts=()), _WINDOW), False
    while not done:
        records, done = steps.step(connection)
        totals.update((record.type, record.facts, record.supports) for record in records)
    return [Tally(*group, number) for group, number in totals.items()]


def _add_groups(connection: sqlite3.Connection, sieve: _Sieve, piece: Piece, totals: Counter[tuple[int, int]]) -> None:
    select, values = piece.select(piece.after, piece.upto, admitted=sieve.among(connection, piece))
    found = connection.execute(
        "SELECT json_group_array(json_array(pair, supports, n)) FROM (SELECT type << "
        f"{SHIFT} | facts AS pair, supports, count(*) AS n FROM ({select}) GROUP BY type, facts, supports)",
        values,
    ).fetchone()[0]
    for pair, supports, number in _groups(found):
        totals[pair, supports] += number

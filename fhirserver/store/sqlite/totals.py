# ruff: noqa: S608 - every statement is our own text; values are bound
"""How many records a query would give, and of which kinds: counted by SQL where no entries have to be asked."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator

import msgspec

from fhirserver.core.model import Query, Tally
from fhirserver.store.sqlite.asked import Piece
from fhirserver.store.sqlite.candidates import TESTED, WINDOW, Row, Sieve, survey
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.plan import Plan, compile_query
from fhirserver.store.sqlite.read import reading
from fhirserver.store.sqlite.scan import Scan
from fhirserver.store.sqlite.visible import MASK, SHIFT

_groups = msgspec.json.Decoder(list[tuple[int, int, int]]).decode


def _pieces(connection: sqlite3.Connection, plan: Plan) -> Iterator[Piece]:
    """What has to be read, piece by piece."""
    for side in plan.sides:
        after = plan.after
        while (piece := side.piece(connection, after, plan.upto, thorough=True)) is not None:
            if piece.arms:
                yield piece
            after = piece.upto


def _left(connection: sqlite3.Connection, sieve: Sieve, piece: Piece) -> Iterator[list[Row]]:
    """What is left of a piece, window by window."""
    after = piece.after
    while after < piece.upto:
        rows = survey(connection, piece, after, piece.upto, WINDOW)
        after = rows[-1].seq if len(rows) == WINDOW else piece.upto
        rows = sieve.admitted(connection, rows)
        for at in range(0, len(rows), TESTED):
            yield sieve.meeting(connection, piece, rows[at : at + TESTED])


def count(connection: sqlite3.Connection, texts: Texts, query: Query) -> int:
    """How many records a scan would give."""
    total = 0
    sieve = Sieve(texts, query)
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


def _count(connection: sqlite3.Connection, sieve: Sieve, piece: Piece, limit: int | None) -> int:
    select, values = piece.select(piece.after, piece.upto, admitted=sieve.among(connection, piece), limit=limit)
    return int(connection.execute(f"SELECT count(*) FROM ({select})", values).fetchone()[0])


def tally(connection: sqlite3.Connection, texts: Texts, query: Query) -> list[Tally]:
    """The records a scan would give, counted by (type, facts, supports)."""
    totals: Counter[tuple[int, int]] = Counter()
    with reading(connection):
        if query.limit is not None:
            return _tally_of_first(connection, texts, query)
        sieve = Sieve(texts, query)
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
    steps, done = Scan(texts, msgspec.structs.replace(query, bodies=False, sorts=()), WINDOW), False
    while not done:
        records, done = steps.step(connection)
        totals.update((record.type, record.facts, record.supports) for record in records)
    return [Tally(*group, number) for group, number in totals.items()]


def _add_groups(connection: sqlite3.Connection, sieve: Sieve, piece: Piece, totals: Counter[tuple[int, int]]) -> None:
    select, values = piece.select(piece.after, piece.upto, admitted=sieve.among(connection, piece))
    found = connection.execute(
        "SELECT json_group_array(json_array(pair, supports, n)) FROM (SELECT type << "
        f"{SHIFT} | facts AS pair, supports, count(*) AS n FROM ({select}) GROUP BY type, facts, supports)",
        values,
    ).fetchone()[0]
    for pair, supports, number in _groups(found):
        totals[pair, supports] += number

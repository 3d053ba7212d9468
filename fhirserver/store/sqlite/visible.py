# ruff: noqa: S608 - every statement is our own text; values are bound
"""What a grant admits, evaluated by SQL over facts: `Clause.admits` said a second time, independently of it."""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from weakref import WeakKeyDictionary

import msgspec

from fhirserver.core.model import Clause, Visible
from fhirserver.store.sqlite.codec import joined
from fhirserver.store.sqlite.intern import Texts

SHIFT = 40
"""A pair is ``type id << 40 | facts id``: all that visibility depends on."""
MASK = (1 << SHIFT) - 1
_MEMO = 10_000
_LARGE = 64
_GRANTS = 64
_ints = msgspec.json.Decoder(list[int]).decode
_strings = msgspec.json.Decoder(list[str]).decode


class Admission:
    """Decides pairs of one store for one Visible and remembers the answers (facts behind an id never change).

    ``other_than``: the custodian must not be this one (`Query.other_than`).
    """

    def __init__(self, visible: Visible, other_than: str | None) -> None:
        self._visible = visible
        self._other_than = other_than
        self.open = other_than is None and Clause() in visible.clauses
        """Everything is admitted; nothing needs to be decided."""
        self._memo: dict[int, bool] = {}

    def decide(self, connection: sqlite3.Connection, texts: Texts, pairs: Collection[int]) -> list[int] | None:
        """Those of ``pairs`` that are admitted; None when all of them are."""
        known = {pair: self._memo.get(pair) for pair in pairs}
        unknown = [pair for pair, answer in known.items() if answer is None]
        if unknown:
            open_ = set(self._ask(connection, texts, unknown))
            fresh = {pair: pair in open_ for pair in unknown}
            known.update(fresh)
            if len(self._memo) > _MEMO:
                self._memo.clear()
            self._memo.update(fresh)
        admitted = [pair for pair in pairs if known[pair]]
        return None if len(admitted) == len(pairs) else admitted

    def _ask(self, connection: sqlite3.Connection, texts: Texts, pairs: list[int]) -> list[int]:
        if not self._visible.clauses:
            return []
        facts = joined({pair & MASK for pair in pairs})
        values: list[str] = [joined(pairs)]
        conditions = []
        for clause in self._visible.clauses:
            condition, more = _condition(connection, texts, clause, facts)
            conditions.append(condition)
            values += more
        where = " OR ".join(f"({condition})" for condition in conditions)
        if self._other_than is not None:
            where = f"({where}) AND f.text ->> 0 <> ?"
            values.append(self._other_than)
        statement = (
            "SELECT json_group_array(p.pair) FROM "
            f"(SELECT value AS pair, value >> {SHIFT} AS type, value & {MASK} AS facts FROM json_each(?)) p "
            f"CROSS JOIN facts f ON f.id = p.facts WHERE {where}"
        )
        return _ints(connection.execute(statement, values).fetchone()[0])


def admission(texts: Texts, visible: Visible, other_than: str | None) -> Admission:
    """An Admission for a query of the store with these texts: the same for one grant's many, if that is a small one."""
    sets = (owners for clause in visible.clauses for owners in (clause.owners, clause.any_owner) if owners)
    if sum(map(len, sets)) > _LARGE:
        return Admission(visible, other_than)
    known = _shared.setdefault(texts, {})
    found = known.get((visible, other_than))
    if found is None:
        if len(known) >= _GRANTS:
            known.clear()
        found = known[visible, other_than] = Admission(visible, other_than)
    return found


_shared: WeakKeyDictionary[Texts, dict[tuple[Visible, str | None], Admission]] = WeakKeyDictionary()
"""They end with the store's texts: ids of another store, or of a transaction, mean something else."""


_PARTIES, _OWNERS, _LABELS = (f"json_each(f.text, '$[{at}]')" for at in (1, 2, 3))
_AMONG = "value IN (SELECT value FROM json_each(?))"


def _condition(connection: sqlite3.Connection, texts: Texts, clause: Clause, facts: str) -> tuple[str, list[str]]:
    """One clause as SQL over ``p`` (type) and ``f`` (facts)."""
    parts: list[str] = ["1"]
    values: list[str] = []

    def require(part: str, *bound: str) -> None:
        parts.append(part)
        values.extend(bound)

    if clause.types is not None:
        require("p.type IN (SELECT value FROM json_each(?))", joined(_type_ids(connection, texts, clause.types)))
    if clause.not_types:
        require(
            "p.type NOT IN (SELECT value FROM json_each(?))", joined(_type_ids(connection, texts, clause.not_types))
        )
    if clause.organization is not None:
        has = f"EXISTS (SELECT 1 FROM {_PARTIES} WHERE value = ?)"
        require(f"(f.text ->> 0 = ? OR {has})", clause.organization, clause.organization)
    if clause.custodian is not None:
        require("f.text ->> 0 = ?", clause.custodian)
    if clause.party is not None:
        require(f"EXISTS (SELECT 1 FROM {_PARTIES} WHERE value = ?)", clause.party)
    if clause.owners is not None:
        owners = _narrowed(connection, clause.owners, facts)
        require(f"EXISTS (SELECT 1 FROM {_OWNERS})")
        require(f"NOT EXISTS (SELECT 1 FROM {_OWNERS} WHERE NOT {_AMONG})", owners)
    if clause.any_owner is not None:
        owners = _narrowed(connection, clause.any_owner, facts)
        require(f"EXISTS (SELECT 1 FROM {_OWNERS} WHERE {_AMONG})", owners)
    if clause.unowned:
        require(f"NOT EXISTS (SELECT 1 FROM {_OWNERS})")
    if clause.without:
        labels = _text_array(clause.without)
        require(f"NOT EXISTS (SELECT 1 FROM {_LABELS} WHERE {_AMONG})", labels)
    if clause.having is not None:
        require(f"EXISTS (SELECT 1 FROM {_LABELS} WHERE {_AMONG})", _text_array(clause.having))
    return " AND ".join(parts), values


def _type_ids(connection: sqlite3.Connection, texts: Texts, types: Iterable[str]) -> list[int]:
    found = (texts.find(connection, "types", name) for name in types)
    return [number for number in found if number is not None]


def _narrowed(connection: sqlite3.Connection, owners: frozenset[str], facts: str) -> str:
    """The set as a JSON array; of a large one (a consent for each of a million patients) only what can matter."""
    if len(owners) > _LARGE:
        row = connection.execute(
            "SELECT json_group_array(DISTINCT o.value) FROM json_each(?) n CROSS JOIN facts f ON f.id = n.value "
            f"CROSS JOIN {_OWNERS} o",
            (facts,),
        ).fetchone()
        return _text_array(owners.intersection(_strings(row[0])))
    return _text_array(owners)


def _text_array(values: Iterable[str]) -> str:
    return msgspec.json.encode(sorted(values)).decode()

"""A `Query` as filters: which collection, which index, which conditions.

An `Arm` is one ordered read; no two arms of a query give the same version. Arms over current versions are read before
those over history: a version superseded in between is then seen twice (and dropped once), never missed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

from fhirserver.core.model import Clause, Query, Visible
from fhirserver.store.mongo.client import Document
from fhirserver.store.mongo.criteria import Way, asked, conditions, way_of

MERGED_TYPES = 6
"""Up to so many types are read each by its own range; more are filtered."""
LARGE = 1000
"""A set of owners larger than this is first narrowed to those that candidates have."""

Narrow = Callable[[frozenset[str]], Iterable[str]]


class Arm(NamedTuple):
    """One read by the index ``hint``. ``seq`` is the field that orders it.

    ``ordered``: the index gives that order; otherwise the engine sorts what it finds, and the reader asks for ranges.
    """

    collection: str
    conditions: tuple[Document, ...]
    hint: str
    ordered: bool = True

    @property
    def seq(self) -> str:
        return "seq" if self.collection == "current" else "_id"

    def filter(self, after: int, before: int | None, *more: Document) -> Document:
        """The conditions for ``after < seq < before`` (None: however late)."""
        bounds: Document = {"$gt": after}
        if before is not None:
            bounds["$lt"] = before
        return joined(*self.conditions, {self.seq: bounds}, *more)


def empty(query: Query) -> bool:
    """Whether nothing can match, whatever the store holds."""
    return (
        (query.types is not None and not query.types)
        or query.keys == ()
        or (query.departed_since is not None and query.within is None)
        or not query.visible.clauses
        or query.limit == 0
        or any(way is not None and way.empty for way in map(way_of, asked(query)))
    )


def current(query: Query, lead: Way | None = None) -> list[Arm]:
    """The arms over current versions; ``lead``: the way in, where it is narrower than the chart or than everything."""
    common = (*conditions(query, lead), *_common(query), {"deleted": False})
    types = sorted(query.types or ())
    if query.keys is not None:
        wanted = {"_id": {"$in": sorted({str(key) for key in query.keys})}}
        return [Arm("current", (wanted, *_types(query), *_place(query), *common), "_id_")]
    if lead is not None:
        narrow = (lead.condition(), *_types(query), *_place(query), *common)
        return [Arm("current", narrow, "terms", ordered=lead.ordered)]
    if query.within is not None:
        also: Document = {"also": query.within}
        second = Arm("current", (also, *_types(query), *common), "chart_also")
        home: Document = {"home": query.within}
        arms: list[tuple[tuple[Document, ...], str]] = [((home, *_types(query)), "chart")]
        if 0 < len(types) <= MERGED_TYPES:
            arms = [((home, {"type": each}), "chart_type") for each in types]
        return [*(Arm("current", (*first, *common), hint) for first, hint in arms), second]
    if 0 < len(types) <= MERGED_TYPES:
        return [Arm("current", ({"type": each}, *common), "type") for each in types]
    return [Arm("current", (*_types(query), *common), "seq")]


def past(query: Query, as_of: int) -> Arm:
    """The arm over versions that were current right after ``as_of`` and have been superseded since."""
    driver: Document = {"ended": {"$gt": as_of}}
    rest = [driver, *_types(query), *conditions(query), *_common(query), {"deleted": False}]
    if query.keys is not None:
        return Arm("history", (*_keys(query), *rest, *_stands(query)), "key")
    if query.within is not None:
        return Arm("history", (*_stands(query), *rest), "chart")
    hint = "type" if query.types is not None and len(query.types) == 1 else "ended"
    return Arm("history", tuple(rest), hint)


def left(query: Query, since: int, as_of: int) -> Arm:
    """Superseded chart versions that may be the last of a resource that left the chart; see `scan.Departed`."""
    driver: Document = {"ended": {"$gt": since, "$lte": as_of}}
    bounds = (driver, *_keys(query), *_types(query), *conditions(query))
    return Arm("history", (*_stands(query), *bounds, *_common(query), {"deleted": False}), "chart")


def joined(*conditions: Mapping[str, Any]) -> Document:
    """All of the conditions; what needs no `$and` stands without, so that plans stay readable."""
    merged: Document = {}
    rest: list[Mapping[str, Any]] = []
    for condition in conditions:
        if merged.keys() & condition.keys():
            rest.append(condition)
        else:
            merged.update(condition)
    return {**merged, "$and": rest} if rest else merged


def _keys(query: Query) -> list[Document]:
    """Of superseded versions."""
    return [] if query.keys is None else [{"key": {"$in": sorted({str(key) for key in query.keys})}}]


def _types(query: Query) -> list[Document]:
    return [] if query.types is None else [{"type": {"$in": sorted(query.types)}}]


def _place(query: Query) -> list[Document]:
    return [] if query.within is None else [{"$or": [{"home": query.within}, {"also": query.within}]}]


def _stands(query: Query) -> list[Document]:
    return [] if query.within is None else [{"compartments": query.within}]


def _common(query: Query) -> list[Document]:
    """The conditions that no index answers."""
    found: list[Document] = []
    if query.not_types:
        found.append({"type": {"$nin": sorted(query.not_types)}})
    if query.beyond:
        found.append({"compartments": {"$nin": sorted(set(query.beyond))}})
    if query.care is not None:
        first, last = query.care
        found.append({"care_lo": {"$lte": last}, "care_hi": {"$gte": first}})
    if query.other_than is not None:
        found.append({"custodian": {"$ne": query.other_than}})
    return found


# -- what a grant makes visible: `Clause.admits` said a second time, independently of it --


def is_large(visible: Visible) -> bool:
    """Whether a set of owners is too large to be sent with each read."""
    return any(
        owners is not None and len(owners) > LARGE
        for clause in visible.clauses
        for owners in (clause.owners, clause.any_owner)
    )


def seen(visible: Visible, narrow: Narrow = sorted) -> list[Document]:
    """The condition of what is visible (none for everything); ``narrow`` gives the owners that can matter."""
    if Clause() in visible.clauses:
        return []
    return [{"$or": [_clause(clause, narrow) for clause in visible.clauses]}]


def _clause(clause: Clause, narrow: Narrow) -> Document:
    parts: list[Document] = []
    if clause.types is not None:
        parts.append({"type": {"$in": sorted(clause.types)}})
    if clause.not_types:
        parts.append({"type": {"$nin": sorted(clause.not_types)}})
    if clause.organization is not None:
        parts.append({"$or": [{"custodian": clause.organization}, {"parties": clause.organization}]})
    if clause.custodian is not None:
        parts.append({"custodian": clause.custodian})
    if clause.party is not None:
        parts.append({"parties": clause.party})
    if clause.owners is not None:
        among = list(narrow(clause.owners))
        parts.append({"owners": {"$in": among}})
        parts.append({"owners": {"$not": {"$elemMatch": {"$nin": among}}}})
    if clause.any_owner is not None:
        parts.append({"owners": {"$in": list(narrow(clause.any_owner))}})
    if clause.unowned:
        parts.append({"owners": []})
    if clause.without:
        parts.append({"labels": {"$nin": sorted(clause.without)}})
    if clause.having is not None:
        parts.append({"labels": {"$in": sorted(clause.having)}})
    parts += [{"kinds": {"$in": sorted(kinds)}} for kinds in clause.kinds]
    return {"$and": parts} if parts else {}

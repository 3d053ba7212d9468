"""What a criterion asks, in the database's own language: as a condition that decides, and as a way in."""

from __future__ import annotations

import re
from collections.abc import Iterable
from math import inf
from typing import Any, NamedTuple

from fhirserver.core.criteria import AllOf, AnyOf, Criterion, Has, Not, Present, Span, Text, Written, parts
from fhirserver.core.model import Query
from fhirserver.store.mongo.client import Document
from fhirserver.store.mongo.keys import Range, after, span_ranges, text_range

NOTHING: Document = {"_id": {"$in": []}}
_LARGEST = 2**63 - 1


class Way(NamedTuple):
    """What of the index on ``terms`` has to be read to find everything that a criterion holds for."""

    criterion: Criterion
    terms: tuple[str, ...] = ()
    ranges: tuple[Range, ...] = ()

    @property
    def ordered(self) -> bool:
        """Whether the index gives it in order of seq: of one term it does."""
        return not self.ranges and len(self.terms) == 1

    @property
    def empty(self) -> bool:
        return not self.ranges and not self.terms

    @property
    def exact(self) -> bool:
        """Whether what is read is what the criterion holds for, and nothing else."""
        return isinstance(self.criterion, Has)

    def pieces(self) -> list[Document]:
        """A condition for each part of the index: together they are what has to be read."""
        pieces: list[Document] = [{"terms": {"$in": list(self.terms)}}] if self.terms else []
        return pieces + [{"terms": {"$elemMatch": {"$gte": first, "$lt": last}}} for first, last in self.ranges]

    def condition(self) -> Document:
        pieces = self.pieces()
        return pieces[0] if len(pieces) == 1 else {"$or": pieces}


def asked(query: Query) -> tuple[Criterion, ...]:
    """Everything that must hold: the groups of terms, and the criteria."""
    return (*map(Has, query.terms), *parts(query.criteria))


def ways(query: Query) -> list[Way]:
    """The ways in that a query offers; first those that are likely to be the narrowest, since none after it is looked
    at where one is narrow enough."""
    found = [way for each in asked(query) if (way := way_of(each)) is not None]
    return sorted(found, key=lambda way: (len(way.ranges), len(way.terms)))


def way_of(criterion: Criterion) -> Way | None:
    """How the index finds what the criterion holds for; None: it does not."""
    match criterion:
        case Has(terms):
            return Way(criterion, tuple(sorted(set(terms))))
        case Text(name, text, "starts"):
            return Way(criterion, ranges=(text_range(name, text),))
        case Span(name, low, high):
            return Way(criterion, ranges=tuple(span_ranges(name, low, high)))
        case AnyOf(of):
            each = [way_of(one) for one in of]
            some = [way for way in each if way is not None]
            if len(some) < len(each):
                return None
            among = tuple(sorted({term for way in some for term in way.terms}))
            ranges = tuple(sorted({piece for way in some for piece in way.ranges}))
            return Way(Has(among) if all(way.exact for way in some) else criterion, among, ranges)
        case AllOf(of):
            some = [way for one in parts(of) if (way := way_of(one)) is not None]
            if not some:
                return None
            least = min(some, key=lambda way: (len(way.ranges), len(way.terms)))
            return least._replace(criterion=criterion)
        case _:
            return None


def conditions(query: Query, lead: Way | None = None) -> list[Document]:
    """What decides; without the criterion that the way in answers exactly."""
    known = lead.criterion if lead is not None and lead.exact else None
    return [_beside(condition(each)) for each in asked(query) if known is None or not _same(each, known)]


def _same(each: Criterion, known: Criterion) -> bool:
    way = way_of(each)
    return way is not None and way.exact and way.criterion == known


def _beside(condition: Document) -> Document:
    """The same condition, from which no bounds of an index are taken.

    Of several conditions on one array the engine bounds an index by the first and looks the others up entry by entry:
    with 30,000 terms that takes ten times as long as to test the documents.
    """
    if condition.keys().isdisjoint({"terms", "$or", "$and"}):
        return condition
    return {"$nor": [{"$nor": [condition]}]}


def condition(criterion: Criterion) -> Document:
    """`core.criteria.holds`, said about a document of either collection."""
    match criterion:
        case Has(terms):
            return {"terms": {"$in": sorted(set(terms))}} if terms else NOTHING
        case Text(name, text, "starts"):
            end = after(text)
            wanted: Document = {"$gte": text} if end is None else {"$gte": text, "$lt": end}
            return {"texts": {"$elemMatch": {"n": name, "v": wanted}}}
        case Text(name, text, _):
            return {"texts": {"$elemMatch": {"n": name, "v": {"$regex": _literal(text)}}}}
        case Span(name, low, high):
            return {"spans": {"$elemMatch": {"n": name, **_within("lo", low), **_within("hi", high)}}}
        case Present(code):
            return {"present": code}
        case Written(first, last):
            return {"updated": {"$gte": _fitting(first), "$lte": _fitting(last)}}
        case Not(of):
            return {"$nor": [condition(of)]}
        case AnyOf(of):
            return {"$or": [condition(each) for each in of]} if of else NOTHING
        case AllOf(of):
            return {"$and": [condition(each) for each in of]} if of else {"$nor": [NOTHING]}


def _within(field: str, bounds: tuple[float, float]) -> dict[str, Any]:
    found = {}
    if bounds[0] != -inf:
        found["$gte"] = float(bounds[0])
    if bounds[1] != inf:
        found["$lte"] = float(bounds[1])
    return {field: found} if found else {}


def _literal(text: str) -> str:
    """A pattern for this text itself; a NUL cannot stand in one."""
    return re.escape(text).replace("\0", r"\x00")


def _fitting(time: int) -> int:
    """A time that the database can compare with."""
    return max(-_LARGEST, min(time, _LARGEST))


def written(criteria: Iterable[Criterion]) -> tuple[int, int] | None:
    """The times between which everything that matches was committed; None: nothing is said of it."""
    times = [each for each in criteria if isinstance(each, Written)]
    if not times:
        return None
    return max(_fitting(each.first) for each in times), min(_fitting(each.last) for each in times)

"""What a search asks of a resource's index entries: closed data that a store can evaluate, and what each means.

`holds` is the meaning, said over an `Index`; the stores say it again in their own language and are held to it by the
contract tests. Nothing here knows FHIR: `core.search` makes criteria from parameters, `core.entries` says how the
entries are written.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from typing import TYPE_CHECKING, Literal

import msgspec

if TYPE_CHECKING:
    from fhirserver.core.model import Index

UNBOUNDED = (-inf, inf)


class Has(msgspec.Struct, frozen=True, tag=True):
    """At least one of these terms; of none nothing has one."""

    terms: tuple[str, ...]


class Text(msgspec.Struct, frozen=True, tag=True):
    """A text of this name that begins with ``text``, or has it anywhere. ``text`` is normalised as the entries are."""

    name: str
    text: str
    how: Literal["starts", "contains"] = "starts"


class Span(msgspec.Struct, frozen=True, tag=True):
    """A span of this name whose low end lies in ``low`` and whose high end lies in ``high``, bounds included."""

    name: str
    low: tuple[float, float] = UNBOUNDED
    high: tuple[float, float] = UNBOUNDED


class Present(msgspec.Struct, frozen=True, tag=True):
    """The resource has a value for the search parameter of this code, whatever entries that made."""

    code: str


class Written(msgspec.Struct, frozen=True, tag=True):
    """The version was committed between these milliseconds since 1970, bounds included. No entry, but the record's own
    time: a store has it in order, since seq and time agree."""

    first: int
    last: int


class Not(msgspec.Struct, frozen=True, tag=True):
    """It does not hold."""

    of: Criterion


class AnyOf(msgspec.Struct, frozen=True, tag=True):
    """One of them holds; of none, nothing does."""

    of: tuple[Criterion, ...]


class AllOf(msgspec.Struct, frozen=True, tag=True):
    """Each of them holds; of none, everything does."""

    of: tuple[Criterion, ...]


Criterion = Has | Text | Span | Present | Written | Not | AnyOf | AllOf


def holds(criterion: Criterion, index: Index, updated: int) -> bool:
    """Whether a version with these entries, committed at ``updated``, meets the criterion."""
    match criterion:
        case Has(terms):
            return not set(terms).isdisjoint(index.terms)
        case Text(name, text, "starts"):
            return any(each == name and value.startswith(text) for each, value in index.texts)
        case Text(name, text, _):
            return any(each == name and text in value for each, value in index.texts)
        case Span(name, low, high):
            return any(
                each == name and low[0] <= first <= low[1] and high[0] <= last <= high[1]
                for each, first, last in index.spans
            )
        case Present(code):
            return code in index.present
        case Written(first, last):
            return first <= updated <= last
        case Not(of):
            return not holds(of, index, updated)
        case AnyOf(of):
            return any(holds(each, index, updated) for each in of)
        case AllOf(of):
            return all(holds(each, index, updated) for each in of)


def parts(criteria: Sequence[Criterion]) -> tuple[Criterion, ...]:
    """The same conjunction without `AllOf` at its top, so that each part may be looked at as a way in."""
    found: list[Criterion] = []
    for each in criteria:
        found += parts(each.of) if isinstance(each, AllOf) else (each,)
    return tuple(found)

"""`_elements` and `_summary`: what was asked for, and which elements that keeps, read off the structure tables.

Source: R4 http, "General parameters"; search §3.1.1.5.8 (`_summary`) and §3.1.1.5.9 (`_elements`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from types import MappingProxyType

from starlette.requests import Request

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.project import Kept, projection
from fhirserver.core.structure import Element, elements, primitive_types, type_names

SUMMARIES = frozenset({"true", "text", "data", "count", "false"})
_WHOLE = frozenset({"Extension", "Narrative", "Resource"})
"""Types that are kept whole or not at all: cut inside, they would say something else."""

Cut = Callable[[bytes], bytes]


def asked(request: Request) -> Cut | None:
    """How the one resource of the answer is cut, as `_elements` and `_summary` ask; None where it is not.

    Fault BAD_REQUEST for a value that cannot be understood; ``count`` is one, for it counts what a search finds.
    """
    pairs = request.query_params
    if "_elements" not in pairs and "_summary" not in pairs:
        return None
    summary = summary_of(pairs.get("_summary"))
    if summary == "count":
        raise _bad("_summary", "count is for searches")
    return projection_of(elements_of(pairs.getlist("_elements")), summary)


def summary_of(value: str | None) -> str | None:
    """The value of `_summary`, None for ``false``, which asks for nothing; Fault BAD_REQUEST for any other."""
    if value is not None and value not in SUMMARIES:
        raise _bad("_summary", f"must be one of {', '.join(sorted(SUMMARIES))}")
    return None if value == "false" else value


def elements_of(values: list[str]) -> frozenset[str] | None:
    """The names of `_elements`, which may be repeated; None where it is not there; Fault BAD_REQUEST for an empty
    name."""
    names = [item.strip() for value in values for item in value.split(",")]
    if not all(names):
        raise _bad("_elements", "holds an empty name")
    return frozenset(names) or None


def _bad(name: str, reason: str) -> Fault:
    return Fault(Kind.BAD_REQUEST, f"{name}: {reason}.", expression=name)


def projection_of(names: frozenset[str] | None, summary: str | None) -> Cut | None:
    """The function that cuts a resource as the parameters ask, or None where nothing is cut.

    ``names`` may be qualified (``Patient.name``); they are of top-level elements. Mandatory elements always stay, and
    so do modifier elements, without which the rest could be misread. A summary is cut inside elements, too: what an
    Attachment's summary lacks above all is its data.
    """
    if names is None and summary is None:
        return None

    def keep(type_: str) -> Kept:
        return _members(type_, names, summary)

    return projection(keep, _inside)


@lru_cache(maxsize=2048)
def _members(type_: str, names: frozenset[str] | None, summary: str | None) -> Mapping[str, str]:
    return MappingProxyType(
        {
            member: inner if summary == "true" and _is_cut(inner) else ""
            for element in elements(type_)
            if _kept(type_, element, names, summary)
            for member, inner in element.members()
        }
    )


@lru_cache(maxsize=1024)
def _inside(type_: str) -> Mapping[str, str]:
    """What a summary keeps of an element of this type."""
    return MappingProxyType(
        {
            member: inner if _is_cut(inner) else ""
            for element in elements(type_)
            if element.summary or element.modifier or element.minimum > 0
            for member, inner in element.members()
        }
    )


def _is_cut(type_: str) -> bool:
    return type_ not in primitive_types() and type_ not in _WHOLE and type_ in type_names()


def _kept(type_: str, element: Element, names: frozenset[str] | None, summary: str | None) -> bool:
    if element.minimum > 0 or element.modifier:
        return True
    if names is not None and not _named(type_, element, names):
        return False
    match summary:
        case "true":
            return element.summary
        case "text":
            return element.name == "text"
        case "data":
            return element.name != "text"
        case _:
            return names is not None


def _named(type_: str, element: Element, names: frozenset[str]) -> bool:
    wanted = {element.name, *(member for member, _ in element.members())}
    for name in names:
        first, _, rest = name.partition(".")
        top = rest.partition(".")[0] if first == type_ and rest else first
        if top in wanted:
            return True
    return False

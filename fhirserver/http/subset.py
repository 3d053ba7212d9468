"""Which top-level elements `_elements` and `_summary` keep, read off the structure tables.

Source: R4 search §3.1.1.5.8 (`_summary`) and §3.1.1.5.9 (`_elements`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

from fhirserver.core.project import projection
from fhirserver.core.structure import Element, elements


def projection_of(names: frozenset[str] | None, summary: str | None) -> Callable[[bytes], bytes] | None:
    """The function that cuts a resource as the parameters ask, or None where nothing is cut.

    ``names`` may be qualified (``Patient.name``); what lies inside an element is not cut. Mandatory elements always
    stay, and so do modifier elements, without which the rest could be misread.
    """
    if names is None and summary is None:
        return None

    def keep(type_: str) -> Callable[[str], bool]:
        return _members(type_, names, summary).__contains__

    return projection(keep)


@lru_cache(maxsize=2048)
def _members(type_: str, names: frozenset[str] | None, summary: str | None) -> frozenset[str]:
    kept: set[str] = set()
    for element in elements(type_):
        if _kept(type_, element, names, summary):
            kept.update(member for member, _ in element.members())
    return frozenset(kept)


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

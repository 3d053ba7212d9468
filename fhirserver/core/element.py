"""The elements of a resource over its JSON: each with its FHIR type and its place.

A primitive is one element of two JSON members: ``birthDate`` and ``_birthDate``.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal
from functools import cache
from typing import Any, TypeAlias

import msgspec

from fhirserver.core import structure
from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.fhirpath import Moment, PathError
from fhirserver.core.jsontree import Node

RESOURCE = "Resource"
"""The type of an element that holds any resource."""

_BROADER = {
    **dict.fromkeys(("code", "id", "markdown"), "string"),
    **dict.fromkeys(("url", "canonical", "uuid", "oid"), "uri"),
    **dict.fromkeys(("unsignedInt", "positiveInt"), "integer"),
    **dict.fromkeys(("Age", "Count", "Distance", "Duration"), "Quantity"),
}
_NOT_DOMAIN = frozenset({"Bundle", "Binary", "Parameters"})
_MOMENTS = frozenset({"date", "dateTime", "instant"})


class Element(msgspec.Struct, frozen=True, eq=False):
    """One element: of ``type``, written as ``node`` and, if it is a primitive, ``sibling``; ``parent`` holds it as its
    member ``json`` (at ``index`` of an array), which ``row`` defines. The resource itself has no parent."""

    type: str
    node: Node | None
    sibling: Node | None = None
    parent: Element | None = None
    row: structure.Element | None = None
    json: str = ""
    index: int | None = None

    @property
    def primitive(self) -> bool:
        return self.type in structure.primitive_types()

    @property
    def holder(self) -> Node | None:
        """The JSON object that has its children; None for a primitive without id and extensions."""
        return self.sibling if self.primitive else self.node

    @property
    def open(self) -> bool:
        """Whether it may be of several types, so that a child it does not have is not a mistake."""
        return self.row is not None and (self.row.choice or RESOURCE in self.row.types)


Item: TypeAlias = Element | bool | str | int | Decimal | Moment
"""What FHIRPath works on: an element, or a value that was written or computed."""


@cache
def rows(type_: str) -> dict[str, structure.Element]:
    """The rows of a type by element name; those of a primitive are `id` and `extension`."""
    name = "Element" if type_ in structure.primitive_types() else type_
    return {row.name: row for row in structure.elements(name)}


def is_a(type_: str, wanted: str) -> bool:
    """Whether a FHIR type is ``wanted`` or one of its kinds."""
    wanted = wanted.removeprefix("FHIR.")
    if wanted in (type_, _BROADER.get(type_)):
        return True
    if type_ in RESOURCE_TYPES:
        return wanted == RESOURCE or (wanted == "DomainResource" and type_ not in _NOT_DOMAIN)
    backbone = "modifierExtension" in rows(type_)
    return wanted == "Element" or (wanted == "BackboneElement" and backbone)


def resource(node: Node) -> Element:
    """The element that a whole resource is; PathError where it does not say its type."""
    members = node.members
    type_ = members["resourceType"].value if members and "resourceType" in members else None
    if not isinstance(type_, str) or type_ not in RESOURCE_TYPES:
        raise PathError("leads to what is no resource")
    return Element(type_, node)


def children(element: Element, name: str) -> list[Element]:
    """The children of this name, in order; none for a name that the type does not have."""
    row = rows(element.type).get(name)
    members = element.holder.members if element.holder is not None else None
    return [] if row is None or members is None else list(_children(element, row, members))


def _children(element: Element, row: structure.Element, members: dict[str, Node]) -> Iterator[Element]:
    for json, declared in row.members():
        value, sibling = members.get(json), members.get("_" + json)
        if row.maximum == 1:
            pairs: Iterable[tuple[int | None, Node | None, Node | None]] = [(None, value, sibling)]
        else:
            pairs = _paired(value, sibling)
        for index, own, more in pairs:
            if own is not None or more is not None:
                type_ = resource(own).type if declared == RESOURCE and own is not None else declared
                yield Element(type_, own, more, element, row, json, index)


def _paired(value: Node | None, sibling: Node | None) -> Iterator[tuple[int, Node | None, Node | None]]:
    """The items of a repeated element: index, value, and what its ``_sibling`` has for it; None for null."""
    values = (value.items if value is not None else None) or []
    siblings = (sibling.items if sibling is not None else None) or []
    for at in range(max(len(values), len(siblings))):
        own = values[at] if at < len(values) and not values[at].is_null else None
        more = siblings[at] if at < len(siblings) and not siblings[at].is_null else None
        yield at, own, more


def system(element: Element) -> Item | None:
    """The value of a primitive; None where it has none, or is no primitive."""
    if not element.primitive or element.node is None:
        return None
    value: Any = element.node.value
    if element.type in _MOMENTS and isinstance(value, str):
        return Moment(value)
    if element.type == "time" and isinstance(value, str):
        return Moment("T" + value)
    return value if isinstance(value, bool | str | int | Decimal) else None

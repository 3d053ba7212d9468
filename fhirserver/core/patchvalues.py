"""The values of a FHIRPath Patch, and putting them where they belong in a resource's JSON.

An element is written as its definition says: a choice by the name of its type, a primitive's id and extensions in
``_name``, the two arrays of a repeated primitive side by side. Source: R4 fhirpatch.html, json.html.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from fhirserver.core import structure
from fhirserver.core.element import RESOURCE, Element, is_a, resource, rows
from fhirserver.core.jsontree import Node

_RESOURCE_LIKE = frozenset({RESOURCE, "DomainResource"})


class Unfit(Exception):
    """A value or place that does not do; ``code`` is its issue type."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class Given(NamedTuple):
    """A value as a parameter has it: of ``type`` as ``node`` and ``sibling``, or made of ``parts`` (then without a
    type of its own)."""

    type: str
    node: Node | None = None
    sibling: Node | None = None
    parts: tuple[Node, ...] = ()


_VALUES = dict(next(row for row in structure.elements("Parameters.parameter") if row.name == "value").members())
"""``valueString`` -> string, for every type a parameter can have."""


def name_of(part: Node) -> str:
    """The name of a parameter; empty where it has none but an extension."""
    name = part.members["name"].value if part.members and "name" in part.members else ""
    return name if isinstance(name, str) else ""


def given(part: Node) -> Given:
    """The value of a parameter, its resource, or its parts."""
    members = part.members or {}
    for name, node in members.items():
        plain = name.removeprefix("_")
        if plain in _VALUES:
            return Given(_VALUES[plain], members.get(plain), members.get("_" + plain))
        if name == "resource":
            return Given(resource(node).type, node)
    return Given("", parts=tuple((members["part"].items if "part" in members else None) or ()))


def of_row(type_: str, name: str) -> structure.Element:
    """The definition of a child by its name. ``value[x]`` is a name of ``value``, and so is ``valueQuantity``, which
    leaves it one type."""
    for row in rows(type_).values():
        if name == row.name or (row.choice and name == f"{row.name}[x]"):
            return row
        narrowed = dict(row.members()).get(name) if row.choice else None
        if narrowed is not None:
            return msgspec.structs.replace(row, types=(narrowed,))
    raise Unfit("structure", f"{type_} has no element {name[:64]}")


class _Fitted(NamedTuple):
    """A value as the JSON member ``json`` of its owner."""

    json: str
    node: Node | None
    sibling: Node | None


def _fit(value: Given, row: structure.Element) -> _Fitted:
    """The value in the place that ``row`` defines; Unfit when its type is wrong there."""
    if not value.type:
        return _built(value, row)
    for json, type_ in row.members():
        if _goes(value.type, type_):
            return _Fitted(json, value.node, value.sibling)
    raise Unfit("value", f"{row.name} may be {_or(row.types)}, not {value.type}")


def _goes(type_: str, place: str) -> bool:
    """Whether a value of this type may stand there. A parameter cannot be xhtml: a string stands for it."""
    return is_a(type_, place) or (place, type_) == ("xhtml", "string")


def _built(value: Given, row: structure.Element) -> _Fitted:
    """An element made of parts: what has no type of its own, such as Patient.contact, or no value in Parameters."""
    complex_ = [(json, type_) for json, type_ in row.members() if _has_parts(type_)]
    if not value.parts or len(complex_) != 1:
        raise Unfit("value", f"{row.name} needs a value of its type: {_or(row.types)}")
    ((json, type_),) = complex_
    made: dict[str, Node] = {}
    for part in value.parts:
        child = of_row(type_, name_of(part))
        _enter(made, child, _fit(given(part), child), type_)
    return _Fitted(json, Node.holding(made), None)


def _has_parts(type_: str) -> bool:
    return type_ not in structure.primitive_types() and type_ != RESOURCE


def _or(types: tuple[str, ...]) -> str:
    return " or ".join(types) if len(types) < 8 else "one of its types"


# -- places ------------------------------------------------------------------------------------------------------


def append(target: Element, row: structure.Element, value: Given) -> None:
    """The value as a child of ``target``: at the end of a list, or where there is none yet."""
    fitted = _fit(value, row)
    _enter(_members(target), row, fitted, target.type)


def _enter(members: dict[str, Node], row: structure.Element, fitted: _Fitted, type_: str) -> None:
    json, node, sibling = fitted
    if row.maximum != 1:
        end = max(len(_items(members, json)), len(_items(members, "_" + json)))
        _splice(members, json, end, end, [(node, sibling)])
        return
    if any(name in members or "_" + name in members for name, _ in rows(type_)[row.name].members()):
        raise Unfit("business-rule", f"{type_} has {row.name} already; use replace")
    _set(members, json, node, sibling)


def put_at(first: Element, index: int, value: Given) -> None:
    """The value into the list that ``first`` is an item of, before its item ``index``."""
    members, row = _place(first)
    json, node, sibling = _fit(value, row)
    _splice(members, json, index, index, [(node, sibling)])


def shift(listed: Sequence[Element], source: int, destination: int) -> None:
    """One item of a list from one place to another; ``listed`` are all of them."""
    moved = listed[source]
    members, _ = _place(moved)
    _splice(members, moved.json, source, source + 1, [])
    _splice(members, moved.json, destination, destination, [(moved.node, moved.sibling)])


def exchange(element: Element, value: Given) -> None:
    """The value in place of an element; a choice may change its type."""
    members, row = _place(element)
    json, node, sibling = _fit(value, row)
    if element.index is not None or json == element.json:
        _write(element, node, sibling)
        return
    before = list(members.items())
    members.clear()
    for name, each in before:
        if name.removeprefix("_") == element.json:
            _set(members, json, node, sibling)
        else:
            members[name] = each


def erase(element: Element) -> None:
    """The element away, and with it what holds nothing any more: an element is never empty (R4 json.html)."""
    members, _ = _place(element)
    if element.index is None:
        _set(members, element.json, None, None)
    else:
        _splice(members, element.json, element.index, element.index + 1, [])
    owner = element.parent
    if members or owner is None:
        return
    if owner.primitive and owner.node is not None:
        _write(owner, owner.node, None)
    else:
        erase(owner)


def _place(element: Element) -> tuple[dict[str, Node], structure.Element]:
    """The members among which an element stands, and its definition."""
    if element.parent is None or element.row is None:
        raise Unfit("processing", "the path leads to the resource itself, which a patch cannot replace or remove")
    return _members(element.parent), element.row


def _members(element: Element) -> dict[str, Node]:
    """The members that are an element's children; a primitive without id and extensions is given room for them."""
    holder = element.holder
    if holder is None:
        holder = Node.holding({})
        _write(element, element.node, holder)
    return holder.members if holder.members is not None else {}


def _write(element: Element, node: Node | None, sibling: Node | None) -> None:
    members, _ = _place(element)
    if element.index is None:
        _set(members, element.json, node, sibling)
    else:
        _splice(members, element.json, element.index, element.index + 1, [(node, sibling)])


def _set(members: dict[str, Node], json: str, node: Node | None, sibling: Node | None) -> None:
    for name, value in ((json, node), ("_" + json, sibling)):
        if value is None:
            members.pop(name, None)
        else:
            members[name] = value


def _items(members: dict[str, Node], name: str) -> list[Node]:
    return (members[name].items if name in members else None) or []


def _splice(
    members: dict[str, Node], json: str, start: int, end: int, new: list[tuple[Node | None, Node | None]]
) -> None:
    """The items from ``start`` to ``end`` of a list replaced; a primitive's two arrays stay side by side, null where
    one has nothing, and an array of nothing goes."""
    pairs = ((json, [node for node, _ in new]), ("_" + json, [sibling for _, sibling in new]))
    length = max(len(_items(members, name)) for name, _ in pairs)
    for name, part in pairs:
        items = _items(members, name)
        if not items and not any(part):
            continue
        if items is not (members[name].items if name in members else None):
            members[name] = Node.holding(items)
        items += [Node.null() for _ in range(length - len(items))]
        items[start:end] = [node or Node.null() for node in part]
        if all(item.is_null for item in items):
            del members[name]

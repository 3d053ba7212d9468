"""FHIRPath Patch (R4 fhirpatch.html): the operations of a Parameters resource over a resource's bytes.

Each path leads to exactly one element (`delete` also to none), `insert` and `move` to a list; operations apply in
order, each to what the one before left. Whatever no operation names keeps its bytes (`core.jsontree`). Parameters
that are no FHIRPath Patch are a BAD_REQUEST, an operation that cannot be done is Invalid; both name the operation by
its place in the Parameters. Messages never say values.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from fhirserver.core.element import Element, resource, rows
from fhirserver.core.errors import Fault, Invalid, Issue, Kind
from fhirserver.core.fhirpath import Chain, Child, Expression, PathError
from fhirserver.core.fhirpath import parse as parse_path
from fhirserver.core.jsonpatch import MAX_OPERATIONS
from fhirserver.core.jsontree import Node
from fhirserver.core.locate import Locator
from fhirserver.core.patchvalues import Given, Unfit, append, erase, exchange, given, name_of, of_row, put_at, shift

MAX_PATHS = 400_000
"""Characters of all the paths of one patch."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """One operation, read; ``place`` is where it stands in the Parameters."""

    type: str
    place: str
    path: Expression
    name: str = ""
    value: Given | None = None
    index: int = 0
    source: int = 0
    destination: int = 0


_TEXT, _CODE = ("string",), ("code", "string")
_NUMBER = ("integer", "unsignedInt", "positiveInt")
_TYPES: dict[str, tuple[str, ...]] = {
    "type": _CODE,
    "path": _TEXT,
    "name": _TEXT,
    "index": _NUMBER,
    "source": _NUMBER,
    "destination": _NUMBER,
}
"""part -> the types its value may have."""

_PARTS: dict[str, frozenset[str]] = {
    "add": frozenset({"type", "path", "name", "value"}),
    "insert": frozenset({"type", "path", "value", "index"}),
    "delete": frozenset({"type", "path"}),
    "replace": frozenset({"type", "path", "value"}),
    "move": frozenset({"type", "path", "source", "destination"}),
}
"""operation -> its parts, all required and no others."""


def parse(parameters: Node) -> tuple[Operation, ...]:
    """The operations of a Parameters resource, which validation has passed; Fault BAD_REQUEST where it is no FHIRPath
    Patch, TOO_LARGE for too many."""
    members = parameters.members or {}
    if "resourceType" not in members or members["resourceType"].value != "Parameters":
        raise _malformed("resourceType", "A FHIRPath Patch is a Parameters resource.")
    listed = (members["parameter"].items if "parameter" in members else None) or []
    if len(listed) > MAX_OPERATIONS:
        raise Fault(Kind.TOO_LARGE, f"A patch may have {MAX_OPERATIONS} operations.")
    reader = _Reader()
    return tuple(reader.operation(node, f"Parameters.parameter[{at}]") for at, node in enumerate(listed))


class _Reader:
    """Reads operations, within the length that all their paths may have."""

    def __init__(self) -> None:
        self._left = MAX_PATHS

    def operation(self, node: Node, place: str) -> Operation:
        members = node.members or {}
        if name_of(node) != "operation" or "part" not in members:
            raise _malformed(place, "Every parameter must be an operation with parts.")
        values = self._parts(members["part"].items or [], place)
        type_ = values.pop("type", None)
        if not isinstance(type_, str) or type_ not in _PARTS:
            raise _malformed(place, f"The part type must be one of {', '.join(_PARTS)}.")
        wanted = _PARTS[type_] - {"type"}
        for name in sorted(wanted ^ values.keys()):
            said = "is required" if name in wanted else "does not belong"
            raise _malformed(place, f"The part {name} {said} in an operation {type_}.")
        return Operation(type=type_, place=place, **values)  # type: ignore[arg-type]  # `_part` has seen to the types

    def _parts(self, parts: list[Node], place: str) -> dict[str, object]:
        values: dict[str, object] = {}
        for at, part in enumerate(parts):
            here = f"{place}.part[{at}]"
            name = name_of(part)
            if name not in (*_TYPES, "value"):
                raise _malformed(here, "An operation has no such part.")
            if name in values:
                raise _malformed(here, f"The part {name} is there twice.")
            values[name] = self._part(name, given(part), here)
        return values

    def _part(self, name: str, found: Given, place: str) -> object:
        if name == "value":
            return found
        if found.type not in _TYPES[name] or found.node is None:
            raise _malformed(place, f"The part {name} must be a {_TYPES[name][0]}.")
        value = found.node.value
        if isinstance(value, int) and value < 0:
            raise _malformed(place, f"The part {name} must not be negative.")
        return self._path(str(value), place) if name == "path" else value

    def _path(self, text: str, place: str) -> Expression:
        self._left -= len(text)
        if self._left < 0:
            raise Fault(Kind.TOO_LARGE, f"The paths of a patch may have {MAX_PATHS} characters.")
        try:
            return parse_path(text)
        except PathError as error:
            raise _malformed(place, f"The path {error}.") from None


def _malformed(place: str, message: str) -> Fault:
    return Fault(Kind.BAD_REQUEST, message, expression=place)


def apply(operations: Sequence[Operation], root: Node) -> Node:
    """The root of the document after all operations, which change it; Invalid when one cannot be done."""
    locator = Locator()
    for operation in operations:
        try:
            _DO[operation.type](locator, resource(root), operation)
        except PathError as error:
            raise _refused(operation, "processing", f"the path {error}") from None
        except Unfit as error:
            raise _refused(operation, error.code, str(error)) from None
    return root


def _refused(operation: Operation, code: str, what: str) -> Invalid:
    return Invalid([Issue(code, f"{operation.type}: {what}.", operation.place)])


# -- the five operations -----------------------------------------------------------------------------------------


def _add(locator: Locator, root: Element, operation: Operation) -> None:
    target = _single(locator, root, operation.path)
    row = of_row(target.type, operation.name)
    append(target, row, _value(operation))


def _insert(locator: Locator, root: Element, operation: Operation) -> None:
    listed = _listed(locator, root, operation.path)
    if operation.index > len(listed):
        raise Unfit("value", f"the index is beyond the end of the list, which has {len(listed)} items")
    put_at(listed[0], operation.index, _value(operation))


def _delete(locator: Locator, root: Element, operation: Operation) -> None:
    found = locator.elements(operation.path, root)
    if len(found) > 1:
        raise _several(found)
    if found:
        erase(found[0])


def _replace(locator: Locator, root: Element, operation: Operation) -> None:
    exchange(_single(locator, root, operation.path), _value(operation))


def _move(locator: Locator, root: Element, operation: Operation) -> None:
    listed = _listed(locator, root, operation.path)
    for name, index in (("source", operation.source), ("destination", operation.destination)):
        if index >= len(listed):
            raise Unfit("value", f"the {name} is beyond the end of the list, which has {len(listed)} items")
    shift(listed, operation.source, operation.destination)


_DO: dict[str, Callable[[Locator, Element, Operation], None]] = {
    "add": _add,
    "insert": _insert,
    "delete": _delete,
    "replace": _replace,
    "move": _move,
}


def _value(operation: Operation) -> Given:
    if operation.value is None:
        raise AssertionError("an operation with a value has been read with one")
    return operation.value


def _single(locator: Locator, root: Element, path: Expression) -> Element:
    found = locator.elements(path, root)
    if not found:
        raise Unfit("not-found", "the path leads to no element")
    if len(found) > 1:
        raise _several(found)
    return found[0]


def _several(found: list[Element]) -> Unfit:
    return Unfit("multiple-matches", f"the path leads to {len(found)} elements, not to one")


def _listed(locator: Locator, root: Element, path: Expression) -> list[Element]:
    """All items of the list that a path names, such as ``Patient.name[0].given``: by the element that has the list,
    and the list's name, so that a filter cannot pass for the whole."""
    last = path.steps[-1] if isinstance(path, Chain) and path.steps else None
    if not isinstance(path, Chain) or not isinstance(last, Child) or last.name[:1].isupper():
        raise Unfit("processing", "the path must end with the name of a list")
    owner = _single(locator, root, Chain(path.start, path.steps[:-1]))
    row = rows(owner.type).get(last.name)
    if row is None or row.maximum == 1:
        raise Unfit("processing", f"the path must end with the name of a list, which {last.name[:64]} is not")
    found = locator.children(owner, last.name)
    if not found:
        raise Unfit("not-found", "the path leads to no element; use add to begin a list")
    return found

"""JSON Patch (RFC 6902) with JSON Pointer (RFC 6901) over a resource's bytes.

Whatever no operation names keeps its bytes (`core.jsontree`). A document that is no JSON Patch is a BAD_REQUEST; an
operation that cannot be done, or a `test` that fails, is Invalid and names the operation and the place. Messages say
paths, never values.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from fhirserver.core.errors import Fault, Invalid, Issue, Kind
from fhirserver.core.jsontree import Node, equal, exact

MAX_OPERATIONS = 10_000
"""Operations of one patch."""

MAX_WORK = 64 << 20
"""Bytes that the `copy` and `test` operations of one patch may go over in all: repeated copies double a document."""

_MOST_STEPS = 200
"""Steps of a pointer: more than the deepest valid resource has."""

_INDEX = re.compile(r"0|[1-9][0-9]{0,8}", re.ASCII).fullmatch
_ESCAPED = re.compile(r"(?:[^~]|~[01])*", re.DOTALL).fullmatch
_NAME = re.compile(r"_?([A-Za-z][A-Za-z0-9]{0,63})", re.ASCII).fullmatch

Pointer = tuple[str, ...]


class Operation(NamedTuple):
    """One operation, read: ``source`` is `from`, ``value`` the JSON text of `value`."""

    op: str
    path: Pointer
    source: Pointer = ()
    value: bytes = b""


def parse(patch: Node) -> tuple[Operation, ...]:
    """The operations of a JSON Patch document; Fault BAD_REQUEST where it is none, TOO_LARGE for too many."""
    if patch.items is None:
        raise _malformed("A JSON Patch is an array of operations.")
    if len(patch.items) > MAX_OPERATIONS:
        raise Fault(Kind.TOO_LARGE, f"A patch may have {MAX_OPERATIONS} operations.")
    return tuple(_operation(node, f"operation {at}") for at, node in enumerate(patch.items, 1))


def _operation(node: Node, name: str) -> Operation:
    members = node.members
    if members is None:
        raise _malformed(f"{name}: must be a JSON object.")
    op = members["op"].value if "op" in members else None
    if not isinstance(op, str) or op not in _DO:
        raise _malformed(f"{name}: op must be one of {', '.join(_DO)}.")
    for needed in ("path", *_NEEDS[op]):
        if needed not in members:
            raise _malformed(f"{name} ({op}): {needed} is required.")
    return Operation(
        op,
        _pointer(members["path"], f"{name} ({op}): path"),
        _pointer(members["from"], f"{name} ({op}): from") if "from" in _NEEDS[op] else (),
        members["value"].text if "value" in _NEEDS[op] else b"",
    )


def _pointer(node: Node, name: str) -> Pointer:
    text = node.value
    if not isinstance(text, str) or not (not text or text.startswith("/")) or not _ESCAPED(text):
        raise _malformed(f"{name} must be a JSON Pointer such as /name/0/family.")
    steps = tuple(step.replace("~1", "/").replace("~0", "~") for step in text.split("/")[1:])
    if len(steps) > _MOST_STEPS:
        raise _malformed(f"{name} has more than {_MOST_STEPS} steps.")
    return steps


def _malformed(message: str) -> Fault:
    return Fault(Kind.BAD_REQUEST, message)


def apply(operations: Sequence[Operation], root: Node, type_: str) -> Node:
    """The root of the document after all operations, which change ``root``; Invalid when one cannot be done.

    ``type_``: the resource's type, with which places are named.
    """
    target = _Target(root, type_)
    for at, operation in enumerate(operations, 1):
        target.name = f"operation {at} ({operation.op})"
        try:
            _DO[operation.op](target, operation)
        except RecursionError:
            raise target.refuse("too-costly", (), "the document becomes nested too deeply") from None
    return target.root


class _Target:
    """The document under its operations."""

    def __init__(self, root: Node, type_: str) -> None:
        self.root = root
        self.name = ""
        self._type = type_
        self._work = 0

    # -- the six operations --------------------------------------------------------------------------------------

    def add(self, operation: Operation) -> None:
        self._put(operation.path, Node(operation.value))

    def remove(self, operation: Operation) -> None:
        self._take(operation.path)

    def replace(self, operation: Operation) -> None:
        if not operation.path:
            self.root = Node(operation.value)
            return
        parent, step = self._parent(operation.path)
        self._at(parent, step, operation.path)
        if parent.members is not None:
            parent.members[step] = Node(operation.value)
        elif parent.items is not None:
            parent.items[int(step)] = Node(operation.value)

    def move(self, operation: Operation) -> None:
        source, path = operation.source, operation.path
        if source == path:
            self._get(path)
            return
        if path[: len(source)] == source:
            raise self.refuse("value", path, "cannot move a value into itself")
        self._put(path, self._take(source))

    def copy(self, operation: Operation) -> None:
        self._put(operation.path, Node(self._text(operation.source)))

    def test(self, operation: Operation) -> None:
        text = self._text(operation.path)
        if text != operation.value and not equal(exact(text), exact(operation.value)):
            raise self.refuse("conflict", operation.path, "the value is another one")

    # -- places --------------------------------------------------------------------------------------------------

    def _get(self, path: Pointer) -> Node:
        node = self.root
        for at, step in enumerate(path):
            node = self._at(node, step, path[: at + 1])
        return node

    def _parent(self, path: Pointer) -> tuple[Node, str]:
        return self._get(path[:-1]), path[-1]

    def _at(self, node: Node, step: str, path: Pointer) -> Node:
        if node.members is not None:
            if step not in node.members:
                raise self.refuse("not-found", path, "there is nothing")
            return node.members[step]
        if node.items is not None:
            at = self._index(step, path)
            if at >= len(node.items):
                raise self.refuse("not-found", path, f"there is nothing; the array has {len(node.items)} items")
            return node.items[at]
        raise self.refuse("not-found", path, "there is nothing; what it stands in is no object or array")

    def _index(self, step: str, path: Pointer) -> int:
        if not _INDEX(step):
            raise self.refuse("value", path, "an array is asked by an index, written without leading zeros")
        return int(step)

    def _put(self, path: Pointer, value: Node) -> None:
        if not path:
            self.root = value
            return
        parent, step = self._parent(path)
        if parent.members is not None:
            parent.members[step] = value
        elif parent.items is not None:
            at = len(parent.items) if step == "-" else self._index(step, path)
            if at > len(parent.items):
                raise self.refuse("value", path, f"is beyond the end; the array has {len(parent.items)} items")
            parent.items.insert(at, value)
        else:
            raise self.refuse("not-found", path, "cannot stand in what is no object or array")

    def _take(self, path: Pointer) -> Node:
        if not path:
            raise self.refuse("value", path, "a resource cannot be removed by a patch")
        parent, step = self._parent(path)
        found = self._at(parent, step, path)
        if parent.members is not None:
            del parent.members[step]
        elif parent.items is not None:
            del parent.items[int(step)]
        return found

    def _text(self, path: Pointer) -> bytes:
        text = self._get(path).text
        self._work += len(text)
        if self._work > MAX_WORK:
            raise self.refuse("too-costly", path, "the patch copies and compares too much")
        return text

    def refuse(self, code: str, path: Pointer, what: str) -> Invalid:
        """The Fault for an operation that cannot be done."""
        place = _place(self._type, path)
        return Invalid([Issue(code, f"{self.name} at {pointer(path)}: {what}.", place)])


def pointer(path: Pointer) -> str:
    """The path as JSON Pointer, shortened for a message; of steps that are no names of elements only that they are
    there."""
    shown = (step if _NAME(step) or _INDEX(step) or step == "-" else "…" for step in path[:_SHOWN])
    return "/".join(("", *shown)) + ("/…" if len(path) > _SHOWN else "") or "the root"


_SHOWN = 12


def _place(type_: str, path: Pointer) -> str:
    """The path as FHIRPath, as far as it names elements."""
    place = type_
    for step in path:
        if _INDEX(step):
            place += f"[{step}]"
        elif name := _NAME(step):
            place += f".{name[1]}"
        else:
            break
    return place


_DO: dict[str, Callable[[_Target, Operation], None]] = {
    "add": _Target.add,
    "remove": _Target.remove,
    "replace": _Target.replace,
    "move": _Target.move,
    "copy": _Target.copy,
    "test": _Target.test,
}
_NEEDS: dict[str, tuple[str, ...]] = {
    "add": ("value",),
    "remove": (),
    "replace": ("value",),
    "move": ("from",),
    "copy": ("from",),
    "test": ("value",),
}

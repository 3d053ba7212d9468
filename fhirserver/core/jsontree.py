"""A JSON document that is opened where it is looked into and written anew only where it was opened.

What nobody opened comes out as the bytes that went in: number texts such as ``1.00`` or ``3e2``, escapes, key order.
What was opened is put together from its parts, each of them the same way. So an edit changes its place and nothing
else, by construction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal, InvalidOperation
from typing import Any

import msgspec

from fhirserver.core.errors import Invalid, Issue

Value = dict[str, Any] | list[Any] | str | int | Decimal | bool | None
"""A decoded value, its numbers exact."""

_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_exact = msgspec.json.Decoder(float_hook=Decimal).decode
_encode = msgspec.json.Encoder().encode


class Node:
    """One value of a document. `members` and `items` are live: to change them is to change the document."""

    __slots__ = ("_opened", "_raw")

    def __init__(self, raw: bytes | msgspec.Raw) -> None:
        """``raw``: valid JSON text without insignificant blanks."""
        self._raw = raw
        self._opened: dict[str, Node] | list[Node] | None = None

    @classmethod
    def holding(cls, parts: dict[str, Node] | list[Node]) -> Node:
        """An object or array made of these."""
        node = cls(b"")
        node._opened = parts
        return node

    @classmethod
    def null(cls) -> Node:
        return cls(b"null")

    @property
    def members(self) -> dict[str, Node] | None:
        """The object's members by name; None for another kind of value."""
        if self._opened is None and self._begins(b"{"):
            self._opened = {name: Node(raw) for name, raw in _members(self._raw).items()}
        return self._opened if isinstance(self._opened, dict) else None

    @property
    def items(self) -> list[Node] | None:
        """The array's items; None for another kind of value."""
        if self._opened is None and self._begins(b"["):
            self._opened = [Node(raw) for raw in _items(self._raw)]
        return self._opened if isinstance(self._opened, list) else None

    @property
    def is_null(self) -> bool:
        return self._opened is None and self._begins(b"n")

    @property
    def size(self) -> int:
        """Bytes of its JSON text; 0 where it was opened."""
        return memoryview(self._raw).nbytes if self._opened is None else 0

    @property
    def text(self) -> bytes:
        """Its JSON text."""
        if isinstance(self._opened, dict):
            return b"{" + b",".join(_encode(name) + b":" + node.text for name, node in self._opened.items()) + b"}"
        if isinstance(self._opened, list):
            return b"[" + b",".join(node.text for node in self._opened) + b"]"
        return bytes(self._raw)

    @property
    def value(self) -> Value:
        """It decoded, its numbers exact; Invalid for a number that nothing can hold."""
        return exact(self.text if self._opened is not None else self._raw)

    def _begins(self, sign: bytes) -> bool:
        return bytes(memoryview(self._raw)[:1]) == sign


def exact(raw: bytes | msgspec.Raw) -> Value:
    """The decoded value, its numbers as int or Decimal; Invalid for a number that nothing can hold."""
    try:
        value: Value = _exact(raw)
    except (msgspec.ValidationError, InvalidOperation):
        raise Invalid([Issue("value", "holds a number beyond the range of a 64-bit float")]) from None
    return value


def equal(left: Any, right: Any) -> bool:
    """Whether two decoded values are equal as RFC 6902 §4.6 has it: numbers by value, strings character by character,
    objects whatever the order of their members."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, Mapping):
        return (
            isinstance(right, Mapping)
            and left.keys() == right.keys()
            and all(equal(value, right[name]) for name, value in left.items())
        )
    if isinstance(left, Sequence) and not isinstance(left, str):
        return (
            isinstance(right, Sequence)
            and not isinstance(right, str)
            and len(left) == len(right)
            and all(map(equal, left, right))
        )
    return bool(left == right)

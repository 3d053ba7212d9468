"""A patch of either format, and what it makes of a resource.

Source: R4 http.html#patch. The result is another version of the same resource: its type and id stay. R4 asks that the
narrative is not clinically unsafe afterwards; so one that was generated from the data goes when the data changes and
it does not, and where it may say more than the data, the patch has to see to it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import msgspec

from fhirserver.core import fhirpatch, jsonpatch, validate
from fhirserver.core.errors import Fault, Invalid, Issue, Kind
from fhirserver.core.jsontext import Malformed, decode, duplicates, is_single
from fhirserver.core.jsontree import Node

_GENERATED = frozenset({"generated", "extensions"})
"""`Narrative.status` of what says nothing but what the data say."""

_UNTOLD = frozenset({"meta", "text"})
"""Members that a narrative does not tell of."""


class Patch(NamedTuple):
    """A patch document, read: operations of one of the two formats."""

    json: tuple[jsonpatch.Operation, ...] = ()
    fhirpath: tuple[fhirpatch.Operation, ...] = ()

    def apply(self, raw: bytes) -> bytes:
        """The resource of ``raw`` (valid, and without insignificant blanks) with every operation done.

        What no operation names keeps its bytes. Invalid for an operation that cannot be done; BAD_REQUEST where the
        result is no longer that resource. Whether it is a valid one is for validation to say.
        """
        before = Node(raw)
        type_ = str(_member(before, "resourceType"))
        try:
            root = Node(raw)
            after = fhirpatch.apply(self.fhirpath, jsonpatch.apply(self.json, root, type_)).text
        except RecursionError:
            raise Invalid([Issue("too-costly", "The patch makes the resource nested too deeply.")]) from None
        return _narrated(before, _same(before, after, type_), type_)


def json_patch(raw: bytes) -> Patch:
    """The Patch of a JSON Patch document (RFC 6902); Fault BAD_REQUEST where it is none."""
    document = _decoded(raw)
    operations = jsonpatch.parse(_node(raw))
    # The quick look is enough for any honest document; where it doubts, the slow one lists the names.
    repeated = [] if is_single(raw, _count(document)) else duplicates(raw)
    if repeated:
        raise Fault(Kind.BAD_REQUEST, "The patch repeats a name.", issues=repeated)
    return Patch(json=operations)


def fhirpath_patch(raw: bytes) -> Patch:
    """The Patch of a Parameters resource; Fault BAD_REQUEST with every issue where it is no FHIRPath Patch."""
    _decoded(raw)
    _, found = validate.issues(raw)
    if found:
        raise Fault(Kind.BAD_REQUEST, "The Parameters are not valid.", issues=found)
    return Patch(fhirpath=fhirpatch.parse(_node(raw)))


def _decoded(raw: bytes) -> Any:
    try:
        return decode(raw)
    except Malformed as malformed:
        raise Fault(Kind.BAD_REQUEST, malformed.issue.diagnostics, issues=[malformed.issue]) from None


def _node(raw: bytes) -> Node:
    return Node(msgspec.json.format(raw, indent=-1))


def _count(value: Any) -> int:
    """How many members the objects of a decoded value have in all."""
    members, pending = 0, [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            members += len(each)
            pending += each.values()
        elif isinstance(each, list):
            pending += each
    return members


def _member(node: Node, name: str) -> object:
    return node.members[name].value if node.members is not None and name in node.members else None


def _same(before: Node, after: bytes, type_: str) -> Node:
    """The result, which has to be the same resource still."""
    node = Node(after)
    if node.members is None:
        raise Fault(Kind.BAD_REQUEST, "A patch must leave a resource.", expression=type_)
    for name in ("resourceType", "id"):
        if _member(node, name) != _member(before, name):
            raise Fault(Kind.BAD_REQUEST, f"A patch cannot change {name}.", expression=f"{type_}.{name}")
    return node


def _narrated(before: Node, after: Node, type_: str) -> bytes:
    old, new = before.members or {}, after.members or {}
    changed = {name for name in old.keys() | new.keys() if not _alike(old.get(name), new.get(name))}
    if "text" in changed or "text" not in new or changed <= _UNTOLD:
        return after.text
    status = _member(new["text"], "status")
    if status in _GENERATED:
        del new["text"]
    elif status == "additional":
        told = "The narrative may say more than the data; patch it together with them, or remove it."
        raise Invalid([Issue("business-rule", told, f"{type_}.text")])
    return after.text


def _alike(left: Node | None, right: Node | None) -> bool:
    return left is not None and right is not None and left.text == right.text

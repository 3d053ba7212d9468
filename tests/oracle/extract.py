"""The elements a published search expression yields in one resource, each with its FHIR type.

A walker for the few forms of FHIRPath that the R4 search parameters use. Types come from the R4 tables of
`fhirpathpy`, not from the server's.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import cache
from importlib import resources
from typing import Any, NamedTuple

JSON = dict[str, Any]


class Node(NamedTuple):
    """One element: its FHIR type, the path under which the tables know its children, its JSON, and its resource."""

    type: str
    path: str
    value: Any
    root: JSON


@cache
def _table(name: str) -> dict[str, Any]:
    text = (resources.files("fhirpathpy.models") / "r4" / f"{name}.json").read_text("utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


_STEP = re.compile(
    r"\.?(?:as\((?P<as>\w+)\)"
    r"|where\((?P<field>\w+) ?= ?'(?P<text>[^']*)'\)"
    r"|where\(resolve\(\) is (?P<target>\w+)\)"
    r"|\[(?P<nth>\d+)\]"
    r"|(?P<name>%?\w+))"
)


def elements(resource: JSON, expression: str) -> list[Node]:
    """What the whole expression yields, in the order of its parts."""
    found = []
    for first, part, rest in _parts(expression):
        if first in (resource["resourceType"], "Resource", "DomainResource"):
            found += list(_part(resource, part, rest))
        elif not first[:1].isupper():
            found += _walk([_root(resource)], part)
    return found


@cache
def _parts(expression: str) -> list[tuple[str, str, str]]:
    """Each part of a union as a path: its first name (mostly a type), the whole, and what follows the name."""
    parts = [re.sub(r"^\((\S+) as (\w+)\)", r"\1.as(\2)", part.strip()) for part in expression.split(" | ")]
    return [(part.partition(".")[0], part, part.partition(".")[2]) for part in parts]


def below(node: Node, expression: str) -> list[Node]:
    """What a composite's component yields below its context node."""
    found: list[Node] = []
    for part in expression.split(" | "):
        if part.startswith("%resource."):
            found += _walk([_root(node.root)], part.removeprefix("%resource."))
        else:
            found += _walk([node], part)
    return found


def _part(resource: JSON, part: str, rest: str) -> Iterator[Node]:
    deceased = re.fullmatch(r"(\S+)\.exists\(\) and \1 != false", part)
    if deceased:
        values = [node.value for node in elements(resource, deceased[1])]
        yield Node("boolean", "boolean", bool(values) and values != [False], resource)
    else:
        yield from _walk([_root(resource)], rest)


def _root(resource: JSON) -> Node:
    return Node(resource["resourceType"], resource["resourceType"], resource, resource)


def _walk(nodes: list[Node], steps: str) -> list[Node]:
    at = 0
    while at < len(steps):
        step = _STEP.match(steps, at)
        if step is None or step.end() == at:
            raise ValueError(f"an expression the oracle cannot walk: {steps}")
        at = step.end()
        if step["as"]:
            nodes = [node for node in nodes if node.type.lower() == step["as"].lower()]
        elif step["field"]:
            nodes = [node for node in nodes if node.value.get(step["field"]) == step["text"]]
        elif step["target"]:
            nodes = [node for node in nodes if _target(node) == step["target"]]
        elif step["nth"]:
            nodes = nodes[int(step["nth"]) :][:1]
        else:
            nodes = [child for node in nodes for child in _children(node, step["name"])]
    return nodes


def _children(node: Node, name: str) -> Iterator[Node]:
    if not isinstance(node.value, dict):
        return
    path = _known(node.path, name)
    if name in node.value:
        type_ = _table("path2Type").get(path, "BackboneElement").removeprefix("System.")
        yield from _nodes(node, name, "string" if type_ == "String" else type_, path)
    for suffix in _table("choiceTypePaths").get(path, ()):
        if name + suffix in node.value:
            small = suffix[0].lower() + suffix[1:]
            yield from _nodes(node, name + suffix, small if small in _table("type2Parent") else suffix, path)


def _nodes(parent: Node, field: str, type_: str, path: str) -> Iterator[Node]:
    given = parent.value[field]
    for value in given if isinstance(given, list) else [given]:
        if isinstance(value, dict) and "resourceType" in value:
            yield _root(value)
        elif value is not None:
            inner = path if type_ in ("BackboneElement", "Element") else type_
            yield Node(type_, inner, value, parent.root)


def _known(parent: str, name: str) -> str:
    """The path under which the tables know this child: a content reference or an inherited element stands elsewhere."""
    own = path = _table("pathsDefinedElsewhere").get(f"{parent}.{name}", f"{parent}.{name}")
    above = parent
    while path not in _table("path2Type") and path not in _table("choiceTypePaths"):
        above = _table("type2Parent").get(above)
        if above is None:
            return str(own)
        path = f"{above}.{name}"
    return str(path)


def local(text: str) -> str | None:
    """`Type/id` of a relative literal reference, without its version; None for any other form."""
    found = re.fullmatch(r"([A-Z][A-Za-z]+/[A-Za-z0-9.-]{1,64})(/_history/[A-Za-z0-9.-]{1,64})?", text)
    return found[1] if found else None


def _target(node: Node) -> str | None:
    """The type a Reference points at, as far as it says."""
    text = node.value.get("reference", "")
    if text.startswith("#"):
        for contained in node.root.get("contained", ()):
            if contained.get("id") == text[1:]:
                return str(contained["resourceType"])
    named = re.search(r"(?:^|/)([A-Z][A-Za-z]+)/[A-Za-z0-9.-]{1,64}(?:/_history/[^/]+)?$", text)
    return named[1] if named else node.value.get("type")

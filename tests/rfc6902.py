"""A plain model of JSON Patch (RFC 6902) on documents whose scalars keep their text."""

from __future__ import annotations

import json
from copy import deepcopy
from decimal import Decimal
from typing import Any

from hypothesis import strategies as st


class Leaf(str):
    """The JSON text of a scalar, as it stands in a document."""

    __slots__ = ()


Tree = Any
"""dict, list or Leaf: a document whose scalars are texts."""

NUMBERS = ["1", "1.0", "1.00", "-0", "0", "3e2", "300", "0.1", "1E-7", "12345678901234567890", "0.30000000000000004"]
SCALARS = [*NUMBERS, "true", "false", "null", '""', '"a"', '"\\u00e9"', '"é"', '"\\/"', '"1"', '"a\\"b"']
NAMES = ["a", "b", "", "0", "-", "x/y", "m~n"]

leaves = st.sampled_from(SCALARS).map(Leaf)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


def written(tree: Tree) -> str:
    if isinstance(tree, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{written(each)}" for name, each in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(written, tree)) + "]"
    return str(tree)


def valued(tree: Tree) -> Any:
    """What the document means; numbers exact and told from booleans."""
    decoded = json.loads(written(tree), parse_int=Decimal, parse_float=Decimal)

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: told(each) for name, each in value.items()}
        if isinstance(value, list):
            return [told(each) for each in value]
        return (type(value).__name__, value)

    return told(decoded)


class Impossible(Exception):
    """The model cannot do it."""


def get(tree: Tree, path: list[str]) -> Tree:
    for step in path:
        if isinstance(tree, dict) and step in tree:
            tree = tree[step]
        elif isinstance(tree, list) and step.isdecimal() and str(int(step)) == step and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            raise Impossible
    return tree


def modelled(tree: Tree, operation: dict[str, Any]) -> Tree:
    """The document after one operation, by the words of RFC 6902 §4."""
    tree = deepcopy(tree)
    op, path = operation["op"], operation["path"]
    if op == "test":
        if valued(get(tree, path)) != valued(operation["value"]):
            raise Impossible
        return tree
    if op == "replace":
        get(tree, path)
        if not path:
            return operation["value"]
        parent = get(tree, path[:-1])
        parent[path[-1] if isinstance(parent, dict) else int(path[-1])] = operation["value"]
        return tree
    if op == "move" and path == operation["from"]:
        get(tree, path)
        return tree
    if op == "move" and path[: len(operation["from"])] == operation["from"]:
        raise Impossible
    value = operation.get("value")
    if op in ("move", "copy"):
        value = deepcopy(get(tree, operation["from"]))
    if op in ("move", "remove"):
        source = operation["from"] if op == "move" else path
        if not source:
            raise Impossible
        get(tree, source)
        parent = get(tree, source[:-1])
        del parent[source[-1] if isinstance(parent, dict) else int(source[-1])]
        if op == "remove":
            return tree
    if not path:
        return value
    parent, last = get(tree, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list) and last == "-":
        parent.append(value)
    elif isinstance(parent, list) and last.isdecimal() and str(int(last)) == last and int(last) <= len(parent):
        parent.insert(int(last), value)
    else:
        raise Impossible
    return tree


def places(tree: Tree, path: list[str] | None = None) -> list[list[str]]:
    """Every place in a document, and beside each some that are not."""
    path = path or []
    found = [path, [*path, "a"], [*path, "0"], [*path, "-"], [*path, "00"]]
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, each in inside:
        found += places(each, [*path, str(name)])
    return found


def pointer(path: list[str]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def text_of(operation: dict[str, Any]) -> str:
    parts = [f'"op":"{operation["op"]}"', f'"path":{json.dumps(pointer(operation["path"]))}']
    if "from" in operation:
        parts.append(f'"from":{json.dumps(pointer(operation["from"]))}')
    if "value" in operation:
        parts.append(f'"value":{written(operation["value"])}')
    return "{" + ",".join(parts) + "}"


def difference(old: Tree, new: Tree, path: list[str]) -> list[dict[str, Any]]:
    """Operations that make ``new`` of ``old``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [{"op": "remove", "path": [*path, name]} for name in old if name not in new]
        for name, each in new.items():
            if name in old:
                found += difference(old[name], each, [*path, name])
            else:
                found.append({"op": "add", "path": [*path, name], "value": each})
        return found
    if isinstance(old, list) and isinstance(new, list):
        found = [{"op": "remove", "path": [*path, str(at)]} for at in range(len(old) - 1, len(new) - 1, -1)]
        for at, each in enumerate(new):
            if at < len(old):
                found += difference(old[at], each, [*path, str(at)])
            else:
                found.append({"op": "add", "path": [*path, "-"], "value": each})
        return found
    return [] if old == new and type(old) is type(new) else [{"op": "replace", "path": path, "value": new}]

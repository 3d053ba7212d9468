"""Patches of the official R4 examples, which are in the shared data folder beside the checkout."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.element import Element, children, resource, rows
from fhirserver.core.fhirpath import parse
from fhirserver.core.jsontree import Node
from fhirserver.core.locate import Locator
from fhirserver.core.patch import fhirpath_patch, json_patch
from tests.shared import shared
from tests.unit.patching import operation, parameters

MOST = 200_000
"""Bytes of the examples looked at; the few larger ones are lists of the same again."""


def examples() -> Iterator[tuple[str, bytes]]:
    for file in sorted(shared("data/examples/hl7-r4-examples").glob("*.json")):
        raw = msgspec.json.format(file.read_bytes(), indent=-1)
        if len(raw) <= MOST:
            yield file.name, raw


def walked(element: Element, path: str) -> Iterator[tuple[str, Element]]:
    """Every element below this one with the FHIRPath that names it alone."""
    for name, row in rows(element.type).items():
        for child in children(element, name):
            place = f"{path}.`{name}`" + ("" if row.maximum == 1 else f"[{child.index}]")
            yield place, child
            yield from walked(child, place)


def scalars(value: Any) -> int:
    """Strings, numbers and booleans in a JSON value."""
    if isinstance(value, dict):
        return sum(map(scalars, value.values()))
    if isinstance(value, list):
        return sum(map(scalars, value))
    return value is not None


def test_every_element_of_the_examples_has_a_path_that_leads_to_it() -> None:
    seen = asked = 0
    for name, raw in examples():
        root = resource(Node(raw))
        found = list(walked(root, root.type))
        primitives = [each for _, each in found if each.primitive and each.node is not None]
        resources = [root, *(each for _, each in found if each.type in RESOURCE_TYPES)]
        assert len(primitives) + len(resources) == scalars(json.loads(raw)), name
        seen += len(found)
        step = max(1, len(found) // 8)
        for path, element in found[::step]:
            (located,) = Locator().elements(parse(path), root)
            assert (located.node, located.sibling) == (element.node, element.sibling), (name, path)
            asked += 1
    assert seen > 70_000
    assert asked > 5_000


def test_an_example_that_was_opened_everywhere_is_written_as_it_was() -> None:
    for name, raw in examples():
        node = Node(raw)
        root = resource(node)
        assert sum(1 for _ in walked(root, root.type)) > 0
        assert msgspec.json.decode(node.text) == msgspec.json.decode(raw), name
        assert fhirpath_patch(b'{"resourceType":"Parameters"}').apply(raw) == raw, name


def test_both_formats_delete_the_same() -> None:
    done = 0
    for name, raw in examples():
        root = resource(Node(raw))
        if root.type in ("Bundle", "Parameters") or b'"additional"' in raw:
            continue
        present = json.loads(raw).keys()
        for row in rows(root.type).values():
            found = children(root, row.name)
            if not found or row.maximum != 1 or row.name in ("id", "text"):
                continue
            members = [each for each in (found[0].json, "_" + found[0].json) if each in present]
            removals = [{"op": "remove", "path": f"/{each}"} for each in members]
            by_pointer = json_patch(json.dumps(removals).encode()).apply(raw)
            by_path = fhirpath_patch(parameters(operation("delete", f"{root.type}.`{row.name}`"))).apply(raw)
            assert by_path == by_pointer, (name, row.name)
            done += 1
    assert done > 3_000

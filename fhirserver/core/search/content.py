"""Follows compiled paths (`core.definitions`) through a resource's content."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from fhirserver.core.definitions import Path, Step, parse_path, search_parameters
from fhirserver.core.values import named_type, text_of


def elements(resource: Mapping[str, Any], code: str) -> Iterator[tuple[str, Any]]:
    """(FHIR type, value) of every element that the parameter's paths lead to."""
    type_ = str(resource.get("resourceType"))
    parameter = search_parameters(type_).get(code)
    if parameter is None:
        return
    for base in (type_, "DomainResource", "Resource"):
        for path in map(parse_path, parameter.paths.get(base, ())):
            for item in select(resource, path.steps):
                if not path.target or _refers(item, path):
                    yield path.type, item


def _refers(item: Any, path: Path) -> bool:
    return type(item) is dict and path.target in (named_type(text_of(item, "reference")), text_of(item, "type"))


def select(node: Any, steps: tuple[Step, ...], root: Any = None) -> Iterator[Any]:
    """What the steps lead to from ``node``; an empty one leads back to ``root``."""
    if not steps:
        yield node
    elif not steps[0].name:
        yield from select(root, steps[1:], root)
    elif type(node) is dict or isinstance(node, Mapping):
        step, rest = steps[0], steps[1:]
        value = node.get(step.name)
        for at, item in enumerate(value if type(value) is list else [] if value is None else [value]):
            if step.passes(item, at):
                yield from select(item, rest, root)
            if step.repeated:
                yield from select(item, steps, root)

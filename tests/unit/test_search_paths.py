"""The compiled paths select what the official FHIRPath expressions select, by an independent evaluator."""

from __future__ import annotations

import json
import re
from collections import Counter
from decimal import Decimal
from functools import cache
from typing import Any

import fhirpathpy
import pytest
from fhirpathpy.engine.nodes import TypeInfo
from fhirpathpy.models import models

from fhirserver.core import plan as planning
from fhirserver.core.definitions import edition, search_parameters
from fhirserver.core.entries import Found, Leaf, Take
from fhirserver.core.expression import Found as Node
from fhirserver.core.expression import compile_expression, is_existence
from fhirserver.core.index import _walk
from tests.shared import shared

FIELDS: dict[str, dict[str, tuple[str, ...]]] = {
    "Observation": {
        "status": ("code",),
        "subject": ("Reference",),
        "value[x]": ("Quantity", "CodeableConcept", "dateTime"),
        "component": ("Observation.component",),
        "extension": ("Extension",),
        "identifier": ("Identifier",),
    },
    "Observation.component": {"value[x]": ("Quantity",), "code": ("CodeableConcept",)},
    "Extension": {"url": ("uri",), "value[x]": ("code", "Coding", "CodeableConcept"), "extension": ("Extension",)},
    "CodeableConcept": {"coding": ("Coding",), "text": ("string",)},
    "Coding": {"code": ("code",)},
    "Identifier": {"system": ("uri",), "value": ("string",)},
}


@pytest.mark.parametrize(
    ("expression", "nodes"),
    [
        ("Observation.status", [Node(("status",), "code")]),
        ("Patient.name | Observation.status", [Node(("status",), "code")]),
        ("status", [Node(("status",), "code")]),
        ("Resource.status", [Node(("status",), "code")]),
        ("(Observation.value as Quantity)", [Node(("valueQuantity",), "Quantity")]),
        ("Observation.value as Quantity", [Node(("valueQuantity",), "Quantity")]),
        ("Observation.value.as(DateTime)", [Node(("valueDateTime",), "dateTime")]),
        ("Observation.value.ofType(Quantity)", [Node(("valueQuantity",), "Quantity")]),
        ("(Observation.value as CodeableConcept).text", [Node(("valueCodeableConcept", "text"), "string")]),
        ("Observation.component.value", [Node(("component", "valueQuantity"), "Quantity")]),
        ("Observation.subject.where(resolve() is Patient)", [Node(("subject",), "Reference", "Patient")]),
        (
            "Observation.identifier.where(system='a.b').value",
            [Node((("identifier", "system", "a.b"), "value"), "string")],
        ),
        ("Observation.component[0].code", [Node((("component", "#", "0"), "code"), "CodeableConcept")]),
        (
            "Observation.extension.where(url = 'http://x').extension.value.code",
            [Node((("extension", "url", "http://x"), "extension", "valueCoding", "code"), "code")],
        ),
        (
            "Observation.extension.where(url = 'http://x').value.coding.code",
            [Node((("extension", "url", "http://x"), "valueCodeableConcept", "coding", "code"), "code")],
        ),
        (
            "Observation.value.exists() and Observation.value != false",
            [
                Node(("valueQuantity",), "Quantity"),
                Node(("valueCodeableConcept",), "CodeableConcept"),
                Node(("valueDateTime",), "dateTime"),
            ],
        ),
    ],
)
def test_an_expression_compiles_to_typed_paths(expression: str, nodes: list[Node]) -> None:
    assert compile_expression(expression, FIELDS, root="Observation") == nodes


@pytest.mark.parametrize(
    "expression",
    [
        "Observation.nothing",
        "Observation.status.first()",
        "Observation.identifier.where(nothing='x')",
        "Observation.identifier.where(value=5)",
        "Observation.status and true",
        "Observation.",
        "Observation.status)",
        "Observation.identifier.where(value='x'",
        "Observation.status ~ 'x'",
    ],
)
def test_an_expression_outside_the_subset_is_refused_not_skipped(expression: str) -> None:
    with pytest.raises(ValueError, match="not understood"):
        compile_expression(expression, FIELDS, root="Observation")


@cache
def oracle(expression: str) -> Any:
    """The expression, with R4's ``as`` (which it means for each item) as the ``ofType`` that the evaluator wants."""
    expression = re.sub(r"\((\S+) as (\w+)\)", r"\1.ofType(\2)", expression)
    expression = re.sub(r"\.as\((\w+)\)", r".ofType(\1)", expression)
    expression = re.sub(r"^(\S+) as (\w+)$", r"\1.ofType(\2)", expression)
    return fhirpathpy.compile(path=expression, model=models["r4"])


def alternatives(expression: str, type_: str) -> list[str]:
    """The alternatives (at the top level) that can select something in this type."""
    parts, depth, start = [], 0, 0
    for at, character in enumerate(expression + "|"):
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == "|" and depth == 0:
            parts.append(expression[start:at].strip())
            start = at + 1
    parts = [re.sub(r"^Resource\b", type_, part) for part in parts]
    return [part for part in parts if re.match(rf"\(?({type_}|[a-z]\w*)\b", part)]


def key(node: Any) -> str:
    """A node as text; a number by its value, because the evaluator gives back a Decimal."""
    if isinstance(node, int | float | Decimal) and not isinstance(node, bool):
        node = float(node)
    return json.dumps(node, sort_keys=True, default=float)


def taken(resource: dict[str, Any]) -> dict[str, Counter[str]]:
    """What the plan's one walk hands to each parameter; the takes are replaced by one that writes down the node."""
    seen: dict[str, Counter[str]] = {}

    def record(item: Any, leaf: Leaf, _found: Found) -> None:
        for name in leaf.names:
            seen.setdefault(name, Counter())[key(item)] += 1

    def recorder(_kind: str, _type: str) -> Take:
        return record

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(planning, "take_for", recorder)
        branch = planning._plan.__wrapped__(resource["resourceType"], edition()).root
    _walk(resource, branch.below, Found(resource))
    return seen


def test_the_walk_finds_the_nodes_that_fhirpath_finds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TypeInfo, "model", None)  # the evaluator keeps what an `is` elsewhere has set
    compared = found = 0
    different = []
    for path in sorted(shared("data/examples/hl7-r4-examples").rglob("*.json")):
        resource = json.loads(path.read_bytes())
        type_ = resource["resourceType"]
        seen = taken(resource)
        for code, parameter in search_parameters(type_).items():
            expression = parameter.expression
            if not expression or parameter.contexts or "resolve()" in expression or is_existence(expression):
                continue
            if code in planning.HELD_ELSEWHERE:
                continue
            nodes = Counter(key(node) for part in alternatives(expression, type_) for node in oracle(part)(resource))
            if seen.get(f"{type_}|{code}", Counter()) != nodes:
                different.append((type_, resource.get("id"), code, expression))
            compared += 1
            found += bool(nodes)
    assert not different
    assert compared > 15_000
    assert found > 6_000

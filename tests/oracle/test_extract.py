"""The oracle's walker yields what `fhirpathpy` does, over the official examples; and it walks every expression."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
from fhirpathpy import compile as compiled
from fhirpathpy.engine.nodes import TypeInfo
from fhirpathpy.models import models

from fhirserver.core.definitions import RESOURCE_TYPES, search_parameters
from tests.oracle.extract import JSON, elements
from tests.oracle.tables import made
from tests.shared import shared


@cache
def _theirs(expression: str) -> Callable[[JSON], list[Any]]:
    # `as` of a collection is an error to fhirpathpy; `ofType` is what the search parameters mean by it.
    of_type = re.sub(r"\((\S+) as (\w+)\)", r"\1.ofType(\2)", expression)
    return compiled(re.sub(r"\.as\((\w+)\)", r".ofType(\1)", of_type), models["r4"])  # type: ignore[return-value]


def _comparable(values: list[Any]) -> list[str]:
    return sorted({json.dumps(json.loads(json.dumps(value, default=_plain)), sort_keys=True) for value in values})


def _plain(value: Any) -> Any:
    try:
        return float(value)
    except (TypeError, ValueError):
        return str(value)


def test_every_expression_can_be_walked() -> None:
    walked = [
        elements(made(type_), parameter.expression)
        for type_ in sorted(RESOURCE_TYPES)
        for parameter in search_parameters(type_).values()
    ]
    assert len(walked) > 3000


def test_the_walker_agrees_with_fhirpathpy_on_the_official_examples(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(TypeInfo, "model", None)  # the evaluator keeps what an `is` elsewhere has set
    compared = 0
    for path in sorted(shared("data/examples/hl7-r4-examples").glob("*.json")):
        resource = json.loads(path.read_text("utf-8"))
        type_ = resource.get("resourceType")
        for parameter in search_parameters(type_).values():
            own = [part for part in parameter.expression.split(" | ") if re.match(rf"\(?{type_}\.", part)]
            if not own or "resolve()" in parameter.expression:
                continue
            expression = " | ".join(own)
            mine = [node.value for node in elements(resource, expression)]
            assert _comparable(mine) == _comparable(_theirs(expression)(resource)), (path.name, expression)
            compared += len(mine)
    assert compared > 5000


@pytest.mark.parametrize(
    ("expression", "found"),
    [
        ("Observation.value", ["Quantity"]),
        ("(Observation.value as Quantity)", ["Quantity"]),
        ("(Observation.value as string)", []),
        ("Observation.component.value", ["dateTime"]),
        ("Observation.component.code", ["CodeableConcept"]),
        ("Observation.component.referenceRange.low", ["Quantity"]),
        ("Observation.effective", ["Period"]),
        ("Observation.subject", ["Reference", "Reference"]),
        ("Observation.subject.where(resolve() is Patient)", ["Reference"]),
        ("Resource.meta.lastUpdated", ["instant"]),
        ("Patient.name | Observation.status", ["code"]),
        ("Observation", ["Observation"]),
        ("Observation | Observation.component", ["Observation", "BackboneElement"]),
    ],
)
def test_each_element_has_its_type(expression: str, found: list[str]) -> None:
    resource = made(
        "Observation",
        meta={"lastUpdated": "2020-01-01T00:00:00Z"},
        status="final",
        subject=[{"reference": "Patient/1"}, {"reference": "Group/1"}],
        effectivePeriod={"start": "2020"},
        valueQuantity={"value": 1},
        component=[{"code": {"text": "x"}, "valueDateTime": "2020", "referenceRange": [{"low": {"value": 1}}]}],
    )
    assert [node.type for node in elements(resource, expression)] == found

"""Validation of structure: members, kinds of JSON, cardinality, choices, arrays and their siblings, extensions."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.shapes import MAX_DEPTH
from fhirserver.core.validate import issues
from tests.unit.validating import DROP, EXTENSION, OBSERVATION, PATIENT, found, observation


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"other": 1}, [("structure", "Observation.other")]),
        ({"value": 1}, [("structure", "Observation.value")]),
        ({"valueMoney": {"value": 1}}, [("structure", "Observation.valueMoney")]),
        ({"a b": 1}, [("structure", "Observation")]),
        ({"_subject": {"id": "x"}}, [("structure", "Observation.subject")]),
        ({"_resourceType": {"id": "x"}}, [("structure", "Observation.resourceType")]),
        ({"code": {"resourceType": "CodeableConcept", "text": "x"}}, [("structure", "Observation.code.resourceType")]),
    ],
)
def test_an_unknown_member_is_refused(changes: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(observation(**changes)) == expected


def test_the_hint_for_a_bare_choice_names_a_typed_member() -> None:
    (issue,) = issues(json.dumps(observation(value=1)).encode())[1]
    assert "valueQuantity" in issue.diagnostics


@pytest.mark.parametrize(
    ("changes", "path"),
    [
        ({"code": [OBSERVATION["code"]]}, "Observation.code"),
        ({"code": "1-8"}, "Observation.code"),
        ({"category": {"text": "x"}}, "Observation.category"),
        ({"category": ["x"]}, "Observation.category[0]"),
        ({"category": [[]]}, "Observation.category[0]"),
        ({"status": ["final"]}, "Observation.status"),
        ({"status": 1}, "Observation.status"),
        ({"status": {"value": "final"}}, "Observation.status"),
        ({"valueQuantity": {"value": "1.0"}}, "Observation.valueQuantity.value"),
        ({"valueQuantity": {"value": True}}, "Observation.valueQuantity.value"),
        ({"valueQuantity": DROP, "valueInteger": 1.0}, "Observation.valueInteger"),
        ({"valueQuantity": DROP, "valueInteger": "1"}, "Observation.valueInteger"),
        ({"valueQuantity": DROP, "valueBoolean": "true"}, "Observation.valueBoolean"),
        ({"valueQuantity": DROP, "valueBoolean": 1}, "Observation.valueBoolean"),
        ({"subject": None}, "Observation.subject"),
        ({"category": [None]}, "Observation.category[0]"),
        ({"status": None}, "Observation.status"),
        ({"_status": None}, "Observation.status"),
        ({"_status": [EXTENSION]}, "Observation.status"),
        ({"_status": "x"}, "Observation.status"),
        ({"category": []}, "Observation.category"),
        ({"subject": {}}, "Observation.subject"),
        ({"_status": {}}, "Observation.status"),
        ({"category": [{}]}, "Observation.category[0]"),
    ],
)
def test_a_wrong_kind_of_json_is_refused_at_its_path(changes: dict[str, Any], path: str) -> None:
    assert found(observation(**changes)) == [("structure", path)]


def test_required_elements_are_missed_wherever_they_are() -> None:
    assert found(observation(code=DROP, status=DROP, component=[{"valueString": "x"}])) == [
        ("required", "Observation.component[0].code"),
        ("required", "Observation.status"),
        ("required", "Observation.code"),
    ]
    assert found({"resourceType": "MedicationRequest"}) == [
        ("required", f"MedicationRequest.{name}") for name in ("status", "intent", "medication", "subject")
    ]


def test_an_extension_can_stand_for_a_required_primitive() -> None:
    assert found(observation(status=DROP, _status={"extension": [EXTENSION]})) == []


def test_an_id_cannot_stand_for_a_value() -> None:
    assert found(observation(status=DROP, _status={"id": "x"})) == [("invariant", "Observation.status")]
    assert found(observation(_status={"id": "x"})) == []
    assert found(observation(subject={"id": "x"})) == [("invariant", "Observation.subject")]


def test_only_one_value_of_a_choice_may_be_present() -> None:
    assert found(observation(valueString="x")) == [("structure", "Observation.value")]
    assert found(observation(_valueString={"extension": [EXTENSION]})) == [("structure", "Observation.value")]
    beside = observation(valueQuantity=DROP, valueString="x", _valueString={"extension": [EXTENSION]})
    assert found(beside) == []


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ({"given": ["J", None], "_given": [None, {"extension": [EXTENSION]}]}, []),
        ({"_given": [{"extension": [EXTENSION]}]}, []),
        ({"given": ["J", None]}, [("structure", "Patient.name[0].given[1]")]),
        ({"given": [None], "_given": [None]}, [("structure", "Patient.name[0].given[0]")]),
        ({"given": ["J", "K"], "_given": [{"id": "x"}]}, [("structure", "Patient.name[0].given")]),
        ({"given": ["J"], "_given": {"id": "x"}}, [("structure", "Patient.name[0].given")]),
        ({"given": "J", "_given": [{"id": "x"}]}, [("structure", "Patient.name[0].given")]),
        ({"given": ["J"], "_given": []}, [("structure", "Patient.name[0].given")]),
        ({"given": ["J", ""]}, [("value", "Patient.name[0].given[1]")]),
        ({"given": ["J"], "_given": [{"other": 1}]}, [("structure", "Patient.name[0].given[0].other")]),
    ],
)
def test_primitive_arrays_stay_aligned_with_their_siblings(name: Any, expected: list[tuple[str, str]]) -> None:
    assert found({"resourceType": "Patient", "name": [name]}) == expected


@pytest.mark.parametrize(
    ("extension", "expected"),
    [
        ({"url": "http://e", "valueString": "x"}, []),
        ({"url": "http://e", "extension": [EXTENSION]}, []),
        ({"url": "http://e", "_valueString": {"extension": [EXTENSION]}}, []),
        ({"valueString": "x"}, [("required", ".url")]),
        ({"url": "http://e"}, [("invariant", "")]),
        ({"url": "http://e", "valueString": "x", "extension": [EXTENSION]}, [("invariant", "")]),
        ({"url": "http://e", "valueString": "x", "valueCode": "x"}, [("structure", ".value")]),
        ({"url": "", "valueString": "x"}, [("value", ".url")]),
        ({"url": "http://e", "valueString": "x", "_url": {"id": "x"}}, [("structure", ".url")]),
        ({"url": "http://e", "valueUnicorn": "x"}, [("structure", ".valueUnicorn"), ("invariant", "")]),
    ],
)
def test_an_extension_has_a_url_and_either_a_value_or_extensions(
    extension: Any, expected: list[tuple[str, str]]
) -> None:
    assert found({**PATIENT, "extension": [extension]}) == [
        (code, f"Patient.extension[0]{rest}") for code, rest in expected
    ]


def nested(levels: int) -> dict[str, Any]:
    inner: dict[str, Any] = dict(EXTENSION)
    for _ in range(levels - 1):
        inner = {"url": "http://example.org/e", "extension": [inner]}
    return {"resourceType": "Basic", "code": {"text": "x"}, "extension": [inner]}


def test_elements_nest_to_the_limit_and_no_further() -> None:
    assert found(nested(MAX_DEPTH - 1)) == []
    assert [code for code, _ in found(nested(MAX_DEPTH))] == ["structure"]

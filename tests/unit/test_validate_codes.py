"""Validation of codes: required bindings, and the code systems of the specification itself."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.validate import issues
from tests.unit.validating import EXTENSION, found, observation


def test_a_code_outside_a_required_value_set_is_refused_and_named() -> None:
    (issue,) = issues(json.dumps(observation(status="completed")).encode())[1]
    assert (issue.code, issue.expression) == ("code-invalid", "Observation.status")
    assert "'completed'" in issue.diagnostics
    assert "observation-status" in issue.diagnostics


CONDITION = {"resourceType": "Condition", "subject": {"reference": "Patient/1"}}

CLINICAL = "http://terminology.hl7.org/CodeSystem/condition-clinical"


@pytest.mark.parametrize(
    ("concept", "good"),
    [
        ({"coding": [{"system": CLINICAL, "code": "active"}]}, True),
        ({"coding": [{"system": "http://example.org", "code": "a"}, {"system": CLINICAL, "code": "active"}]}, True),
        ({"coding": [{"system": CLINICAL, "code": "verified"}]}, False),
        ({"coding": [{"code": "active"}]}, False),
        ({"text": "active"}, False),
        ({"extension": [EXTENSION]}, True),
    ],
)
def test_a_concept_under_a_required_binding_needs_one_of_its_codes(concept: Any, good: bool) -> None:
    expected = [] if good else [("code-invalid", "Condition.clinicalStatus")]
    assert found({**CONDITION, "clinicalStatus": concept}) == expected


CONTRACT = {"resourceType": "Contract"}

LEGAL_STATE = "http://hl7.org/fhir/contract-legalstate"


@pytest.mark.parametrize(
    ("codings", "path"),
    [
        ([{"system": LEGAL_STATE, "code": "executed"}], ""),
        ([{"system": "http://example.org", "code": "own"}], ""),
        ([{"system": LEGAL_STATE, "display": "x"}, {"code": "own"}], ""),
        ([{"system": LEGAL_STATE, "code": "executed"}, {"system": LEGAL_STATE, "code": "own"}], "coding[1].code"),
    ],
)
def test_a_code_of_a_system_of_fhir_is_one_that_it_has(codings: Any, path: str) -> None:
    expected = [("code-invalid", f"Contract.legalState.{path}")] if path else []
    assert found({**CONTRACT, "legalState": {"coding": codings}}) == expected


def test_a_coding_of_a_system_of_fhir_is_one_that_it_has() -> None:
    event = {
        "resourceType": "AuditEvent",
        "type": {"code": "x"},
        "subtype": [{"system": "http://hl7.org/fhir/restful-interaction", "code": "reading"}],
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "x"}},
    }
    assert found(event) == [("code-invalid", "AuditEvent.subtype[0].code")]
    assert found({**event, "subtype": [{**event["subtype"][0], "code": "read"}]}) == []

"""An Observation and a Patient that are valid, and what validation says of changed ones."""

from __future__ import annotations

import json
from typing import Any

from fhirserver.core.validate import issues

OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o1",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "1-8"}]},
    "subject": {"reference": "Patient/p1"},
    "valueQuantity": {"value": 1.0, "unit": "mg"},
}
PATIENT: dict[str, Any] = {"resourceType": "Patient", "name": [{"family": "Doe", "given": ["J", "K"]}]}
EXTENSION = {"url": "http://example.org/e", "valueString": "x"}
DROP = object()
"""In place of a value: the member is not there."""


def found(resource: Any) -> list[tuple[str, str]]:
    """(code, path) of each issue."""
    return [(issue.code, issue.expression) for issue in issues(json.dumps(resource).encode())[1]]


def observation(**changes: Any) -> dict[str, Any]:
    """The valid Observation with members added, replaced, or (`DROP`) taken away."""
    return {name: value for name, value in {**OBSERVATION, **changes}.items() if value is not DROP}


def containing(*contained: Any, subject: str = "#c1", **more: Any) -> dict[str, Any]:
    return observation(contained=list(contained), subject={"reference": subject}, **more)

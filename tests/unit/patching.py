"""FHIRPath Patches as Parameters, Patients to apply them to, and what comes of that."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.errors import Invalid
from fhirserver.core.patch import fhirpath_patch

JSON = dict[str, Any]
NAMED = {"text": "a name"}
GIVEN = {"valueString": "C"}

_PARTS = {
    "type": "valueCode",
    "path": "valueString",
    "name": "valueString",
    "index": "valueInteger",
    "source": "valueInteger",
    "destination": "valueInteger",
}


def operation(
    type_: str, path: str, *, value: JSON | None = None, parts: list[JSON] | None = None, **more: Any
) -> JSON:
    """A parameter of a FHIRPath Patch: ``value`` such as ``{"valueDate": …}``, or ``parts`` of the value."""
    listed = [{"name": name, _PARTS[name]: each} for name, each in {"type": type_, "path": path, **more}.items()]
    if value is not None:
        listed.append({"name": "value", **value})
    if parts is not None:
        listed.append({"name": "value", "part": parts})
    return {"name": "operation", "part": listed}


def parameters(*operations: JSON) -> bytes:
    return json.dumps({"resourceType": "Parameters", **({"parameter": operations} if operations else {})}).encode()


def text(resource: JSON | bytes) -> bytes:
    return resource if isinstance(resource, bytes) else json.dumps(resource, separators=(",", ":")).encode()


def patched(resource: JSON | bytes, *operations: JSON) -> JSON:
    done: JSON = json.loads(fhirpath_patch(parameters(*operations)).apply(text(resource)))
    return done


def issue(resource: JSON | bytes, *operations: JSON) -> tuple[str, str, str]:
    """Code, place and words of the one issue of a patch that cannot be applied."""
    patch = fhirpath_patch(parameters(*operations))
    with pytest.raises(Invalid) as caught:
        patch.apply(text(resource))
    (found,) = caught.value.issues
    return found.code, found.expression, found.diagnostics


def patient(**more: Any) -> JSON:
    return {"resourceType": "Patient", "id": "p", **more}


def numbered(*numbers: int) -> JSON:
    """A Patient with these identifiers."""
    return patient(identifier=[{"system": "http://example.org", "value": f"value {at}"} for at in numbers])


def third() -> JSON:
    return {"valueIdentifier": {"system": "http://example.org", "value": "value 3"}}


def moved(source: int, destination: int) -> JSON:
    return operation("move", "Patient.identifier", source=source, destination=destination)

"""How validation tells a broken invariant; the invariants themselves are in `test_invariants`."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.validate import issues
from tests.unit.validating import OBSERVATION, PATIENT, found, observation


@pytest.mark.parametrize(
    ("resource", "key", "path"),
    [
        (observation(dataAbsentReason={"text": "x"}), "obs-6", "Observation"),
        (observation(component=[{"code": OBSERVATION["code"], "valueString": "x"}]), "obs-7", "Observation"),
        (observation(referenceRange=[{"type": {"text": "x"}}]), "obs-3", "Observation.referenceRange[0]"),
        (
            observation(effectivePeriod={"start": "2026-02-02", "end": "2026-02-01"}),
            "per-1",
            "Observation.effectivePeriod",
        ),
        (observation(valueQuantity={"value": 1, "code": "mg"}), "qty-3", "Observation.valueQuantity"),
        ({**PATIENT, "contact": [{"gender": "other"}]}, "pat-1", "Patient.contact[0]"),
        ({**PATIENT, "telecom": [{"value": "1"}]}, "cpt-2", "Patient.telecom[0]"),
        ({**PATIENT, "photo": [{"data": "QQ=="}]}, "att-1", "Patient.photo[0]"),
        ({"resourceType": "Organization", "active": True}, "org-1", "Organization"),
        ({"resourceType": "Bundle", "type": "collection", "entry": [{"fullUrl": "urn:x"}]}, "bdl-5", "Bundle.entry[0]"),
        ({"resourceType": "Parameters", "parameter": [{"name": "x"}]}, "inv-1", "Parameters.parameter[0]"),
    ],
)
def test_an_invariant_is_told_by_its_key(resource: Any, key: str, path: str) -> None:
    (issue,) = issues(json.dumps(resource).encode())[1]
    assert (issue.code, issue.expression) == ("invariant", path)
    assert issue.diagnostics.startswith(f"{key}: ")


def test_an_invariant_is_told_in_its_published_words() -> None:
    (issue,) = issues(json.dumps(observation(dataAbsentReason={"text": "x"})).encode())[1]
    assert issue.diagnostics == ("obs-6: dataAbsentReason SHALL only be present if Observation.value[x] is not present")


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-02-01", "2026-02-01"),
        ("2026-02-27", "2026-02"),
        ("2026", "2026-02-27"),
        ("2026-02-01T10:00:00+02:00", "2026-02-01T09:00:00Z"),
        ("2026-02-01", "2026-02-01T06:20:00Z"),
        ("2026-02-01T23:00:00-05:00", "2026-02-01"),
        ("2026-02-01", "9999-12-31"),
        ("2026-02-01T00:00:00Z", "9999"),
        ("9999", "9999-12"),
    ],
)
def test_a_period_that_may_be_in_order_passes(start: str, end: str) -> None:
    assert found(observation(effectivePeriod={"start": start, "end": end})) == []


@pytest.mark.parametrize(
    ("start", "end"),
    [
        ("2026-02-02T10:00:00Z", "2026-02-02T09:59:59Z"),
        ("2026-02-01T10:00:00Z", "2026-02-01T11:00:00+02:00"),
        ("2026-03", "2026-02-27"),
        ("2026-02-03T00:00:00Z", "2026-02-01"),
    ],
)
def test_a_period_that_ends_before_it_starts_is_refused(start: str, end: str) -> None:
    assert found(observation(effectivePeriod={"start": start, "end": end})) == [
        ("invariant", "Observation.effectivePeriod")
    ]

"""What referential integrity asks for: which references of a resource name resources of this server, and where."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.core.references import targets

BASE = "https://example.org/fhir/R4"


def found(resource: dict[str, Any], base: str = "") -> list[tuple[str, str]]:
    return [(path, str(key)) for path, key in targets(resource, base)]


def observation(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "status": "final", "code": {"text": "x"}, **more}


def test_references_are_found_in_document_order_with_their_paths() -> None:
    resource = observation(
        subject={"reference": "Patient/1"},
        performer=[{"reference": "Practitioner/2"}, {"display": "x"}, {"reference": "Organization/3"}],
        component=[
            {"code": {"text": "x"}},
            {"extension": [{"url": "urn:a", "valueReference": {"reference": "Task/4"}}]},
        ],
    )
    assert found(resource) == [
        ("Observation.subject.reference", "Patient/1"),
        ("Observation.performer[0].reference", "Practitioner/2"),
        ("Observation.performer[2].reference", "Organization/3"),
        ("Observation.component[1].extension[0].valueReference.reference", "Task/4"),
    ]


def test_references_in_the_extensions_of_primitives_count() -> None:
    inside = {"extension": [{"url": "urn:a", "valueReference": {"reference": "Patient/1"}}]}
    name = {"given": ["A", "B"], "_given": [None, inside]}
    assert found(observation(_status=inside)) == [
        ("Observation.status.extension[0].valueReference.reference", "Patient/1")
    ]
    assert found({"resourceType": "Patient", "name": [name]}) == [
        ("Patient.name[0].given[1].extension[0].valueReference.reference", "Patient/1")
    ]


@pytest.mark.parametrize(
    ("reference", "key"),
    [
        ("Patient/1", "Patient/1"),
        ("Patient/1/_history/2", "Patient/1"),
        ("Patient/1#part", "Patient/1"),
        (f"{BASE}/Patient/1", "Patient/1"),
        (f"{BASE}/Patient/1/_history/2", "Patient/1"),
        ("https://elsewhere.org/Patient/1", ""),
        ("#p", ""),
        ("#", ""),
        ("Patient?identifier=1", ""),
        ("urn:uuid:c757873d-ec9a-4326-a141-556f43239520", ""),
        (f"{BASE}/metadata", ""),
    ],
)
def test_only_literal_references_to_this_server_are_followed(reference: str, key: str) -> None:
    resource = observation(subject={"reference": reference})
    expected = [("Observation.subject.reference", key)] if key else []
    assert found(resource, BASE) == expected
    assert found(resource, f"{BASE}/") == expected


def test_a_logical_reference_and_a_canonical_name_nothing_here() -> None:
    assert found(observation(subject={"identifier": {"value": "1", "assigner": {"reference": "Organization/1"}}})) == [
        ("Observation.subject.identifier.assigner.reference", "Organization/1")
    ]
    assert found({"resourceType": "QuestionnaireResponse", "questionnaire": "Questionnaire/1"}) == []


def test_contained_resources_count_and_carried_ones_do_not() -> None:
    inside = observation(id="c", subject={"reference": "Patient/1"})
    assert found({"resourceType": "DiagnosticReport", "contained": [inside]}) == [
        ("DiagnosticReport.contained[0].subject.reference", "Patient/1")
    ]
    assert found({"resourceType": "Bundle", "entry": [{"resource": inside}]}) == []
    assert found({"resourceType": "Parameters", "parameter": [{"resource": inside}]}) == []


@pytest.mark.parametrize("resource", [{}, {"resourceType": 1}, {"resourceType": "Patient", "link": [1, None, [[]]]}])
def test_anything_is_walked(resource: dict[str, Any]) -> None:
    assert found(resource) == []

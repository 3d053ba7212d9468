"""Validation of references and of what they may lead to inside a resource: contained resources, ids."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.validating import containing, found, observation


@pytest.mark.parametrize(
    ("reference", "expected"),
    [
        ("Patient/p1", []),
        ("Group/g1", []),
        ("urn:uuid:0d1ba2c0-33d4-4f05-b0a0-111111111111", []),
        ("https://example.org/Organization-list", []),
        ("Practitioner/1", [("structure", "Observation.subject.reference")]),
        ("https://example.org/fhir/Practitioner/1", [("structure", "Observation.subject.reference")]),
        ("Practitioner?identifier=1", [("structure", "Observation.subject.reference")]),
        ("p1", [("value", "Observation.subject.reference")]),
        ("Unicorn/1", [("value", "Observation.subject.reference")]),
        ("#p1", [("invariant", "Observation.subject.reference")]),
    ],
)
def test_a_reference_has_a_known_form_and_an_allowed_type(reference: str, expected: list[tuple[str, str]]) -> None:
    assert found(observation(subject={"reference": reference})) == expected


def test_a_reference_and_its_type_agree() -> None:
    wrong = observation(subject={"reference": "Patient/1", "type": "Group"})
    assert found(wrong) == [("invariant", "Observation.subject.type")]


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ({"type": "Patient", "display": "x"}, []),
        ({"type": "Practitioner", "display": "x"}, [("structure", "Observation.subject.type")]),
        ({"type": "http://example.org/fhir/StructureDefinition/Own", "display": "x"}, []),
        ({"type": "a b", "display": "x"}, [("value", "Observation.subject.type")]),
    ],
)
def test_a_reference_says_a_type_that_is_allowed(subject: Any, expected: list[tuple[str, str]]) -> None:
    assert found(observation(subject=subject)) == expected


def test_a_reference_that_any_type_may_have_says_any_type() -> None:
    assert found(observation(focus=[{"type": "Practitioner", "display": "x"}])) == []


@pytest.mark.parametrize(
    ("resource", "expected"),
    [
        (containing({"resourceType": "Patient", "id": "c1"}), []),
        (containing({"resourceType": "Practitioner", "id": "c1"}), [("structure", "Observation.subject.reference")]),
        (
            containing({"resourceType": "Patient", "id": "c2"}),
            [("invariant", "Observation.contained[0]"), ("invariant", "Observation.subject.reference")],
        ),
        (
            containing({"resourceType": "Patient", "id": "c1"}, {"resourceType": "Patient", "id": "c1"}),
            [("invariant", "Observation.contained[1].id")],
        ),
        (
            containing({"resourceType": "Patient", "id": "c1", "contained": [{"resourceType": "Patient", "id": "c1"}]}),
            [("invariant", "Observation.contained[0].contained")],
        ),
        (
            containing({"resourceType": "Patient", "id": "c1", "meta": {"versionId": "1"}}),
            [("invariant", "Observation.contained[0].meta.versionId")],
        ),
        (containing({"resourceType": "Patient", "id": "c1", "x": 1}), [("structure", "Observation.contained[0].x")]),
        (containing({"id": "c1"}), [("required", "Observation.contained[0].resourceType")]),
        (containing("c1"), [("structure", "Observation.contained[0]"), ("invariant", "Observation.subject.reference")]),
        (
            containing(
                {
                    "resourceType": "Provenance",
                    "id": "v",
                    "target": [{"reference": "#"}],
                    "recorded": "2026-01-01T00:00:00Z",
                }
                | {"agent": [{"who": {"reference": "Practitioner/1"}}]},
                subject="Patient/1",
            ),
            [],
        ),
    ],
)
def test_contained_resources_and_references_to_them_fit(resource: Any, expected: list[tuple[str, str]]) -> None:
    assert found(resource) == expected


def test_a_local_reference_does_not_leave_its_bundle_entry() -> None:
    inside = containing({"resourceType": "Patient", "id": "c1"})
    outside = observation(subject={"reference": "#c1"})
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": inside}, {"resource": outside}]}
    assert found(bundle) == [("invariant", "Bundle.entry[1].resource.subject.reference")]


NAMED = {"id": "a", "text": "x"}


@pytest.mark.parametrize(
    ("resource", "places"),
    [
        ({"resourceType": "Patient", "id": "a", "name": [NAMED, {**NAMED, "id": "b"}]}, []),
        ({"resourceType": "Patient", "name": [NAMED, NAMED]}, ["name[1]"]),
        ({"resourceType": "Patient", "name": [NAMED], "birthDate": "2020", "_birthDate": {"id": "a"}}, ["birthDate"]),
        ({"resourceType": "Patient", "name": [{**NAMED, "period": {"id": "a", "start": "2020"}}]}, ["name[0].period"]),
        (containing({"resourceType": "Patient", "id": "c1", "name": [NAMED]}, category=[NAMED]), []),
        (containing({"resourceType": "Patient", "id": "c1", "name": [NAMED, NAMED]}), ["contained[0].name[1]"]),
    ],
)
def test_an_element_has_an_id_that_no_other_of_its_resource_has(resource: Any, places: list[str]) -> None:
    assert found(resource) == [("invariant", f"{resource['resourceType']}.{place}.id") for place in places]


def test_entries_of_a_bundle_have_ids_of_their_own_and_so_have_the_two_views_of_a_definition() -> None:
    entry = {"id": "a", "resource": {"resourceType": "Patient", "name": [NAMED]}}
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [entry, {**entry, "id": "b"}]}
    assert found(bundle) == []
    assert found({**bundle, "entry": [entry, entry]}) == [("invariant", "Bundle.entry[1].id")]
    element = {"id": "Patient", "path": "Patient", "definition": "x", "min": 0, "max": "*"}
    definition = {
        "resourceType": "StructureDefinition",
        "url": "urn:x",
        "name": "X",
        "status": "draft",
        "kind": "resource",
        "abstract": False,
        "type": "Patient",
        "baseDefinition": "urn:y",
        "derivation": "constraint",
        "snapshot": {"element": [{**element, "base": {"path": "Patient", "min": 0, "max": "*"}}]},
        "differential": {"element": [element]},
    }
    assert found(definition) == []

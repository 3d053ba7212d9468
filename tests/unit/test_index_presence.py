"""`Index.present`: the parameters that a resource has a value for, as `:missing` asks (R4 search)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.definitions import RESOURCE_TYPES, search_parameters
from fhirserver.core.index import extract
from fhirserver.core.model import Index
from tests.indexed import of
from tests.shared import shared
from tests.unit.test_search_paths import taken

WHY = [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]


def test_a_patient_says_which_parameters_it_has_a_value_for() -> None:
    index = of("Patient", gender="male", name=[{"family": "A", "given": ["B"]}], telecom=[{"system": "phone"}])
    assert index.present == ("deceased", "family", "gender", "given", "name", "phone", "phonetic", "telecom")


@pytest.mark.parametrize(
    ("elements", "present"),
    [
        ({"gender": "male"}, True),
        ({"_gender": {"extension": WHY}}, False),
        ({"gender": None, "_gender": {"extension": WHY}}, False),
        ({}, False),
    ],
)
def test_a_primitive_that_has_only_extensions_has_no_value(elements: dict[str, Any], present: bool) -> None:
    assert ("gender" in extract({"resourceType": "Patient", "id": "p", **elements}).present) is present


@pytest.mark.parametrize(
    ("code", "present"),
    [
        ({"text": "cough"}, True),
        ({"coding": [{"display": "cough"}]}, True),
        ({"extension": WHY}, False),
        ({"id": "a", "extension": WHY}, False),
        ({"_text": {"extension": WHY}}, False),
        ({"id": "a", "text": "cough"}, True),
    ],
)
def test_an_element_with_only_an_id_or_extensions_has_no_value(code: dict[str, Any], present: bool) -> None:
    assert ("code" in of("Condition", code=code).present) is present


def test_one_value_among_several_elements_suffices() -> None:
    assert "given" in of("Patient", name=[{"given": [None, "B"], "_given": [{"extension": WHY}, None]}]).present
    assert "given" not in of("Patient", name=[{"given": [None], "_given": [{"extension": WHY}]}]).present


def test_false_is_a_value() -> None:
    assert "active" in of("Patient", active=False).present


def test_the_filter_of_a_path_decides_whose_value_it_is() -> None:
    index = of("Patient", telecom=[{"system": "email", "value": "a@b"}])
    assert "email" in index.present
    assert "phone" not in index.present


CONTAINED = [{"resourceType": "Patient", "id": "p"}, {"resourceType": "Group", "id": "g"}]


@pytest.mark.parametrize(
    ("subject", "patient"),
    [
        ({"reference": "Patient/1"}, True),
        ({"reference": "http://far.example/fhir/Patient/1"}, True),
        ({"reference": "urn:uuid:1", "type": "Patient"}, True),
        ({"type": "Patient", "identifier": {"value": "7"}}, True),
        ({"reference": "#p"}, True),
        ({"reference": "#g"}, False),
        ({"reference": "#x"}, False),
        ({"reference": "Group/1"}, False),
        ({"reference": "urn:uuid:1"}, False),
        ({"display": "somebody"}, False),
    ],
)
def test_a_parameter_of_one_target_has_a_value_only_if_the_reference_names_that_type(
    subject: dict[str, Any], patient: bool
) -> None:
    index = of("Observation", subject=subject, contained=CONTAINED)
    assert "subject" in index.present
    assert ("patient" in index.present) is patient


def test_a_bundle_has_the_composition_that_it_begins_with() -> None:
    def first(type_: str) -> Index:
        return of("Bundle", type_="document", entry=[{"resource": {"resourceType": type_, "id": "c"}}])

    assert "composition" in first("Composition").present
    assert "message" not in first("Composition").present
    assert "message" in first("MessageHeader").present


def test_a_value_counts_that_makes_no_entry() -> None:
    index = of("Condition", onsetAge={"value": 3}, onsetString="as a child")
    assert "onset-info" in index.present
    assert "date" in of("Procedure", performedString="last spring").present
    assert not of("Procedure", performedString="last spring").spans


def test_the_common_parameters_are_told_but_not_those_that_the_record_answers() -> None:
    index = of("Basic", meta={"profile": ["http://p"], "tag": [{"code": "x"}], "lastUpdated": "2024-01-01T00:00:00Z"})
    assert index.present == ("_profile", "_tag")


def test_no_composite_is_told() -> None:
    composite = {
        code for type_ in RESOURCE_TYPES for code, each in search_parameters(type_).items() if each.type == "composite"
    }
    index = of("Observation", code={"coding": [{"code": "a"}]}, valueQuantity={"value": 1})
    assert {"code", "value-quantity", "combo-code", "combo-value-quantity"} <= set(index.present)
    assert not composite.intersection(index.present)


def test_deceased_asks_whether_something_is_there_and_is_never_missing() -> None:
    assert "deceased" in of("Patient").present


def test_over_the_official_examples_what_is_present_is_what_the_walk_hands_over() -> None:
    """Parameters without a target, by the nodes that the walk hands to each; most examples have a dozen."""
    told = 0
    for path in sorted(shared("data/examples/hl7-r4-examples").rglob("*.json")):
        resource = json.loads(path.read_bytes())
        type_ = resource["resourceType"]
        always = {code for code, each in search_parameters(type_).items() if each.absent}
        nodes = {
            name.partition("|")[2]: any(_valued(json.loads(node)) for node in found)
            for name, found in taken(resource).items()
        }
        aimed = {
            code
            for code, each in search_parameters(type_).items()
            if "resolve()" in each.expression or any(":Resource" in at for at in each.paths.get(type_, ()))
        }
        present = set(extract(resource).present)
        assert present - aimed == {code for code, found in nodes.items() if found} - aimed | always
        assert present & aimed <= {code for code, found in nodes.items() if found}
        told += len(present)
    assert told > 6_000


def _valued(node: Any) -> bool:
    if not isinstance(node, dict):
        return node is not None
    return any(name not in ("id", "extension") and not name.startswith("_") for name in node)

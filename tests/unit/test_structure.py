"""The structure tables: what the generator makes of StructureDefinitions and value sets, and how it is read."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core import definitions, structure
from fhirserver.data.generate.package import Package
from fhirserver.data.generate.structure import generate

HL7 = "http://hl7.org/fhir/StructureDefinition/"


def element(path: str, *types: Any, **more: Any) -> dict[str, Any]:
    return {"path": path, "min": 0, "max": "1", "type": list(types), **more}


THING = {
    "resourceType": "StructureDefinition",
    "url": HL7 + "Thing",
    "type": "Thing",
    "kind": "resource",
    "derivation": "specialization",
    "snapshot": {
        "element": [
            {"path": "Thing", "min": 0, "max": "*"},
            element("Thing.id", {"code": "string"}, isSummary=True),
            element(
                "Thing.status",
                {"code": "code"},
                min=1,
                isModifier=True,
                binding={"strength": "required", "valueSet": "http://e/vs|1"},
            ),
            element("Thing.kind", {"code": "code"}, binding={"strength": "required", "valueSet": "http://e/mime"}),
            element("Thing.note", {"code": "code"}, binding={"strength": "preferred", "valueSet": "http://e/vs"}),
            element("Thing.low", {"code": "Quantity", "profile": [HL7 + "SimpleQuantity"]}),
            element("Thing.state", {"code": "Coding"}, binding={"strength": "extensible", "valueSet": "http://e/own"}),
            element("Thing.mixed", {"code": "Coding"}, binding={"strength": "extensible", "valueSet": "http://e/part"}),
            element("Thing.value[x]", {"code": "Quantity"}, {"code": "string"}),
            element("Thing.part", {"code": "BackboneElement"}, max="*"),
            element("Thing.part.who", {"code": "Reference", "targetProfile": [HL7 + "B", HL7 + "A"]}, max="3"),
            element("Thing.part.any", {"code": "Reference", "targetProfile": [HL7 + "Resource"]}),
            {"path": "Thing.part.part", "min": 0, "max": "*", "contentReference": "#Thing.part"},
            element(
                "Thing.part.id",
                {
                    "code": "http://hl7.org/fhirpath/System.String",
                    "extension": [{"url": HL7 + "structuredefinition-fhir-type", "valueUrl": "string"}],
                },
                representation=["xmlAttr"],
            ),
        ]
    },
}
VALUE_SET = {
    "resourceType": "ValueSet",
    "url": "http://e/vs",
    "compose": {
        "include": [
            {"system": "http://e/cs", "filter": [{"property": "concept", "op": "is-a", "value": "a"}]},
            {"system": "http://e/other", "concept": [{"code": "x"}]},
            {"valueSet": ["http://e/nested"]},
        ],
        "exclude": [{"system": "http://e/cs", "concept": [{"code": "a2"}]}],
    },
}
NESTED = {"resourceType": "ValueSet", "url": "http://e/nested", "compose": {"include": [{"system": "http://e/small"}]}}
MIME = {"resourceType": "ValueSet", "url": "http://e/mime", "compose": {"include": [{"system": "urn:ietf:bcp:13"}]}}
CODES = {
    "resourceType": "CodeSystem",
    "url": "http://e/cs",
    "content": "complete",
    "concept": [{"code": "a", "concept": [{"code": "a1"}, {"code": "a2"}]}, {"code": "b"}],
}
SMALL = {"resourceType": "CodeSystem", "url": "http://e/small", "content": "complete", "concept": [{"code": "s"}]}

OWN_CODES = {**SMALL, "url": "http://hl7.org/fhir/own", "concept": [{"code": "s"}, {"code": "t"}]}
OWN = {"resourceType": "ValueSet", "url": "http://e/own", "compose": {"include": [{"system": OWN_CODES["url"]}]}}
PART = {
    "resourceType": "ValueSet",
    "url": "http://e/part",
    "compose": {"include": [{"system": OWN_CODES["url"], "concept": [{"code": "s"}]}]},
}


@pytest.fixture(scope="module")
def tables() -> dict[str, Any]:
    resources = {
        "StructureDefinition-Thing.json": THING,
        "ValueSet-vs.json": VALUE_SET,
        "ValueSet-nested.json": NESTED,
        "ValueSet-mime.json": MIME,
        "ValueSet-own.json": OWN,
        "ValueSet-part.json": PART,
        "CodeSystem-own.json": OWN_CODES,
        "CodeSystem-cs.json": CODES,
        "CodeSystem-small.json": SMALL,
    }
    made = generate(Package({name: json.dumps(each).encode() for name, each in resources.items()}))
    return {name: json.loads(content) for name, content in made.items()}


def test_rows_say_cardinality_types_targets_bindings_and_flags(tables: dict[str, Any]) -> None:
    assert tables["elements.json"]["primitives"] == []
    assert tables["elements.json"]["types"] == {
        "Thing": [
            ["id", 0, 1, ["id"], [], "", "s"],
            ["status", 1, 1, ["code"], [], "http://e/vs", "m"],
            ["kind", 0, 1, ["code"]],
            ["note", 0, 1, ["code"]],
            ["low", 0, 1, ["Quantity"], [], "", "q"],
            ["state", 0, 1, ["Coding"], [], "", "o"],
            ["mixed", 0, 1, ["Coding"]],
            ["value", 0, 1, ["Quantity", "string"], [], "", "x"],
            ["part", 0, 0, ["Thing.part"]],
        ],
        "Thing.part": [
            ["who", 0, 3, ["Reference"], ["A", "B"]],
            ["any", 0, 1, ["Reference"]],
            ["part", 0, 0, ["Thing.part"]],
            ["id", 0, 1, ["string"], [], "", "a"],
        ],
    }


def test_value_sets_are_expanded_and_the_others_listed_with_the_reason(tables: dict[str, Any]) -> None:
    assert tables["bindings.json"]["codes"] == {
        "http://e/vs": {"http://e/cs": ["a", "a1"], "http://e/other": ["x"], "http://e/small": ["s"]}
    }
    assert tables["bindings.json"]["closed"] == {"http://hl7.org/fhir/own": ["s", "t"]}
    assert tables["bindings.json"]["unexpanded"] == {
        "http://e/mime": "the codes of urn:ietf:bcp:13 are not in the package"
    }


def test_every_type_an_element_names_is_there() -> None:
    known = structure.type_names() | structure.primitive_types() | {"Resource"}
    for type_ in structure.type_names():
        for row in structure.elements(type_):
            assert known.issuperset(row.types), (type_, row.name)
            assert definitions.RESOURCE_TYPES.issuperset(row.targets), (type_, row.name)
            assert not row.binding or structure.codes(row.binding), (type_, row.name)


def test_choices_come_from_the_definitions() -> None:
    (value,) = (row for row in structure.elements("Observation") if row.name == "value")
    assert value.choice
    assert ("valueCodeableConcept", "CodeableConcept") in value.members()
    (status,) = (row for row in structure.elements("Observation") if row.name == "status")
    assert (status.choice, status.members(), status.modifier, status.summary) == (
        False,
        (("status", "code"),),
        True,
        True,
    )


def test_a_content_reference_is_the_element_it_names() -> None:
    (again,) = (row for row in structure.elements("Observation.component") if row.name == "referenceRange")
    assert again.types == ("Observation.referenceRange",)


def test_an_unknown_type_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        structure.elements("Unicorn")

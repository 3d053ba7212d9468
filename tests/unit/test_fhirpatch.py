"""FHIRPath Patch: the rules of the R4 page one by one, and what is no patch."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.fhirpatch import MAX_PATHS
from fhirserver.core.jsonpatch import MAX_OPERATIONS
from fhirserver.core.patch import fhirpath_patch
from tests.unit.patching import GIVEN, JSON, NAMED, issue, operation, parameters, patched, patient, third

TWO = patient(
    name=[{"use": "official", "given": ["A", "B"]}, {"use": "usual"}],
    birthDate="1974",
    deceasedBoolean=False,
    managingOrganization={"reference": "Organization/1"},
)


REFUSED: list[tuple[JSON, str]] = [
    # exactly one element
    (operation("add", "Patient.name", name="family", value=GIVEN), "multiple-matches"),
    (operation("replace", "Patient.name", value={"valueHumanName": NAMED}), "multiple-matches"),
    (operation("delete", "Patient.name"), "multiple-matches"),
    (operation("delete", "Patient.name.given"), "multiple-matches"),
    (operation("insert", "Patient.name.given", index=0, value=GIVEN), "multiple-matches"),
    (operation("move", "Patient.name.given", source=0, destination=1), "multiple-matches"),
    # at least one, but for delete
    (operation("add", "Patient.contact[0]", name="gender", value={"valueCode": "male"}), "not-found"),
    (operation("replace", "Patient.gender", value={"valueCode": "male"}), "not-found"),
    (operation("insert", "Patient.identifier", index=0, value=third()), "not-found"),
    (operation("move", "Patient.identifier", source=0, destination=0), "not-found"),
    # nothing but elements of this resource
    (operation("delete", "Patient.managingOrganization.resolve().name"), "processing"),
    (operation("delete", "Patient.name.exists()"), "processing"),
    (operation("delete", "Patient"), "processing"),
    (operation("replace", "Patient", value={"valueString": "x"}), "processing"),
    (operation("delete", "Patient.nme"), "processing"),
    (operation("delete", "Patient.deceasedBoolean"), "processing"),
    # the type must be right for the place
    (operation("replace", "Patient.birthDate", value={"valueString": "1975"}), "value"),
    (operation("replace", "Patient.birthDate", value={"valueDateTime": "1975"}), "value"),
    (operation("add", "Patient", name="gender", value={"valueString": "male"}), "value"),
    (operation("add", "Patient", name="contact", value={"valueHumanName": NAMED}), "value"),
    (operation("add", "Patient", name="maritalStatus", value={"valueCoding": {"code": "M"}}), "value"),
    (operation("replace", "Patient.deceased", value={"valueDate": "2020"}), "value"),
    (operation("insert", "Patient.name", index=0, value={"valueString": "x"}), "value"),
    (operation("add", "Patient", name="birthDate", parts=[{"name": "x", "valueString": "x"}]), "value"),
    (operation("add", "Patient", name="multipleBirthInteger", value={"valueBoolean": True}), "value"),
    (operation("add", "Patient", name="contact", parts=[{"name": "gender", "valueString": "male"}]), "value"),
    (operation("add", "Patient", name="contact", parts=[{"name": "nme", "valueHumanName": NAMED}]), "structure"),
    (operation("add", "Patient", name="nme", value=GIVEN), "structure"),
    (operation("add", "Patient", name="resourceType", value=GIVEN), "structure"),
    (
        operation(
            "add",
            "Patient",
            name="contact",
            parts=[{"name": "gender", "valueCode": "male"}, {"name": "gender", "valueCode": "male"}],
        ),
        "business-rule",
    ),
    # add only where there is nothing, or to a list
    (operation("add", "Patient", name="birthDate", value={"valueDate": "1975"}), "business-rule"),
    (operation("add", "Patient", name="deceased", value={"valueDateTime": "1975"}), "business-rule"),
    (operation("add", "Patient", name="deceased", value={"valueBoolean": True}), "business-rule"),
    (operation("add", "Patient", name="deceasedDateTime", value={"valueDateTime": "2020"}), "business-rule"),
    # lists and their ends
    (operation("insert", "Patient.name", index=3, value={"valueHumanName": NAMED}), "value"),
    (operation("move", "Patient.name", source=2, destination=0), "value"),
    (operation("move", "Patient.name", source=0, destination=2), "value"),
    (operation("insert", "Patient.birthDate", index=0, value={"valueDate": "1975"}), "processing"),
    (operation("insert", "Patient.name[0]", index=0, value={"valueHumanName": NAMED}), "processing"),
    (operation("insert", "Patient.name.where(use = 'usual')", index=0, value={"valueHumanName": NAMED}), "processing"),
    (operation("move", "Patient", source=0, destination=0), "processing"),
    (operation("move", "'x'", source=0, destination=0), "processing"),
]


@pytest.mark.parametrize(("refused", "code"), REFUSED, ids=lambda value: json.dumps(value)[:120])
def test_what_the_rules_do_not_allow(refused: JSON, code: str) -> None:
    found, place, words = issue(TWO, operation("delete", "Patient.contact"), refused)
    assert (found, place) == (code, "Parameters.parameter[1]")
    assert words.startswith(refused["part"][0]["valueCode"] + ": ")


def test_a_delete_of_nothing_is_done() -> None:
    assert patched(TWO, operation("delete", "Patient.identifier"), operation("delete", "Patient.name[9].given")) == TWO


def test_each_operation_sees_what_the_one_before_left() -> None:
    done = patched(
        patient(),
        operation("add", "Patient", name="name", value={"valueHumanName": {"use": "usual"}}),
        operation("add", "Patient.name.where(use = 'usual')", name="given", value=GIVEN),
        operation("insert", "Patient.name[0].given", index=0, value={"valueString": "B"}),
        operation("replace", "Patient.name.given.first()", value={"valueString": "A"}),
        operation("delete", "Patient.name.use"),
    )
    assert done == patient(name=[{"given": ["A", "C"]}])


def test_messages_hold_no_values() -> None:
    secret = operation("replace", "Patient.identifier.where(value = 'MRN-1')", value=third())
    assert "MRN" not in issue(patient(), secret)[2]
    with pytest.raises(Fault) as caught:
        fhirpath_patch(parameters(operation("delete", "Patient.identifier.where(value = 'MRN-1')) x")))
    assert "MRN" not in caught.value.message


# -- what is no patch --------------------------------------------------------------------------------------------


def part(name: str, **value: Any) -> JSON:
    return {"name": name, **value}


TYPE, PATH = part("type", valueCode="delete"), part("path", valueString="Patient.birthDate")

MALFORMED: list[tuple[JSON, str]] = [
    ({"name": "other", "part": [TYPE, PATH]}, "Parameters.parameter[0]"),
    ({"name": "operation", "valueString": "x"}, "Parameters.parameter[0]"),
    ({"name": "operation", "part": [PATH]}, "Parameters.parameter[0]"),
    ({"name": "operation", "part": [TYPE]}, "Parameters.parameter[0]"),
    ({"name": "operation", "part": [TYPE, PATH, PATH]}, "Parameters.parameter[0].part[2]"),
    ({"name": "operation", "part": [TYPE, PATH, part("index", valueInteger=1)]}, "Parameters.parameter[0]"),
    ({"name": "operation", "part": [TYPE, PATH, part("more", valueInteger=1)]}, "Parameters.parameter[0].part[2]"),
    ({"name": "operation", "part": [part("type", valueCode="remove"), PATH]}, "Parameters.parameter[0]"),
    ({"name": "operation", "part": [TYPE, part("path", valueUri="x")]}, "Parameters.parameter[0].part[1]"),
    (
        {"name": "operation", "part": [TYPE, part("path", valueString="Patient.name[")]},
        "Parameters.parameter[0].part[1]",
    ),
    ({"name": "operation", "part": [TYPE, part("path", part=[PATH])]}, "Parameters.parameter[0].part[1]"),
    (operation("insert", "Patient.name", index=-1, value=GIVEN), "Parameters.parameter[0].part[2]"),
    (operation("insert", "Patient.name", index=0), "Parameters.parameter[0]"),
    (operation("add", "Patient", value=GIVEN), "Parameters.parameter[0]"),
    (operation("add", "Patient", name="gender"), "Parameters.parameter[0]"),
    (operation("move", "Patient.name", source=1), "Parameters.parameter[0]"),
    (operation("replace", "Patient.name"), "Parameters.parameter[0]"),
    ({"part": [TYPE, PATH]}, "Parameters.parameter[0].name"),
    (
        {"_name": {"extension": [{"url": "http://x", "valueCode": "x"}]}, "part": [TYPE, PATH]},
        "Parameters.parameter[0]",
    ),
]


@pytest.mark.parametrize(("wrong", "place"), MALFORMED, ids=lambda value: json.dumps(value)[:120])
def test_what_is_no_fhirpath_patch_is_refused_with_its_place(wrong: JSON, place: str) -> None:
    with pytest.raises(Fault) as caught:
        fhirpath_patch(parameters(wrong))
    assert caught.value.kind is Kind.BAD_REQUEST
    assert caught.value.issues[0].expression == place


def test_only_parameters_are_a_fhirpath_patch() -> None:
    for document in (b'{"resourceType":"Patient"}', b'{"resourceType":"Nonsense"}', b"[]", b"1", b'[{"op":"remove"}]'):
        with pytest.raises(Fault) as caught:
            fhirpath_patch(document)
        assert caught.value.status == 400


def test_a_patch_is_bounded() -> None:
    many = [operation("delete", "Patient.birthDate")] * (MAX_OPERATIONS + 1)
    long = [operation("delete", "Patient.birthDate".ljust(4000))] * (MAX_PATHS // 4000 + 1)
    for operations in (many, long):
        with pytest.raises(Fault) as caught:
            fhirpath_patch(parameters(*operations))
        assert caught.value.kind is Kind.TOO_LARGE

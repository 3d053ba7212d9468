"""FHIRPath Patch: the cases that HL7 publishes for it."""

from __future__ import annotations

import pytest

from tests.unit.patching import JSON, NAMED, issue, moved, numbered, operation, patched, patient, third

# The cases of HL7's fhir-test-cases, r4/patch/fhir-path-tests.xml, as JSON: (name, before, operations, after).
# Left out: "Full Resource", which is below for its one particular (a narrative given as a string), and "Consecutive
# operations", which adds to a contact that is not there, against the page's own rule, and also expects an extension
# to change that no operation names.
PUBLISHED: list[tuple[str, JSON, list[JSON], JSON | None]] = [
    ("No Difference", patient(birthDate="1920-01-01"), [], patient(birthDate="1920-01-01")),
    (
        "Replace Primitive",
        patient(birthDate="1920-01-01"),
        [operation("replace", "Patient.birthDate", value={"valueDate": "1930-01-01"})],
        patient(birthDate="1930-01-01"),
    ),
    (
        "Delete Primitive",
        patient(birthDate="1920-01-01"),
        [operation("delete", "Patient.birthDate")],
        patient(),
    ),
    (
        "Add Primitive",
        patient(),
        [operation("add", "Patient", name="birthDate", value={"valueDate": "1930-01-01"})],
        patient(birthDate="1930-01-01"),
    ),
    (
        "Replace Nested Primitive #1",
        patient(contact=[{"name": NAMED, "gender": "male"}]),
        [operation("replace", "Patient.contact[0].gender", value={"valueCode": "female"})],
        patient(contact=[{"name": NAMED, "gender": "female"}]),
    ),
    (
        "Replace Nested Primitive #2",
        patient(contact=[{"name": NAMED, "gender": "male"}]),
        [operation("replace", "Patient.contact[0].name.text", value={"valueString": "the name"})],
        patient(contact=[{"name": {"text": "the name"}, "gender": "male"}]),
    ),
    (
        "Delete Nested Primitive #1",
        patient(contact=[{"name": NAMED, "gender": "male"}]),
        [operation("delete", "Patient.contact[0].gender")],
        patient(contact=[{"name": NAMED}]),
    ),
    (
        "Delete Nested Primitive #2",
        patient(contact=[{"name": NAMED, "gender": "male"}]),
        [operation("delete", "Patient.contact[0].name.text")],
        patient(contact=[{"gender": "male"}]),
    ),
    (
        "Add Nested Primitive",
        patient(contact=[{"name": NAMED}]),
        [operation("add", "Patient.contact[0]", name="gender", value={"valueCode": "male"})],
        patient(contact=[{"name": NAMED, "gender": "male"}]),
    ),
    (
        "Add Complex",
        patient(),
        [operation("add", "Patient", name="maritalStatus", value={"valueCodeableConcept": {"text": "married"}})],
        patient(maritalStatus={"text": "married"}),
    ),
    (
        "Replace Complex",
        patient(maritalStatus={"id": "1", "text": "married"}),
        [
            operation(
                "replace", "Patient.maritalStatus", value={"valueCodeableConcept": {"id": "2", "text": "not married"}}
            )
        ],
        patient(maritalStatus={"id": "2", "text": "not married"}),
    ),
    (
        "Delete Complex",
        patient(maritalStatus={"text": "married"}),
        [operation("delete", "Patient.maritalStatus")],
        patient(),
    ),
    (
        "Add Anonymous Type",
        patient(),
        [operation("add", "Patient", name="contact", parts=[{"name": "name", "valueHumanName": NAMED}])],
        patient(contact=[{"name": NAMED}]),
    ),
    (
        "Delete Anonymous Type",
        patient(contact=[{"name": NAMED}]),
        [operation("delete", "Patient.contact[0]")],
        patient(),
    ),
    ("List unchanged", numbered(1, 2), [], numbered(1, 2)),
    (
        "List unchanged, contents changed",
        patient(identifier=[{"id": "a", "value": "value 1"}, {"id": "b", "value": "value 2"}]),
        [
            operation("replace", "Patient.identifier[0].value", value={"valueString": "value 2"}),
            operation("replace", "Patient.identifier[1].value", value={"valueString": "value 1"}),
        ],
        patient(identifier=[{"id": "a", "value": "value 2"}, {"id": "b", "value": "value 1"}]),
    ),
    (
        "Add to list",
        numbered(1, 2),
        [operation("insert", "Patient.identifier", index=2, value=third())],
        numbered(1, 2, 3),
    ),
    (
        "Add to list, as later versions of the file have it",
        numbered(1, 2),
        [operation("add", "Patient", name="identifier", value=third())],
        numbered(1, 2, 3),
    ),
    (
        "Insert in list #1",
        numbered(1, 2),
        [operation("insert", "Patient.identifier", index=1, value=third())],
        numbered(1, 3, 2),
    ),
    (
        "Insert in list #2",
        numbered(1, 2),
        [operation("insert", "Patient.identifier", index=0, value=third())],
        numbered(3, 1, 2),
    ),
    ("Delete from List #1", numbered(1, 2, 3), [operation("delete", "Patient.identifier[0]")], numbered(2, 3)),
    ("Delete from List #2", numbered(1, 2, 3), [operation("delete", "Patient.identifier[1]")], numbered(1, 3)),
    ("Delete from List #3", numbered(1, 2, 3), [operation("delete", "Patient.identifier[2]")], numbered(1, 2)),
    ("Reorder List #1", numbered(1, 2, 3, 4), [moved(3, 1)], numbered(1, 4, 2, 3)),
    ("Reorder List #2", numbered(1, 2, 3, 4), [moved(3, 0)], numbered(4, 1, 2, 3)),
    ("Reorder List #3", numbered(1, 2, 3, 4), [moved(3, 2)], numbered(1, 2, 4, 3)),
    ("Reorder List #4", numbered(1, 2, 3, 4), [moved(0, 3)], numbered(2, 3, 4, 1)),
    ("Reorder List #5", numbered(1, 2, 3, 4), [moved(1, 0), moved(2, 1)], numbered(2, 3, 1, 4)),
    ("Reorder List #6", numbered(1, 2, 3, 4), [moved(3, 0), moved(3, 1), moved(3, 2)], numbered(4, 3, 2, 1)),
    (
        "Operation on missing element",
        patient(identifier=[{"use": "official", "value": "123"}]),
        [
            operation(
                "add",
                "Patient.identifier.where(use = 'official').period",
                name="end",
                value={"valueDate": "2021-12-01"},
            )
        ],
        None,
    ),
    (
        "Operation on missing element #2",
        patient(),
        [operation("add", "Patient", name="identifier", value=third())],
        numbered(3),
    ),
]


@pytest.mark.parametrize(
    ("before", "operations", "after"), [row[1:] for row in PUBLISHED], ids=[row[0] for row in PUBLISHED]
)
def test_the_published_cases(before: JSON, operations: list[JSON], after: JSON | None) -> None:
    if after is None:
        assert issue(before, *operations)[:2] == ("not-found", "Parameters.parameter[0]")
    else:
        assert patched(before, *operations) == after


def test_a_narrative_is_given_as_a_string_since_parameters_have_no_xhtml() -> None:
    div = '<div xmlns="http://www.w3.org/1999/xhtml">Chalmers1</div>'
    before = patient(text={"status": "generated", "div": div.replace("1<", "<")}, name=[{"family": "Chalmers"}])
    done = patched(
        before,
        operation("replace", "Patient.text.div", value={"valueString": div}),
        operation("replace", "Patient.name[0].family", value={"valueString": "Chalmers1"}),
    )
    assert done == patient(text={"status": "generated", "div": div}, name=[{"family": "Chalmers1"}])

"""The paths of FHIRPath Patch: held to an independent implementation, to the specification, and to their cost."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any

import fhirpathpy
import pytest
from fhirpathpy.models import models

from fhirserver.core.element import Element, is_a, resource, rows
from fhirserver.core.fhirpath import MAX_LENGTH, PathError, parse
from fhirserver.core.jsontree import Node
from fhirserver.core.locate import Locator

PATIENT: dict[str, Any] = {
    "resourceType": "Patient",
    "id": "p",
    "active": True,
    "contained": [
        {"resourceType": "Organization", "id": "org", "name": "In"},
        {"resourceType": "Practitioner", "id": "dr", "gender": "female"},
    ],
    "extension": [
        {"url": "http://x/a", "valueString": "one"},
        {"url": "http://x/b", "valueCoding": {"system": "urn:s", "code": "c"}},
        {"url": "http://x/a", "valueInteger": 2},
    ],
    "identifier": [
        {"use": "official", "system": "urn:a", "value": "1", "period": {"start": "2020-01-01", "end": "2021"}},
        {"use": "usual", "system": "urn:b", "value": "2"},
        {"system": "urn:a", "value": "it's 3"},
    ],
    "name": [
        {"use": "official", "family": "Doe", "given": ["John", "Q"]},
        {"use": "nickname", "given": ["Jack"]},
    ],
    "birthDate": "1974-12-25",
    "_birthDate": {"extension": [{"url": "http://x/time", "valueDateTime": "1974-12-25T14:35:45-05:00"}]},
    "multipleBirthInteger": 2,
    "contact": [{"gender": "male", "name": {"family": "B"}}, {"gender": "female", "name": {"family": "A"}}],
    "managingOrganization": {"reference": "#org"},
    "generalPractitioner": [{"reference": "#dr"}],
}
MIDDLE: dict[str, Any] = {**PATIENT, "name": [{**PATIENT["name"][0], "_given": [None, {"id": "middle"}]}]}
"""With an element id beside one of two given names, which the other implementation takes for a third name."""
OBSERVATION: dict[str, Any] = {
    "resourceType": "Observation",
    "id": "o",
    "status": "final",
    "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
    "effectiveDateTime": "2020-05-06T07:08:09Z",
    "valueQuantity": {"value": 1.50, "unit": "mg"},
    "component": [
        {"code": {"coding": [{"code": "8480-6"}]}, "valueQuantity": {"value": 120.0, "unit": "mm[Hg]"}},
        {"code": {"coding": [{"code": "8462-4"}]}, "valueString": "high"},
        {"code": {"coding": [{"code": "0"}]}},
    ],
}
RESOURCES = {"Patient": PATIENT, "Observation": OBSERVATION}

SHARED = [
    "Patient.birthDate",
    "birthDate",
    "Patient",
    "Patient.name",
    "Patient.name[0].given",
    "Patient.name.given",
    "Patient.name.given[1]",
    "Patient.name[1].given[0]",
    "Patient.name[7]",
    "Patient.name.first().given.last()",
    "Patient.name.last()",
    "Patient.name.tail()",
    "Patient.name.skip(1)",
    "Patient.name.skip(0).take(1)",
    "Patient.name.take(5).family",
    "Patient.name.where(use = 'official').family",
    "Patient.name.where(use != 'official')",
    "Patient.name.where(given = 'Jack')",
    "Patient.name.where(family.exists())",
    "Patient.name.where(family.empty())",
    "Patient.name.where(family.exists().not())",
    "Patient.name.where(given.count() = 2)",
    "Patient.name.where(given.exists($this = 'Q'))",
    "Patient.name.where(given.all($this.startsWith('J')))",
    "Patient.name.given.where($this = 'Q')",
    "Patient.name.given.where($this.endsWith('hn') or $this.contains('c'))",
    "Patient.identifier.where(system = 'urn:a' and use = 'official')",
    "Patient.identifier.where(system = 'urn:a' and use.exists()).period.start",
    "Patient.identifier.where(system = 'urn:a' xor use = 'usual').value",
    "Patient.identifier.where(use = 'official' implies period.exists()).value",
    "Patient.identifier.where(value = 'it\\'s 3').system",
    "Patient.identifier.where(value in ('2')).use",
    "Patient.identifier.where(system.startsWith('urn:')).where(value > '1').value",
    "Patient.identifier.where(value >= '2').value",
    "Patient.identifier.where(use ~ 'OFFICIAL').value",
    "Patient.identifier.where(use !~ 'official').value",
    "Patient.identifier.where(period.start < @2020-06-01).value",
    "Patient.identifier.where(period.start <= @2020-01-01).value",
    "Patient.contact.where(gender = 'female').name.family",
    "Patient.contact.where(name.where(family = 'B').exists()).gender",
    "Patient.multipleBirth",
    "Patient.multipleBirth.ofType(integer)",
    "Patient.multipleBirth.ofType(boolean)",
    "(Patient.multipleBirth as integer)",
    "Patient.contained.where(id = 'org')",
    "Patient.contained.ofType(Practitioner).gender",
    "Patient.extension.where(url = 'http://x/a').value",
    "Patient.extension('http://x/b').value.ofType(Coding).code",
    "Patient.where(active = true).birthDate",
    "Patient.where(active).gender",
    "Patient.where(multipleBirth = 2).id",
    "Patient.where(multipleBirth > 1 and multipleBirth < 3).id",
    "Patient.where((multipleBirth is integer) and active).id",
    "(Patient.name)[1].given",
    "Observation.value",
    "Observation.value.unit",
    "Observation.value.ofType(Quantity).value",
    "Observation.value.as(Quantity).unit",
    "(Observation.value as Quantity).unit",
    "Observation.where(value is Quantity).status",
    "Observation.where(value.value = 1.5).status",
    "Observation.component.where(code.coding.code = '8462-4').value",
    "Observation.component.where(code.coding.where(code = '8480-6').exists()).value.value",
    "Observation.component.value.ofType(string)",
    "Observation.component.where(value.exists().not())",
    "Observation.component[1].code.coding[0].code",
    "Observation.effective",
    "Observation.effective.ofType(dateTime)",
    "Observation.code.coding.where(system = 'http://loinc.org').code",
    "Observation.code.coding.where(`system` = 'http://loinc.org').code",
    "Patient.contact.where(gender = 'male').name.where(family = 'none')",
]


def located(path: str, of: dict[str, Any]) -> list[Element]:
    return Locator().elements(parse(path), resource(Node(json.dumps(of, separators=(",", ":")).encode())))


def values(path: str, of: dict[str, Any]) -> list[Any]:
    return [json.loads(each.node.text) if each.node else None for each in located(path, of)]


@pytest.mark.parametrize("path", SHARED)
def test_a_path_leads_to_what_another_implementation_finds(path: str) -> None:
    name = "Observation" if "Observation" in path else "Patient"
    of = RESOURCES[name]
    assert values(path, of) == fhirpathpy.compile(path=path, model=models["r4"])(of)


OWN = [
    # an element of a primitive, its id and its extensions
    ("Patient.birthDate.extension('http://x/time').value", ["1974-12-25T14:35:45-05:00"]),
    ("Patient.birthDate.extension.url", ["http://x/time"]),
    ("Patient.extension('http://x/a').value", ["one", 2]),
    # references may lead to what is contained, and to nothing else
    ("Patient.managingOrganization.resolve().name", ["In"]),
    ("Patient.generalPractitioner.resolve().gender", ["female"]),
    # comparisons of dates that are too coarse to tell are unknown, and unknown is not true
    ("Patient.identifier.where(period.end > @2021-06).value", []),
    ("Patient.identifier.where(period.end = @2021-06).value", []),
    ("Patient.identifier.where(period.end != @2021-06).value", []),
    ("Patient.identifier.where(period.end = @2021).value", ["1"]),
    ("Patient.identifier.where(period.end > @2020).value", ["1"]),
    ("Observation.where(effective = @2020-05-06T09:08:09+02:00).status", ["final"]),
    ("Observation.where(effective > @2020-05-06T07:08:08Z).status", ["final"]),
    # a date may be asked for as the text that it is
    ("Patient.where(birthDate = '1974-12-25').id", ["p"]),
    # numbers by value
    ("Observation.where(value.value = 1.500).status", ["final"]),
    ("Observation.where(value.value = -1.5).status", []),
    ("Observation.where(value.value = '1.5').status", []),
    ("Patient.where(multipleBirth = true).id", []),
    # types and their kinds
    ("Patient.contained.ofType(Resource).id", ["org", "dr"]),
    ("Patient.contained.ofType(DomainResource).id", ["org", "dr"]),
    ("Patient.contained.ofType(FHIR.Organization).name", ["In"]),
    ("Resource.id", ["p"]),
    ("DomainResource.id", ["p"]),
    ("Observation.id", []),
    ("Patient.extension.value.ofType(string)", ["one"]),
    ("Patient.name.where({} = 'x')", []),
    ("Patient.name.where(use.hasValue()).use", ["official", "nickname"]),
    ("Patient.name.where(period.hasValue()).use", []),
    ("Patient.name.where(true and (false or true)).use", ["official", "nickname"]),
    ("Patient.name.where({} and true)", []),
    ("Patient.name.where({} or true).use", ["official", "nickname"]),
    ("Patient.name.single().use", None),
    ("Patient.name.where('official' in use | use)", None),
    ("Patient.name.where(given contains 'Jack').use", ["nickname"]),
    ("Observation.component.value.unit", ["mm[Hg]"]),  # a string has no unit, which is no mistake in a choice
]


@pytest.mark.parametrize(("path", "expected"), OWN)
def test_what_a_path_means(path: str, expected: list[Any] | None) -> None:
    of = OBSERVATION if path.startswith("Observation.") and path != "Observation.id" else PATIENT
    if expected is None:
        with pytest.raises(PathError):
            values(path, of)
    else:
        assert values(path, of) == expected


@pytest.mark.parametrize(
    "path",
    [
        "",
        " ",
        ".",
        "Patient.",
        "Patient..name",
        "Patient.name[",
        "Patient.name[x]",
        "Patient.name[-1]",
        "Patient.name[1.5]",
        "Patient.name[99999999999]",
        "Patient.name.where(",
        "Patient.name.where()",
        "Patient.name.where(use = )",
        "Patient.name.where(use = 'x'",
        "Patient.name.where(use = 'x",
        "Patient.name.where(use = '\\q')",
        "Patient.name.where(use == 'x')",
        "Patient.name.first(1)",
        "Patient.name.matches('.*')",
        "Patient.name.replace('a','b')",
        "Patient.name.repeat(x)",
        "Patient.descendants()",
        "Patient.name | Patient.contact",
        "Patient.name.where(1 + 1 = 2)",
        "%resource.name",
        "%context",
        "$index",
        "Patient.$this",
        "Patient name",
        "Patient.name)",
        "Patient.name.ofType()",
        "Patient.name.ofType('x')",
        "Patient.name is",
        "ﬁ",
        "Patient.\x00name",
        "(" * 50 + "name" + ")" * 50,
        "a." * MAX_LENGTH,
    ],
    ids=lambda path: repr(path[:40]),
)
def test_what_is_no_path_is_refused_in_words(path: str) -> None:
    with pytest.raises(PathError) as caught:
        parse(path)
    assert "'x" not in str(caught.value)


@pytest.mark.parametrize(
    ("path", "told"),
    [
        ("Patient.nme", "asks Patient for nme, which it does not have"),
        ("Patient.name.first().value", "asks HumanName for value, which it does not have"),
        ("Patient.birthDate.value", "asks date for value, which it does not have"),
        (
            "Patient.multipleBirthInteger",
            "asks Patient for multipleBirthInteger, which it does not have; write multipleBirth",
        ),
        ("Patient.``", "asks Patient for , which it does not have"),
        ("Patient.name.exists()", "leads to a value, not to an element"),
        ("'x'", "leads to a value, not to an element"),
        ("Patient.name.where(given.startsWith('J'))", "asks its text of several items"),
        ("Patient.name.where(period = period)", None),
        ("Patient.identifier.where(period = period)", "compares what has no value of its own"),
        ("Patient.name.skip('x')", "skips or takes what is no number of items"),
        ("Patient.where(active.startsWith('t'))", "asks for the text of what is no string"),
    ],
)
def test_a_mistake_in_a_path_is_told(path: str, told: str | None) -> None:
    if told is None:
        assert located(path, PATIENT) == []
        return
    with pytest.raises(PathError) as caught:
        located(path, PATIENT)
    assert str(caught.value) == told


def test_resolve_does_not_leave_the_resource() -> None:
    for reference in ("Patient/1", "http://x/Patient/1", "urn:uuid:1"):
        of = {**PATIENT, "managingOrganization": {"reference": reference}}
        with pytest.raises(PathError, match="not contained"):
            located("Patient.managingOrganization.resolve()", of)
    assert values(
        "Patient.managingOrganization.resolve().id", {**PATIENT, "managingOrganization": {"reference": "#"}}
    ) == ["p"]
    assert (
        values("Patient.managingOrganization.resolve()", {**PATIENT, "managingOrganization": {"reference": "#no"}})
        == []
    )


def test_elements_know_their_type_and_place() -> None:
    (given,) = located("Patient.name[0].given.where(id = 'middle')", MIDDLE)
    assert (given.type, given.json, given.index) == ("string", "given", 1)
    assert given.node
    assert given.node.text == b'"Q"'
    assert given.sibling
    assert given.sibling.text == b'{"id":"middle"}'
    assert given.parent
    assert (given.parent.type, given.parent.json, given.parent.index) == ("HumanName", "name", 0)
    (birth,) = located("Patient.multipleBirth", PATIENT)
    assert (birth.type, birth.json, birth.index, birth.row and birth.row.name) == (
        "integer", "multipleBirthInteger", None, "multipleBirth",
    )  # fmt: skip
    (inside,) = located("Patient.contained[1]", PATIENT)
    assert inside.type == "Practitioner"
    (only_extended,) = located("Patient.gender", {**PATIENT, "_gender": {"id": "g"}})
    assert only_extended.node is None
    assert only_extended.sibling
    assert only_extended.sibling.text == b'{"id":"g"}'


@pytest.mark.parametrize(
    ("type_", "wanted", "answer"),
    [
        ("code", "string", True),
        ("string", "code", False),
        ("canonical", "uri", True),
        ("positiveInt", "integer", True),
        ("integer", "decimal", False),
        ("Age", "Quantity", True),
        ("Quantity", "Age", False),
        ("Patient.contact", "BackboneElement", True),
        ("HumanName", "BackboneElement", False),
        ("HumanName", "Element", True),
        ("Patient", "Element", False),
        ("Bundle", "DomainResource", False),
        ("Bundle", "Resource", True),
    ],
)
def test_kinds_of_types(type_: str, wanted: str, answer: bool) -> None:
    assert is_a(type_, wanted) is answer


def test_rows_of_a_primitive_are_its_id_and_extensions() -> None:
    assert set(rows("date")) == {"id", "extension"}


@pytest.mark.parametrize(
    "path",
    [
        "Patient.identifier.where(" + " and ".join(["value = 'x'"] * 250) + ")",
        "Patient.identifier" + ".where(value.exists())" * 150,
        "Patient.identifier.where(value.contains('a') or " + " or ".join(["value.contains('b')"] * 150) + ")",
        "Patient.identifier.where(value.where(" + "$this.where(" * 25 + "true" + ")" * 27,
        "Patient.where(" + " = ".join(["1"] * 1000) + ")",
    ],
    ids=lambda path: path[:60],
)
def test_no_path_takes_long(path: str) -> None:
    of = {**PATIENT, "identifier": [{"value": f"{at}" + "x" * 2000} for at in range(3000)]}
    locator = Locator()
    root = resource(Node(json.dumps(of, separators=(",", ":")).encode()))

    def a_thousand_times() -> None:
        for _ in range(1000):
            locator.elements(parse(path), root)

    began = perf_counter()
    with pytest.raises(PathError, match=r"too many elements|too deeply"):
        a_thousand_times()
    assert perf_counter() - began < 10

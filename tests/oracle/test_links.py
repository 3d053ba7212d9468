"""The oracle's references, chains, reverse chains, lists, order and includes (R4 3.1.1.4.12, .13, .15; 3.1.1.5)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle.evaluate import evaluate, included
from tests.oracle.match import distance
from tests.oracle.reading import Unreadable
from tests.oracle.tables import LOINC, NOW, asked, concept, holds, made

REFERENCES: list[tuple[dict[str, Any], str, str, bool]] = [
    ({"reference": "Patient/23"}, "subject", "23", True),
    ({"reference": "Patient/23"}, "subject", "Patient/23", True),
    ({"reference": "Patient/23"}, "subject", "Group/23", False),
    ({"reference": "Patient/23"}, "subject", "Patient/2", False),
    ({"reference": "Patient/23"}, "subject:Patient", "23", True),
    ({"reference": "Patient/23"}, "subject:Group", "23", False),
    ({"reference": "Group/23"}, "subject:Patient", "23", False),
    ({"reference": "Patient/23"}, "patient", "23", True),
    ({"reference": "Patient/23"}, "patient", "Patient/23", True),
    ({"reference": "Group/23"}, "patient", "23", False),
    ({"reference": "Patient/23/_history/4"}, "subject", "Patient/23", True),
    ({"reference": "Patient/23"}, "subject", "Patient/23/_history/9", True),
    ({"reference": "http://acme.org/fhir/Patient/23"}, "subject", "http://acme.org/fhir/Patient/23", True),
    ({"reference": "http://acme.org/fhir/Patient/23"}, "subject", "23", False),
    ({"reference": "http://acme.org/fhir/Patient/23"}, "subject", "Patient/23", False),
    ({"reference": "http://acme.org/fhir/Patient/23"}, "patient", "http://acme.org/fhir/Patient/23", True),
    ({"reference": "urn:uuid:1"}, "subject", "urn:uuid:1", True),
    ({"reference": "#p"}, "subject", "p", False),
    ({"reference": "#p"}, "subject:missing", "false", True),
    ({"reference": "#p"}, "patient:missing", "false", True),
    ({"reference": "#g"}, "patient:missing", "true", True),
    ({"identifier": {"system": "urn:a", "value": "7"}}, "subject:identifier", "urn:a|7", True),
    ({"identifier": {"system": "urn:a", "value": "7"}}, "subject:identifier", "7", True),
    ({"identifier": {"system": "urn:a", "value": "7"}}, "subject:identifier", "|7", False),
    ({"identifier": {"system": "urn:a", "value": "7"}}, "subject", "7", False),
    ({"reference": "Patient/7"}, "subject:identifier", "7", False),
    ({"reference": "Patient/7", "display": "Jörg"}, "subject:text", "jorg", True),
    ({"reference": "Patient/7"}, "subject", "6,7", True),
    ({"reference": "Patient/7"}, "subject:Patient", "6,7", True),
]


@pytest.mark.parametrize(("reference", "parameter", "value", "found"), REFERENCES)
def test_references(reference: dict[str, Any], parameter: str, value: str, found: bool) -> None:
    contained = [{"resourceType": "Patient", "id": "p"}, {"resourceType": "Group", "id": "g"}]
    assert holds(made("Observation", subject=reference, contained=contained), parameter, value) is found


WORLD = [
    made("Organization", "o1", name="Acme"),
    made("Organization", "o2", name="Nord", partOf={"reference": "Organization/o1"}),
    made("Practitioner", "d1", name=[{"family": "Joseph"}]),
    made(
        "Patient",
        "p1",
        name=[{"family": "Peter"}],
        gender="male",
        birthDate="1990",
        generalPractitioner=[{"reference": "Practitioner/d1"}],
        managingOrganization={"reference": "Organization/o2"},
    ),
    made(
        "Patient",
        "p2",
        name=[{"family": "Peters"}],
        gender="female",
        generalPractitioner=[{"reference": "Organization/o1"}],
    ),
    made("Patient", "p3", name=[{"family": "Zoe"}], birthDate="1970-05"),
    made(
        "Group",
        "g1",
        code=concept("Peter"),
        type="person",
        actual=True,
        member=[{"entity": {"reference": "Patient/p1"}}],
    ),
    made("DiagnosticReport", "r1", subject={"reference": "Patient/p1"}, result=[{"reference": "Observation/b1"}]),
    made("DiagnosticReport", "r2", subject={"reference": "Patient/p2"}),
    made("DiagnosticReport", "r3", subject={"reference": "Group/g1"}),
    made("DiagnosticReport", "r4", subject={"reference": "Patient/gone"}),
    made(
        "Observation",
        "b1",
        code=concept("1234-5", LOINC),
        subject={"reference": "Patient/p1/_history/3"},
        status="final",
    ),
    made("Observation", "b2", code=concept("9999-9", LOINC), subject={"reference": "Patient/p2"}, status="final"),
    made("Observation", "b3", code=concept("1234-5", LOINC), subject={"reference": "http://e.org/Patient/p2"}),
    made(
        "Provenance", "v1", target=[{"reference": "Observation/b1"}], agent=[{"who": {"reference": "Practitioner/d1"}}]
    ),
    made(
        "AuditEvent",
        "a1",
        entity=[{"what": {"reference": "Observation/b1"}}],
        agent=[{"who": {"reference": "Practitioner/d1"}}],
    ),
    made("List", "42", entry=[{"item": {"reference": "Patient/p1"}}, {"item": {"reference": "Observation/b2"}}]),
]
QUERIES: list[tuple[str, list[tuple[str, str]], str]] = [
    # The examples of 3.1.1.4.12 (chains) and .13 (`_has`), in this world.
    ("DiagnosticReport", [("subject.name", "peter")], "r1 r2"),
    ("DiagnosticReport", [("subject:Patient.name", "peter")], "r1 r2"),
    ("DiagnosticReport", [("subject:Group.code", "Peter")], "r3"),
    ("DiagnosticReport", [("subject:Patient.name", "peter"), ("subject:Patient.gender", "male")], "r1"),
    ("DiagnosticReport", [("subject:Patient.name:exact", "Peter")], "r1"),
    ("DiagnosticReport", [("subject:Patient.gender:not", "male")], "r2"),
    ("DiagnosticReport", [("subject:Patient.birthdate:missing", "true")], "r2"),
    ("DiagnosticReport", [("patient.general-practitioner:Practitioner.name", "jos")], "r1"),
    ("DiagnosticReport", [("patient.general-practitioner.name", "jos,acme")], "r1 r2"),
    ("DiagnosticReport", [("result.code", f"{LOINC}|1234-5")], "r1"),
    ("DiagnosticReport", [("result.subject:Patient.name", "peter")], "r1"),
    ("DiagnosticReport", [("subject._id", "p1")], "r1"),
    ("DiagnosticReport", [("subject.organization.partof.name", "ac")], "r1"),
    ("Patient", [("general-practitioner.name", "Joe")], ""),
    ("Patient", [("general-practitioner.name", "Jos")], "p1"),
    ("Patient", [("_has:Observation:patient:code", "1234-5")], "p1"),
    ("Patient", [("_has:Observation:patient:code", f"{LOINC}|9999-9,{LOINC}|1234-5")], "p1 p2"),
    ("Patient", [("_has:Observation:patient:_has:AuditEvent:entity:agent", "Practitioner/d1")], "p1"),
    ("Patient", [("_has:Observation:patient:_has:AuditEvent:entity:agent", "d2")], ""),
    ("Patient", [("_has:Group:member:_id", "g1")], "p1"),
    ("Patient", [("_has:DiagnosticReport:patient:result.code", "1234-5")], "p1"),
    ("Observation", [("subject:Patient._has:Group:member:code", "Peter")], "b1"),
    ("Practitioner", [("_has:Patient:general-practitioner:birthdate", "lt2000")], "d1"),
    ("Patient", [("_list", "42")], "p1"),
    ("Observation", [("_list", "42")], "b2"),
    ("Patient", [("_list", "43")], ""),
    ("Patient", [("_list", "43,42")], "p1"),
    ("Patient", [("_list", "42"), ("_list", "43")], ""),
    ("Patient", [("_id", "p1,p3")], "p1 p3"),
    ("Patient", [("_id", "p1"), ("_id", "p3")], ""),
    ("Patient", [("gender", "male,female"), ("name", "peters")], "p2"),
    ("Patient", [("gender:missing", "true")], "p3"),
    ("Patient", [], "p1 p2 p3"),
    # Order: without the key last, ties in the order of the store.
    ("Patient", [("_sort", "birthdate")], "p3 p1 p2"),
    ("Patient", [("_sort", "-birthdate")], "p1 p3 p2"),
    ("Patient", [("_sort", "-_id")], "p3 p2 p1"),
    ("Patient", [("_sort", "gender")], "p2 p1 p3"),
    ("Patient", [("_sort", "-family")], "p3 p2 p1"),
    ("Observation", [("_sort", "status,-_id")], "b2 b1 b3"),
    ("Observation", [("_sort", "-status,_id")], "b1 b2 b3"),
]


@pytest.mark.parametrize(("type_", "query", "found"), QUERIES)
def test_queries_of_a_small_world(type_: str, query: list[tuple[str, str]], found: str) -> None:
    assert asked(WORLD, type_, query) == found


SYSTEM: list[tuple[list[tuple[str, str]], str]] = [
    ([("_id", "p1,b1")], "p1 b1"),
    ([("_type", "Patient,Group"), ("_id", "p1,b1,g1")], "p1 g1"),
    ([("_type", "Observation,DiagnosticReport"), ("patient", "p1")], "r1 b1"),
]


@pytest.mark.parametrize(("query", "found"), SYSTEM)
def test_queries_of_the_whole_system(query: list[tuple[str, str]], found: str) -> None:
    assert asked(WORLD, None, query) == found


INCLUDES: list[tuple[str, list[tuple[str, str]], str]] = [
    ("Patient", [("_id", "p1"), ("_include", "Patient:general-practitioner")], "Practitioner/d1"),
    ("Patient", [("_include", "Patient:general-practitioner:Organization")], "Organization/o1"),
    ("Patient", [("_id", "p1"), ("_include", "*")], "Organization/o2 Practitioner/d1"),
    ("Patient", [("_id", "p1"), ("_include", "Patient:*")], "Organization/o2 Practitioner/d1"),
    ("DiagnosticReport", [("_id", "r1"), ("_include", "Patient:organization")], ""),
    (
        "DiagnosticReport",
        [("_id", "r1"), ("_include", "DiagnosticReport:subject"), ("_include:iterate", "Patient:organization")],
        "Organization/o2 Patient/p1",
    ),
    (
        "Patient",
        [("_id", "p1"), ("_include", "Patient:organization"), ("_include", "Organization:partof")],
        "Organization/o2",
    ),
    (
        "Patient",
        [("_id", "p1"), ("_include", "Patient:organization"), ("_include:iterate", "Organization:partof")],
        "Organization/o1 Organization/o2",
    ),
    ("Observation", [("_id", "b1"), ("_revinclude", "Provenance:target")], "Provenance/v1"),
    ("Observation", [("_id", "b2"), ("_revinclude", "Provenance:target")], ""),
    ("Patient", [("_id", "p1"), ("_revinclude", "Observation:subject")], "Observation/b1"),
    (
        "Patient",
        [("_id", "p1"), ("_revinclude", "Observation:subject"), ("_revinclude:iterate", "Provenance:target")],
        "Observation/b1 Provenance/v1",
    ),
    ("DiagnosticReport", [("_id", "r4"), ("_include", "DiagnosticReport:subject")], ""),
    ("Observation", [("_include", "Observation:subject")], "Patient/p1 Patient/p2"),
]


@pytest.mark.parametrize(("type_", "query", "found"), INCLUDES)
def test_what_comes_with_the_matches(type_: str, query: list[tuple[str, str]], found: str) -> None:
    matches = evaluate(WORLD, type_, query, now=NOW)
    assert " ".join(sorted(included(WORLD, matches, query, now=NOW))) == found


WRONG: list[tuple[str, str, str]] = [
    ("Observation", "subject:Practitioner", "1"),
    ("Observation", "subject:Patient", "Group/1"),
    ("Observation", "subject:exact", "1"),
    ("Observation", "subject:identifier", "a|b|c"),
    ("Observation", "subject.nothing", "1"),
    ("Observation", "subject:Practitioner.name", "x"),
    ("Observation", "subject:Patient.birthdate", "x"),
    ("Observation", "subject:Patient.name:nonsense", "x"),
    ("Patient", "_has:Observation:patient", "x"),
    ("Patient", "_has:Nothing:patient:code", "x"),
    ("Patient", "_has:Observation:code:code", "x"),
    ("Patient", "_has:Observation:patient:date", "x"),
    ("Patient", "_sort", "nothing"),
    ("Patient", "_sort", "-name,x"),
    ("Patient", "_sort", "general-practitioner"),
    ("Patient", "_include", "Patient:nothing"),
    ("Patient", "_include", "Patient:gender"),
    ("Patient", "_include", "Patient:organization:Patient"),
    ("Patient", "_include", "Nothing:patient"),
    ("Patient", "_include", "Patient"),
    ("Patient", "_include:recurse", "Patient:organization"),
    ("Patient", "_revinclude", "Provenance:targets"),
    ("Patient", "_revinclude", "Provenance:target:Nothing"),
]


@pytest.mark.parametrize(("type_", "parameter", "value"), WRONG)
def test_a_senseless_link_is_unreadable(type_: str, parameter: str, value: str) -> None:
    with pytest.raises(Unreadable):
        asked(WORLD, type_, [(parameter, value)])


PLACES: list[tuple[str, bool]] = [
    ("-83.694810|42.256500|11.20|km", True),
    ("-83|42|10|km", False),
    ("-83|42|100|km", True),
    ("-83|42|100000|m", True),
    ("-83|42|10000|m", False),
    ("-83.69|42.25", True),
    ("-83|42|60|[mi_us]", True),
]


@pytest.mark.parametrize(("value", "found"), PLACES)
def test_near(value: str, found: bool) -> None:
    assert holds(made("Location", position={"latitude": -83.69471, "longitude": 42.2565}), "near", value) is found


@pytest.mark.parametrize("value", ["", "1", "x|y", "91|0|1|km", "0|181|1|km", "0|0|-1|km", "0|0|1|yards", "0|0|1|km|x"])
def test_what_is_no_place_is_unreadable(value: str) -> None:
    with pytest.raises(Unreadable):
        holds(made("Location"), "near", value)


def test_a_quarter_of_the_equator() -> None:
    assert distance(0, 0, 0, 90) == pytest.approx(10007.557, abs=0.001)
    assert distance(0, 179.5, 0, -179.5) == pytest.approx(111.195, abs=0.001)

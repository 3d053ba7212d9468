"""The oracle's strings, tokens and uris with their modifiers (R4 3.1.1.4.8, .10, .14)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle.reading import Unreadable
from tests.oracle.tables import LOINC, SNOMED, concept, holds, made

NAMED = made(
    "Patient",
    name=[{"family": "Ånström-Évè", "given": ["Carrie", "van  der\tBerg"], "prefix": ["Dr."]}, {"text": "a,b|c$d\\e"}],
    address=[{"line": ["1 High St", "Flat 2"], "city": "Straße", "postalCode": "AB1 2CD", "text": "all of it"}],
)
STRINGS: list[tuple[str, str, bool]] = [
    ("given", "carr", True),
    ("given", "CARRIE", True),
    ("given", "arrie", False),
    ("given:contains", "arrie", True),
    ("given:contains", "ARR", True),
    ("given:exact", "Carrie", True),
    ("given:exact", "carrie", False),
    ("given:exact", "Carri", False),
    ("family", "anstrom", True),
    ("family", "ÅNSTRÖM", True),
    ("family", "A\u030anstr", True),
    ("family:contains", "eve", True),
    ("family:exact", "Ånström-Évè", True),
    ("family:exact", "Anstrom-Eve", False),
    ("given", "van der b", True),
    ("given", "van  der  berg", True),
    ("given", "der", False),
    ("family", "anstromeve", True),
    ("family", "anstrom-e", True),
    ("family", "ånström'e", True),
    ("family:contains", "meve", True),
    ("name", "dr.", True),
    ("name", "berg", False),
    ("name", "x,carrie", True),
    ("name", "x,y", False),
    ("name", "a\\,b\\|c\\$d\\\\e", True),
    ("name:exact", "a\\,b\\|c\\$d\\\\e", True),
    ("name:exact", "a\\,b|c$d\\\\e", True),
    ("name", "b\\|c", False),
    ("address", "flat", True),
    ("address", "high", False),
    ("address:contains", "high", True),
    ("address", "all of", True),
    ("address-city", "strasse", True),
    ("address-city", "STRASSE", True),
    ("address-postalcode", "ab1", True),
    ("address-state", "a", False),
    ("address-state:missing", "true", True),
    ("address-city:missing", "true", False),
    ("address-city:missing", "false", True),
    ("phonetic", "carrie", True),
]


@pytest.mark.parametrize(("parameter", "asked", "found"), STRINGS)
def test_strings(parameter: str, asked: str, found: bool) -> None:
    assert holds(NAMED, parameter, asked) is found


CODED = made(
    "Observation",
    identifier=[
        {
            "system": "urn:a",
            "value": "2345",
            "type": {"coding": [{"system": "urn:t", "code": "MR"}], "text": "Record number"},
        },
        {"value": "alone"},
    ],
    status="final",
    code={
        "coding": [
            {"system": LOINC, "code": "8480-6", "display": "Systolic blood pressure"},
            {"system": SNOMED, "code": "271649006", "display": "Blutdruck"},
            {"code": "own"},
        ],
        "text": "Druck im Arm",
    },
    category=[concept("vital-signs", "urn:c"), concept("exam")],
    meta={"tag": [{"system": "urn:tag", "code": "needs-review"}], "security": [{"code": "R"}], "source": "urn:source"},
)
TOKENS: list[tuple[str, str, bool]] = [
    ("identifier", "urn:a|2345", True),
    ("identifier", "2345", True),
    ("identifier", "urn:b|2345", False),
    ("identifier", "|2345", False),
    ("identifier", "|alone", True),
    ("identifier", "urn:a|", True),
    ("identifier", "urn:b|", False),
    ("identifier", "urn:b|2345,alone", True),
    ("identifier:of-type", "urn:t|MR|2345", True),
    ("identifier:of-type", "urn:t|MR|alone", False),
    ("identifier:of-type", "urn:t|XX|2345", False),
    ("identifier:of-type", "urn:x|MR|2345", False),
    ("identifier:text", "record", True),
    ("code", "8480-6", True),
    ("code", f"{LOINC}|8480-6", True),
    ("code", f"{SNOMED}|8480-6", False),
    ("code", f"{SNOMED}|271649006", True),
    ("code", f"{LOINC}|", True),
    ("code", "|own", True),
    ("code", "|8480-6", False),
    ("code", "8480", False),
    ("code", f"{LOINC}|1,{SNOMED}|271649006", True),
    ("code:not", "8480-6", False),
    ("code:not", "other", True),
    ("code:not", "other,own", False),
    ("code:not", f"{LOINC}|271649006", True),
    ("value-concept:not", "x", True),
    ("code:text", "druck", True),
    ("code:text", "systolic", True),
    ("code:text", "headache", False),
    ("category", "exam", True),
    ("category", "urn:c|exam", False),
    ("status", "final", True),
    ("status", "FINAL", False),
    ("status", "preliminary,final", True),
    ("status:not", "final", False),
    ("status:not", "amended", True),
    ("value-concept:missing", "true", True),
    ("code:missing", "true", False),
    ("_tag", "urn:tag|needs-review", True),
    ("_tag", "urn:tag|other", False),
    ("_tag:not", "needs-review", False),
    ("_security", "|R", True),
    ("_source", "urn:source", True),
    ("_source", "urn:sourc", False),
    ("_id", "x", True),
    ("_id", "a,x", True),
    ("_id", "X", False),
]


@pytest.mark.parametrize(("parameter", "asked", "found"), TOKENS)
def test_tokens(parameter: str, asked: str, found: bool) -> None:
    assert holds(CODED, parameter, asked) is found


PLAIN: list[tuple[dict[str, Any], str, str, bool]] = [
    ({"gender": "male"}, "gender", "male", True),
    ({"gender": "male"}, "gender:not", "male", False),
    ({}, "gender:not", "male", True),
    ({}, "gender:missing", "true", True),
    ({"active": True}, "active", "true", True),
    ({"active": False}, "active", "true", False),
    ({}, "active", "false", False),
    ({}, "deceased", "false", True),
    ({"deceasedBoolean": False}, "deceased", "false", True),
    ({"deceasedBoolean": True}, "deceased", "true", True),
    ({"deceasedDateTime": "2020"}, "deceased", "true", True),
    ({"deceasedDateTime": "2020"}, "death-date", "2020", True),
    ({"telecom": [{"system": "phone", "value": "555"}]}, "phone", "555", True),
    ({"telecom": [{"system": "email", "value": "555"}]}, "phone", "555", False),
    ({"telecom": [{"system": "email", "value": "a@b"}]}, "telecom", "a@b", True),
    ({"_birthDate": {"extension": [{"url": "x", "valueCode": "unknown"}]}}, "birthdate:missing", "true", True),
    ({"name": [{"given": [None, "Jim"], "_given": [{"id": "1"}, None]}]}, "given", "jim", True),
]


@pytest.mark.parametrize(("elements", "parameter", "asked", "found"), PLAIN)
def test_plain_values(elements: dict[str, Any], parameter: str, asked: str, found: bool) -> None:
    assert holds(made("Patient", **elements), parameter, asked) is found


URIS: list[tuple[str, str, str, bool]] = [
    ("http://acme.org/fhir/ValueSet/123", "url", "http://acme.org/fhir/ValueSet/123", True),
    ("http://acme.org/fhir/ValueSet/123", "url", "http://acme.org/fhir/ValueSet/12", False),
    ("http://acme.org/fhir/ValueSet/123", "url", "http://acme.org/fhir/valueset/123", False),
    ("urn:oid:1.2.3.4.5", "url", "urn:oid:1.2.3.4.5", True),
    ("http://acme.org/fhir/ValueSet/123", "url:below", "http://acme.org/fhir/", True),
    ("http://acme.org/fhir/ValueSet/123", "url:below", "http://acme.org/fhir", True),
    ("http://acme.org/fhir", "url:below", "http://acme.org/fhir", True),
    ("http://acme.org/f", "url:below", "http://acme.org/fhir/", False),
    ("http://acme.org/fhir/ValueSet/123/_history/5", "url:above", "http://acme.org/fhir/ValueSet/123/_history/5", True),
    ("http://acme.org/fhir/ValueSet/123", "url:above", "http://acme.org/fhir/ValueSet/123/_history/5", True),
    ("http://acme.org/fhir", "url:above", "http://acme.org/fhir/ValueSet/123/_history/5", True),
    ("http://acme.org/", "url:above", "http://acme.org/fhir/ValueSet/123/_history/5", True),
    ("http://acme.org/fhir/ValueSet/1", "url:above", "http://acme.org/fhir/ValueSet/123/_history/5", False),
    ("http://acme.org/fhir/ValueSet/123/x", "url:above", "http://acme.org/fhir/ValueSet/123", False),
    ("http://a", "url:missing", "false", True),
]


@pytest.mark.parametrize(("url", "parameter", "asked", "found"), URIS)
def test_uris(url: str, parameter: str, asked: str, found: bool) -> None:
    assert holds(made("ValueSet", url=url), parameter, asked) is found


def test_below_may_end_at_a_segment() -> None:
    resource = made("ValueSet", url="http://acme.org/fhirs")
    assert holds(resource, "url:below", "http://acme.org/fhir")
    assert not holds(resource, "url:below", "http://acme.org/fhir", below_segments=True)


@pytest.mark.parametrize(("asked", "found"), [("http://p", True), ("http://p|2", True), ("http://p|1", False)])
def test_a_canonical_is_found_without_its_version(asked: str, found: bool) -> None:
    assert holds(made("Patient", meta={"profile": ["http://p|2"]}), "_profile", asked) is found


@pytest.mark.parametrize(
    ("asked", "start", "words", "within"),
    [("druck", True, True, True), ("im", False, True, True), ("rm", False, False, True), ("x", False, False, False)],
)
def test_text_is_read_in_three_ways(asked: str, start: bool, words: bool, within: bool) -> None:
    resource = made("Condition", code={"text": "Drück im Arm"})
    assert [holds(resource, "code:text", asked, text=way) for way in ("start", "words", "within")] == [
        start,
        words,
        within,
    ]


WRONG: list[tuple[str, str]] = [
    ("code:exact", "x"),
    ("code:contains", "x"),
    ("code:nonsense", "x"),
    ("code", ""),
    ("code", "|"),
    ("code", "a|b|c"),
    ("code", "a,,b"),
    ("identifier:of-type", "a|b"),
    ("identifier:of-type", "a||b"),
    ("code:missing", "maybe"),
    ("date:exact", "2020"),
    ("date:not", "2020"),
    ("value-string:text", "x"),
    ("value-string:not", "x"),
    ("value-quantity:exact", "5"),
    ("_lastUpdated:not", "2020"),
    ("nothing", "x"),
    ("code.text", "x"),
    ("combo-code-value-quantity:missing", "true"),
]


@pytest.mark.parametrize(("parameter", "asked"), WRONG)
def test_a_senseless_parameter_is_unreadable(parameter: str, asked: str) -> None:
    with pytest.raises(Unreadable):
        holds(CODED, parameter, asked)

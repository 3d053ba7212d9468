"""What each kind of search parameter finds: parameters against the index and content of one resource."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.core.criteria import AllOf, AnyOf, Criterion, Has, Not, Present, Span, Text
from tests.asked import asked, found, refusal

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"
GENDER = "http://hl7.org/fhir/administrative-gender"


def coded(*codes: str, system: str | None = LOINC, **more: Any) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code} if system else {"code": code} for code in codes], **more}


def only(type_: str, name: str, value: str) -> Criterion:
    """The one criterion that a parameter comes to."""
    search = asked(type_, (name, value))
    (one,) = [*map(Has, search.terms), *search.criteria]
    return one


ANN = {
    "resourceType": "Patient",
    "id": "ann",
    "active": True,
    "gender": "female",
    "birthDate": "1980-02-03",
    "name": [{"family": "Müller-Lüdenscheidt", "given": ["Ann", "Eve, Maria"]}],
    "telecom": [{"system": "phone", "value": "(03) 5555 6473"}],
    "identifier": [
        {"system": "urn:mrn", "value": "7|8"},
        {"value": "loose", "type": {"text": "Old number", "coding": [{"system": "v2", "code": "MR"}]}},
    ],
    "generalPractitioner": [{"reference": "Practitioner/9/_history/2", "display": "Dr. Adam Careful"}],
    "managingOrganization": {"identifier": {"system": "urn:org", "value": "1"}},
    "meta": {
        "tag": [{"system": "urn:t", "code": "blue"}],
        "security": [{"code": "R"}],
        "profile": ["http://x.org/StructureDefinition/p|1.2"],
        "source": "http://feed.org/a#1",
    },
}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        # strings, §3.1.1.4.9
        ("family", "muller", True),
        ("family", "LÜDEN", False),
        ("family:contains", "LÜDEN", True),
        ("name", "eve", True),
        ("given", r"eve\, m", True),
        ("given", "zed,ann", True),
        ("given:exact", "Ann", True),
        ("given:exact", "ann", False),
        ("given:exact", "An", False),
        ("given:exact", r"Eve\, Maria", True),
        ("given:missing", "false", True),
        ("address:missing", "true", True),
        ("address:missing", "false", False),
        # tokens, §3.1.1.4.10
        ("gender", "female", True),
        ("gender", "male", False),
        ("gender", "male,female", True),
        ("gender", f"{GENDER}|female", True),
        ("gender", "http://other|female", False),
        ("gender", "|female", False),
        ("gender", f"{GENDER}|", True),
        ("gender", "http://other|", False),
        ("gender:not", "male", True),
        ("gender:not", "male,female", False),
        ("gender:not", f"{GENDER}|", False),
        ("language:not", "de", True),
        ("active", "true", True),
        ("active", "false", False),
        ("deceased", "false", True),
        ("deceased", "true", False),
        ("phone", "(03) 5555 6473", True),
        ("identifier", r"urn:mrn|7\|8", True),
        ("identifier", r"7\|8", True),
        ("identifier", r"|7\|8", False),
        ("identifier", "|loose", True),
        ("identifier", "urn:mrn|", True),
        ("identifier", "urn:other|,|loose", True),
        ("identifier", "urn:other|", False),
        ("identifier:not", "urn:mrn|", False),
        ("identifier:not", "urn:other|", True),
        ("identifier:of-type", "v2|MR|loose", True),
        ("identifier:of-type", "v2|MR|other", False),
        ("identifier:text", "old", True),
        ("identifier:text", "numb", True),
        ("identifier:text", "umber", False),
        ("_tag", "urn:t|blue", True),
        ("_tag", "urn:t|red", False),
        ("_security", "|R", True),
        # uris, §3.1.1.4.11
        ("_profile", "http://x.org/StructureDefinition/p", True),
        ("_profile", r"http://x.org/StructureDefinition/p\|1.2", True),
        ("_profile", "http://x.org/StructureDefinition/p|1.3", False),
        ("_profile:below", "http://x.org", True),
        ("_profile:below", "http://x.org/Structure", False),
        ("_source", "http://feed.org/a#1", True),
        ("_source", "http://feed.org/A#1", False),
        # references, §3.1.1.4.12
        ("general-practitioner", "9", True),
        ("general-practitioner", "Practitioner/9", True),
        ("general-practitioner", "Practitioner/9/_history/3", True),
        ("general-practitioner", "Organization/9", False),
        ("general-practitioner:Practitioner", "9", True),
        ("general-practitioner:Organization", "9", False),
        ("general-practitioner:text", "care", True),
        ("general-practitioner:text", "dr. adam", True),
        ("general-practitioner:text", "dam", False),
        ("organization:identifier", "urn:org|1", True),
        ("organization:identifier", "1", True),
        ("organization:identifier", "urn:org|", True),
        ("organization:identifier", "urn:other|", False),
        ("organization", "1", False),
        # dates, §3.1.1.4.7
        ("birthdate", "1980", True),
        ("birthdate", "1980-02-04", False),
        ("birthdate", "ge1980-02-03", True),
        ("birthdate", "gt1980-02-03", False),
        ("birthdate", "lt1980,gt1990,1980-02", True),
        # of every resource
        ("_id", "ann", True),
        ("_id", "bob,ann", True),
        ("_id", "bob", False),
        ("_id", "bob smith,urn:x|ann", False),
        ("_id:not", "bob", True),
        ("_id:not", "bob,ann", False),
        ("_id:missing", "false", True),
        ("_id:missing", "true", False),
        ("_lastUpdated", "2026-01-01", True),
        ("_lastUpdated", "ne2026", False),
        ("_lastUpdated", "2025,2026", True),
        ("_lastUpdated:missing", "true", False),
    ],
)
def test_what_finds_a_patient(name: str, value: str, expected: bool) -> None:
    assert found(ANN, (name, value)) is expected


BLOOD_PRESSURE = {
    "resourceType": "Observation",
    "status": "final",
    "code": coded("85354-9", text="Blood pressure"),
    "effectiveDateTime": "2020-05-06T07:08:09Z",
    "component": [
        {"code": coded("8480-6"), "valueQuantity": {"value": 120, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"}},
        {"code": coded("8462-4"), "valueQuantity": {"value": 80, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"}},
    ],
}
GLUCOSE = {
    "resourceType": "Observation",
    "status": "final",
    "code": coded("15074-8"),
    "valueQuantity": {"value": 6.3, "unit": "mmol/l", "system": UCUM, "code": "mmol/L"},
}
MOOD = {
    "resourceType": "Observation",
    "code": coded("m", "n"),
    "valueString": "Quite Good",
    "category": [coded("pets", system="urn:zoo"), coded("poodle", system="urn:zoo")],
}


@pytest.mark.parametrize(
    ("resource", "name", "value", "expected"),
    [
        # quantities, §3.1.1.4.8
        (GLUCOSE, "value-quantity", "6.3", True),
        (GLUCOSE, "value-quantity", "6", True),
        (GLUCOSE, "value-quantity", "6.0", False),
        (GLUCOSE, "value-quantity", "gt6||mmol/l", True),
        (GLUCOSE, "value-quantity", "gt6||mmol/L", True),
        (GLUCOSE, "value-quantity", "gt6||mg", False),
        (GLUCOSE, "value-quantity", f"6.3|{UCUM}|mmol/L", True),
        (GLUCOSE, "value-quantity", f"6300|{UCUM}|umol/L", True),
        (GLUCOSE, "value-quantity", f"ap6000|{UCUM}|umol/L", True),
        (GLUCOSE, "value-quantity", f"lt0.0063|{UCUM}|mol/L", False),
        (GLUCOSE, "value-quantity", f"le0.0063|{UCUM}|mol/L", True),
        (GLUCOSE, "value-quantity", f"6.3|{UCUM}|mg/L", False),
        (GLUCOSE, "value-quantity", "6.3|urn:other|mmol/L", False),
        # composites, §3.1.1.4.15
        (BLOOD_PRESSURE, "component-code-value-quantity", f"{LOINC}|8480-6$gt100", True),
        (BLOOD_PRESSURE, "component-code-value-quantity", f"{LOINC}|8462-4$gt100", False),
        (BLOOD_PRESSURE, "component-code-value-quantity", "8480-6$120||mmHg", True),
        (BLOOD_PRESSURE, "component-code-value-quantity", "8480-6$120||kPa", False),
        (BLOOD_PRESSURE, "component-code-value-quantity", f"8480-6$120|{UCUM}|mm[Hg]", True),
        (BLOOD_PRESSURE, "combo-code-value-quantity", "8462-4$lt90,8462-4$gt200", True),
        (BLOOD_PRESSURE, "code-value-quantity", "85354-9$gt0", False),
        (MOOD, "code-value-string", "n$quite", True),
        (MOOD, "code-value-string", "x$quite", False),
        # terminology
        (MOOD, "category:in", "http://vs/pets", False),
        (MOOD, "category:not-in", "http://vs/pets", True),
        (MOOD, "category:not-in", "http://vs/none", True),
        (MOOD, "category:in", "http://vs/none", False),
        (MOOD, "category:below", "urn:zoo|dog", True),
        (MOOD, "category:above", "urn:zoo|dog", False),
        (MOOD, "category:above", "urn:zoo|poodle", True),
        # text
        (BLOOD_PRESSURE, "code:text", "press", True),
        (BLOOD_PRESSURE, "code:text", "ressure", False),
        (BLOOD_PRESSURE, "code:text", "x,blood PR", True),
        (BLOOD_PRESSURE, "code", f"{LOINC}|", True),
        (BLOOD_PRESSURE, "category:missing", "true", True),
    ],
)
def test_what_finds_an_observation(resource: dict[str, Any], name: str, value: str, expected: bool) -> None:
    assert found(resource, (name, value)) is expected


VALUE_SET = {"resourceType": "ValueSet", "url": "http://acme.org/fhir/ValueSet/123"}


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("url", "http://acme.org/fhir/ValueSet/123", True),
        ("url", "http://acme.org/fhir/ValueSet/1", False),
        ("url:below", "http://acme.org/fhir/", True),
        ("url:below", "http://acme.org/fhir", True),
        ("url:below", "http://acme.org/fhir/ValueSet/123", True),
        ("url:below", "http://acme.org/fhir/ValueSet/12", False),
        ("url:above", "http://acme.org/fhir/ValueSet/123/_history/5", True),
        ("url:above", "http://acme.org/fhir/ValueSet/1234", False),
        ("url:above", "http://acme.org/fhir/ValueSet/123", True),
    ],
)
def test_uris_are_exact_or_go_by_path_segments(name: str, value: str, expected: bool) -> None:
    assert found(VALUE_SET, (name, value)) is expected


@pytest.mark.parametrize("modifier", ["above", "below"])
def test_a_urn_has_nothing_above_or_below_it(modifier: str) -> None:
    value_set = {"resourceType": "ValueSet", "url": "urn:oid:1.2.3"}
    assert found(value_set, (f"url:{modifier}", "urn:oid:1.2.3"))
    assert not found(value_set, (f"url:{modifier}", "urn:oid:1.2"))
    assert not found(value_set, (f"url:{modifier}", "urn:oid:1.2.3.4"))


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("instantiates-canonical", "http://x.org/Plan", True),
        ("instantiates-canonical", r"http://x.org/Plan\|1.2", True),
        ("instantiates-canonical", "http://x.org/Plan|1.2", True),
        ("instantiates-canonical", "http://x.org/Plan|1", False),
        ("instantiates-canonical:below", "http://x.org/Plan|1", True),
        ("instantiates-canonical:below", "http://x.org/Plan|2", False),
    ],
)
def test_canonical_references_go_by_version(name: str, value: str, expected: bool) -> None:
    assert (
        found({"resourceType": "CarePlan", "instantiatesCanonical": ["http://x.org/Plan|1.2"]}, (name, value))
        is expected
    )


INF = float("inf")
OF_PRACTICE = ("Organization", "Practitioner", "PractitionerRole")
WHERE = "MolecularSequence|chromosome-variant-coordinate=1"
HALF = (0.45, 0.5499999999999999)


@pytest.mark.parametrize(
    ("name", "value", "criterion"),
    [
        ("Patient|name", "Éve", Text("Patient|name", "eve")),
        ("Patient|name:contains", "Éve", Text("Patient|name", "eve", "contains")),
        ("Patient|name:exact", "Éve", Has(("Patient|name:exact=Éve",))),
        ("Patient|name:missing", "true", Not(Present("name"))),
        ("Patient|name", "a,b", AnyOf((Text("Patient|name", "a"), Text("Patient|name", "b")))),
        ("Patient|organization", "1", Has(("Patient|organization=Organization/1",))),
        ("Observation|patient", "1", Has(("Observation|patient=Patient/1",))),
        (
            "Patient|general-practitioner",
            "1",
            Has(tuple(f"Patient|general-practitioner={type_}/1" for type_ in OF_PRACTICE)),
        ),
        ("Patient|organization", "urn:uuid:1", Has(("Patient|organization=urn:uuid:1",))),
        ("Patient|organization", "http://o.org/x/1", Has(("Patient|organization=http://o.org/x/1",))),
        ("Observation|code", "|x", Has(("Observation|code=|x",))),
        ("Observation|code", "x,s|x", Has(("Observation|code=x", "Observation|code=s|x"))),
        ("Observation|code", "s|", Present("code")),
        (
            "Observation|category:in",
            "http://vs/pets",
            Has(("Observation|category=urn:zoo|dog", "Observation|category=cat")),
        ),
        (
            "Observation|value-quantity",
            "gt5|urn:s|u",
            Span("Observation|value-quantity=urn:s|u", high=(5.000000000000001, INF)),
        ),
        ("Observation|code-value-concept", "a$s|b", Has(("Observation|code-value-concept=a$s|b",))),
        (
            "DocumentReference|relationship",
            "replaces$1",
            Has(("DocumentReference|relationship=replaces$DocumentReference/1",)),
        ),
        ("Group|characteristic-value", "a$true", Has(("Group|characteristic-value=a$true",))),
        (
            "MolecularSequence|chromosome-variant-coordinate",
            "1$ge5$le9",
            AllOf((Span(f"{WHERE}#2", high=(5.0, INF)), Span(f"{WHERE}#3", low=(-INF, 9.0)))),
        ),
        ("RiskAssessment|probability", "0.5", Span("RiskAssessment|probability", low=HALF, high=HALF)),
    ],
)
def test_the_criterion_that_a_parameter_comes_to(name: str, value: str, criterion: Criterion) -> None:
    assert only(*name.split("|"), value) == criterion


def test_an_id_may_be_of_any_type_where_anything_can_be_referred_to() -> None:
    one = only("Provenance", "target", "1")
    assert isinstance(one, Has)
    assert len(one.terms) == 146


@pytest.mark.parametrize(
    ("type_", "name", "value"),
    [
        ("Patient", "name:below", "x"),
        ("Patient", "name:text", "x"),
        ("Patient", "birthdate:exact", "2020"),
        ("Patient", "birthdate:nonsense", "2020"),
        ("Patient", "birthdate:", "2020"),
        ("Patient", "name:EXACT", "x"),
        ("Patient", "gender:contains", "x"),
        ("Patient", "general-practitioner:Patient", "1"),
        ("Patient", "general-practitioner:Organization", "Practitioner/1"),
        ("Patient", "general-practitioner:Nothing", "1"),
        ("Patient", "general-practitioner:below", "1"),
        ("Patient", "general-practitioner:above", "1"),
        ("Observation", "code-value-quantity:missing", "true"),
        ("Patient", "name", ""),
        ("Patient", "name", " "),
        ("Patient", "name", "a,,b"),
        ("Patient", "name", "a,"),
        ("Patient", "name", "\u0301"),
        ("Patient", "name:missing", "yes"),
        ("Patient", "name:missing", "true,false"),
        ("Patient", "birthdate", "yesterday"),
        ("Patient", "birthdate", "xx2020"),
        ("Patient", "birthdate", "2020-02-31"),
        ("Patient", "active", "yes"),
        ("Patient", "active", "urn:x|true"),
        ("Patient", "phone", "phone|555"),
        ("Patient", "identifier", "|"),
        ("Patient", "identifier", "a|b|c"),
        ("Patient", "identifier:of-type", "a|b"),
        ("Patient", "identifier:of-type", "a||c"),
        ("Patient", "gender:of-type", "a|b|c"),
        ("Patient", "gender:text", "\u0301"),
        ("Patient", "gender:in", "http://vs/unknown"),
        ("Observation", "category:below", "dog"),
        ("Observation", "category:below", "urn:zoo|"),
        ("Observation", "category:above", "urn:zoo|unicorn"),
        ("Patient", "organization", "Nothing/1"),
        ("Patient", "organization", "Organization/a b"),
        ("Patient", "organization", "#inner"),
        ("Observation", "value-quantity", "5|s"),
        ("Observation", "value-quantity", "5|s|"),
        ("Observation", "value-quantity", "5||"),
        ("Observation", "value-quantity", "five"),
        ("Observation", "code-value-quantity", "a"),
        ("Observation", "code-value-quantity", "a$5$6"),
        ("Observation", "code-value-quantity", "a$"),
        ("Observation", "code-value-quantity", "s|$5"),
        ("Observation", "code-value-quantity", "a$x"),
        ("Observation", "code-value-string", "a$\u0301"),
        ("Observation", "code-value-date", "a$x"),
        ("RiskAssessment", "probability", "0.5.5"),
        ("Patient", "_id:exact", "a"),
        ("Patient", "_id", "a|b|c"),
        ("Patient", "_id", "|"),
        ("Patient", "_lastUpdated", "now"),
        ("Patient", "_lastUpdated:exact", "2020"),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(type_: str, name: str, value: str) -> None:
    fault = refusal(type_, (name, value))
    assert fault.issues[0].expression == name
    assert fault.message.startswith(name)


@pytest.mark.parametrize(
    ("name", "value"), [("birthdate", "19800203x"), ("identifier", "1|2|34567"), ("active", "Ann")]
)
def test_a_refusal_does_not_repeat_the_value(name: str, value: str) -> None:
    assert value not in refusal("Patient", (name, value)).message

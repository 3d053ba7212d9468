"""What no entry of the index answers, judged by content."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.core.definitions import parse_path
from fhirserver.core.search.content import select
from fhirserver.core.search.near import Place
from fhirserver.core.search.residuals import Residual, Token, meets
from tests.asked import asked, found


def observation(**elements: Any) -> dict[str, Any]:
    return {"resourceType": "Observation", "id": "o", **elements}


HEADACHE = observation(
    code={
        "text": "Chronic Headache, nächtlich",
        "coding": [{"system": "s", "code": "h", "display": "Cephalgia (tension-type)"}],
    },
    subject={"reference": "Patient/1", "display": "Müller, Ann"},
)


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        (("headache",), True),
        (("chronic head",), True),
        (("type",), True),
        (("nachtlich",), True),
        (("ache",), False),
        (("ache", "ceph"), True),
        (("(tension",), True),
        (("c.ronic",), False),
    ],
)
def test_text_begins_a_word_of_what_is_shown(texts: tuple[str, ...], expected: bool) -> None:
    assert meets(Residual("text", "code", texts=texts), HEADACHE) is expected


@pytest.mark.parametrize(("code", "expected"), [("subject", True), ("patient", True), ("encounter", False)])
def test_text_of_a_reference_is_its_display(code: str, expected: bool) -> None:
    assert meets(Residual("text", code, texts=("ann",)), HEADACHE) is expected


def test_a_path_to_patients_does_not_lead_to_others() -> None:
    other = observation(subject={"reference": "Device/1", "display": "Ann"})
    assert meets(Residual("text", "subject", texts=("ann",)), other)
    assert not meets(Residual("text", "patient", texts=("ann",)), other)
    by_type = observation(subject={"type": "Patient", "display": "Ann"})
    assert meets(Residual("text", "patient", texts=("ann",)), by_type)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ([("s", None)], True),
        ([("", None)], False),
        ([("t", None)], False),
        ([("t", None), (None, "h")], True),
        ([("t", None), ("s", "h")], True),
        ([("t", None), ("", "h")], False),
    ],
)
def test_a_system_alone_finds_any_of_its_codes(tokens: list[tuple[str | None, str | None]], expected: bool) -> None:
    residual = Residual("system", "code", tokens=tuple(Token(*each) for each in tokens))
    assert meets(residual, HEADACHE) is expected
    negated = Residual("system", "code", tokens=residual.tokens, negated=True)
    assert meets(negated, HEADACHE) is not expected


def test_a_coding_without_a_code_is_of_its_system() -> None:
    assert meets(
        Residual("system", "code", tokens=(Token("s", None),)), observation(code={"coding": [{"system": "s"}]})
    )


def test_a_system_of_a_reference_is_that_of_its_identifier() -> None:
    residual = Residual("system", "subject", tokens=(Token("urn:mrn", None),), identifier=True)
    assert meets(residual, observation(subject={"identifier": {"system": "urn:mrn", "value": "1"}}))
    assert not meets(residual, observation(subject={"identifier": {"system": "urn:other", "value": "1"}}))
    assert not meets(residual, observation(subject={"reference": "Patient/1"}))


def test_nothing_is_met_where_there_is_nothing_and_a_negation_is() -> None:
    residual = Residual("system", "code", tokens=(Token("s", None),))
    for resource in ({}, {"resourceType": "Nothing"}, {"resourceType": "Observation"}, observation(code="odd")):
        assert not meets(residual, resource)
        assert meets(Residual("system", "code", tokens=residual.tokens, negated=True), resource)


@pytest.mark.parametrize("position", [None, {}, {"latitude": 1}, {"latitude": "x", "longitude": 2}, [], "there"])
def test_what_has_no_position_is_not_near(position: Any) -> None:
    residual = Residual("near", "near", places=(Place(1, 2, 20_000),))
    assert not meets(residual, {"resourceType": "Location", "position": position})


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("item*.text:string", ["a", "b", "c"]),
        ("item[linkId=1].text:string", ["a"]),
        ("item[1].text:string", ["c"]),
        ("item.item.text:string", ["b"]),
        ("item.nothing.text:string", []),
        ("title:string", ["t"]),
        ("title.text:string", []),
    ],
)
def test_compiled_paths_are_followed(path: str, expected: list[str]) -> None:
    questionnaire = {
        "title": "t",
        "item": [{"linkId": "1", "text": "a", "item": [{"linkId": "1.1", "text": "b"}]}, {"linkId": "2", "text": "c"}],
    }
    assert sorted(select(questionnaire, parse_path(path).steps)) == expected


@pytest.mark.parametrize(
    ("type_", "name", "value", "narrowed"),
    [
        ("Condition", "code", "urn:s|", True),
        ("Condition", "code:text", "x", True),
        ("Condition", "code:not", "urn:s|", False),
        ("Location", "near", "1|2", True),
        ("Condition", "subject:identifier", "urn:s|", True),
    ],
)
def test_the_index_narrows_what_the_content_decides(type_: str, name: str, value: str, narrowed: bool) -> None:
    search = asked(type_, (name, value))
    assert len(search.residuals) == 1
    assert bool(search.criteria) is narrowed


@pytest.mark.parametrize(
    ("type_", "name", "value"),
    [("Condition", "code", "urn:s|a"), ("Patient", "gender", "urn:s|"), ("Patient", "gender:not", "urn:s|")],
)
def test_what_the_index_decides_needs_no_content(type_: str, name: str, value: str) -> None:
    assert asked(type_, (name, value)).residuals == ()


# --- composites


def component(code: str, value: Any, unit: str = "", *, ucum: bool = False) -> dict[str, Any]:
    quantity = {"value": value, **({"unit": unit} if unit else {})}
    if ucum:
        quantity |= {"system": UCUM, "code": unit}
    return {"code": {"coding": [{"system": "s", "code": code}]}, "valueQuantity": quantity}


UCUM = "http://unitsofmeasure.org"
MIXED = observation(component=[component("a", 5, "mg"), component("b", 5, "g"), component("c", 5000, "mg", ucum=True)])


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("a$5||mg", True),
        ("a$5||g", False),
        ("b$5||g", True),
        ("b$5||g,a$5||g", True),
        ("a$5||g,b$5||mg", False),
        ("t|a$5||mg", False),
        ("s|a$5||mg", True),
        ("a$ne6||mg", True),
        ("a$gt5||mg", False),
        (f"c$5000|{UCUM}|mg", True),
        (f"c$5.0|{UCUM}|g", True),
        (f"c$6.0|{UCUM}|g", False),
        (f"c$5.0|{UCUM}|mg", False),
        (f"a$5|{UCUM}|mg", False),
        ("c$5000||mg", True),
    ],
)
def test_the_unit_of_a_composite_is_that_of_its_own_number(value: str, expected: bool) -> None:
    for code in ("component-code-value-quantity", "combo-code-value-quantity"):
        assert found(MIXED, (code, value)) is expected


@pytest.mark.parametrize(("value", "expected"), [("a$5||g", True), (f"a$5000|{UCUM}|mg", True), ("a$5||mg", False)])
def test_where_the_resource_is_the_only_node_the_index_decides_the_unit_too(value: str, expected: bool) -> None:
    resource = observation(**component("a", 5, "g", ucum=True))
    assert found(resource, ("code-value-quantity", value)) is expected
    assert asked("Observation", ("code-value-quantity", value)).residuals == ()
    assert found(resource, ("combo-code-value-quantity", value)) is expected
    assert len(asked("Observation", ("combo-code-value-quantity", value)).residuals) == 1


@pytest.mark.parametrize(
    ("value", "expected"),
    [("1$5$9", True), ("1$50$90", True), ("1$5$90", False), ("1$50$9", False), ("1$lt10$gt80,1$gt40$gt80", True)],
)
def test_the_two_numbers_of_a_variant_are_its_own(value: str, expected: bool) -> None:
    sequence = {
        "resourceType": "MolecularSequence",
        "referenceSeq": {"chromosome": {"coding": [{"code": "1"}]}},
        "variant": [{"start": 5, "end": 9}, {"start": 50, "end": 90}],
    }
    assert found(sequence, ("chromosome-variant-coordinate", value)) is expected


def test_a_code_with_the_separator_is_not_two_codes() -> None:
    def coded(*codes: str) -> dict[str, Any]:
        code, value = ({"coding": [{"code": each}]} for each in codes)
        return observation(code=code, valueCodeableConcept=value)

    assert found(coded("a$b", "c"), ("code-value-concept", r"a\$b$c"))
    assert not found(coded("a", "b$c"), ("code-value-concept", r"a\$b$c"))
    assert not found(coded("a$b", "c"), ("code-value-concept", r"a$b\$c"))
    assert asked("Observation", ("code-value-concept", "a$c")).residuals == ()


def test_the_unit_counts_in_whichever_type_is_searched() -> None:
    def in_context(type_: str, unit: str) -> dict[str, Any]:
        contexts = [
            {"code": {"code": "age"}, "valueRange": {"low": {"value": 5, "unit": "a"}, "high": {"value": 5}}},
            {"code": {"code": "other"}, "valueQuantity": {"value": 5, "unit": unit}},
        ]
        return {"resourceType": type_, "useContext": contexts}

    search = asked(("ValueSet", "Library"), ("context-type-quantity", "age$5||mo"))
    (residual,) = search.residuals
    for type_ in ("ValueSet", "Library"):
        assert not meets(residual, in_context(type_, "mo"))
        assert found(in_context(type_, "mo"), ("context-type-quantity", "age$5||a"))
    assert not meets(residual, {"resourceType": "Patient"})

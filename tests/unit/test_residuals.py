"""What no entry of the index answers, judged by content."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.core.definitions import parse_path
from fhirserver.core.search.near import Place
from fhirserver.core.search.residuals import Residual, Token, _select, meets
from tests.asked import asked


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
    ("path", "found"),
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
def test_compiled_paths_are_followed(path: str, found: list[str]) -> None:
    questionnaire = {
        "title": "t",
        "item": [{"linkId": "1", "text": "a", "item": [{"linkId": "1.1", "text": "b"}]}, {"linkId": "2", "text": "c"}],
    }
    assert sorted(_select(questionnaire, parse_path(path).steps)) == found


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

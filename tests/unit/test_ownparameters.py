"""SearchParameter resources of users: compiled like the published ones, or left out with a sentence."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from fhirserver.core import definitions
from fhirserver.core.definitions import Edition, put_in_force, search_parameters
from fhirserver.core.expression import compile_contexts, compile_paths
from fhirserver.core.ownparameters import Refused, extended, fields
from fhirserver.core.plan import HELD_ELSEWHERE
from tests.indexed import of, terms

EYES = "http://example.org/eye-colour"


def parameter(**changes: Any) -> dict[str, Any]:
    """A definition that is taken as it stands."""
    return {
        "resourceType": "SearchParameter",
        "id": "eye-colour",
        "url": "http://example.org/SearchParameter/eye-colour",
        "status": "active",
        "code": "eye-colour",
        "base": ["Patient"],
        "type": "token",
        "expression": f"Patient.extension.where(url = '{EYES}').value.as(CodeableConcept)",
        **changes,
    }


@pytest.fixture
def in_force() -> Iterator[Any]:
    """Puts what the given resources define in force, for one test."""
    before = definitions.edition()
    yield lambda *resources: put_in_force(extended(resources).edition)
    put_in_force(before)


def reason(**changes: Any) -> str:
    """Why this one is left out."""
    made = extended([parameter(**changes)])
    assert made.edition.added == ()
    (refused,) = made.refused
    return refused.reason


# --- the compiler, at run time


def test_at_run_time_every_published_expression_compiles_to_what_the_tables_hold() -> None:
    compared = 0
    for each in definitions.published():
        if each.code in HELD_ELSEWHERE:
            continue  # the tables call the element Resource.id a string, the structure tables an id; nothing reads it
        for base, paths in each.paths.items():
            assert compile_paths(each.expression, base, fields()) == paths, each.url
            compared += 1
        for base, contexts in each.contexts.items():
            parts = [component.expression for component in each.components]
            assert compile_contexts(each.expression, parts, base, fields()) == tuple(
                (context.at, context.parts) for context in contexts
            ), each.url
            compared += 1
    assert compared > 1375


# --- what is taken


def test_a_definition_in_force_is_a_parameter_and_is_indexed(in_force: Any) -> None:
    resource = {"extension": [{"url": EYES, "valueCodeableConcept": {"coding": [{"system": "s", "code": "green"}]}}]}
    before = of("Patient", **resource)
    assert "eye-colour" not in search_parameters("Patient")
    in_force(parameter())
    index = of("Patient", **resource)
    assert terms(index, "Patient|eye-colour") == {"=green", "=s|green"}
    assert "eye-colour" in index.present
    assert search_parameters("Patient")["eye-colour"].url == "http://example.org/SearchParameter/eye-colour"
    in_force()
    assert of("Patient", **resource) == before


def test_one_for_every_type_is_known_on_every_type(in_force: Any) -> None:
    in_force(
        parameter(base=["DomainResource"], expression=f"DomainResource.extension('{EYES}').value.ofType(code)"),
        parameter(url="urn:language", base=["Resource"], code="in-language", expression="Resource.language"),
    )
    eyes = [{"url": EYES, "valueCode": "green"}]
    assert terms(of("Observation", extension=eyes), "Observation|eye-colour") == {"=green"}
    assert terms(of("Observation", language="de"), "Observation|in-language") == {"=de"}
    assert terms(of("Binary", language="de"), "Binary|in-language") == {"=de"}
    assert "eye-colour" not in search_parameters("Binary")


@pytest.mark.parametrize(
    ("changes", "resource", "expected"),
    [
        (
            {"type": "reference", "target": ["Practitioner"], "expression": "Patient.link.other"},
            {"link": [{"other": {"reference": "Patient/1"}}]},
            {"=Patient/1"},
        ),
        (
            {"type": "reference", "expression": "Patient.link.other.where(resolve() is RelatedPerson)"},
            {"link": [{"other": {"reference": "Patient/1"}}, {"other": {"reference": "RelatedPerson/2"}}]},
            {"=RelatedPerson/2"},
        ),
        (
            {"type": "uri", "expression": "Patient.implicitRules"},
            {"implicitRules": "http://rules"},
            {"=http://rules"},
        ),
        (
            {"expression": "Patient.contact.relationship | Patient.contact.gender"},
            {"contact": [{"gender": "male", "relationship": [{"coding": [{"code": "N"}]}]}]},
            {"=|N", "=N", "=male"},
        ),
        (
            {"expression": "Patient.photo.exists() and Patient.photo != false", "type": "token"},
            {},
            None,
        ),
    ],
)
def test_what_kinds_of_expressions_are_taken(
    changes: dict[str, Any], resource: dict[str, Any], expected: set[str] | None, in_force: Any
) -> None:
    if expected is None:
        assert "finds nothing in Attachment" in reason(**changes)
        return
    in_force(parameter(**changes))
    assert terms(of("Patient", **resource), "Patient|eye-colour") == expected


def test_a_composite_of_a_published_and_an_own_parameter(in_force: Any) -> None:
    components = [
        {"definition": "http://example.org/SearchParameter/relation|1", "expression": "relationship"},
        {"definition": "http://hl7.org/fhir/SearchParameter/individual-gender", "expression": "gender"},
    ]
    both = parameter(code="kin", type="composite", expression="Patient.contact", component=components)
    own = parameter(
        url="http://example.org/SearchParameter/relation", code="relation", expression="Patient.contact.relationship"
    )
    in_force(both, own)
    kin = [{"gender": "male", "relationship": [{"coding": [{"code": "N"}]}]}, {"gender": "female"}]
    assert terms(of("Patient", contact=kin), "Patient|kin") == {"=N$male", "=|N$male"}


# --- what is left out


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"url": ""}, "It has no url."),
        ({"url": 5}, "It has no url."),
        ({"status": "draft"}, "Its status is draft; only an active one is used."),
        ({"status": None}, "Its status is not given; only an active one is used."),
        ({"code": "eye.colour"}, "Its code 'eye.colour' cannot be the name of a parameter here."),
        ({"code": "_count"}, "Its code '_count' cannot be the name of a parameter here."),
        ({"code": ""}, "Its code '' cannot be the name of a parameter here."),
        ({"type": "special"}, "A parameter of the type 'special' cannot be defined here."),
        ({"expression": ""}, "Its expression is missing or longer than 2000 characters."),
        ({"expression": "Patient.name" * 500}, "Its expression is missing or longer than 2000 characters."),
        ({"base": []}, "It has no base type."),
        ({"base": ["Cat"]}, "Its base Cat is no resource type of R4."),
        (
            {"code": "gender"},
            "Patient has a parameter with the code gender already: "
            "http://hl7.org/fhir/SearchParameter/individual-gender.",
        ),
        (
            {"code": "race"},
            "Patient has a parameter with the code race already: "
            "http://hl7.org/fhir/us/core/SearchParameter/us-core-race.",
        ),
        (
            {"base": ["Resource"], "code": "vaccine-code"},
            "Immunization has a parameter with the code vaccine-code already: "
            "http://hl7.org/fhir/SearchParameter/Immunization-vaccine-code.",
        ),
        ({"type": "reference", "target": ["Cat"]}, "Its target Cat is no resource type of R4."),
        ({"type": "composite"}, "A composite needs two components."),
        (
            {"type": "composite", "component": [{"definition": "urn:x", "expression": "a"}]},
            "Its component urn:x is no known simple parameter.",
        ),
        (
            {"type": "composite", "component": ["odd"]},
            "Its component without a definition is no known simple parameter.",
        ),
    ],
)
def test_what_cannot_be_answered_is_left_out_with_a_sentence(changes: dict[str, Any], sentence: str) -> None:
    assert reason(**changes) == sentence


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"expression": "Patient.name.first()"}, "not understood"),
        ({"expression": "Patient.nothing"}, "not understood"),
        ({"expression": "Observation.code"}, "selects nothing in Patient"),
        ({"expression": "Patient"}, "is a resource"),
        ({"expression": "Patient.gender", "type": "date"}, "a date parameter finds nothing in code"),
        ({"expression": "Patient.birthDate.extension.value"}, "not understood"),
        ({"expression": "Patient.extension('http://a]b').value"}, "not understood"),
        ({"expression": "(" * 900 + "Patient.name" + ")" * 900}, "not understood"),
        ({"expression": "Patient.extension" + ".value.extension" * 100}, "not understood"),
        ({"expression": "Patient.name["}, "not understood"),
        ({"expression": "Patient.extension("}, "not understood"),
        (
            {
                "type": "composite",
                "expression": "Patient",
                "component": [
                    {"definition": f"http://hl7.org/fhir/SearchParameter/{name}", "expression": expression}
                    for name, expression in (
                        ("individual-gender", "gender"),
                        ("individual-phone", "telecom.where(system = 'phone')"),
                    )
                ],
            },
            "a component that is filtered",
        ),
    ],
)
def test_an_expression_that_cannot_be_indexed_is_left_out(changes: dict[str, Any], why: str) -> None:
    assert why in reason(**changes)
    assert reason(**changes).startswith("Its expression is outside what this server can index: ")


def test_the_others_stay_when_one_is_left_out() -> None:
    made = extended([parameter(code="gender", url="urn:a"), parameter()])
    assert [each.code for each in made.edition.added] == ["eye-colour"]
    assert [each.url for each in made.refused] == ["urn:a"]


def test_of_two_with_one_code_the_first_url_stays_whatever_the_order() -> None:
    one, two = parameter(url="urn:1"), parameter(url="urn:2")
    for resources in ([one, two], [two, one]):
        made = extended(resources)
        assert [each.url for each in made.edition.added] == ["urn:1"]
        assert made.refused == (Refused("urn:2", "Patient has a parameter with the code eye-colour already: urn:1."),)


def test_what_is_known_already_is_left_out_in_silence() -> None:
    official = parameter(url="http://hl7.org/fhir/SearchParameter/individual-gender", code="gender")
    derived = parameter(
        url="http://example.org/gender",
        code="gender",
        derivedFrom="http://hl7.org/fhir/SearchParameter/individual-gender",
    )
    made = extended([official, derived, parameter(), parameter()])
    assert made.refused == ()
    assert [each.code for each in made.edition.added] == ["eye-colour"]


def test_what_is_no_definition_at_all_is_no_error() -> None:
    assert extended([{}, {"url": "urn:x", "base": 5, "code": []}]).edition.added == ()


def test_an_own_parameter_cannot_pose_as_the_care_date(in_force: Any) -> None:
    in_force(parameter(id="clinical-date", code="sent", base=["Communication"], type="date",
                       expression="Communication.sent"))  # fmt: skip
    index = of("Communication", sent="2024")
    assert any(name == "Communication|sent" for name, _, _ in index.spans)
    assert index.care is None


# --- the fingerprint


def test_the_fingerprint_tells_another_set_of_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    of_edition = definitions.fingerprint_of
    plain = of_edition(Edition())
    assert plain == of_edition(Edition()) == definitions.fingerprint()
    one, other = parameter(), parameter(url="urn:other", code="other")
    assert of_edition(extended([one]).edition) not in (plain, of_edition(extended([other]).edition))
    assert of_edition(extended([one, other]).edition) == of_edition(extended([other, one]).edition)
    monkeypatch.setattr(definitions, "INDEX_VERSION", definitions.INDEX_VERSION + 1)
    assert of_edition(Edition()) != plain

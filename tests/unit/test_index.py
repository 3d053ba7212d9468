"""The search entries of a resource, in the forms that `core.entries` documents."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from fhirserver.core.composites import KEY_LIMIT
from fhirserver.core.index import extract
from fhirserver.core.model import MAX_TIME, MIN_TIME, Index
from fhirserver.core.values import MAX_NUMBER, MIN_NUMBER, TEXT_LIMIT, exact, local, normalise, unpunctuated
from tests.indexed import of, terms

LOINC = "http://loinc.org"
UCUM = "http://unitsofmeasure.org"


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def spans(index: Index, name: str) -> set[tuple[str, float, float]]:
    return {(span[0].removeprefix(name), span[1], span[2]) for span in index.spans if span[0].startswith(name)}


def texts(index: Index, name: str) -> list[str]:
    return [text for known, text in index.texts if known == name]


def coded(*codes: str, system: str | None = LOINC) -> dict[str, Any]:
    return {"coding": [{"system": system, "code": code} if system else {"code": code} for code in codes]}


# --- tokens


def test_a_coding_stands_with_its_system_and_alone() -> None:
    assert terms(of("Observation", code=coded("8480-6")), "Observation|code") == {f"={LOINC}|8480-6", "=8480-6"}


def test_a_coding_without_system_says_so() -> None:
    assert terms(of("Observation", code=coded("x", system=None)), "Observation|code") == {"=|x", "=x"}


def test_every_coding_of_a_concept_counts() -> None:
    assert {"=a", "=b"} <= terms(of("Observation", code=coded("a", "b")), "Observation|code")


@pytest.mark.parametrize(
    ("resource", "name", "values"),
    [
        ({"resourceType": "Patient", "gender": "female"}, "Patient|gender", {"=female"}),
        ({"resourceType": "Patient", "active": False}, "Patient|active", {"=false"}),
        ({"resourceType": "ValueSet", "version": "1.0"}, "ValueSet|version", {"=1.0"}),
        ({"resourceType": "Patient", "telecom": [{"system": "phone", "value": "555"}]}, "Patient|telecom", {"=555"}),
        (
            {"resourceType": "Patient", "identifier": [{"system": "urn:mrn", "value": "7"}]},
            "Patient|identifier",
            {"=urn:mrn|7", "=7"},
        ),
        ({"resourceType": "Patient", "identifier": [{"value": "7"}]}, "Patient|identifier", {"=|7", "=7"}),
        (
            {"resourceType": "Patient", "identifier": [{"type": coded("MR", system="v2"), "value": "7"}]},
            "Patient|identifier",
            {"=|7", "=7", ":of-type=v2|MR|7"},
        ),
    ],
)
def test_the_forms_of_other_tokens(resource: dict[str, Any], name: str, values: set[str]) -> None:
    assert terms(extract(resource), name) == values


def test_a_filtered_path_takes_only_what_passes() -> None:
    index = of(
        "Patient", telecom=[{"system": "phone", "value": "1"}, {"system": "email", "value": "a@b"}, {"value": "2"}]
    )
    assert terms(index, "Patient|phone") == {"=1"}
    assert terms(index, "Patient|email") == {"=a@b"}
    assert terms(index, "Patient|telecom") == {"=1", "=a@b", "=2"}


@pytest.mark.parametrize(
    ("elements", "value"),
    [
        ({}, "=false"),
        ({"deceasedBoolean": False}, "=false"),
        ({"deceasedBoolean": True}, "=true"),
        ({"deceasedDateTime": "2020"}, "=true"),
    ],
)
def test_a_patient_is_deceased_or_not_never_neither(elements: dict[str, Any], value: str) -> None:
    assert terms(of("Patient", **elements), "Patient|deceased") == {value}


def test_common_parameters_are_indexed_under_the_type() -> None:
    index = of(
        "Basic",
        meta={
            "profile": ["http://p|2"],
            "tag": [{"system": "t", "code": "x"}],
            "security": [{"system": "s", "code": "R"}],
            "source": "urn:source",
        },
    )
    assert terms(index, "Basic|_profile") == {"=http://p|2", "=http://p"}
    assert terms(index, "Basic|_tag") == {"=t|x", "=x"}
    assert terms(index, "Basic|_security") == {"=s|R", "=R"}
    assert terms(index, "Basic|_source") == {"=urn:source"}
    assert not terms(index, "Basic|_id")


# --- references


@pytest.mark.parametrize(
    ("reference", "values"),
    [
        ({"reference": "Patient/1"}, {"=Patient/1"}),
        ({"reference": "Patient/1/_history/3"}, {"=Patient/1"}),
        ({"reference": "http://far.example/fhir/Patient/1"}, {"=http://far.example/fhir/Patient/1"}),
        (
            {"reference": "urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"},
            {"=urn:uuid:0c3151bd-1cbf-4d64-b04d-cd9187a4c6e0"},
        ),
        ({"reference": "#contained"}, set()),
        ({"reference": "Patient?identifier=7"}, set()),
        ({"identifier": {"system": "urn:mrn", "value": "7"}}, {":identifier=urn:mrn|7", ":identifier=7"}),
        ({"display": "somebody"}, set()),
    ],
)
def test_the_forms_of_references(reference: dict[str, Any], values: set[str]) -> None:
    assert terms(of("Observation", subject=reference), "Observation|subject") == values


@pytest.mark.parametrize(
    ("reference", "counts"),
    [
        ({"reference": "Patient/1"}, True),
        ({"reference": "http://far.example/fhir/Patient/1"}, True),
        ({"reference": "urn:uuid:1", "type": "Patient"}, True),
        ({"identifier": {"value": "7"}, "type": "Patient"}, True),
        ({"reference": "Group/1"}, False),
        ({"reference": "urn:uuid:1"}, False),
        ({"identifier": {"value": "7"}}, False),
    ],
)
def test_resolve_is_patient_takes_references_that_name_a_patient(reference: dict[str, Any], counts: bool) -> None:
    assert bool(terms(of("Observation", subject=reference), "Observation|patient")) is counts


def test_a_bundle_refers_to_the_composition_it_begins_with() -> None:
    entry = [{"resource": {"resourceType": kind, "id": "c"}} for kind in ("Composition", "MessageHeader")]
    index = of("Bundle", type_="document", entry=entry)
    assert terms(index, "Bundle|composition") == {"=Composition/c"}
    assert terms(index, "Bundle|message") == set()


def test_outgoing_references_are_found_anywhere_and_only_local_ones() -> None:
    index = of(
        "DocumentReference",
        subject={"reference": "Patient/1/_history/2"},
        custodian={"reference": "Organization/o"},
        contained=[{"resourceType": "Practitioner", "extension": [{"valueReference": {"reference": "Location/l"}}]}],
        extension=[{"url": "http://x", "valueUri": "Binary/u"}],
        content=[
            {"attachment": {"url": "Binary/b/_history/1"}},
            {"attachment": {"url": "http://far.example/Binary/z"}},
        ],
        author=[{"reference": "#p"}, {"reference": "urn:uuid:1"}, {"reference": "Practitioner?identifier=1"}],
        context={"related": [{"reference": "NoSuchType/1"}, {"reference": "https://far.example/Device/d"}]},
    )
    assert index.references == ("Binary/b", "Binary/u", "Location/l", "Organization/o", "Patient/1")
    assert index.supports == ("Binary/b", "Binary/u", "Location/l", "Organization/o")


def test_local_references_only() -> None:
    for reference in (
        "Patient/a.b-1",
        "Patient/a.b-1/_history/2",
        "Patient/a.b-1#part",
        "Patient/a.b-1/_history/2#part",
    ):
        assert local(reference) == ("Patient/a.b-1", "Patient", "a.b-1")
    for other in ("patient/1", "Patient/", "Patient/a/b", "Patient/1/_history/", "/Patient/1", "Nothing/1", "#1", ""):
        assert local(other) is None


# --- texts


@pytest.mark.parametrize(
    ("text", "normal"),
    [
        ("  Müller-Lüdenscheidt  ", "muller-ludenscheidt"),
        ("STRASSE", "strasse"),
        ("Straße", "strasse"),
        ("Éa\t \n B", "ea b"),
        ("\u0301", ""),
        ("x" * (TEXT_LIMIT + 5), "x" * TEXT_LIMIT),
    ],
)
def test_a_text_is_folded(text: str, normal: str) -> None:
    assert normalise(text) == normal


@pytest.mark.parametrize(
    ("text", "looked_for"),
    [
        ("O'Brien-Smith", "obriensmith"),
        ("O\u2019Brien", "obrien"),
        ("J. R.", "j r"),
        ("1 Main St., Apt. #2", "1 main st apt 2"),
        ("a - b", "a b"),
        ("5+5 < 11 $", "5+5 < 11 $"),
        ("Zoë", "zoe"),
        ("-", ""),
    ],
)
def test_punctuation_does_not_count(text: str, looked_for: str) -> None:
    assert unpunctuated(text) == looked_for


def test_a_text_of_punctuation_alone_is_there_and_found_as_it_is() -> None:
    index = extract({"resourceType": "Patient", "id": "p", "name": [{"family": "-"}]})
    assert "Patient|family:exact=-" in index.terms
    assert not [text for name, text in index.texts if name == "Patient|family"]


def test_a_name_is_found_by_each_of_its_parts() -> None:
    index = of("Patient", name=[{"family": "Ångström", "given": ["Anna", "B"], "text": "Dr Anna B Ångström"}])
    assert texts(index, "Patient|name") == ["angstrom", "anna", "b", "dr anna b angstrom"]
    assert texts(index, "Patient|family") == ["angstrom"]
    assert dict(index.sorts)["Patient|name"] == "angstrom"


def test_each_part_that_makes_a_text_stands_as_it_is_for_exact() -> None:
    index = of("Patient", name=[{"family": "Ångström", "given": ["Anna", " "], "text": "Dr Anna Ångström"}])
    assert terms(index, "Patient|name") == {":exact=Ångström", ":exact=Anna", ":exact=Dr Anna Ångström"}
    assert terms(index, "Patient|family") == {":exact=Ångström"}


def test_long_texts_that_begin_alike_are_exactly_different() -> None:
    first, second = "x" * TEXT_LIMIT + "a", "x" * TEXT_LIMIT + "b"
    assert exact(first) != exact(second)
    assert exact(first).startswith("x" * TEXT_LIMIT)
    assert exact("x" * TEXT_LIMIT) == "x" * TEXT_LIMIT
    assert terms(of("ValueSet", description=first), "ValueSet|description") == {f":exact={exact(first)}"}


def test_a_uri_stands_as_it_is_among_the_texts_for_below() -> None:
    index = of("ValueSet", url="http://Example.org/VS/A", meta={"profile": ["http://P|2"]})
    assert texts(index, "ValueSet|url") == ["http://Example.org/VS/A"]
    assert texts(index, "ValueSet|_profile") == ["http://P|2"]
    assert dict(index.sorts)["ValueSet|url"] == "http://Example.org/VS/A"
    assert "ValueSet|_profile" not in dict(index.sorts)
    assert texts(of("ValueSet", url="u" * (TEXT_LIMIT + 1)), "ValueSet|url") == ["u" * TEXT_LIMIT]


def test_a_canonical_reference_has_a_text_as_well() -> None:
    answers = of("QuestionnaireResponse", questionnaire="http://q|1")
    assert texts(answers, "QuestionnaireResponse|questionnaire") == ["http://q|1"]


def test_an_address_is_found_by_each_of_its_parts() -> None:
    index = of("Patient", address=[{"line": ["1 Main St", "Apt 2"], "city": "Boston", "postalCode": "02115"}])
    assert texts(index, "Patient|address") == ["02115", "1 main st", "apt 2", "boston"]
    assert texts(index, "Patient|address-city") == ["boston"]


# --- dates


@pytest.mark.parametrize(
    ("elements", "low", "high"),
    [
        ({"effectiveDateTime": "2024"}, at("2024-01-01"), at("2025-01-01") - 1),
        ({"effectiveDateTime": "2024-02"}, at("2024-02-01"), at("2024-03-01") - 1),
        ({"effectiveDateTime": "2024-02-29"}, at("2024-02-29"), at("2024-03-01") - 1),
        ({"effectiveDateTime": "2024-02-29T10:00:00+02:00"}, at("2024-02-29T08:00"), at("2024-02-29T08:00:01") - 1),
        ({"effectiveInstant": "2024-02-29T00:00:00.000Z"}, at("2024-02-29"), at("2024-02-29")),
        ({"effectiveDateTime": "0001-01-01T00:00:00+05:00"}, MIN_TIME, MIN_TIME),
        ({"effectivePeriod": {"start": "2024"}}, at("2024-01-01"), MAX_TIME),
        ({"effectivePeriod": {"start": "2024", "end": "9999-12-31"}}, at("2024-01-01"), MAX_TIME),
        ({"effectivePeriod": {"end": "2024-05"}}, MIN_TIME, at("2024-06-01") - 1),
        ({"effectivePeriod": {"start": "2024-01", "end": "2024-02"}}, at("2024-01-01"), at("2024-03-01") - 1),
        ({"effectiveTiming": {"repeat": {"boundsPeriod": {"start": "2024"}}}}, at("2024-01-01"), MAX_TIME),
        ({"effectiveTiming": {"event": ["2024-03", "2024-01"]}}, at("2024-01-01"), at("2024-04-01") - 1),
    ],
)  # fmt: skip
def test_a_date_covers_the_time_it_names(elements: dict[str, Any], low: int, high: int) -> None:
    index = of("Observation", **elements)
    found = spans(index, "Observation|date")
    assert (min(span[1] for span in found), max(span[2] for span in found)) == (low, high)
    assert index.care == (low, high)
    assert dict(index.sorts)["Observation|date"] == low


@pytest.mark.parametrize("elements", [{}, {"effectivePeriod": {}}, {"effectiveTiming": {"code": {"text": "daily"}}}])
def test_an_undated_observation_has_no_care_period(elements: dict[str, Any]) -> None:
    assert of("Observation", **elements).care is None


@pytest.mark.parametrize(
    ("index", "dated"),
    [
        (of("Encounter", period={"start": "2024"}), True),
        (of("SupplyRequest", authoredOn="2024"), True),
        (of("List", date="2024"), True),
        (of("Procedure", performedString="last spring"), False),
        (of("Condition", onsetDateTime="2024", recordedDate="2024"), False),
        (of("Claim", created="2024"), False),
    ],
)
def test_care_dates_are_those_of_the_clinical_date_parameter(index: Index, dated: bool) -> None:
    assert (index.care is not None) is dated


# --- numbers and quantities


def test_a_quantity_is_exact_and_stands_once_per_way_to_name_its_unit() -> None:
    index = of("Observation", valueQuantity={"value": 5.40, "unit": "milligram", "system": UCUM, "code": "mg"})
    names = {"", "=|mg", "=|milligram"}
    assert spans(index, "Observation|value-quantity") == {(name, 5.4, 5.4) for name in names} | {
        ("=~g", 0.0054, 0.0054)
    }
    assert dict(index.sorts)["Observation|value-quantity"] == 5.4


@pytest.mark.parametrize(
    ("elements", "low", "high"),
    [
        ({"valueQuantity": {"value": 5, "comparator": "<"}}, MIN_NUMBER, 5),
        ({"valueQuantity": {"value": 5, "comparator": ">="}}, 5, MAX_NUMBER),
        ({"valueSampledData": {"origin": {"value": 10}, "factor": 2, "data": "1 E -3 4.5 U"}}, 4, 19),
        ({"valueSampledData": {"origin": {"value": 10}, "data": "0 1"}}, 10, 11),
    ],
)
def test_a_quantity_that_is_an_interval(elements: dict[str, Any], low: float, high: float) -> None:
    assert spans(of("Observation", **elements), "Observation|value-quantity") == {("", low, high)}


@pytest.mark.parametrize(
    ("quantity", "base"),
    [
        ({"value": 5, "code": "mmol/L", "system": UCUM}, ("=~m-3.mol", 5, 5)),
        ({"value": 0.005, "code": "mol/L", "system": UCUM}, ("=~m-3.mol", 5, 5)),
        ({"value": 98.6, "code": "[degF]", "system": UCUM}, ("=~K", 310.15, 310.15)),
        ({"value": 5, "code": "km", "system": UCUM, "comparator": "<"}, ("=~m", MIN_NUMBER, 5000)),
        ({"value": 5, "code": "km", "system": UCUM, "comparator": ">"}, ("=~m", 5000, MAX_NUMBER)),
        ({"value": 1e306, "code": "km", "system": UCUM}, None),
        ({"value": 5, "code": "km"}, None),
        ({"value": 5, "unit": "km", "system": UCUM}, None),
        ({"value": 5, "code": "[pH]", "system": UCUM}, None),
        ({"value": 5, "code": "m" * 1000, "system": UCUM}, None),
    ],
)
def test_a_quantity_in_ucum_units_stands_in_base_units_as_well(
    quantity: dict[str, Any], base: tuple[str, float, float] | None
) -> None:
    found = spans(of("Observation", valueQuantity=quantity), "Observation|value-quantity")
    assert {span for span in found if "~" in span[0]} == ({base} if base else set())
    coded = [span for span in found if span[0].startswith(f"={UCUM}|")]
    assert len(coded) == (base is None and "code" in quantity and "system" in quantity)  # one of the two, never both


@pytest.mark.parametrize("value", [10**400, 1e999, "5", None, True])
def test_what_is_no_finite_number_has_no_span(value: object) -> None:
    assert not of("Observation", valueQuantity={"value": value}).spans


def test_ranges_money_and_plain_numbers() -> None:
    onset = of("Condition", onsetRange={"low": {"value": 3, "code": "a", "system": UCUM}})
    assert spans(onset, "Condition|onset-age") == {
        *((name, 3, MAX_NUMBER) for name in ("", "=|a")),
        ("=~s", 3 * 365.25 * 86400, MAX_NUMBER),
    }
    invoice = of("Invoice", totalNet={"value": 12.5, "currency": "EUR"})
    assert ("=urn:iso:std:iso:4217|EUR", 12.5, 12.5) in spans(invoice, "Invoice|totalnet")
    assert spans(of("ChargeItem", factorOverride=0.8), "ChargeItem|factor-override") == {("", 0.8, 0.8)}
    place = of("Location", position={"latitude": 42.25, "longitude": -71.5})
    assert spans(place, "Location|near") == {(".latitude", 42.25, 42.25), (".longitude", -71.5, -71.5)}


# --- composites


def test_token_and_quantity_belong_together_only_within_one_component() -> None:
    index = of(
        "Observation",
        component=[
            {"code": coded("8480-6"), "valueQuantity": {"value": 120}},
            {"code": coded("8462-4"), "valueQuantity": {"value": 80}},
        ],
    )
    for name in ("Observation|component-code-value-quantity", "Observation|combo-code-value-quantity"):
        assert spans(index, name) == {
            ("=8480-6", 120, 120),
            (f"={LOINC}|8480-6", 120, 120),
            ("=8462-4", 80, 80),
            (f"={LOINC}|8462-4", 80, 80),
        }
    assert not spans(index, "Observation|code-value-quantity")


def test_two_tokens_are_one_term_per_pair_of_forms() -> None:
    index = of("Observation", code=coded("a"), valueCodeableConcept=coded("b", system=None))
    assert terms(index, "Observation|code-value-concept") == {f"={LOINC}|a$|b", f"={LOINC}|a$b", "=a$|b", "=a$b"}


def test_composites_with_a_date_a_string_and_a_reference() -> None:
    dated = of("Observation", code=coded("a", system=None), valueDateTime="2024-02-29")
    assert ("=a", at("2024-02-29"), at("2024-03-01") - 1) in spans(dated, "Observation|code-value-date")
    said = of("Observation", code=coded("a", system=None), valueString=" Positive ")
    assert texts(said, "Observation|code-value-string=a") == ["positive"]
    related = of("DocumentReference", relatesTo=[{"code": "appends", "target": {"reference": "DocumentReference/1"}}])
    assert terms(related, "DocumentReference|relationship") == {"=appends$DocumentReference/1"}


def test_a_component_may_come_from_the_resource_itself() -> None:
    index = of(
        "MolecularSequence",
        referenceSeq={"chromosome": coded("X", system=None)},
        variant=[{"start": 1, "end": 5}, {"start": 7}],
    )
    assert spans(index, "MolecularSequence|chromosome-variant-coordinate") == {
        (f"={form}#{place}", value, value) for form in ("X", "|X") for place, value in ((2, 1), (3, 5))
    }


def test_a_product_of_many_codings_stays_bounded() -> None:
    many = coded(*map(str, range(2000)))
    index = of("Observation", code=many, valueCodeableConcept=many)
    assert len(terms(index, "Observation|code-value-concept")) <= KEY_LIMIT**2

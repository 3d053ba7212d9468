"""The oracle's numbers and quantities: significant figures, prefixes, units, comparators (R4 3.1.1.4.6, .11)."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle.reading import Unreadable
from tests.oracle.tables import LOINC, UCUM, concept, holds, made


def risk(probability: Any) -> Any:
    return made("RiskAssessment", prediction=[{"probabilityDecimal": probability}])


NUMBERS: list[tuple[str, Any, bool]] = [
    # The specification's own table: 100 is [99.5, 100.5), 100.00 is [99.995, 100.005), 1e2 is [95, 105).
    ("100", 100, True),
    ("100", 99.5, True),
    ("100", 99.499, False),
    ("100", 100.49, True),
    ("100", 100.5, False),
    ("100.00", 100.004, True),
    ("100.00", 100.005, False),
    ("100.00", 99.995, True),
    ("1e2", 95, True),
    ("1e2", 104.99, True),
    ("1e2", 105, False),
    ("1e2", 94.9, False),
    ("lt100", 99.99, True),
    ("lt100", 100, False),
    ("le100", 100, True),
    ("le100", 100.01, False),
    ("gt100", 100, False),
    ("gt100", 100.01, True),
    ("ge100", 100, True),
    ("ge100", 99.99, False),
    ("ne100", 100, False),
    ("ne100", 100.4, False),
    ("ne100", 100.5, True),
    ("sa100", 100.4, True),
    ("eb100", 99.9, True),
    ("eb100", 100, False),
    ("ap100", 110, True),
    ("ap100", 90, True),
    ("ap100", 110.1, False),
    ("ap-100", -110, True),
    ("-0.5", -0.5, True),
    ("+0.5", 0.5, True),
    ("0.80", 0.8, True),
    ("0.8", 0.84, True),
    ("0.80", 0.84, False),
    ("5.4e-3", 0.0054, True),
    ("5.4e-3", 0.00544, True),
    ("5.40e-3", 0.00541, False),
]


@pytest.mark.parametrize(("asked", "value", "found"), NUMBERS)
def test_numbers(asked: str, value: Any, found: bool) -> None:
    assert holds(risk(value), "probability", asked) is found


@pytest.mark.parametrize("asked", ["", "x", "1,", "gt", "eqq1", "1.2.3", "0x10", "NaN", "inf", "1e", "1|2", ".5"])
def test_what_is_no_number_is_unreadable(asked: str) -> None:
    with pytest.raises(Unreadable):
        holds(risk(1), "probability", asked)


MG = {"value": 5.4, "unit": "mg", "system": UCUM, "code": "mg"}
BARE = {"value": 5.4, "unit": "mg"}
QUANTITIES: list[tuple[str, dict[str, Any], bool]] = [
    (f"5.4|{UCUM}|mg", MG, True),
    (f"5.40e-3|{UCUM}|g", MG, True),
    (f"5.4|{UCUM}|g", MG, False),
    (f"5400|{UCUM}|ug", MG, True),
    (f"gt5399.9|{UCUM}|ug", MG, True),
    (f"5.4|{UCUM}|mL", MG, False),
    (f"5.4|{UCUM}|nonsense", MG, False),
    ("5.4||mg", MG, True),
    ("5.4||mg", BARE, True),
    ("5.4||g", MG, False),
    (f"5.4|{UCUM}|mg", BARE, False),
    ("5.4", MG, True),
    ("5.4", {"value": 5.4}, True),
    ("5.4", {"value": 5.45}, False),
    ("5.4", {"value": 5.35}, True),
    (f"le5.4|{UCUM}|mg", MG, True),
    (f"lt5.4|{UCUM}|mg", MG, False),
    (f"ap5.4|{UCUM}|mg", {**MG, "value": 5.9}, True),
    (f"ap5.4|{UCUM}|mg", {**MG, "value": 6}, False),
    ("5.4|urn:other|mg", MG, False),
    ("lt5", {"value": 5, "comparator": "<"}, True),
    ("ge5", {"value": 5, "comparator": "<"}, False),
    ("ge5", {"value": 5, "comparator": "<="}, True),
    ("gt5", {"value": 5, "comparator": "<="}, False),
    ("gt100", {"value": 5, "comparator": ">"}, True),
    ("5", {"value": 5, "comparator": ">="}, False),
    ("ne5", {"value": 5, "comparator": ">="}, True),
    ("5", {"unit": "mg"}, False),
]


@pytest.mark.parametrize(("asked", "quantity", "found"), QUANTITIES)
def test_quantities(asked: str, quantity: dict[str, Any], found: bool) -> None:
    assert holds(made("Observation", valueQuantity=quantity), "value-quantity", asked) is found


def test_a_comparator_may_be_read_with_its_number() -> None:
    resource = made("Observation", valueQuantity={"value": 5, "comparator": "<"})
    assert holds(resource, "value-quantity", "ge5", open_comparators=False)


@pytest.mark.parametrize(
    ("asked", "found"),
    [("30", False), ("gt35", True), ("lt35", True), ("ge40||a", True), ("gt40", False), ("sa29", True)],
)
def test_a_range_is_an_interval(asked: str, found: bool) -> None:
    resource = made("Condition", onsetRange={"low": {"value": 30, "unit": "a"}, "high": {"value": 40, "unit": "a"}})
    assert holds(resource, "onset-age", asked) is found


@pytest.mark.parametrize(
    ("asked", "found"),
    [("12.50", True), ("12.5|urn:iso:std:iso:4217|EUR", True), ("12.5|urn:iso:std:iso:4217|USD", False)],
)
def test_money_has_its_currency_for_a_unit(asked: str, found: bool) -> None:
    assert holds(made("Invoice", totalNet={"value": 12.5, "currency": "EUR"}), "totalnet", asked) is found


@pytest.mark.parametrize(("asked", "found"), [("gt3", True), ("gt4", False), ("lt1", False), ("eb4.1", True)])
def test_sampled_data_reach_from_the_least_to_the_greatest(asked: str, found: bool) -> None:
    data = {"origin": {"value": 0}, "period": 10, "factor": 0.5, "dimensions": 1, "data": "2 4 E 8"}
    assert holds(made("Observation", valueSampledData=data), "value-quantity", asked) is found


@pytest.mark.parametrize("asked", ["|a|b", "5|mg", "5|a|b|c", "x||mg", "gt", "5.4||mg,"])
def test_what_is_no_quantity_is_unreadable(asked: str) -> None:
    with pytest.raises(Unreadable):
        holds(made("Observation"), "value-quantity", asked)


PRESSURE = made(
    "Observation",
    code=concept("85354-9", LOINC),
    component=[
        {
            "code": concept("8480-6", LOINC),
            "valueQuantity": {"value": 150, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"},
        },
        {
            "code": concept("8462-4", LOINC),
            "valueQuantity": {"value": 90, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"},
        },
    ],
)
COMPOSITES: list[tuple[str, str, bool]] = [
    ("component-code-value-quantity", f"{LOINC}|8480-6$gt140", True),
    ("component-code-value-quantity", f"{LOINC}|8462-4$gt140", False),
    ("component-code-value-quantity", "8480-6$150|http://unitsofmeasure.org|mm[Hg]", True),
    ("component-code-value-quantity", "8480-6$150||mg", False),
    ("component-code-value-quantity", "8462-4$gt140,8480-6$gt140", True),
    ("component-code-value-quantity", "8462-4$gt140,8480-6$lt140", False),
    ("combo-code-value-quantity", f"{LOINC}|8480-6$gt140", True),
    ("code-value-quantity", f"{LOINC}|8480-6$gt140", False),
    ("combo-code", "85354-9", True),
    ("combo-code", "8462-4", True),
    ("component-code", "85354-9", False),
    ("combo-value-quantity", "lt100", True),
    ("component-value-quantity", "lt90", False),
]


@pytest.mark.parametrize(("parameter", "asked", "found"), COMPOSITES)
def test_the_parts_of_a_composite_hold_in_the_same_place(parameter: str, asked: str, found: bool) -> None:
    assert holds(PRESSURE, parameter, asked) is found


def test_the_unit_of_a_composite_is_that_of_the_number_found() -> None:
    parts = [{"code": concept("a"), "valueQuantity": {"value": 5, "unit": unit}} for unit in ("mg", "g")]
    parts[1]["code"] = concept("b")
    resource = made("Observation", component=parts)
    assert holds(resource, "component-code-value-quantity", "a$5||mg")
    assert not holds(resource, "component-code-value-quantity", "a$5||g")


@pytest.mark.parametrize(("asked", "found"), [("1$5$9", True), ("1$5$90", False), ("2$5$9", False)])
def test_the_start_and_end_of_a_variant_are_its_own(asked: str, found: bool) -> None:
    variants = [{"start": 5, "end": 9}, {"start": 50, "end": 90}]
    resource = made("MolecularSequence", referenceSeq={"chromosome": concept("1")}, variant=variants)
    assert holds(resource, "chromosome-variant-coordinate", asked) is found


@pytest.mark.parametrize(("asked", "found"), [("gender$mixed", True), ("gender$other", False), ("other$mixed", False)])
def test_the_example_of_a_group(asked: str, found: bool) -> None:
    characteristic = [
        {"code": concept("gender"), "valueCodeableConcept": concept("mixed"), "exclude": False},
        {"code": concept("owner"), "valueCodeableConcept": concept("john"), "exclude": False},
    ]
    assert holds(made("Group", characteristic=characteristic), "characteristic-value", asked) is found


@pytest.mark.parametrize("asked", ["8480-6", "8480-6$1$2", "8480-6$", "8480-6$x", "$5", "8480-6$gt5,"])
def test_a_composite_has_all_its_parts(asked: str) -> None:
    with pytest.raises(Unreadable):
        holds(PRESSURE, "component-code-value-quantity", asked)

"""Conversion of UCUM quantities into base units: exact, ordered, and rather missing than wrong."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.ucum import LIMIT, _scale, _table, canonical, canonical_interval
from fhirserver.core.values import MAX_NUMBER, MIN_NUMBER


@pytest.mark.parametrize(
    ("value", "unit", "number", "base"),
    [
        ("5", "mmol/L", "5", "m-3.mol"),
        ("5.40", "mg/dL", "54", "g.m-3"),
        ("54", "ug/mL", "54", "g.m-3"),
        ("70", "kg", "70000", "g"),
        ("1", "[lb_av]", "453.59237", "g"),
        ("16", "[oz_av]", "453.59237", "g"),
        ("1", "[stone_av]", "6350.29318", "g"),
        ("180", "cm", "1.80", "m"),
        ("1", "[in_i]", "0.0254", "m"),
        ("6", "[ft_i]", "1.8288", "m"),
        ("120", "mm[Hg]", "15998640", "g.m-1.s-2"),
        ("10", "cm[H2O]", "980665", "g.m-1.s-2"),
        ("37", "Cel", "310.15", "K"),
        ("98.6", "[degF]", "310.15", "K"),
        ("72", "/min", "1.2", "s-1"),
        ("72", "{beats}/min", "1.2", "s-1"),
        ("72", "{Beats}/min", "1.2", "s-1"),
        ("6", "10*3/uL", "6000000000000", "m-3"),
        ("6", "10^3/uL", "6000000000000", "m-3"),
        ("6", "10*9/L", "6000000000000", "m-3"),
        ("4.5", "10*6{cells}/uL", "4500000000000000", "m-3"),
        ("95", "%", "0.95", "1"),
        ("1", "mg/g{creat}", "0.001", "1"),
        ("1", "g/g", "1", "1"),
        ("60", "U/L", "0.001", "m-3.mol.s-1"),
        ("1", "ukat/L", "0.001", "m-3.mol.s-1"),
        ("3", "m[IU]/L", "3", "[iU].m-3"),
        ("3", "u[iU]/mL", "3", "[iU].m-3"),
        ("2", "meq/L", "2", "eq.m-3"),
        ("285", "mosm/kg", "0.000285", "g-1.osm"),
        ("30", "kg/m2", "30000", "g.m-2"),
        ("90", "mL/min/{1.73_m2}", "0.0000015", "m3.s-1"),
        ("3", "mL/(min.m2)", "0.00000005", "m.s-1"),
        ("2", "wk", "1209600", "s"),
        ("12", "mo", "31557600", "s"),
        ("1", "a", "31557600", "s"),
        ("24", "h", "86400", "s"),
        ("2", "24.h", "172800", "s"),
        ("1", "kcal", "4184000", "g.m2.s-2"),
        ("1", "mCi", "37000000", "Bq"),
        ("5", "L/min", "0.00008333333333", "m3.s-1"),
        ("1", "[tsp_us]", "0.00000492892159375", "m3"),
        ("1", "s-1", "1", "s-1"),
        ("1", "m+2", "1", "m2"),
        ("1", "10*-3", "0.001", "1"),
        ("1", "1", "1", "1"),
        ("3", "[CFU]/mL", "3000000", "[CFU].m-3"),
    ],
)
def test_a_unit_comes_to_base_units(value: str, unit: str, number: str, base: str) -> None:
    found = canonical(Decimal(value), unit)
    assert found is not None
    assert found[1] == base
    assert float(found[0]) == pytest.approx(float(number), rel=1e-9)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (("5", "mmol/L"), ("0.005", "mol/L")),
        (("0.1", "mg/dL"), ("0.001", "g/L")),
        (("98.6", "[degF]"), ("37", "Cel")),
        (("1", "[gal_us]"), ("768", "[tsp_us]")),
        (("0.3", "cm[H2O]"), ("3", "mm[H2O]")),
    ],
)
def test_equal_quantities_are_equal_to_the_last_digit(one: tuple[str, str], other: tuple[str, str]) -> None:
    first, second = canonical(Decimal(one[0]), one[1]), canonical(Decimal(other[0]), other[1])
    assert first is not None
    assert first == second


@pytest.mark.parametrize(
    "unit",
    [
        "",
        "[pH]",
        "dB",
        "B[SPL]",
        "furlong",
        "kPa/",
        "kPa//s",
        "(kPa",
        "kPa)",
        "mm Hg",
        "2.54cm",
        "Mmin",
        "[degF]/h",
        "mCel",
        "m99",
        "m-99",
        "m0000001",
        "0",
        "m/0",
        "10*99",
        "{unclosed",
        "((((((((((((m))))))))))))",
        "m" * (LIMIT + 1),
        "kk",
        ".",
    ],
)
def test_what_is_no_unit_or_not_proportional_has_no_canonical_form(unit: str) -> None:
    assert canonical(Decimal(1), unit) is None


@pytest.mark.parametrize(
    ("one", "other"),
    [("mmol/L", "/L"), ("mmol/L", "meq/L"), ("mmol/kg", "mosm/kg"), ("Bq", "Hz"), ("Sv", "Gy"), ("[CFU]", "[PFU]")],
)
def test_unlike_things_are_not_taken_for_equal(one: str, other: str) -> None:
    first, second = canonical(Decimal(1), one), canonical(Decimal(1), other)
    assert first is not None
    assert second is not None
    assert first[1] != second[1]


@pytest.mark.parametrize("unit", ["{score}", "{INR}", "/{entity}", "10*3.{RBC}", "{a}/{b}"])
def test_a_number_named_only_by_an_annotation_is_no_share(unit: str) -> None:
    assert canonical(Decimal(1), unit) is None


@pytest.mark.parametrize("value", ["1e9999999", "-1e9999999", "NaN", "Infinity"])
def test_what_is_beyond_measure_has_no_canonical_form(value: str) -> None:
    assert canonical(Decimal(value), "km") is None


def test_a_value_too_small_to_tell_is_no_error() -> None:
    assert canonical(Decimal("1e-9999999"), "mm") in (None, (Decimal(0), "m"))


def test_an_interval_keeps_its_open_end_and_one_beyond_a_float_is_none() -> None:
    assert canonical_interval(1, 2, "km") == ("m", 1000, 2000)
    assert canonical_interval(MIN_NUMBER, 2, "km") == ("m", MIN_NUMBER, 2000)
    assert canonical_interval(1, MAX_NUMBER, "km") == ("m", 1000, MAX_NUMBER)
    assert canonical_interval(1, 1e308, "km") is None
    assert canonical_interval(0.1, 0.3, "furlong") is None
    assert canonical_interval(0, 0, "km") == ("m", 0, 0)


UNITS = sorted([*_table().base, *_table().own, *_table().apart, *_table().metric, *_table().plain, *_table().shifted])


def test_every_unit_of_the_table_is_understood_and_no_text_stands_twice() -> None:
    assert len(set(UNITS)) == len(UNITS) > 150
    assert [unit for unit in UNITS if canonical(Decimal(1), unit) is None] == []


@given(st.sampled_from(UNITS))
def test_the_canonical_text_is_itself_a_unit_of_factor_one(unit: str) -> None:
    scale = _scale(unit)
    assert scale is not None
    assert _scale(scale.unit) == (Fraction(1), scale.unit, Decimal(0))


@given(
    st.sampled_from(UNITS),
    st.decimals(min_value=-1000, max_value=1000, places=6),
    st.decimals(min_value=-1000, max_value=1000, places=6),
)
def test_the_greater_quantity_has_the_greater_value(unit: str, one: Decimal, other: Decimal) -> None:
    first, second = canonical(one, unit), canonical(other, unit)
    assert first is not None
    assert second is not None
    assert (first[0] < second[0], first[0] == second[0]) == (one < other, one == other)


@given(st.sampled_from(sorted(_table().prefixes)), st.sampled_from(sorted(_table().metric)))
def test_a_prefix_multiplies_unless_the_whole_is_a_unit_of_its_own(prefix: str, unit: str) -> None:
    whole, part = canonical(Decimal(1), prefix + unit), canonical(Decimal(1), unit)
    assert whole is not None
    assert part is not None
    if prefix + unit not in UNITS:
        assert whole[1] == part[1]
        assert float(whole[0]) == pytest.approx(float(part[0] * Decimal(_table().prefixes[prefix])), rel=1e-15)


@given(st.text(alphabet="mgsLU[]{}()/.*^+-10{é %'_", max_size=30))
def test_no_text_makes_it_fail(unit: str) -> None:
    found = canonical(Decimal(1), unit)
    assert found is None or found[0].is_finite()

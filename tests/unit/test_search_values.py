"""The text of search values: escapes, precision, prefixes."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.criteria import Written, holds
from fhirserver.core.model import MAX_TIME, MIN_TIME, Index
from fhirserver.core.search.values import (
    covered,
    date_of,
    escape,
    number_of,
    numeric,
    prefixed,
    split,
    temporal,
    unescape,
    written,
)
from fhirserver.core.ucum import canonical, canonical_interval

PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


# --- escapes


@pytest.mark.parametrize(
    ("text", "separator", "parts"),
    [
        ("a,b", ",", ["a", "b"]),
        (r"a\,b", ",", [r"a\,b"]),
        (r"a\\,b", ",", [r"a\\", "b"]),
        (r"a\\\,b", ",", [r"a\\\,b"]),
        ("a,", ",", ["a", ""]),
        ("", ",", [""]),
        (r"s|a\|b", "|", ["s", r"a\|b"]),
        (r"a$b\$c", "$", ["a", r"b\$c"]),
        ("a\\", ",", ["a\\"]),
    ],
)
def test_a_backslash_keeps_what_follows_from_separating(text: str, separator: str, parts: list[str]) -> None:
    assert split(text, separator) == parts


@pytest.mark.parametrize(
    ("text", "meant"),
    [(r"a\,b", "a,b"), (r"a\\b", r"a\b"), (r"\$\|\,", "$|,"), (r"\n", r"\n"), ("a\\", "a\\"), (r"\\,", r"\,")],
)
def test_only_the_four_characters_are_escaped(text: str, meant: str) -> None:
    assert unescape(text) == meant


@given(st.lists(st.text(alphabet=st.sampled_from(r"ab,$|\ é"), max_size=8), min_size=1, max_size=4))
def test_what_was_escaped_comes_back_through_every_separator(texts: list[str]) -> None:
    for separator in ",$|":
        joined = separator.join(map(escape, texts))
        assert [unescape(part) for part in split(joined, separator)] == texts


@given(st.text())
def test_splitting_loses_nothing(text: str) -> None:
    assert ",".join(split(text, ",")) == text


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("ge2020", ("ge", "2020")),
        ("2020", ("eq", "2020")),
        ("eq5", ("eq", "5")),
        ("lt-5", ("lt", "-5")),
        ("nexus", ("eq", "nexus")),
        ("po5", ("eq", "po5")),
    ],
)
def test_a_prefix_stands_before_a_number_only(text: str, expected: tuple[str, str]) -> None:
    assert prefixed(text) == expected


# --- numbers


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("100", "99.5", "100.5"),
        ("100.00", "99.995", "100.005"),
        ("1e2", "95", "105"),
        ("1.0e2", "95", "105"),
        ("1.00e2", "99.5", "100.5"),
        ("5.4", "5.35", "5.45"),
        ("5.40", "5.395", "5.405"),
        ("0", "-0.5", "0.5"),
        ("-2", "-2.5", "-1.5"),
        ("5.4e-3", "0.00535", "0.00545"),
        ("0.1", "0.05", "0.15"),
    ],
)
def test_a_number_covers_half_a_unit_of_its_last_digit(text: str, low: str, high: str) -> None:
    number = number_of(text)
    assert (number.value - number.half, number.value + number.half) == (Decimal(low), Decimal(high))
    digits = covered(number, lambda value: value).digits
    assert digits.low == float(low)
    assert digits.high < float(high)


@pytest.mark.parametrize(
    "text", ["", "a", "1,5", "1.", ".5", "1e", "--1", "0x1", "1e999", "١", "NaN", "inf", "1_0", "9" * 65]
)
def test_what_is_no_number_says_so(text: str) -> None:
    with pytest.raises(ValueError, match="number"):
        number_of(text)


def number_is(prefix: str, text: str, low: float, high: float | None = None) -> bool:
    asked = numeric(prefix, "n", covered(number_of(text), lambda value: value))
    return holds(asked, Index(spans=(("n", low, low if high is None else high),)), 0)


@pytest.mark.parametrize(
    ("prefix", "text", "value", "expected"),
    [
        ("eq", "100", 99.5, True),
        ("eq", "100", 100.5, False),
        ("eq", "100", 100.4999, True),
        ("ne", "100", 100.2, False),
        ("ne", "100", 100.5, True),
        ("gt", "100", 100.0, False),
        ("gt", "100", 100.00001, True),
        ("ge", "100", 100.0, True),
        ("ge", "100", 99.99, False),
        ("lt", "100", 100.0, False),
        ("lt", "100", 99.99, True),
        ("le", "100", 100.0, True),
        ("le", "100", 100.01, False),
        ("sa", "100", 100.0, False),
        ("sa", "100", 100.01, True),
        ("eb", "100", 100.0, False),
        ("eb", "100", 99.99, True),
        ("ap", "100", 110.0, True),
        ("ap", "100", 110.01, False),
        ("ap", "100", 90.0, True),
        ("ap", "-100", -105.0, True),
        ("ap", "-100", -111.0, False),
    ],
)
def test_the_prefixes_of_a_number(prefix: str, text: str, value: float, expected: bool) -> None:
    assert number_is(prefix, text, value) is expected


@pytest.mark.parametrize(
    ("prefix", "expected"),
    [("eq", False), ("ne", True), ("gt", True), ("lt", True), ("ge", True), ("le", True), ("sa", False), ("eb", False)],
)
def test_a_range_around_the_number(prefix: str, expected: bool) -> None:
    assert number_is(prefix, "5", 3, 8) is expected


@pytest.mark.parametrize(
    ("text", "value", "expected"),
    [
        ("0.30000000000000004", 0.30000000000000004, True),
        ("0.30000000000000004", 0.3, False),
        ("0.3000000000000000", 0.30000000000000004, True),
        ("0.300000000000000", 0.30000000000000004, True),
        ("0.3", 0.30000000000000004, True),
        ("0.30000000000000000", 0.30000000000000004, False),
        ("0.1", 0.15, False),
        ("0.14999999999999999", 0.15, True),
    ],
)
def test_more_digits_than_a_double_has_find_the_number_that_they_write(text: str, value: float, expected: bool) -> None:
    assert number_is("eq", text, value) is expected
    assert number_is("ne", text, value) is not expected


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value="-1e300", max_value="1e300"), st.integers(0, 20))
def test_a_number_finds_itself_however_many_digits_it_has(value: Decimal, zeros: int) -> None:
    text = format(value, "f")[:40]
    text = text if "." in text else f"{text}."
    assert number_is("eq", f"{text}{'0' * zeros}".rstrip("."), float(text))


@pytest.mark.parametrize("unit", ["mg", "[lb_av]", "Cel", "[degF]", "h"])
@pytest.mark.parametrize("text", ["0.30000000000000004", "98.6", "98.60000000000000", "0.00000000000000001"])
def test_a_number_finds_itself_in_its_canonical_unit(text: str, unit: str) -> None:
    def convert(value: Decimal) -> Decimal | None:
        known = canonical(value, unit)
        return known and known[0]

    stored = canonical_interval(float(text), float(text), unit)
    assert stored is not None
    asked = numeric("eq", "n", covered(number_of(text), convert))
    assert holds(asked, Index(spans=(("n", *stored[1:]),)), 0)


# --- dates

DATES = {
    "a moment in the morning": ("2013-01-14T10:00:00", "2013-01-14T10:00:00.999"),
    "that whole day": ("2013-01-14T00:00:00", "2013-01-14T23:59:59.999"),
    "the next midnight": ("2013-01-15T00:00:00", "2013-01-15T00:00:00.999"),
}


def date_is(prefix: str, text: str, first: int, last: int) -> bool:
    return holds(temporal(prefix, "d", date_of(text), at("2026-01-01")), Index(spans=(("d", first, last),)), 0)


@pytest.mark.parametrize(
    ("value", "of", "expected"),
    [
        # the specification's own examples, R4 search 3.1.1.4.5
        ("eq2013-01-14", "that whole day", True),
        ("eq2013-01-14", "a moment in the morning", True),
        ("eq2013-01-14", "the next midnight", False),
        ("ne2013-01-14", "the next midnight", True),
        ("ne2013-01-14", "that whole day", False),
        ("ne2013-01-14", "a moment in the morning", False),
        ("lt2013-01-14T10:00", "that whole day", True),
        ("gt2013-01-14T10:00", "that whole day", True),
        ("gt2013-01-14", "a moment in the morning", False),
        ("ge2013-01-14", "a moment in the morning", True),
        ("le2013-01-14", "a moment in the morning", True),
        ("sa2013-01-14", "the next midnight", True),
        ("eb2013-01-15", "that whole day", True),
    ],
)
def test_a_date_is_an_interval(value: str, of: str, expected: bool) -> None:
    first, last = map(at, DATES[of])
    assert date_is(*prefixed(value), first, last) is expected


@pytest.mark.parametrize(
    ("prefix", "onwards_from_january", "until_january", "onwards_from_the_15th"),
    [
        ("ge", True, False, True),
        ("le", True, True, False),
        ("sa", False, False, True),
        ("eb", False, True, False),
        ("eq", False, False, False),
    ],
)
def test_periods_with_an_open_end(
    prefix: str, onwards_from_january: bool, until_january: bool, onwards_from_the_15th: bool
) -> None:
    periods = [
        (at("2013-01-21"), MAX_TIME),
        (MIN_TIME, at("2013-01-21T23:59:59.999")),
        (at("2013-03-15"), MAX_TIME),
    ]
    expected = [onwards_from_january, until_january, onwards_from_the_15th]
    assert [date_is(prefix, "2013-03-14", *period) for period in periods] == expected


def test_a_period_that_ends_within_the_day_is_not_on_or_after_it() -> None:
    assert not date_is("ge", "2013-01-14", at("2013-01-10"), at("2013-01-14T12:00:00"))
    assert date_is("le", "2013-01-14", at("2013-01-10"), at("2013-01-14T12:00:00"))


@pytest.mark.parametrize(
    ("day", "expected"), [("2015-01-01", True), ("2014-11-20", False), ("2016-12-30", True), ("2017-02-01", False)]
)
def test_about_a_date_is_a_tenth_of_the_time_since(day: str, expected: bool) -> None:
    assert date_is("ap", "2016-01-01", at(day), at(day)) is expected  # ten years before now: a year to both sides


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2020", "2020-01-01", "2020-12-31T23:59:59.999"),
        ("2020-02", "2020-02-01", "2020-02-29T23:59:59.999"),
        ("2020-02-03", "2020-02-03", "2020-02-03T23:59:59.999"),
        ("2020-02-03T04:05", "2020-02-03T04:05:00", "2020-02-03T04:05:59.999"),
        ("2020-02-03T04:05:06", "2020-02-03T04:05:06", "2020-02-03T04:05:06.999"),
        ("2020-02-03T04:05:06Z", "2020-02-03T04:05:06", "2020-02-03T04:05:06.999"),
        ("2020-02-03T04:05:06.7+01:00", "2020-02-03T03:05:06.700", "2020-02-03T03:05:06.799"),
        ("2020-02-03T04:05:06 01:00", "2020-02-03T03:05:06", "2020-02-03T03:05:06.999"),
        ("2020-02-03T04:05-01:00", "2020-02-03T05:05:00", "2020-02-03T05:05:59.999"),
    ],
)
def test_the_forms_of_a_date(text: str, first: str, last: str) -> None:
    assert date_of(text) == (at(first), at(last))


@pytest.mark.parametrize(
    "text", ["", "20", "2020-13", "2020-02-30", "2020-02-03T", "2020-02-03T04", "23 May 2009", "T04:05"]
)
def test_what_is_no_date_says_so(text: str) -> None:
    with pytest.raises(ValueError, match=r"date|day"):
        date_of(text)


@pytest.mark.parametrize(
    ("prefix", "day_before", "that_day", "day_after"),
    [
        ("eq", False, True, False),
        ("ne", True, False, True),
        ("gt", False, False, True),
        ("ge", False, True, True),
        ("lt", True, False, False),
        ("le", True, True, False),
        ("sa", False, False, True),
        ("eb", True, False, False),
    ],
)
def test_when_a_version_was_written(prefix: str, day_before: bool, that_day: bool, day_after: bool) -> None:
    asked = written(prefix, date_of("2020-02-03"), 0)
    times = ["2020-02-02T23:59:59.999", "2020-02-03T12:00:00", "2020-02-04T00:00:00"]
    assert [holds(asked, Index(), at(time)) for time in times] == [day_before, that_day, day_after]


def test_about_the_time_it_was_written() -> None:
    assert written("ap", (1_000, 1_999), 2_000) == Written(900, 2_099)


# --- what holds of every interval


@st.composite
def intervals(draw: st.DrawFn) -> tuple[int, int]:
    first = draw(st.integers(-300, 300))
    return first, first + draw(st.integers(0, 200))


@given(intervals(), intervals(), st.integers(-1000, 1000))
def test_the_prefixes_agree_with_each_other(asked: tuple[int, int], there: tuple[int, int], now: int) -> None:
    index = Index(spans=(("d", *there),))
    holding = {prefix: holds(temporal(prefix, "d", asked, now), index, 0) for prefix in PREFIXES}
    overlaps = there[0] <= asked[1] and there[1] >= asked[0]
    contains = asked[0] <= there[0] and there[1] <= asked[1]
    assert holding["eq"] is contains
    assert holding["ne"] is not contains
    assert holding["gt"] is (there[1] > asked[1])
    assert holding["lt"] is (there[0] < asked[0])
    assert holding["ge"] is (holding["gt"] or contains)
    assert holding["le"] is (holding["lt"] or contains)
    assert (holding["sa"], holding["eb"]) == (there[0] > asked[1], there[1] < asked[0])
    assert [holding["sa"], holding["eb"], overlaps].count(True) == 1
    assert holding["ap"] or not overlaps


numbers = st.decimals(-1000, 1000, allow_nan=False, allow_infinity=False, places=2).map(str)


@given(numbers, st.floats(-1100, 1100))
def test_the_prefixes_of_numbers_agree_with_each_other(text: str, value: float) -> None:
    holding = {prefix: number_is(prefix, text, value) for prefix in PREFIXES}
    assert holding["eq"] is not holding["ne"]
    assert holding["ge"] is not holding["lt"]
    assert holding["le"] is not holding["gt"]
    assert holding["sa"] is holding["gt"]
    assert holding["eb"] is holding["lt"]
    assert holding["ge"] or holding["le"]

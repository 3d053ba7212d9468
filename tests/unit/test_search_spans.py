"""The intervals that a resource's ordered values cover: one of a Timing, and none that ends before it begins."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.intervals import intervals
from fhirserver.core.model import MAX_TIME, MIN_TIME
from tests.asked import found


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def of(type_: str, value: Any) -> list[tuple[float, float]]:
    return [(low, high) for _, low, high in intervals(type_, value)]


@pytest.mark.parametrize(
    ("timing", "low", "high"),
    [
        ({"event": ["2013-03-24", "2013-01-31"]}, at("2013-01-31"), at("2013-03-25") - 1),
        (
            {"event": ["2013-03-24"], "repeat": {"boundsPeriod": {"start": "2012", "end": "2013-02"}}},
            at("2012-01-01"),
            at("2013-03-25") - 1,
        ),
        ({"event": ["2013"], "repeat": {"boundsPeriod": {"start": "2014"}}}, at("2013-01-01"), MAX_TIME),
        ({"event": ["2013"], "repeat": {"boundsPeriod": {"end": "2012"}}}, MIN_TIME, at("2014-01-01") - 1),
        ({"event": ["no date", 5, "2013"], "repeat": "daily"}, at("2013-01-01"), at("2014-01-01") - 1),
    ],
)
def test_a_timing_is_one_interval_between_its_outer_limits(timing: Any, low: int, high: int) -> None:
    assert of("Timing", timing) == [(low, high)]


@pytest.mark.parametrize("timing", [None, [], {}, {"event": []}, {"event": "2013"}, {"repeat": {"frequency": 1}}])
def test_a_timing_without_times_is_none(timing: Any) -> None:
    assert of("Timing", timing) == []


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ("2013", True),
        ("2013-01", False),
        ("2013-02", False),
        ("ne2013-02", True),
        ("ap2013-02", True),
        ("sa2013-01-30", True),
        ("sa2013-02", False),
        ("eb2013-03", False),
    ],
)
def test_the_gaps_of_a_timing_do_not_count(asked: str, expected: bool) -> None:
    """R4 search §3.1.1.4.7: the outer limits of all specified times, even if there are gaps."""
    order = {"resourceType": "ServiceRequest", "occurrenceTiming": {"event": ["2013-01-31", "2013-03-24"]}}
    assert found(order, ("occurrence", asked)) is expected


@pytest.mark.parametrize(
    ("type_", "value", "low", "high"),
    [
        ("Range", {"low": {"value": 9}, "high": {"value": 2}}, 2, 9),
        ("Period", {"start": "2021-05", "end": "2020-01"}, at("2020-01-01"), at("2021-06-01") - 1),
        ("Period", {"start": "2020-05-31", "end": "2020-05"}, at("2020-05-31"), at("2020-06-01") - 1),
        ("dateTime", "9999-12-31T23:59:59-12:00", MAX_TIME, MAX_TIME),
        ("dateTime", "0001-01-01T00:00:00+12:00", MIN_TIME, MIN_TIME),
    ],
)
def test_what_ends_before_it_begins_is_from_the_lesser_to_the_greater(
    type_: str, value: Any, low: float, high: float
) -> None:
    assert of(type_, value) == [(low, high)]


_numbers = st.none() | st.integers() | st.floats() | st.text(max_size=3)
_dates = (
    st.none()
    | st.dates().map(str)
    | st.sampled_from(["2020", "2020-05", "0001-01-01T00:00:00+05:00", "9999-12-31T23:59:59-12:00", "x"])
)
_quantities = st.none() | st.fixed_dictionaries(
    {"value": _numbers}, optional={"comparator": st.sampled_from(["<", "<=", ">", ">=", "ad"])}
)
_periods = st.none() | st.fixed_dictionaries({"start": _dates, "end": _dates})
_values = st.one_of(
    st.tuples(st.sampled_from(["date", "dateTime", "instant"]), _dates),
    st.tuples(st.just("Period"), _periods),
    st.tuples(
        st.just("Timing"),
        st.fixed_dictionaries({"event": st.lists(_dates), "repeat": st.fixed_dictionaries({"boundsPeriod": _periods})}),
    ),
    st.tuples(st.sampled_from(["decimal", "integer"]), _numbers),
    st.tuples(st.sampled_from(["Quantity", "Money"]), _quantities),
    st.tuples(st.just("Range"), st.fixed_dictionaries({"low": _quantities, "high": _quantities})),
    st.tuples(
        st.just("SampledData"),
        st.fixed_dictionaries(
            {
                "origin": _quantities,
                "factor": _numbers,
                "data": st.lists(_numbers.map(str), max_size=4).map(" ".join),
            }
        ),
    ),
)


@given(_values)
def test_no_interval_ends_before_it_begins(value: tuple[str, Any]) -> None:
    assert all(low <= high for low, high in of(*value))

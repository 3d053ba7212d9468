"""Spans by how wide they are: the classes lose nothing that begins and ends within bounds."""

from __future__ import annotations

from math import inf

from hypothesis import given
from hypothesis import strategies as st

from fhirserver.store.widths import WIDE, beginnings, width_class

ends = st.floats(allow_nan=False) | st.sampled_from([0.0, 1.5, 86_399_999.0, 86_400_000.0, -1e15, 1e15, inf, -inf])
bounds = st.tuples(ends, ends)


@given(ends, ends, bounds, bounds)
def test_what_lies_within_bounds_lies_in_the_interval_of_its_class(
    low: float, high: float, about_low: tuple[float, float], about_high: tuple[float, float]
) -> None:
    lows = min(low, *about_low), max(low, *about_low)
    highs = min(high, *about_high), max(high, *about_high)
    number = width_class(low, high)
    assert any(each == number and first <= low <= last for each, first, last in beginnings(lows, highs))


def test_a_date_that_ends_late_begins_late() -> None:
    found = {number: first for number, first, _ in beginnings((-inf, inf), (1e12, inf))}
    assert found[0] == 1e12
    assert 0 < 1e12 - found[1] <= 86_400_001
    assert found[WIDE] == -inf
    assert width_class(0, 86_399_999) == 1
    assert width_class(-inf, 5) == WIDE

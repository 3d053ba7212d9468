"""The oracle's dates: intervals by precision, and each prefix with what R4 3.1.1.4.5 says of it."""

from __future__ import annotations

from typing import Any

import pytest

from tests.oracle.reading import Unreadable
from tests.oracle.tables import NOW, holds, made
from tests.oracle.values import date


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2013", "2013-01-01T00:00:00.000Z", "2013-12-31T23:59:59.999Z"),
        ("2012-02", "2012-02-01T00:00:00.000Z", "2012-02-29T23:59:59.999Z"),
        ("2013-02", "2013-02-01T00:00:00.000Z", "2013-02-28T23:59:59.999Z"),
        ("2013-01-14", "2013-01-14T00:00:00.000Z", "2013-01-14T23:59:59.999Z"),
        ("2013-01-14T10:00", "2013-01-14T10:00:00.000Z", "2013-01-14T10:00:59.999Z"),
        ("2013-01-14T10:00:00", "2013-01-14T10:00:00.000Z", "2013-01-14T10:00:00.999Z"),
        ("2013-01-14T10:00:00+02:00", "2013-01-14T08:00:00.000Z", "2013-01-14T08:00:00.999Z"),
        ("2013-01-14T23:30:00-05:00", "2013-01-15T04:30:00.000Z", "2013-01-15T04:30:00.999Z"),
        ("2013-01-14T10:00:00.123Z", "2013-01-14T10:00:00.123Z", "2013-01-14T10:00:00.123Z"),
    ],
)
def test_a_date_covers_its_precision(text: str, first: str, last: str) -> None:
    assert date(text) == (date(first).low, date(last).high)


WRONG_DATES = [
    "2013-13",
    "2013-02-30",
    "13-01-01",
    "2013-1-1",
    "2013-01-14T25:00",
    "23 May 2009",
    "today",
    "eq",
    "2013-",
]


@pytest.mark.parametrize("text", WRONG_DATES)
def test_what_is_no_date_is_unreadable(text: str) -> None:
    with pytest.raises(Unreadable):
        holds(made("Patient"), "birthdate", text)


OF_A_DATE: list[tuple[str, str, bool]] = [
    # The examples of 3.1.1.4.5: `[parameter]=eq2013-01-14` and so on.
    ("eq2013-01-14", "2013-01-14T00:00:00Z", True),
    ("eq2013-01-14", "2013-01-14T10:00:00Z", True),
    ("eq2013-01-14", "2013-01-15T00:00:00Z", False),
    ("2013-01-14", "2013-01-14", True),
    ("ne2013-01-14", "2013-01-15T00:00:00Z", True),
    ("ne2013-01-14", "2013-01-14T00:00:00Z", False),
    ("ne2013-01-14", "2013-01-14T10:00:00Z", False),
    ("lt2013-01-14T10:00", "2013-01-14", True),
    ("lt2013-01-14T10:00", "2013-01-14T09:59:59Z", True),
    ("lt2013-01-14T10:00", "2013-01-14T10:00:00Z", False),
    ("gt2013-01-14T10:00", "2013-01-14", True),
    ("gt2013-01-14T10:00", "2013-01-14T10:00:30Z", False),
    ("gt2013-01-14T10:00", "2013-01-14T10:01:00Z", True),
    ("ge2013-03-14", "2013-03-14", True),
    ("ge2013-03-14", "2013-03-14T08:00:00Z", True),
    ("ge2013-03-14", "2013-03-15", True),
    ("ge2013-03-14", "2013-03-13", False),
    ("le2013-03-14", "2013-03-14", True),
    ("le2013-03-14", "2013-03-13", True),
    ("le2013-03-14", "2013-03-15", False),
    ("sa2013-03-14", "2013-03-15", True),
    ("sa2013-03-14", "2013-03-14", False),
    ("sa2013-03-14", "2013", False),
    ("eb2013-03-14", "2013-03-13", True),
    ("eb2013-03-14", "2013-03-14", False),
    ("eb2013-03-14", "2013", False),
    # A value less precise than the search is not contained, but reaches over both sides.
    ("eq2013-01-14", "2013-01", False),
    ("ne2013-01-14", "2013-01", True),
    ("gt2013-01-14", "2013-01", True),
    ("lt2013-01-14", "2013-01", True),
    ("ge2013-01-31", "2013-01", False),
    ("le2013-01-01", "2013-01", False),
    ("eq2013", "2013-01", True),
    ("eq2013-06", "2013-06-30T23:59:59Z", True),
    ("eq2013-06", "2013-06-30T23:59:59-01:00", False),
    # 10 % of the distance from now, which is 2026-01-01: 1.3 years around 2013.
    ("ap2013", "2013-06", True),
    ("ap2013", "2014-02", True),
    ("ap2013", "2012", True),
    ("ap2013", "2016", False),
    ("ap2025-12-31", "2025-12-31", True),
    ("ap2025-12-31", "2025-12-25", False),
]


@pytest.mark.parametrize(("asked", "value", "found"), OF_A_DATE)
def test_prefixes_of_a_date(asked: str, value: str, found: bool) -> None:
    assert holds(made("Observation", effectiveDateTime=value), "date", asked) is found


OF_A_PERIOD: list[tuple[str, dict[str, str], bool]] = [
    ("gt2013-03-14", {"start": "2013-03-01"}, True),
    ("ge2013-03-14", {"start": "2013-03-01"}, True),
    ("ge2013-03-14", {"end": "2013-03-13"}, False),
    ("ge2013-03-14", {"start": "2013-03-14", "end": "2013-03-14"}, True),
    ("ge2013-03-14", {"start": "2013-03-10", "end": "2013-03-14"}, False),
    ("le2013-03-14", {"end": "2013-04-01"}, True),
    ("lt2013-03-14", {"start": "2013-03-14"}, False),
    ("eq2013", {"start": "2013-01-01", "end": "2013-12-31"}, True),
    ("eq2013", {"start": "2013-01-01"}, False),
    ("eq2013", {"end": "2013"}, False),
    ("ne2013", {"start": "2013-01-01"}, True),
    ("sa2013-03-14", {"start": "2013-03-15"}, True),
    ("sa2013-03-14", {"start": "2013-03-14"}, False),
    ("sa2013-03-14", {"end": "2013-03-20"}, False),
    ("eb2013-03-14", {"end": "2013-03-13"}, True),
    ("eb2013-03-14", {"start": "2013-03-01"}, False),
    ("2013", {}, False),
    ("ne2013", {}, False),
]


@pytest.mark.parametrize(("asked", "period", "found"), OF_A_PERIOD)
def test_prefixes_of_a_period(asked: str, period: dict[str, str], found: bool) -> None:
    assert holds(made("Encounter", period=period), "date", asked) is found


@pytest.mark.parametrize(
    ("asked", "found"), [("2013-02-01", False), ("gt2013-02-01", True), ("2013", True), ("sa2013-01-30", True)]
)
def test_of_a_timing_only_the_outer_limits_count(asked: str, found: bool) -> None:
    timing: Any = {"event": ["2013-01-31", "2013-03-24"], "repeat": {"frequency": 1, "period": 2, "periodUnit": "d"}}
    assert holds(made("ServiceRequest", occurrenceTiming=timing), "occurrence", asked) is found


@pytest.mark.parametrize(
    ("asked", "any_", "all_"), [("ne2013", True, False), ("ne2014", True, False), ("ne2015", True, True)]
)
def test_with_several_dates_ne_is_read_either_way(asked: str, any_: bool, all_: bool) -> None:
    periods = [{"start": f"{year}-01-01", "end": f"{year}-02-01"} for year in (2013, 2014)]
    plan = made("CarePlan", activity=[{"detail": {"scheduledPeriod": period}} for period in periods])
    assert holds(plan, "activity-date", asked, ne_of_several="any") is any_
    assert holds(plan, "activity-date", asked, ne_of_several="all") is all_


@pytest.mark.parametrize(
    ("asked", "found"),
    [("ge2020", True), ("lt2020-05-05T10:00:00.123Z", False), ("2020-05-05", True), ("gt2021", False)],
)
def test_last_updated_is_a_date(asked: str, found: bool) -> None:
    resource = made("Patient", meta={"lastUpdated": "2020-05-05T10:00:00.123Z"})
    assert holds(resource, "_lastUpdated", asked) is found


def test_the_time_is_given() -> None:
    assert date("2026").low[0] == NOW

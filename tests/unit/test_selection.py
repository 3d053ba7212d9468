"""The parameters of `$everything`: each is honoured or refused by name, none is guessed (HE-5, HE-7, HE-8, HE-13)."""

from __future__ import annotations

import pytest

from fhirserver.core.dates import interval
from fhirserver.core.errors import Fault
from fhirserver.core.model import MAX_TIME, MIN_TIME
from fhirserver.http.selection import parse


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("_type", "Observatoin"),
        ("_type", "Observation,"),
        ("_type", ""),
        ("_type", "observation"),
        ("_since", "yesterday"),
        ("_since", "2026-02-30"),
        ("_since", "2026-02-27T12:00:00"),
        ("_since", ""),
        ("start", "27.02.2026"),
        ("end", "2026-02-27T"),
        ("_count", "-1"),
        ("_count", "ten"),
        ("_count", "1.5"),
        ("_count", "٣"),
        ("_count", "99999999999"),
        ("_offset", "-5"),
        ("_summary", "yes"),
        ("_deleted", "true"),
        ("_elements", ""),
    ],
)
def test_a_bad_value_is_a_400_naming_the_parameter(name: str, value: str) -> None:
    with pytest.raises(Fault, match=name) as caught:
        parse([(name, value)], strict=False)
    assert caught.value.status == 400
    assert caught.value.issues[0].expression == name


@pytest.mark.parametrize("name", ["_since", "_count", "_offset", "start", "end", "_summary", "_page"])
def test_a_repeated_single_parameter_is_a_400(name: str) -> None:
    with pytest.raises(Fault, match="more than once"):
        parse([(name, "1"), (name, "1")], strict=False)


def test_he7_repeated_and_listed_types_are_a_union() -> None:
    chosen = parse([("_type", "Patient,Observation"), ("_type", "Condition")], strict=False)
    assert chosen.types == {"Patient", "Observation", "Condition"}
    assert chosen.applied == (("_type", "Patient,Observation,Condition"),)


def test_he8_a_date_is_accepted_for_since() -> None:
    assert parse([("_since", "2026-02-27")], strict=False).since == interval("2026-02-27")[0]


def test_a_blank_where_a_plus_was_meant_is_understood() -> None:
    chosen = parse([("_since", "2026-02-27T12:00:00 02:00")], strict=False)
    assert chosen.since == interval("2026-02-27T10:00:00Z")[0]
    assert chosen.applied == (("_since", "2026-02-27T12:00:00+02:00"),)
    assert chosen.url("x") == "x?_since=2026-02-27T12:00:00%2B02:00"


def test_start_and_end_are_open_where_absent_and_whole_days() -> None:
    assert parse([("start", "2026-02")], strict=False).care == (interval("2026-02")[0], MAX_TIME)
    assert parse([("end", "2026-02")], strict=False).care == (MIN_TIME, interval("2026-02")[1])
    with pytest.raises(Fault, match="start is after end"):
        parse([("start", "2026-03"), ("end", "2026-02")], strict=False)


def test_he13_unknown_parameters_are_ignored_or_refused_under_strict_handling() -> None:
    assert parse([("foo", "bar")], strict=False).applied == ()
    with pytest.raises(Fault, match="foo"):
        parse([("foo", "bar")], strict=True)


def test_summary_count_is_count_zero() -> None:
    chosen = parse([("_summary", "count")], strict=False)
    assert (chosen.count, chosen.summary) == (0, None)


def test_deleted_needs_since() -> None:
    with pytest.raises(Fault, match="_since"):
        parse([("_deleted", "only")], strict=False)

"""Partial dates are the interval they name; what does not exist is refused."""

from __future__ import annotations

import pytest

from fhirserver.core.dates import interval
from fhirserver.core.stamp import instant


@pytest.mark.parametrize(
    ("text", "first", "last"),
    [
        ("2026", "2026-01-01T00:00:00.000Z", "2026-12-31T23:59:59.999Z"),
        ("2024-02", "2024-02-01T00:00:00.000Z", "2024-02-29T23:59:59.999Z"),
        ("2026-12", "2026-12-01T00:00:00.000Z", "2026-12-31T23:59:59.999Z"),
        ("2026-02-27", "2026-02-27T00:00:00.000Z", "2026-02-27T23:59:59.999Z"),
        ("2026-02-27T12:00Z", "2026-02-27T12:00:00.000Z", "2026-02-27T12:00:59.999Z"),
        ("2026-02-27T12:00:01Z", "2026-02-27T12:00:01.000Z", "2026-02-27T12:00:01.999Z"),
        ("2026-02-27T12:00:01.25+02:00", "2026-02-27T10:00:01.250Z", "2026-02-27T10:00:01.259Z"),
        ("2026-02-27T12:00:01.123456-05:30", "2026-02-27T17:30:01.123Z", "2026-02-27T17:30:01.123Z"),
        ("9999", "9999-01-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"),
        ("9999-12", "9999-12-01T00:00:00.000Z", "9999-12-31T23:59:59.999Z"),
        ("9999-12-31", "9999-12-31T00:00:00.000Z", "9999-12-31T23:59:59.999Z"),
        ("2016-12-31T23:59:60Z", "2016-12-31T23:59:59.000Z", "2016-12-31T23:59:59.999Z"),
    ],
)
def test_a_text_names_an_interval(text: str, first: str, last: str) -> None:
    assert tuple(map(instant, interval(text))) == (first, last)


@pytest.mark.parametrize(
    "text",
    ["", "yesterday", "2026-2-3", "2026-02-30", "2026-13", "2026-02-27T12:00:00", "2026-02-27T25:00:00Z",
     "2026-02-27T12:00:00+15:00", "2026-02-27 12:00:00Z", "20260227", "٢٠٢٦", "0000", "2026-02-27T12Z"],
)  # fmt: skip
def test_what_is_no_date_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"date|exist"):
        interval(text)

"""FHIR dates and instants as intervals of milliseconds since 1970 (UTC).

Source: R4 datatypes, date, dateTime, instant. A partial date is the interval it names: ``2026-02`` is all of
February 2026. A time needs a zone; a date without time is read in UTC.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from fhirserver.core.model import MAX_TIME

_FORM = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d+))?)?(Z|[+-]\d\d:\d\d))?)?)?", re.ASCII
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def interval(text: str) -> tuple[int, int]:
    """The first and last millisecond that ``text`` names; ValueError with a reason when it is no FHIR date."""
    match = _FORM.fullmatch(text)
    if match is None:
        raise ValueError("is not a date or instant such as 2026-02-27 or 2026-02-27T12:00:00Z (a time needs a zone)")
    year, month, day, hour, minute, second, fraction, zone = match.groups()
    try:
        if hour is None:
            first = datetime(int(year), int(month or 1), int(day or 1), tzinfo=UTC)
            return _milliseconds(first), _end(first, bool(month), bool(day))
        leap = second == "60"
        moment = datetime(
            int(year),
            int(month),
            int(day),
            int(hour),
            int(minute),
            59 if leap else int(second or 0),
            tzinfo=_zone(zone),
        )
    except (ValueError, OverflowError) as error:
        raise ValueError("names a day or time that does not exist") from error
    start = _milliseconds(moment)
    if second is None:
        return start, start + 59_999
    if fraction is None:
        return start, start + 999
    digits = (fraction + "000")[:3]
    width = 10 ** max(0, 3 - len(fraction))
    return start + int(digits), start + int(digits) + width - 1


def _zone(text: str) -> timezone:
    if text == "Z":
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 14 or minutes > 59:
        raise ValueError(text)
    offset = timedelta(hours=hours, minutes=minutes)
    return timezone(-offset if text[0] == "-" else offset)


def _end(first: datetime, has_month: bool, has_day: bool) -> int:
    """The last millisecond of the year, month or day that begins at ``first``."""
    try:
        if has_day:
            following = first + timedelta(days=1)
        elif has_month:
            following = first.replace(year=first.year + first.month // 12, month=first.month % 12 + 1)
        else:
            following = first.replace(year=first.year + 1)
    except (ValueError, OverflowError):  # the year 9999 has no next one
        return MAX_TIME
    return _milliseconds(following) - 1


def _milliseconds(moment: datetime) -> int:
    return (moment - _EPOCH) // _MILLISECOND

"""Dates, numbers and strings as the search rules compare them: intervals with open or closed ends, and folded text."""

from __future__ import annotations

import calendar
import math
import re
import unicodedata
from datetime import UTC, datetime, timedelta, timezone
from fractions import Fraction
from typing import Any, NamedTuple

from tests.oracle.reading import Reading, Unreadable

End = tuple[Any, int]
"""A number and which side of it: 0 is the number itself, 1 just above it, -1 just below."""
BEGINNING: End = (-math.inf, 0)
NEVER: End = (math.inf, 0)
PREFIXES = ("eq", "ne", "gt", "lt", "ge", "le", "sa", "eb", "ap")


class Span(NamedTuple):
    """An interval with both its ends."""

    low: End
    high: End

    def holds(self, other: Span) -> bool:
        return self.low <= other.low and other.high <= self.high

    def meets(self, other: Span) -> bool:
        return self.low <= other.high and other.low <= self.high

    def times(self, by: Fraction) -> Span:
        return Span(_times(self.low, by), _times(self.high, by))


def _times(end: End, by: Fraction) -> End:
    return end if math.isinf(end[0]) else (end[0] * by, end[1])


def closed(low: Any, high: Any) -> Span:
    """From one number to another, both included."""
    return Span((low, 0), (high, 0))


def fold(text: str) -> str:
    """Without case, accents and superfluous white space."""
    plain = "".join(c for c in unicodedata.normalize("NFKD", text.casefold()) if not unicodedata.combining(c))
    return " ".join(plain.casefold().split())


def bare(text: str) -> str:
    """`fold`, without punctuation."""
    return fold("".join(each for each in fold(text) if unicodedata.category(each)[0] != "P"))


_DATE = re.compile(
    r"(\d{4})(?:-(\d\d)(?:-(\d\d)(?:T(\d\d):(\d\d)(?::(\d\d)(?:\.(\d{1,9}))?)?(Z|[+-]\d\d:\d\d)?)?)?)?", re.ASCII
)


def date(text: str) -> Span:
    """The milliseconds that a date of any precision covers; Unreadable when it is none."""
    found = _DATE.fullmatch(text)
    if found is None:
        raise Unreadable(f"not a date: {text}")
    year, month, day, hour, minute, second, fraction, zone = found.groups()
    try:
        day_, time = (int(year), int(month or 1), int(day or 1)), (int(hour or 0), int(minute or 0), int(second or 0))
        first = datetime(*day_, *time, tzinfo=_zone(zone))
    except ValueError as wrong:
        raise Unreadable(f"no such date: {text}") from wrong
    start = _millis(first)
    if fraction:
        at = start + int(fraction.ljust(3, "0")[:3])
        return closed(at, at)
    if month is None:
        days = 366 if calendar.isleap(first.year) else 365
    else:
        days = calendar.monthrange(first.year, first.month)[1]
    length = 1_000 if second else 60_000 if minute else 86_400_000 if day else days * 86_400_000
    return closed(start, start + length - 1)


def _zone(text: str | None) -> timezone:
    if text in (None, "Z"):
        return UTC
    hours, minutes = int(text[1:3]), int(text[4:6])
    if hours > 14 or minutes > 59:
        raise ValueError("no such zone")
    return timezone((-1 if text[0] == "-" else 1) * timedelta(hours=hours, minutes=minutes))


def _millis(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(milliseconds=1)


def dates(type_: str, value: Any) -> list[Span]:
    """The interval of one element of a date parameter, if it has one."""
    if isinstance(value, str):
        return [date(value)] if type_ in ("date", "dateTime", "instant") else []
    if type_ == "Period":
        low = date(value["start"]).low if "start" in value else BEGINNING
        high = date(value["end"]).high if "end" in value else NEVER
        return [Span(low, high)] if {"start", "end"} & value.keys() else []
    if type_ == "Timing":
        parts = [date(event) for event in value.get("event", ())]
        parts += dates("Period", value.get("repeat", {}).get("boundsPeriod", {}))
        return [Span(min(part.low for part in parts), max(part.high for part in parts))] if parts else []
    return []


_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?", re.ASCII)


class Asked(NamedTuple):
    """One value of a search: its prefix, the exact value (both ends of a date), and the range of its precision."""

    prefix: str
    exact: Span
    range: Span


def prefixed(text: str) -> tuple[str, str]:
    """The prefix (`eq` when there is none) and the rest."""
    return (text[:2], text[2:]) if text[:2] in PREFIXES else ("eq", text)


def asked_date(text: str) -> Asked:
    prefix, rest = prefixed(text)
    span = date(rest)
    return Asked(prefix, span, span)


def asked_number(text: str) -> Asked:
    prefix, rest = prefixed(text)
    if not _NUMBER.fullmatch(rest):
        raise Unreadable(f"not a number: {text}")
    exact = Fraction(rest)
    mantissa, _, exponent = rest.lower().partition("e")
    digits = len(mantissa.partition(".")[2])
    if exponent and "." not in mantissa:
        digits = 1
    half = Fraction(10) ** (int(exponent or 0) - digits) / 2
    return Asked(prefix, closed(exact, exact), Span((exact - half, 0), (exact + half, -1)))


def compare(asked: Asked, value: Span, now: int | None, reading: Reading) -> bool:
    """R4 3.1.1.4.5 and .6: whether one value is what the search asks for; ``now`` is given for a date.

    A date of a search is a range: `ge` and `le` hold beyond it, or when the value lies within it. A number is a point.
    """
    prefix, exact, range_ = asked
    inside = now is not None and exact.holds(value)
    touches = now is None
    match prefix:
        case "eq":
            return range_.holds(value)
        case "ne":
            return not range_.holds(value)
        case "gt":
            return value.high > exact.high
        case "lt":
            return value.low < exact.low
        case "ge":
            return value.high > exact.high or inside or (touches and value.high == exact.high)
        case "le":
            return value.low < exact.low or inside or (touches and value.low == exact.low)
        case "sa":
            return value.low > exact.high
        case "eb":
            return value.high < exact.low
    about = Fraction(reading.ap).limit_denominator(1000)
    room = about * abs(exact.low[0] if now is None else now - exact.low[0])
    return closed(exact.low[0] - room, exact.high[0] + room).meets(value)

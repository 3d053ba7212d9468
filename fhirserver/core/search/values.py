r"""The text of search values: escapes, alternatives, prefixes, and what a number or date covers.

Source: R4 search §3.1.1.4.3 (escaping), §3.1.1.4.5 (prefixes), §3.1.1.4.6 (number), §3.1.1.4.7 (date).
``\,`` ``\|`` ``\$`` and ``\\`` stand for the character itself; a backslash before anything else is a backslash.

Everything ordered is an interval, in the resource as in the search. A date covers its whole year, month, day, minute or
second; one without a zone is read in UTC. A number covers half a unit of its last digit to both sides, the upper end
left out: ``100`` is [99.5, 100.5), ``100.00`` is [99.995, 100.005). The specification's example for an exponent,
``1e2`` is [95, 105), counts one digit more than is written, and so it is for every number with an exponent and without
a point. The precision of a number counts for `eq` and `ne` only; for the other prefixes it is the exact point. Numbers
are compared as doubles, which tell some 16 digits apart: more of them still find the number that they write.

With S the interval asked for and T one of the resource:

* `eq` S contains T. `ne` S does not contain T.
* `gt`, `lt` T has something above, below S. `ge`, `le` the same, or S contains T; of a number: T reaches it.
* `sa`, `eb` T begins after S ends, ends before S begins.
* `ap` T overlaps S widened by a tenth of the number, or of the time between the date's beginning and now.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Context, Decimal
from math import inf, isinf, nextafter
from typing import NamedTuple

from fhirserver.core.criteria import AnyOf, Criterion, Span, Written
from fhirserver.core.dates import interval
from fhirserver.core.model import MAX_TIME, MIN_TIME

_NUMBER = re.compile(r"(-?)(\d{1,64})(?:\.(\d{1,64}))?(?:[eE]([+-]?\d{1,3}))?", re.ASCII)
_PREFIX = re.compile(r"(eq|ne|gt|lt|ge|le|sa|eb|ap)(?=[-\d])", re.ASCII)
_ZONED = re.compile(r"T.*(?:Z|[+-]\d\d:\d\d)", re.ASCII)
_BLANK_ZONE = re.compile(r"(T\S*) (?=\d\d:\d\d$)", re.ASCII)
_EXACT = Context(prec=250)
_ESCAPED = ",|$\\"
_ESCAPES = re.compile(r"\\([,|$\\])")
_MARKS = re.compile(r"\\.|[,|$]", re.DOTALL)
"""What is escaped, whole, and what separates: one look at a text, however long it is."""


class Interval(NamedTuple):
    """What a value covers, both ends included."""

    low: float
    high: float


def split(text: str, separator: str) -> list[str]:
    """The parts between separators that no backslash stands before; the escapes stay."""
    ends = [each.start() for each in _MARKS.finditer(text) if each[0] == separator]
    return [text[begin + 1 : end] for begin, end in zip([-1, *ends], [*ends, len(text)], strict=True)]


def unescape(text: str) -> str:
    """The text that was meant."""
    return _ESCAPES.sub(r"\1", text)


def escape(text: str) -> str:
    """``text`` so that `unescape` gives it back and no part of it separates."""
    return "".join(f"\\{character}" if character in _ESCAPED else character for character in text)


def prefixed(text: str) -> tuple[str, str]:
    """The prefix, `eq` where there is none, and the rest; letters are a prefix only before a digit or a minus."""
    match = _PREFIX.match(text)
    return (match[1], text[2:]) if match else ("eq", text)


# --- numbers


class Number(NamedTuple):
    """A number as asked for, with the half unit of its last digit."""

    value: Decimal
    half: Decimal


def number_of(text: str) -> Number:
    """ValueError, with a reason, when it is no decimal number."""
    match = _NUMBER.fullmatch(text)
    if match is None:
        raise ValueError("is not a number such as 100, 5.40 or 1e2")
    value = Decimal(text)
    if isinf(float(value)):
        raise ValueError("is a number too great to compare")
    last = int(match[4] or 0) - len(match[3] or "") - (1 if match[4] and not match[3] else 0)
    return Number(value, Decimal(5).scaleb(last - 1))


class Covered(NamedTuple):
    """What a number asks for: the exact point, what its digits cover (`eq`, `ne`), what is about it (`ap`)."""

    point: float
    digits: Interval
    about: Interval


def covered(number: Number, convert: Callable[[Decimal], Decimal | None]) -> Covered:
    """These of a number, each through ``convert`` (to another unit); ValueError where that knows no way."""
    value, half = number
    tenth = abs(value).scaleb(-1, _EXACT)
    ends = (
        value,
        _EXACT.subtract(value, half),
        _EXACT.add(value, half),
        _EXACT.subtract(value, tenth),
        _EXACT.add(value, tenth),
    )
    converted = [convert(end) for end in ends]
    if None in converted:
        raise ValueError("is not a quantity that can be converted")
    point, low, high, least, most = (float(each) for each in converted if each is not None)
    inside = nextafter(high, -inf)
    # so many digits that the ends are the same double as the point, or the next: then the upper end is not left out
    return Covered(point, Interval(low, inside if inside > point else high), Interval(least, most))


def numeric(prefix: str, name: str, asked: Covered) -> Criterion:
    """The criterion on spans of this name for a number, see the module docstring."""
    point = asked.point
    if prefix in ("eq", "ne"):
        return _spans(prefix, name, asked.digits, _just_below, _just_above)
    if prefix == "ge":
        return Span(name, high=(point, inf))
    if prefix == "le":
        return Span(name, low=(-inf, point))
    if prefix == "ap":
        return _overlap(name, asked.about)
    return _spans(prefix, name, Interval(point, point), _just_below, _just_above)


def _just_below(value: float) -> float:
    return nextafter(value, -inf)


def _just_above(value: float) -> float:
    return nextafter(value, inf)


# --- dates


def date_of(text: str) -> tuple[int, int]:
    """The first and last millisecond of a date or time; ValueError with a reason.

    A blank before the zone is a plus that was not encoded in the URL.
    """
    text = _BLANK_ZONE.sub(r"\1+", text)
    if "T" in text and not _ZONED.search(text):
        text += "Z"
    low, high = interval(text)
    return min(max(low, MIN_TIME), MAX_TIME), min(max(high, MIN_TIME), MAX_TIME)


def temporal(prefix: str, name: str, date: tuple[int, int], now: int) -> Criterion:
    """The criterion on spans of this name for a date; ``now`` in milliseconds."""
    if prefix == "ap":
        return _overlap(name, Interval(*_widened(date, now)))
    return _spans(prefix, name, Interval(*date), _earlier, _later)


def written(prefix: str, date: tuple[int, int], now: int) -> Criterion:
    """The same for `_lastUpdated`, which is one millisecond of the version itself."""
    low, high = date
    before, after = Written(MIN_TIME, low - 1), Written(high + 1, MAX_TIME)
    if prefix == "eq":
        return Written(low, high)
    if prefix == "ne":
        return AnyOf((before, after))
    if prefix == "ap":
        return Written(*_widened(date, now))
    if prefix in ("gt", "sa"):
        return after
    if prefix in ("lt", "eb"):
        return before
    return Written(low, MAX_TIME) if prefix == "ge" else Written(MIN_TIME, high)


def _widened(date: tuple[int, int], now: int) -> tuple[int, int]:
    tenth = abs(now - date[0]) // 10
    return date[0] - tenth, date[1] + tenth


def _earlier(moment: float) -> float:
    return moment - 1


def _later(moment: float) -> float:
    return moment + 1


# --- both


def _spans(
    prefix: str, name: str, asked: Interval, before: Callable[[float], float], after: Callable[[float], float]
) -> Criterion:
    # a span's low end is never above its high end, so a bound on one that follows from the other is said as well: a
    # store can bound its way in by either
    low, high = asked
    below = Span(name, low=(-inf, before(low)))
    above = Span(name, high=(after(high), inf))
    if prefix == "eq":
        return Span(name, low=(low, high), high=(low, high))
    if prefix == "ne":
        return AnyOf((below, above))
    if prefix == "gt":
        return above
    if prefix == "lt":
        return below
    if prefix == "ge":  # above, or contained: what begins in or after the interval, or ends after it
        return AnyOf((Span(name, low=(low, inf), high=(low, inf)), above))
    if prefix == "le":
        return AnyOf((Span(name, low=(-inf, high), high=(-inf, high)), below))
    if prefix == "sa":
        return Span(name, low=(after(high), inf), high=(after(high), inf))
    return Span(name, low=(-inf, before(low)), high=(-inf, before(low)))


def _overlap(name: str, asked: Interval) -> Criterion:
    return Span(name, low=(-inf, asked.high), high=(asked.low, inf))

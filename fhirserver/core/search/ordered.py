"""What a parameter of ordered values asks of the index: dates, numbers, quantities, and places near a point.

Source: R4 search §3.1.1.4.5 to §3.1.1.4.8; prefixes and precision are in `core.search.values`. A quantity in UCUM is
compared in canonical units where there are such; its precision and its tenth are those of the number as asked,
converted.
"""

from __future__ import annotations

from decimal import Decimal

from fhirserver.core import ucum
from fhirserver.core.criteria import AllOf, Criterion, Span
from fhirserver.core.search.asked import Asked, any_of, refused
from fhirserver.core.search.near import Place, boxes, place_of
from fhirserver.core.search.values import covered, date_of, number_of, numeric, prefixed, split, temporal, unescape


def dated(asked: Asked, name: str, value: str) -> Criterion:
    """A date on the spans of ``name``."""
    prefix, text = prefixed(value)
    return temporal(prefix, name, date_asked(asked.label, text), asked.now)


def date_asked(label: str, text: str) -> tuple[int, int]:
    """The first and last millisecond of a date without prefix; Fault naming the parameter."""
    try:
        return date_of(unescape(text))
    except ValueError as error:
        raise refused(label, str(error)) from None


def numbered(asked: Asked, name: str, value: str, unit: str = "") -> Criterion:
    """A number on the spans of ``name``; with ``unit`` these are in the canonical unit of that."""

    def convert(number: Decimal) -> Decimal | None:
        converted = ucum.canonical(number, unit) if unit else None
        return converted[0] if converted else None if unit else number

    prefix, text = prefixed(value)
    try:
        found = covered(number_of(text), convert)
    except ValueError as error:
        raise refused(asked.label, str(error)) from None
    return numeric(prefix, name, found)


def quantity(asked: Asked, value: str) -> Criterion:
    """``number``, ``number|system|code`` or ``number||unit``."""
    number, system, code = quantity_parts(asked, value)
    if not code:
        return numbered(asked, asked.name, number)
    known = ucum.canonical(Decimal(1), code) if system == ucum.SYSTEM else None
    if known is not None:
        return numbered(asked, f"{asked.name}=~{known[1]}", number, code)
    return numbered(asked, f"{asked.name}={system}|{code}", number)


def quantity_parts(asked: Asked, value: str) -> tuple[str, str, str]:
    """(number with its prefix, system, code) of a quantity; code empty when it names no unit."""
    parts = split(value, "|")
    if len(parts) == 1:
        return value, "", ""
    system, code = (unescape(part) for part in parts[1:]) if len(parts) == 3 else ("", "")
    if not code:
        raise refused(asked.label, "must be number, number|system|code or number||unit")
    return parts[0], system, code


def place_asked(asked: Asked, value: str) -> Place:
    """The point and distance of a `near`; Fault naming the parameter."""
    try:
        return place_of([unescape(part) for part in split(value, "|")])
    except ValueError as error:
        raise refused(asked.label, str(error)) from None


def near(asked: Asked, value: str) -> Criterion:
    """The boxes in which everything near lies, and something that is not."""
    return any_of(
        AllOf(
            (
                Span(f"{asked.name}.latitude", low=box.latitude, high=box.latitude),
                Span(f"{asked.name}.longitude", low=box.longitude, high=box.longitude),
            )
        )
        for box in boxes(place_asked(asked, value))
    )

"""The intervals that ordered FHIR values cover: dates and times in milliseconds, numbers, quantities with their unit.

`core.entries` says how they stand in the index. A quantity's value is exact; a comparator opens the interval at its
end; a Range, SampledData (from the least to the greatest sample), a Period and a Timing (the outer limits of its times)
are intervals by nature. No interval ends before it begins: criteria on both its ends rely on that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from fhirserver.core.values import MAX_NUMBER, MIN_NUMBER, limits, moment, number, period, text_of, timing

MOMENTS = frozenset({"date", "dateTime", "instant"})
_CURRENCY = "urn:iso:std:iso:4217"
_NUMBERS = frozenset({"decimal", "integer", "positiveInt", "unsignedInt"})
_QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration"})


class Unit(NamedTuple):
    """How a quantity names its unit; empty where it does not."""

    system: str = ""
    code: str = ""
    text: str = ""


_NO_UNIT = Unit()


def intervals(type_: str, item: Any) -> list[tuple[Unit, float, float]]:
    """The intervals that a value of an ordered type covers, with the unit they are in; none for any other type."""
    if type_ in MOMENTS:
        bounds = moment(item) if type(item) is str else None
        return [(_NO_UNIT, *bounds)] if bounds else []
    if type_ in _QUANTITIES:
        return _quantity(item)
    if type_ == "Period":
        bounds = period(item)
        return [(_NO_UNIT, *bounds)] if bounds else []
    if type_ == "Timing":
        bounds = timing(item)
        return [(_NO_UNIT, *bounds)] if bounds else []
    if type_ in _NUMBERS:
        value = number(item)
        return [] if value is None else [(_NO_UNIT, value, value)]
    if type_ == "Range":
        return _range(item)
    if type_ == "Money":
        return _money(item)
    return _samples(item) if type_ == "SampledData" else []


def _unit(item: Any) -> Unit:
    return Unit(text_of(item, "system"), text_of(item, "code"), text_of(item, "unit"))


def _quantity(item: Any) -> list[tuple[Unit, float, float]]:
    value = number(item.get("value")) if type(item) is dict else None
    if value is None:
        return []
    comparator = text_of(item, "comparator")[:1]
    low = MIN_NUMBER if comparator == "<" else value
    high = MAX_NUMBER if comparator == ">" else value
    return [(_unit(item), low, high)]


def _range(item: Any) -> list[tuple[Unit, float, float]]:
    if type(item) is not dict:
        return []
    ends = [item.get("low"), item.get("high")]
    low, high = (number(end.get("value")) if type(end) is dict else None for end in ends)
    bounds = limits(low, high)
    unit = next((_unit(end) for end in ends if type(end) is dict), _NO_UNIT)
    return [(unit, *bounds)] if bounds else []


def _money(item: Any) -> list[tuple[Unit, float, float]]:
    value = number(item.get("value")) if type(item) is dict else None
    if value is None:
        return []
    currency = text_of(item, "currency")
    return [(Unit(_CURRENCY, currency) if currency else _NO_UNIT, value, value)]


def _samples(item: Any) -> list[tuple[Unit, float, float]]:
    origin = item.get("origin") if type(item) is dict else None
    base = number(origin.get("value")) if type(origin) is dict else None
    data = item.get("data") if base is not None else None
    if base is None or type(data) is not str:
        return []
    factor = number(item.get("factor"))
    read = [
        base + (1.0 if factor is None else factor) * sample
        for sample in map(_sample, data.split())
        if sample is not None
    ]
    finite = [each for each in map(number, read) if each is not None]
    return [(_unit(origin), min(finite), max(finite))] if finite else []


def _sample(text: str) -> float | None:
    """One value of SampledData.data; E, U and L (error, beyond the limits) are no values."""
    try:
        return float(text)
    except ValueError:
        return None

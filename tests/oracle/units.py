"""A few UCUM units as exact multiples of a base: enough for random data, written apart from the server's table."""

from __future__ import annotations

from fractions import Fraction

UCUM = "http://unitsofmeasure.org"

_SCALES: dict[str, dict[str, str]] = {
    "mass": {"g": "1", "kg": "1000", "mg": "1/1000", "ug": "1/1000000", "[lb_av]": "453.59237"},
    "length": {"m": "1", "cm": "1/100", "mm": "1/1000", "[in_i]": "0.0254"},
    "volume": {"L": "1", "dL": "1/10", "mL": "1/1000", "l": "1"},
    "mass per volume": {"g/L": "1", "mg/dL": "1/100", "g/dL": "10", "mg/L": "1/1000", "ug/mL": "1/1000"},
    "substance per volume": {"mol/L": "1", "mmol/L": "1/1000", "umol/L": "1/1000000"},
    "time": {"s": "1", "min": "60", "h": "3600", "d": "86400", "wk": "604800", "mo": "2629800", "a": "31557600"},
    "count per volume": {"10*9/L": "1", "10*3/uL": "1", "10*12/L": "1000"},
    "share": {"%": "1/100", "1": "1"},
}
_FACTORS = {unit: (kind, Fraction(factor)) for kind, units in _SCALES.items() for unit, factor in units.items()}


def factor(unit: str, wanted: str) -> Fraction | None:
    """What a number in ``unit`` is multiplied with to be in ``wanted``; None when the two do not convert."""
    if unit == wanted:
        return Fraction(1)
    if unit not in _FACTORS or wanted not in _FACTORS:
        return None
    (kind, from_), (other, to) = _FACTORS[unit], _FACTORS[wanted]
    return from_ / to if kind == other else None

"""Places within a distance of a point: the special parameter `near` of Location.

Source: R4 Location §8.7.5 (``latitude|longitude|distance|units``). Without units the distance is in kilometres; without
a distance it is `DEFAULT_KM`. The earth is a sphere of mean radius. The index finds what lies in a box around the
circle (`boxes`); the great-circle distance itself is taken from the content (`kilometres`).
"""

from __future__ import annotations

import re
from math import asin, cos, degrees, inf, radians, sin, sqrt
from typing import NamedTuple

DEFAULT_KM = 50.0
"""How far `near` looks when it is not told."""
_RADIUS = 6371.0088
_HALF_AROUND = 20_016.0
_UNITS = {
    "": 1.0,
    "km": 1.0,
    "m": 0.001,
    "[mi_i]": 1.609344,
    "mi_i": 1.609344,
    "mi": 1.609344,
    "[ft_i]": 0.0003048,
    "[nmi_i]": 1.852,
}
_DECIMAL = re.compile(r"[+-]?\d{1,20}(?:\.\d{1,20})?", re.ASCII)
_SLACK = 1e-6
"""Degrees (a tenth of a metre) by which a box is larger than the circle, so that rounding loses nothing."""


class Place(NamedTuple):
    """A point in degrees and a distance in kilometres."""

    latitude: float
    longitude: float
    distance: float


class Box(NamedTuple):
    """Between two latitudes and two longitudes, ends included."""

    latitude: tuple[float, float]
    longitude: tuple[float, float]


def place_of(parts: list[str]) -> Place:
    """The Place of ``latitude|longitude|distance|units`` cut at the bars; ValueError with a reason."""
    if not 2 <= len(parts) <= 4:
        raise ValueError("is not latitude|longitude|distance|units")
    latitude, longitude = _decimal(parts[0]), _decimal(parts[1])
    if abs(latitude) > 90 or abs(longitude) > 180:
        raise ValueError("is no point on earth: latitude is from -90 to 90, longitude from -180 to 180")
    unit = parts[3] if len(parts) == 4 else ""
    if unit not in _UNITS:
        raise ValueError("has a distance in a unit other than km, m, [mi_i], [nmi_i] or [ft_i]")
    if len(parts) == 2 or not parts[2]:
        return Place(latitude, longitude, DEFAULT_KM)
    distance = _decimal(parts[2]) * _UNITS[unit]
    if distance < 0:
        raise ValueError("has a negative distance")
    return Place(latitude, longitude, distance)


def _decimal(text: str) -> float:
    if _DECIMAL.fullmatch(text) is None:
        raise ValueError("is not latitude|longitude|distance|units in decimal numbers")
    return float(text)


def kilometres(one: tuple[float, float], other: tuple[float, float]) -> float:
    """The great-circle distance of two (latitude, longitude), by haversines, which are exact for short ways."""
    first, second = radians(one[0]), radians(other[0])
    across = sin((second - first) / 2) ** 2
    along = sin(radians(other[1] - one[1]) / 2) ** 2
    return 2 * _RADIUS * asin(min(1.0, sqrt(across + cos(first) * cos(second) * along)))


def boxes(place: Place) -> tuple[Box, ...]:
    """One box around the circle, or two where it crosses the 180th meridian."""
    if place.distance >= _HALF_AROUND:
        return (Box((-inf, inf), (-inf, inf)),)
    angle = place.distance / _RADIUS
    up = degrees(angle) + _SLACK
    latitude = (place.latitude - up, place.latitude + up)
    if latitude[0] <= -90 or latitude[1] >= 90:  # around a pole every longitude is near
        return (Box(latitude, (-inf, inf)),)
    side = degrees(asin(min(1.0, sin(angle) / cos(radians(place.latitude))))) + _SLACK
    west, east = place.longitude - side, place.longitude + side
    if west <= -180:
        return (Box(latitude, (west + 360, inf)), Box(latitude, (-inf, east)))
    if east >= 180:
        return (Box(latitude, (west, inf)), Box(latitude, (-inf, east - 360)))
    return (Box(latitude, (west, east)),)

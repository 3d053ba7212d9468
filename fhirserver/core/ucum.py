"""A UCUM quantity in base units, so that 5 mmol/L finds 0.005 mol/L: exact decimal arithmetic over a table.

The table (`fhirserver.data.ucum`) has the units of care out of the common UCUM codes; the grammar is UCUM's:
components joined by ``.`` and ``/``, prefixes, exponents, parentheses, annotations. A unit that is not understood has
no canonical form, and neither have the logarithmic ones (pH, dB). The rule is never to take unlike things for equal,
and rather to miss a conversion, so in three places it is narrower than UCUM:

* mol, eq, osm, Bq and Sv stand for themselves. In UCUM mol is a bare number, eq and osm are mol, Bq is Hz, Sv is Gy;
* units of arbitrary scales (``[CFU]``, ``[HPF]``) and ``[iU]`` stand for themselves, as UCUM wants it for most;
* a bare number that is named only by an annotation (``{score}``) has none: scores are not shares, as ``%`` is.
"""

from __future__ import annotations

import re
from decimal import Context, Decimal
from fractions import Fraction
from functools import cache, lru_cache
from importlib import resources
from math import isfinite
from typing import NamedTuple

import msgspec

from fhirserver.core.values import MAX_NUMBER, MIN_NUMBER

SYSTEM = "http://unitsofmeasure.org"
LIMIT = 100
"""A longer unit text is not looked at; the longest common code has 27 characters."""
_LARGEST_EXPONENT = 40
_DEPTH = 10
_EXACT = Context(prec=60, Emin=-9999, Emax=9999, traps=[])
_TOKEN = re.compile(
    r"(?P<note>\{[^{}]*\})|(?P<sign>[./()])|(?P<ten>10[*^])(?P<power>[+-]?\d+)?|(?P<number>\d+)(?![^./(){}])"
    r"|(?P<unit>(?:[^\s\d./(){}\[\]+-]|\[[^\s\[\]]*\])+)(?P<exponent>[+-]?\d+)?"
)

Dimensions = dict[str, int]


class Scale(NamedTuple):
    """What a unit comes to: the canonical value is (value + shift) * factor, in ``unit``."""

    factor: Fraction
    unit: str
    shift: Decimal = Decimal(0)


class _Table(msgspec.Struct):
    prefixes: dict[str, str]
    base: tuple[str, ...]
    own: tuple[str, ...]
    apart: tuple[str, ...]
    metric: dict[str, tuple[str, str]]
    plain: dict[str, tuple[str, str]]
    shifted: dict[str, tuple[str, str]]


def canonical(value: Decimal, unit: str) -> tuple[Decimal, str] | None:
    """The value in base units and their UCUM text (``g.m-3``; ``1`` for a bare number); None when there is none.

    Units that measure the same thing have the same text, and the greater quantity has the greater value.
    """
    scale = _scale(unit) if len(unit) <= LIMIT else None
    if scale is None:
        return None
    shifted = _EXACT.add(value, scale.shift) if scale.shift else value
    scaled = _EXACT.divide(_EXACT.multiply(shifted, Decimal(scale.factor.numerator)), Decimal(scale.factor.denominator))
    return (scaled, scale.unit) if scaled.is_finite() else None


@lru_cache(maxsize=8192)
def canonical_interval(low: float, high: float, unit: str) -> tuple[str, float, float] | None:
    """The canonical unit of an interval of the index, and its ends in it; an open end stays open.

    An end is the decimal that it is printed as. Measured values repeat, so what they come to is kept.
    """
    first = None if low == MIN_NUMBER else canonical(Decimal(repr(low)), unit)
    last = None if high == MAX_NUMBER else first if high == low else canonical(Decimal(repr(high)), unit)
    known = first or last
    if known is None or (low > MIN_NUMBER and first is None) or (high < MAX_NUMBER and last is None):
        return None
    ends = (float(first[0]) if first else low), (float(last[0]) if last else high)
    return (known[1], *ends) if all(map(isfinite, ends)) else None


@lru_cache(maxsize=2048)
def _scale(unit: str) -> Scale | None:
    shifted = _table().shifted.get(unit)
    if shifted:
        return Scale(Fraction(shifted[1]), "K", Decimal(shifted[0]))
    try:
        parser = _Parser(unit)
        factor, dimensions = parser.whole()
    except ValueError:
        return None
    text = ".".join(f"{name}{'' if power == 1 else power}" for name, power in sorted(dimensions.items()) if power)
    return None if parser.named and not text else Scale(factor, text or "1")


@cache
def _table() -> _Table:
    return msgspec.json.decode((resources.files("fhirserver.data") / "ucum.json").read_bytes(), type=_Table)


@cache
def _atom(symbol: str) -> tuple[Fraction, Dimensions]:
    """An atom, or a metric one with a prefix; KeyError for anything else."""
    table = _table()
    if symbol in table.base or symbol in table.own or symbol in table.apart:
        return Fraction(1), {symbol: 1}
    known = table.metric.get(symbol) or table.plain.get(symbol)
    if known:
        factor, dimensions = _Parser(known[1]).whole()
        return Fraction(known[0]) * factor, dimensions
    for length in (2, 1):
        prefix, rest = symbol[:length], symbol[length:]
        if prefix in table.prefixes and (rest in table.base or rest in table.own or rest in table.metric):
            factor, dimensions = _atom(rest)
            return Fraction(table.prefixes[prefix]) * factor, dimensions
    raise KeyError(symbol)


class _Parser:
    """One unit text, read from left to right (UCUM §§5-7): each solidus divides by the one component that follows."""

    def __init__(self, text: str) -> None:
        self.tokens: list[re.Match[str]] = []
        self.named = False
        """A component is nothing but an annotation."""
        self.at = 0
        at = 0
        while at < len(text):
            match = _TOKEN.match(text, at)
            if match is None:
                raise ValueError(text)
            self.tokens.append(match)
            at = match.end()

    def whole(self) -> tuple[Fraction, Dimensions]:
        found = self._term(0)
        if self.at < len(self.tokens):
            raise ValueError("something is left over")
        return found

    def _sign(self) -> str:
        return (self.tokens[self.at]["sign"] or "") if self.at < len(self.tokens) else ""

    def _term(self, depth: int) -> tuple[Fraction, Dimensions]:
        factor, dimensions = Fraction(1), Dimensions()
        operator = "."
        if self._sign() == "/":
            operator, self.at = "/", self.at + 1
        while True:
            number, parts = self._component(depth)
            direction = -1 if operator == "/" else 1
            factor *= number**direction
            for name, power in parts.items():
                dimensions[name] = dimensions.get(name, 0) + direction * power
            operator = self._sign()
            if operator not in (".", "/"):
                return factor, {name: power for name, power in dimensions.items() if power}
            self.at += 1

    def _component(self, depth: int) -> tuple[Fraction, Dimensions]:
        if self.at >= len(self.tokens) or depth > _DEPTH:
            raise ValueError("a component is missing, or too deep")
        match = self.tokens[self.at]
        self.at += 1
        if match["note"]:
            self.named = True
            return Fraction(1), {}
        if match["sign"] == "(":
            found = self._term(depth + 1)
            if self._sign() != ")":
                raise ValueError("not closed")
            self.at += 1
        elif match["ten"]:
            found = Fraction(10) ** _exponent(match["power"]), {}
        elif match["number"]:
            found = _positive(match["number"]), {}
        elif match["unit"]:
            found = _power(match["unit"], _exponent(match["exponent"]))
        else:
            raise ValueError("no component")
        if self.at < len(self.tokens) and self.tokens[self.at]["note"]:
            self.at += 1  # an annotation behind a unit changes nothing
        return found


def _power(symbol: str, power: int) -> tuple[Fraction, Dimensions]:
    try:
        factor, dimensions = _atom(symbol)
    except KeyError:
        raise ValueError(f"no such unit: {symbol}") from None
    return factor**power, {name: each * power for name, each in dimensions.items()}


def _exponent(text: str | None) -> int:
    if (text and len(text) > 3) or abs(int(text or 1)) > _LARGEST_EXPONENT:
        raise ValueError("an exponent beyond any unit's")
    return int(text or 1)


def _positive(text: str) -> Fraction:
    if not int(text):
        raise ValueError("a factor of zero")
    return Fraction(int(text))

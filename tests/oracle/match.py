"""Whether one resource is what one parameter asks for, without chains: R4 search 3.1.1.4."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

from fhirserver.core.definitions import RESOURCE_TYPES, SearchParameter
from tests.oracle.extract import JSON, Node, below, elements, local
from tests.oracle.reading import Reading, Unreadable
from tests.oracle.units import UCUM, factor
from tests.oracle.values import BEGINNING, NEVER, Span, asked_date, asked_number, bare, closed, compare, dates, fold

Test = Callable[[Node], bool]
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_MODIFIERS = {
    "string": {"", "exact", "contains"},
    "token": {"", "not", "text", "of-type"},
    "uri": {"", "above", "below"},
    "date": {""},
    "number": {""},
    "quantity": {""},
    "composite": {""},
    "special": {""},
}
EARTH_KM = 6371.0088


def split(text: str, separator: str) -> list[str]:
    """The parts between unescaped separators, still escaped."""
    parts, part, at = [], "", 0
    while at < len(text):
        if text[at] == "\\" and at + 1 < len(text):
            part, at = part + text[at : at + 2], at + 2
        elif text[at] == separator:
            parts, part, at = [*parts, part], "", at + 1
        else:
            part, at = part + text[at], at + 1
    return [*parts, part]


def plain(text: str) -> str:
    """A part without its escapes (3.1.1.4.7)."""
    return re.sub(r"\\([,|$\\])", r"\1", text)


class Matcher:
    """The tests of one search: the readings and the time are the same for all of them."""

    def __init__(self, now: int, reading: Reading) -> None:
        self.now = now
        self.reading = reading

    def matches(self, resource: JSON, parameter: SearchParameter, modifier: str, value: str) -> bool:
        """Whether the resource meets one parameter with this modifier and these (comma separated) values."""
        if modifier == "missing":
            if value not in ("true", "false") or parameter.type == "composite":
                raise Unreadable(f"{parameter.code}:missing={value}")
            nodes = elements(resource, parameter.expression)
            if self.reading.missing == "value":
                nodes = [node for node in nodes if self.has_value(parameter.type, node)]
            return (value == "true") == (not nodes)
        if parameter.type == "composite":
            if modifier:
                raise Unreadable(f"{parameter.code} has no :{modifier}")
            found = [self.composite(resource, parameter, each) for each in split(value, ",")]
            return any(found)
        nodes = elements(resource, parameter.expression)
        if parameter.type in ("date", "number", "quantity"):
            return any(self.ordered(nodes, parameter, modifier, each) for each in split(value, ","))
        tests = [self.test(parameter, modifier, each) for each in split(value, ",")]
        found = [test(node) for test in tests for node in nodes]
        return any(found) != (modifier == "not")

    def has_value(self, kind: str, node: Node) -> bool:
        """Whether an element has anything that a parameter of this type could be compared with."""
        value = node.value
        if kind == "date":
            return bool(dates(node.type, value))
        if kind in ("number", "quantity"):
            return bool(quantities(node, self.reading))
        if kind == "string":
            return bool(strings(node))
        if not isinstance(value, dict):
            return True
        if kind == "reference":
            return bool({"reference", "identifier"} & value.keys())
        if node.type == "CodeableConcept":
            return any({"system", "code"} & coding.keys() for coding in value.get("coding", ()))
        return (
            bool({"system", "code"} & value.keys()) if node.type == "Coding" else "value" in value or kind == "special"
        )

    def ordered(self, nodes: Sequence[Node], parameter: SearchParameter, modifier: str, value: str) -> bool:
        """Dates, numbers and quantities: several values of the resource, one of the search."""
        test = self.test(parameter, modifier, value)
        if value.startswith("ne") and self.reading.ne_of_several == "all":
            return bool(nodes) and all(test(node) for node in nodes)
        return any(test(node) for node in nodes)

    def test(self, parameter: SearchParameter, modifier: str, value: str) -> Test:
        """What one (still escaped) value asks of one element."""
        kind = parameter.type
        if modifier not in _MODIFIERS.get(kind, {modifier}):
            raise Unreadable(f"{parameter.code} has no :{modifier}")
        if not value:
            raise Unreadable(f"{parameter.code} is empty")
        if kind == "reference":
            return self._reference(parameter, modifier, value)
        if kind == "special":
            return _near(value, self.reading)
        by_type: dict[str, Callable[[str, str], Test]] = {
            "string": self._string, "token": self._token, "uri": self._uri,
            "date": self._date, "number": self._number, "quantity": self._quantity,
        }  # fmt: skip
        return by_type[kind](modifier, value)

    def composite(self, resource: JSON, parameter: SearchParameter, value: str) -> bool:
        """Every component holds within one of the context's nodes."""
        parts = split(value, "$")
        if len(parts) != len(parameter.components):
            raise Unreadable(f"{parameter.code} has {len(parameter.components)} parts")
        holds = []
        for context in elements(resource, parameter.expression):
            each = []
            for component, part in zip(parameter.components, parts, strict=True):
                single = SearchParameter(id=component.id, code=component.id, type=component.type, base=())
                test = self.test(single, "", part)
                each.append(any(test(node) for node in below(context, component.expression)))
            holds.append(all(each))
        if not holds:
            for component, part in zip(parameter.components, parts, strict=True):
                self.test(SearchParameter(id="", code=parameter.code, type=component.type, base=()), "", part)
        return any(holds)

    def _date(self, _: str, value: str) -> Test:
        asked = asked_date(plain(value))
        return lambda node: any(compare(asked, d, self.now, self.reading) for d in dates(node.type, node.value))

    def _number(self, _: str, value: str) -> Test:
        asked = asked_number(plain(value))

        def test(node: Node) -> bool:
            spans = quantities(node, self.reading)
            return any(compare(asked, span, None, self.reading) for span, _ in spans)

        return test

    def _quantity(self, _: str, value: str) -> Test:
        parts = [plain(part) for part in split(value, "|")]
        if len(parts) not in (1, 3):
            raise Unreadable(f"not a quantity: {value}")
        asked = asked_number(parts[0])
        system, unit = parts[1:] or ("", "")

        def test(node: Node) -> bool:
            return any(
                compare(asked, span.times(by), None, self.reading)
                for span, names in quantities(node, self.reading)
                for by in _factors(names, system, unit)
            )

        return test

    def _string(self, modifier: str, value: str) -> Test:
        text = plain(value)

        def test(node: Node) -> bool:
            parts = strings(node)
            if modifier == "exact":
                return text in parts
            if modifier == "contains":
                return any(bare(text) in bare(part) for part in parts)
            return any(bare(part).startswith(bare(text)) for part in parts if bare(part))

        return test

    def _uri(self, modifier: str, value: str) -> Test:
        text = plain(value)

        def test(node: Node) -> bool:
            given = node.value
            known = {given, given.partition("|")[0]} if node.type == "canonical" else {given}
            if modifier == "above":
                return any(
                    text == uri or (text.startswith(uri) and (uri.endswith("/") or text[len(uri)] == "/"))
                    for uri in known
                )
            if modifier == "below":
                whole = self.reading.below_segments and not text.endswith("/")
                return text in known or given.startswith(text + "/" if whole else text)
            return text in known

        return test

    def _token(self, modifier: str, value: str) -> Test:
        if modifier == "text":
            return self._text(plain(value))
        parts = [plain(part) for part in split(value, "|")]
        if modifier == "of-type":
            if len(parts) != 3 or not all(parts):
                raise Unreadable(f"not of the form system|code|value: {value}")
            return lambda node: (
                node.type == "Identifier"
                and node.value.get("value") == parts[2]
                and any(_same(each, *parts[:2]) for each in node.value.get("type", {}).get("coding", ()))
            )
        if len(parts) > 2 or not any(parts):
            raise Unreadable(f"not a token: {value}")
        return lambda node: _is_token(node, parts)

    def _text(self, value: str) -> Test:
        def test(node: Node) -> bool:
            return any(_says(text, value, self.reading) for text in displays(node))

        return test

    def _reference(self, parameter: SearchParameter, modifier: str, value: str) -> Test:
        if modifier == "text":
            return self._text(plain(value))
        if modifier == "identifier":
            parts = [plain(part) for part in split(value, "|")]
            if len(parts) > 2 or not any(parts):
                raise Unreadable(f"not an identifier: {value}")
            return lambda node: (
                node.type == "Reference"
                and "identifier" in node.value
                and _is_token(Node("Identifier", "Identifier", node.value["identifier"], node.root), parts)
            )
        text = plain(value)
        if modifier:
            possible = RESOURCE_TYPES if parameter.targets == ("Resource",) else parameter.targets
            if modifier not in possible:
                raise Unreadable(f"{parameter.code} does not refer to {modifier}")
            if _ID.fullmatch(text):
                text = f"{modifier}/{text}"
            elif local(text) is None or not text.startswith(f"{modifier}/"):
                raise Unreadable(f"not the id of a {modifier}: {value}")
        return lambda node: _refers(node, text)


def _factors(names: JSON, system: str, unit: str) -> list[Fraction]:
    """What to multiply a stored number with, so that it is in the unit asked for; none when the unit is another."""
    one = [Fraction(1)]
    if not unit and not system:
        return one
    if not system:
        return one if unit in (names.get("code"), names.get("unit")) else []
    if names.get("system") != system or "code" not in names:
        return []
    if not unit or names["code"] == unit:
        return one
    by = factor(names["code"], unit) if system == UCUM else None
    return [] if by is None else [by]


def quantities(node: Node, reading: Reading) -> list[tuple[Span, JSON]]:
    """The intervals of a number or any kind of quantity, each with what names its unit."""
    value = node.value
    if not isinstance(value, dict):
        number = Fraction(str(value))
        return [(closed(number, number), {})]
    if node.type == "Range":
        low, high = value.get("low", {}), value.get("high", {})
        if "value" not in low and "value" not in high:
            return []
        start = (Fraction(str(low["value"])), 0) if "value" in low else BEGINNING
        end = (Fraction(str(high["value"])), 0) if "value" in high else NEVER
        return [(Span(start, end), low or high)]
    if node.type == "SampledData":
        origin, by = Fraction(str(value["origin"].get("value", 0))), Fraction(str(value.get("factor", 1)))
        points = [origin + Fraction(point) * by for point in value.get("data", "").split() if point not in "EUL"]
        return [(closed(min(points), max(points)), value["origin"])] if points else []
    if "value" not in value:
        return []
    number = Fraction(str(value["value"]))
    if node.type == "Money":
        return [(closed(number, number), {"system": "urn:iso:std:iso:4217", "code": value.get("currency")})]
    outside = reading.open_comparators
    match value.get("comparator"):
        case "<":
            span = Span(BEGINNING, (number, -1 if outside else 0))
        case "<=":
            span = Span(BEGINNING, (number, 0))
        case ">":
            span = Span((number, 1 if outside else 0), NEVER)
        case ">=":
            span = Span((number, 0), NEVER)
        case _:
            span = closed(number, number)
    return [(span, value)]


_PARTS = {
    "HumanName": ("family", "given", "prefix", "suffix", "text"),
    "Address": ("line", "city", "district", "state", "postalCode", "country", "text"),
}


def strings(node: Node) -> list[str]:
    """The texts of an element, each matched by itself."""
    if isinstance(node.value, str):
        return [node.value]
    found: list[str] = []
    for name in _PARTS.get(node.type, ()):
        given = node.value.get(name, [])
        found += [text for text in (given if isinstance(given, list) else [given]) if text]
    return found


def displays(node: Node) -> list[str]:
    """The texts beside a code, an identifier or a reference."""
    value = node.value
    if node.type == "CodeableConcept":
        found = [value.get("text"), *(coding.get("display") for coding in value.get("coding", ()))]
    elif node.type in ("Coding", "Reference"):
        found = [value.get("display")]
    elif node.type == "Identifier":
        found = [value.get("type", {}).get("text")]
    else:
        found = []
    return [text for text in found if text]


def _says(text: str, wanted: str, reading: Reading) -> bool:
    text, wanted = fold(text), fold(wanted)
    if reading.text == "within":
        return wanted in text
    starts = [found.start() for found in re.finditer(f"(?={re.escape(wanted)})", text)]
    return any(at == 0 or (reading.text == "words" and not re.match(r"\w", text[at - 1])) for at in starts)


def _is_token(node: Node, parts: Sequence[str]) -> bool:
    """A code alone, `system|code`, `|code` or `system|`."""
    codings: Sequence[Any]
    if node.type == "CodeableConcept":
        codings = node.value.get("coding", ())
    elif node.type == "Coding":
        codings = (node.value,)
    elif node.type == "Identifier":
        codings = ({"system": node.value.get("system"), "code": node.value.get("value")},)
    else:
        bare = node.value.get("value") if isinstance(node.value, dict) else node.value
        text = str(bare).lower() if isinstance(bare, bool) else bare
        return len(parts) == 1 and text == parts[0]
    if len(parts) == 1:
        return any(each.get("code") == parts[0] for each in codings)
    return any(_same(each, *parts) for each in codings)


def _same(coding: JSON, system: str, code: str) -> bool:
    if (coding.get("system") or "") != system:
        return False
    return not code or coding.get("code") == code


def _refers(node: Node, text: str) -> bool:
    """An id, `Type/id` (of any version), or an address in full."""
    if isinstance(node.value, str):
        return text in (node.value, node.value.partition("|")[0])
    given = node.value.get("reference", "")
    if not given or given.startswith("#"):
        return False
    here = local(given)
    if here is None:
        return bool(given == text)
    return here == (local(text) or text) or (_ID.fullmatch(text) is not None and here.partition("/")[2] == text)


def _near(value: str, reading: Reading) -> Test:
    """`latitude|longitude[|distance[|units]]`, by the great circle."""
    parts = [plain(part) for part in split(value, "|")]
    try:
        latitude, longitude = float(parts[0]), float(parts[1])
        unit = parts[3] if len(parts) > 3 and parts[3] else "km"
        scale = {"km": 1.0, "m": 0.001, "[mi_us]": 1.609347, "[mi_i]": 1.609344}[unit]
        reach = float(parts[2]) * scale if len(parts) > 2 and parts[2] else reading.near_km
    except (ValueError, IndexError, KeyError) as wrong:
        raise Unreadable(f"not a place: {value}") from wrong
    if len(parts) > 4 or abs(latitude) > 90 or abs(longitude) > 180 or reach < 0:
        raise Unreadable(f"not a place: {value}")

    def test(node: Node) -> bool:
        return distance(latitude, longitude, float(node.value["latitude"]), float(node.value["longitude"])) <= reach

    return test


def distance(latitude: float, longitude: float, other_latitude: float, other_longitude: float) -> float:
    """Kilometres between two places by the great circle (haversine)."""
    a, b = math.radians(latitude), math.radians(other_latitude)
    half = math.sin((b - a) / 2) ** 2
    half += math.cos(a) * math.cos(b) * math.sin(math.radians(other_longitude - longitude) / 2) ** 2
    return 2 * EARTH_KM * math.asin(min(1.0, math.sqrt(half)))

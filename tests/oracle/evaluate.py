"""R4 search over a list of resources, word by word: which of them match, in which order, and what comes with them.

The readings of what R4 leaves open stand in `reading.py`. Nothing here is fast: every parameter is evaluated on every
resource.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cmp_to_key
from itertools import product
from typing import Any

from fhirserver.core.definitions import RESOURCE_TYPES, SearchParameter, search_parameters
from tests.oracle.extract import JSON, elements, local
from tests.oracle.match import Matcher, quantities, strings
from tests.oracle.reading import Reading, Unreadable
from tests.oracle.values import End, bare, dates

Pairs = Sequence[tuple[str, str]]
RESULT = ("_sort", "_include", "_revinclude", "_include:iterate", "_revinclude:iterate", "_count", "_total", "_summary")
"""Parameters that choose no resource."""


def key_of(resource: JSON) -> str:
    return f"{resource['resourceType']}/{resource['id']}"


def evaluate(
    resources: Sequence[JSON], type_: str | None, query: Pairs, *, now: int, reading: Reading | None = None
) -> list[str]:
    """The keys of the matches in the order of ``resources``, or in that of `_sort`. Unreadable for a senseless query.

    Without a type the search is of the whole system, or of the types in `_type`. ``now`` is in milliseconds.
    """
    world = World(resources, now, reading or Reading())
    types = _types(type_, query)
    choosing = [pair for pair in query if pair[0] not in (*RESULT, "_type")]
    for type_, (name, value) in product(types, choosing):
        world.check(type_, name, value)
    matches = [
        resource
        for resource in resources
        if resource["resourceType"] in types and all(world.meets(resource, *pair) for pair in choosing)
    ]
    for name, value in query:
        if name.partition(":")[0] in ("_include", "_revinclude"):
            _check_include(name, value)
    for order in [value for name, value in query if name == "_sort"]:
        matches = world.sorted(matches, types, order)
    return [key_of(resource) for resource in matches]


def included(
    resources: Sequence[JSON], matches: Sequence[str], query: Pairs, *, now: int, reading: Reading | None = None
) -> set[str]:
    """The keys that `_include` and `_revinclude` add to these matches (R4 3.1.1.5.4), the matches themselves apart."""
    world = World(resources, now, reading or Reading())
    asked = [(name, value) for name, value in query if name.partition(":")[0] in ("_include", "_revinclude")]
    found: set[str] = set()
    for name, value in asked:
        found |= world.include(name, value, set(matches))
    while True:
        more = set(found)
        for name, value in asked:
            if name.endswith(":iterate"):
                more |= world.include(name, value, found | set(matches))
        if more == found:
            return found - set(matches)
        found = more


def _check_include(name: str, value: str) -> None:
    """Unreadable unless it is `*`, or a reference of a type with perhaps the type it goes to."""
    source, code, target = (*value.split(":"), "", "")[:3]
    if name.partition(":")[2] not in ("", "iterate") or value.count(":") > 2:
        raise Unreadable(f"{name}={value}")
    if source != "*" and (source not in RESOURCE_TYPES or not code):
        raise Unreadable(f"{name}={value}")
    if target and target not in RESOURCE_TYPES:
        raise Unreadable(f"{name}={value}")
    if code in ("", "*"):
        return
    parameter = _parameter(source, code)
    possible = RESOURCE_TYPES if parameter.targets == ("Resource",) else parameter.targets
    if parameter.type != "reference" or (target and target not in possible):
        raise Unreadable(f"{name}={value}")


def _types(type_: str | None, query: Pairs) -> tuple[str, ...]:
    if type_ is not None:
        return (type_,)
    named = [each for name, value in query if name == "_type" for each in value.split(",")]
    if not set(named) <= RESOURCE_TYPES:
        raise Unreadable("_type names a type that there is not")
    return tuple(named) or tuple(sorted(RESOURCE_TYPES))


class World:
    """The resources, by key, and the questions one may ask of them."""

    def __init__(self, resources: Sequence[JSON], now: int, reading: Reading) -> None:
        self.by_key = {key_of(resource): resource for resource in resources}
        self.matcher = Matcher(now, reading)
        self.reading = reading

    def check(self, type_: str, name: str, value: str) -> None:
        """Unreadable when the parameter means nothing for this type: asked of a resource that has nothing."""
        if name.startswith("_has:"):
            source, parameter, inner = _reverse(name)
            self.check(source, inner, value)
            return
        if name == "_list":
            return
        parameter, modifier, rest = _forward(type_, name)
        if not rest:
            self.matcher.matches({"resourceType": type_, "id": "none"}, parameter, modifier, value)
            return
        for target in _targets(parameter, modifier, rest):
            self.check(target, rest, value)

    def meets(self, resource: JSON, name: str, value: str) -> bool:
        """Whether this parameter holds for this resource: by itself, by what it refers to, or by what refers to it."""
        if name == "_list":
            return self._listed(resource, value)
        if name.startswith("_has:"):
            source, parameter, inner = _reverse(name)
            return any(
                key_of(resource) in references(other, parameter) and self.meets(other, inner, value)
                for other in self.by_key.values()
                if other["resourceType"] == source
            )
        parameter, modifier, rest = _forward(resource["resourceType"], name)
        if not rest:
            return self.matcher.matches(resource, parameter, modifier, value)
        targets = _targets(parameter, modifier, rest)
        found = [self.by_key.get(key) for key in references(resource, parameter)]
        return any(self.meets(each, rest, value) for each in found if each and each["resourceType"] in targets)

    def _listed(self, resource: JSON, value: str) -> bool:
        listed = []
        for each in value.split(","):
            members = self.by_key.get(f"List/{each}", {}).get("entry", ())
            listed += [local(entry["item"].get("reference", "")) for entry in members]
        return key_of(resource) in listed

    def include(self, name: str, value: str, of: set[str]) -> set[str]:
        """What one `_include` or `_revinclude` brings, once."""
        source, code, target = (*value.split(":"), "", "")[:3]
        if source == "*":
            source, code = "", "*"
        found = set()
        for key, resource in self.by_key.items():
            if source and resource["resourceType"] != source:
                continue
            for parameter in _reference_parameters(resource["resourceType"], code):
                for refers in references(resource, parameter):
                    if target and not refers.startswith(f"{target}/"):
                        continue
                    if name.startswith("_revinclude"):
                        found |= {key} if refers in of else set()
                    elif key in of and refers in self.by_key:
                        found.add(refers)
        return found

    def sorted(self, matches: list[JSON], types: Iterable[str], order: str) -> list[JSON]:
        """By each key in turn; without the key last, whatever the direction."""
        keys = [(each.removeprefix("-"), each.startswith("-")) for each in order.split(",")]
        for code, _ in keys:
            for type_ in types:
                if _parameter(type_, code).type in ("reference", "composite", "special"):
                    raise Unreadable(f"_sort={code}")

        def compare(one: JSON, other: JSON) -> int:
            for code, descending in keys:
                a, b = self.sort_key(one, code), self.sort_key(other, code)
                if a == b:
                    continue
                if a is None or b is None:
                    return 1 if a is None else -1
                return -1 if (a < b) != descending else 1
            return 0

        return sorted(matches, key=cmp_to_key(compare))

    def sort_key(self, resource: JSON, code: str) -> Any:
        """The earliest date or least number, else the first value in the document; None without one."""
        if code == "_lastUpdated":
            return resource.get("meta", {}).get("lastUpdated", ""), list(self.by_key).index(key_of(resource))
        parameter = _parameter(resource["resourceType"], code)
        nodes = elements(resource, parameter.expression)
        if parameter.type == "date":
            lows: list[End] = [span.low for node in nodes for span in dates(node.type, node.value)]
            return min(lows, default=None)
        if parameter.type in ("number", "quantity"):
            return min((span.low for node in nodes for span, _ in quantities(node, self.reading)), default=None)
        if parameter.type == "string":
            return next((bare(text) for node in nodes for text in strings(node) if bare(text)), None)
        if parameter.type in ("token", "uri"):
            return next(
                (str(node.value).lower() if node.value in (True, False) else node.value for node in nodes), None
            )
        raise Unreadable(f"_sort={code}")


def references(resource: JSON, parameter: SearchParameter) -> list[str]:
    """The keys this parameter's literal references name."""
    nodes = elements(resource, parameter.expression)
    given = [node.value.get("reference", "") for node in nodes if node.type == "Reference"]
    return [key for key in map(local, given) if key]


def _reverse(name: str) -> tuple[str, SearchParameter, str]:
    """`_has:Type:reference:parameter`: something of that type refers to this and meets the parameter."""
    _, type_, code, inner = (*name.split(":", 3), "", "", "")[:4]
    if type_ not in RESOURCE_TYPES or not inner:
        raise Unreadable(name)
    parameter = _parameter(type_, code)
    if parameter.type != "reference":
        raise Unreadable(f"{code} is no reference")
    return type_, parameter, inner


def _forward(type_: str, name: str) -> tuple[SearchParameter, str, str]:
    """`code[:modifier]`, and for a chain what follows the first point."""
    head, _, rest = name.partition(".")
    code, _, modifier = head.partition(":")
    parameter = _parameter(type_, code)
    if rest and parameter.type != "reference":
        raise Unreadable(f"{code} is no reference")
    return parameter, modifier, rest


def _parameter(type_: str, code: str) -> SearchParameter:
    found = search_parameters(type_).get(code)
    if found is None or not found.expression:
        raise Unreadable(f"{type_} has no {code}")
    return found


def _reference_parameters(type_: str, code: str) -> list[SearchParameter]:
    every = search_parameters(type_)
    if code not in ("", "*"):
        every = {code: _parameter(type_, code)} if code in every else {}
    return [parameter for parameter in every.values() if parameter.type == "reference"]


def _targets(parameter: SearchParameter, modifier: str, rest: str) -> list[str]:
    """The types a chain goes through: the one named, else every target that knows what follows."""
    possible = RESOURCE_TYPES if parameter.targets == ("Resource",) else parameter.targets
    if modifier:
        if modifier not in possible:
            raise Unreadable(f"{parameter.code} does not refer to {modifier}")
        return [modifier]
    code = rest.partition(".")[0].partition(":")[0]
    found = [each for each in possible if code in ("_has", "_list") or code in search_parameters(each)]
    if not found:
        raise Unreadable(f"nothing {parameter.code} refers to has {code}")
    return found

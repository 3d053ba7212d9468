"""The value sets and code systems that a search names (`:in`, `:not-in`, `:above`, `:below`), from what is stored here.

Source: R4 search §3.1.1.4.10; valueset (compose, expansion), codesystem (concept). This server has no terminology
service: a value set counts if it has an expansion, or lists its codes, or takes whole code systems that stand here
completely. Whatever else it says makes it unknown, since a part of its codes would find too little, or with
``:not-in`` too much.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import msgspec

from fhirserver.core.model import Query
from fhirserver.http.selection import bad
from fhirserver.policy.gate import Scoped

Code = tuple[str, str]
"""(system, code)."""

MOST_NAMED = 20
"""Value sets and code systems that one search names: each is read first."""
MOST_CODES = 10_000
"""Codes of all value sets of a search, or of one code system; what is found by more is refused."""

_SETS = frozenset({"in", "not-in"})
_TREES = frozenset({"above", "below"})
_LISTED = frozenset({"system", "version", "concept", "extension", "id"})


class Sets(msgspec.Struct, frozen=True):
    """What is known: value sets by URL, and per code system each code's parents."""

    sets: dict[str, tuple[Code, ...]]
    parents: dict[str, dict[str, frozenset[str]]]

    def codes(self, url: str) -> Sequence[Code] | None:
        """The codes of a value set, None where it is not known completely."""
        return self.sets.get(url)

    def ancestors(self, system: str, code: str) -> Sequence[str] | None:
        """The codes above one, itself included."""
        parents = self.parents.get(system)
        if parents is None or code not in parents:
            return None
        found, fresh = {code}, {code}
        while fresh:
            fresh = {parent for each in fresh for parent in parents.get(each, ())} - found
            found |= fresh
        return sorted(found)

    def descendants(self, system: str, code: str) -> Sequence[str] | None:
        """The codes below one, itself included."""
        parents = self.parents.get(system)
        if parents is None or code not in parents:
            return None
        found, fresh = {code}, {code}
        while fresh:
            fresh = {each for each, above in parents.items() if not above.isdisjoint(fresh)} - found
            found |= fresh
        return sorted(found)


NOTHING_KNOWN = Sets({}, {})
"""No terminology at all."""


async def value_sets(scoped: Scoped, pairs: Sequence[tuple[str, str]]) -> Sets:
    """What the modifiers among these parameters name, as far as the caller may see it."""
    sets: dict[str, tuple[Code, ...]] = {}
    parents: dict[str, dict[str, frozenset[str]]] = {}
    named: set[tuple[str, str]] = set()
    for name, value in pairs:
        modifier = name.rpartition(":")[2]
        for url in _named(modifier, value):
            if (modifier, url) in named:
                continue
            named.add((modifier, url))
            if len(named) > MOST_NAMED:
                raise bad(name[:64], f"names more than {MOST_NAMED} value sets or code systems")
            if modifier in _SETS:
                found = await _codes(scoped, url)
                if found is not None:
                    sets[url] = found
            else:
                resource = await _defined(scoped, "CodeSystem", url)
                if resource is not None:
                    parents[url] = dict(_tree(resource.get("concept", []), ()))
            if max(sum(map(len, sets.values())), *map(len, parents.values()), 0) > MOST_CODES:
                raise bad(name[:64], f"names more than {MOST_CODES} codes")
    return Sets(sets, parents)


def _named(modifier: str, value: str) -> Iterator[str]:
    if modifier in _SETS:
        yield from value.split(",")
    elif modifier in _TREES:
        yield from (each.partition("|")[0] for each in value.split(",") if "|" in each)


async def _codes(scoped: Scoped, url: str) -> tuple[Code, ...] | None:
    resource = await _defined(scoped, "ValueSet", url)
    if resource is None:
        return None
    if "expansion" in resource:
        expansion = resource["expansion"]
        found = set(_contained(expansion.get("contains", [])))
        return tuple(sorted(found)) if expansion.get("total", len(found)) <= len(found) else None
    compose = resource.get("compose", {})
    included = await _parts(scoped, compose.get("include", []))
    excluded = await _parts(scoped, compose.get("exclude", []))
    return None if included is None or excluded is None else tuple(sorted(included - excluded))


async def _parts(scoped: Scoped, parts: Sequence[Mapping[str, Any]]) -> set[Code] | None:
    found: set[Code] = set()
    for part in parts:
        system = part.get("system")
        if system is None or not part.keys() <= _LISTED:
            return None  # a filter, or other value sets
        if "concept" in part:
            found |= {(system, concept["code"]) for concept in part["concept"]}
            continue
        whole = await _defined(scoped, "CodeSystem", system)
        if whole is None or whole.get("content") != "complete":
            return None
        found |= {(system, code) for code, _ in _tree(whole.get("concept", []), ())}
    return found


async def _defined(scoped: Scoped, type_: str, url: str) -> dict[str, Any] | None:
    """The one resource of this canonical URL."""
    found: list[dict[str, Any]] = []
    async for records in scoped.scan(Query(types=frozenset({type_}), terms=((f"{type_}|url={url}",),), limit=2)):
        for record in records:
            found.append(msgspec.json.decode(await scoped.whole(record)))
    return found[0] if len(found) == 1 else None


def _contained(contains: Sequence[Mapping[str, Any]]) -> Iterator[Code]:
    for each in contains:
        if "code" in each and not each.get("abstract"):
            yield each.get("system", ""), each["code"]
        yield from _contained(each.get("contains", []))


def _tree(concepts: Sequence[Mapping[str, Any]], above: tuple[str, ...]) -> Iterator[tuple[str, frozenset[str]]]:
    for concept in concepts:
        yield concept["code"], frozenset(above)
        yield from _tree(concept.get("concept", []), (concept["code"],))

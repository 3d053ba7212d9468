"""What an invariant is here, and the forms that most of them have.

The specification states invariants as FHIRPath over one element (`ElementDefinition.constraint`). Here each is a pure
function of that element's JSON, so an element may be judged without an interpreter. Three readings hold throughout:

* ``exists`` is membership: valid FHIR JSON has no member without a value. A primitive that has only extensions
  exists, too (its ``_name`` is there), but equals nothing.
* An expression that comes out empty breaks nothing, unless its words say that something must be there.
* A function sees an element whose structure may still be wrong, so it must not assume kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from fhirserver.core.lexical import is_absolute

Json = Mapping[str, Any]
Members = Mapping[str, frozenset[str]]
"""element name -> the JSON members that are its presence: ``value`` -> ``valueString``, ``_valueString``, …"""

Verdict = bool | list[str]
"""Whether an invariant is broken by the element, or below it the places where it is (none: it holds)."""


class Rule(NamedTuple):
    """One invariant, or a part of it, compiled for one type.

    ``broken`` is asked only where, of each set in ``when``, one of the JSON members is there. ``by_names``: the names
    of the members decide alone. ``where``: the member a report points to. ``says``: the words of a rule that is no
    published invariant; the others have theirs in the tables (`invariants.said`).
    """

    key: str
    broken: Callable[[Json], Verdict]
    when: tuple[frozenset[str], ...] = ()
    by_names: bool = False
    where: str = ""
    says: str = ""


Make = Callable[[Members], Rule]
"""Compiles a rule, given what counts as the presence of each element."""


def concerns(rule: Rule, element: Json) -> bool:
    """Whether the rule is to be asked about an element with these members."""
    return not any(members.isdisjoint(element) for members in rule.when)


def places(rule: Rule, element: Json) -> list[str]:
    """Where below the element the rule is broken; an empty place is the element itself."""
    if not concerns(rule, element):
        return []
    verdict = rule.broken(element)
    if isinstance(verdict, bool):
        return [rule.where] if verdict else []
    return verdict


# --- rules over which elements are present


def by_names(key: str, *names: str, broken: Callable[..., bool], where: str = "") -> Make:
    """``broken`` is given, for each name, whether that element is there."""

    def make(members: Members) -> Rule:
        sets = [members[name] for name in names]

        def judge(element: Json) -> bool:
            return broken(*(not each.isdisjoint(element) for each in sets))

        return Rule(key, judge, by_names=True, where=where)

    return make


def needs(key: str, name: str, *others: str) -> Make:
    """Where ``name`` is, one of the others has to be."""
    return by_names(key, name, *others, broken=lambda first, *rest: first and not any(rest))


def apart(key: str, *names: str) -> Make:
    """At most one of the names."""
    return by_names(key, *names, broken=lambda *there: sum(there) > 1)


def some(key: str, *names: str) -> Make:
    """At least one of the names."""
    return by_names(key, *names, broken=lambda *there: not any(there))


def one(key: str, *names: str) -> Make:
    """Exactly one of the names."""
    return by_names(key, *names, broken=lambda *there: sum(there) != 1)


# --- rules over values


def check(key: str, broken: Callable[[Json], Verdict], *when: str, where: str = "", says: str = "") -> Make:
    """A rule over values, asked only where all of the elements ``when`` are there."""

    def make(members: Members) -> Rule:
        return Rule(key, broken, tuple(members[name] for name in when), False, where, says)

    return make


def absolute(name: str) -> Make:
    """The URI at ``name`` is an absolute one, as the definition of that element says."""
    return check(
        "absolute",
        lambda element: bool(uri := text(element, name)) and not is_absolute(uri),
        name,
        where=name,
        says="must be an absolute URI",
    )


def has(element: Json, name: str) -> bool:
    """Whether an element that is no choice is there, be it only by an extension."""
    return name in element or f"_{name}" in element


def below(element: Json, *names: str) -> Iterator[tuple[str, Json]]:
    """Each JSON object reached by the names, through arrays, with its place: ``entry[0].resource``."""
    if not names:
        yield "", element
        return
    name, *rest = names
    value = element.get(name)
    found = [(name, value)]
    if isinstance(value, list):
        found = [(f"{name}[{at}]", each) for at, each in enumerate(value)]
    for place, each in found:
        if isinstance(each, dict):
            for inner, item in below(each, *rest):
                yield f"{place}.{inner}" if inner else place, item


def text(element: Json, name: str) -> str:
    """The string at ``name``; empty when there is none."""
    value = element.get(name)
    return value if isinstance(value, str) else ""


def number(element: Json, name: str) -> float | None:
    """The number at ``name``."""
    value = element.get(name)
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def repeated(values: Iterable[tuple[str, Hashable]]) -> list[str]:
    """The places of values that stood at an earlier place already (FHIRPath ``isDistinct``)."""
    seen: set[Hashable] = set()
    found: list[str] = []
    for place, value in values:
        if value in seen:
            found.append(place)
        seen.add(value)
    return found


def codings(concept: Any) -> set[tuple[str, str]]:
    """(system, code) of each coding of a CodeableConcept."""
    if not isinstance(concept, dict):
        return set()
    return {(text(each, "system"), text(each, "code")) for _, each in below(concept, "coding")}


def coded(concept: Any, system: str, *codes: str) -> bool:
    """Whether a CodeableConcept has one of the codes."""
    return not codings(concept).isdisjoint((system, code) for code in codes)

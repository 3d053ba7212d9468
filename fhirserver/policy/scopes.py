"""SMART scopes, both grammars: what a token allows to do with which types, never more.

Sources: SMART App Launch 2.2 "Scopes and launch context" (``patient/Observation.rs``) and its version 1 form
(``patient/Observation.read``). A granular scope (``patient/Condition.rs?category=system|code``) allows to read and to
search what is of that kind, and to write nothing. What is not understood contributes nothing: granular scopes by
another parameter, or of a type without kinds (`data/kinds.json`), letters out of order, launch and identity scopes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache
from itertools import product
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES, kind_elements
from fhirserver.core.model import FINDING
from fhirserver.policy.box import Kinds, are_within, both_kinds

MOST_PARTS = 64
"""How many different limits on the kinds of one type are distinguished. What would come after is left out."""

_SCOPE = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(read|write|\*|c?r?u?d?s?)(?:\?(\S+))?")
_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}
_SPLIT = re.compile(r"(?<!\\),")


class Part(NamedTuple):
    """The resources of one type that are of these kinds."""

    type: str
    kinds: Kinds


class Types(msgspec.Struct, frozen=True):
    """What scopes let see: ``whole`` types, and ``parts`` of others."""

    whole: frozenset[str] = frozenset()
    parts: tuple[Part, ...] = ()

    @property
    def named(self) -> frozenset[str]:
        """The types of which anything is allowed."""
        return self.whole.union(part.type for part in self.parts)


class _Rule(NamedTuple):
    """``type`` may be ``*``; ``kinds`` ``()``: whatever the resource's kinds."""

    context: str
    type: str
    letters: str
    kinds: Kinds = ()


class Scopes(msgspec.Struct, frozen=True, dict=True):
    """A scope string, read once. ``text`` is kept as it came, for display and for tokens."""

    text: str = ""

    @cached_property
    def _rules(self) -> tuple[_Rule, ...]:
        return tuple(rule for word in self.text.split() if (rule := _parse(word)) is not None)

    def types(self, letters: str, contexts: Iterable[str]) -> frozenset[str]:
        """The resource types on which every one of ``letters`` is allowed in one of these contexts (``patient``,
        ``user``, ``system``), whatever the resource's kinds; empty when nothing is."""
        return self.allowed(letters, contexts).whole

    def allowed(self, letters: str, contexts: Iterable[str]) -> Types:
        """The same with what granular scopes allow beside it."""
        return _allowed(self._rules, letters, frozenset(contexts))


@lru_cache(maxsize=4096)
def _allowed(rules: tuple[_Rule, ...], letters: str, contexts: frozenset[str]) -> Types:
    whole, partly = RESOURCE_TYPES if letters else frozenset(), frozenset[str]()
    each: list[dict[str, list[Kinds]]] = []
    for letter in letters:
        given = [rule for rule in rules if rule.context in contexts and letter in rule.letters]
        named = {rule.type for rule in given if not rule.kinds}
        named = named if "*" not in named else set(RESOURCE_TYPES)
        limits: dict[str, list[Kinds]] = {}
        for rule in given:
            if rule.kinds:
                limits.setdefault(rule.type, []).append(rule.kinds)
        partly = (partly if each else RESOURCE_TYPES) & (named | limits.keys())
        each.append({type_: [()] if type_ in named else _joined(limits[type_]) for type_ in named | limits.keys()})
        whole = whole & named
    parts = [
        Part(type_, kinds) for type_ in sorted(partly - whole) for kinds in _every(limits[type_] for limits in each)
    ]
    return Types(whole, tuple(parts))


def _joined(several: list[Kinds]) -> list[Kinds]:
    """The same union in few: of limits that are one set each, one set."""
    single = frozenset[str]().union(*(kinds[0] for kinds in several if len(kinds) == 1))
    rest = [kinds for kinds in several if len(kinds) > 1 and not are_within(kinds, (single,))]
    return [*([(single,)] if single else []), *rest][:MOST_PARTS]


def _every(limits: Iterable[list[Kinds]]) -> list[Kinds]:
    """What is of the kinds of one limit of each, as few limits."""
    found: list[Kinds] = []
    for kinds in (both_kinds(*chosen) for chosen in product(*limits)):
        if not any(are_within(kinds, other) for other in found):
            found = [*(other for other in found if not are_within(other, kinds)), kinds]
    return found[:MOST_PARTS]


def _parse(word: str) -> _Rule | None:
    """The rule of one scope, or None for a scope that allows nothing here."""
    match = _SCOPE.fullmatch(word)
    if match is None or not match[3]:
        return None
    if match[4] is None:
        return _Rule(match[1], match[2], _VERSION_1.get(match[3], match[3]))
    kinds = _kinds(match[4]) if match[2] in kind_elements and match[3] not in _VERSION_1 else None
    letters = "".join(letter for letter in match[3] if letter in "rs")
    return None if kinds is None or not letters else _Rule(match[1], match[2], letters, kinds)


def _kinds(query: str) -> Kinds | None:
    """What ``category=…`` asks for, as a token search does (R4 search.html#token); None for anything else."""
    found: list[Kinds] = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        codes = frozenset(unquote(code).replace("\\,", ",") for code in _SPLIT.split(value))
        # ``system|`` (any code of it) is no form that kinds have.
        if name != "category" or any(not code or code[-1] == "|" or code[0] == FINDING for code in codes):
            return None
        found.append((codes,))
    return both_kinds(*found)


ALL = Scopes("system/*.cruds")
"""Everything that the class may do: for system work, which no token stands behind."""

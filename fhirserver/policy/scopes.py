"""SMART scopes, both grammars: what a token allows to do with which types, never more.

Sources: SMART App Launch 2.2 "Scopes and launch context" (``patient/Observation.rs``) and its version 1 form
(``patient/Observation.read``). What is not understood contributes nothing: granular scopes (``?category=…``), letters
out of order, launch and identity scopes.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cached_property, lru_cache

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES

_SCOPE = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(read|write|\*|c?r?u?d?s?)")
_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}


class Scopes(msgspec.Struct, frozen=True, dict=True):
    """A scope string, read once. ``text`` is kept as it came, for display and for tokens."""

    text: str = ""

    @cached_property
    def _rules(self) -> tuple[tuple[str, str, str], ...]:
        return tuple(rule for word in self.text.split() if (rule := _parse(word)) is not None)

    def types(self, letters: str, contexts: Iterable[str]) -> frozenset[str]:
        """The resource types on which every one of ``letters`` is allowed in one of these contexts (``patient``,
        ``user``, ``system``); empty when nothing is."""
        return _types(self._rules, letters, frozenset(contexts))


@lru_cache(maxsize=4096)
def _types(rules: tuple[tuple[str, str, str], ...], letters: str, contexts: frozenset[str]) -> frozenset[str]:
    allowed = RESOURCE_TYPES if letters else frozenset()
    for letter in letters:
        named = {type_ for context, type_, given in rules if context in contexts and letter in given}
        allowed = allowed if "*" in named else allowed & named
    return allowed


def _parse(word: str) -> tuple[str, str, str] | None:
    """(context, type or ``*``, letters), or None for a scope that allows nothing here."""
    match = _SCOPE.fullmatch(word)
    if match is None or not match[3]:
        return None
    return match[1], match[2], _VERSION_1.get(match[3], match[3])


ALL = Scopes("system/*.cruds")
"""Everything that the class may do: for system work, which no token stands behind."""

"""The scopes of a token that is asked for: what was asked, as far as it is registered.

Source: SMART App Launch 2.2 "Scopes and launch context"; RFC 6749 §3.3. The meeting of two scopes is never more than
either of them: where it cannot be said in one scope, it is left out.
"""

from __future__ import annotations

import re

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.policy.scopes import Scopes

LONGEST = 4096
"""Characters of scopes that a token may be asked for, and have."""

_MOST = 512
"""Meetings of scopes that are looked at."""

_WORD = re.compile(r"(patient|user|system)/([A-Z][A-Za-z]*|\*)\.(read|write|\*|c?r?u?d?s?)(?:\?(\S+))?")
_VERSION_1 = {"read": "rs", "write": "cud", "*": "cruds"}


class _Scope(msgspec.Struct, frozen=True):
    context: str
    type: str
    letters: str
    query: str = ""

    def covers(self, other: _Scope) -> bool:
        return (
            self.context == other.context
            and self.type in ("*", other.type)
            and set(other.letters) <= set(self.letters)
            and self.query in ("", other.query)
        )

    def meet(self, other: _Scope) -> _Scope | None:
        """What both allow; None where that is nothing, or cannot be said in one scope."""
        letters = "".join(letter for letter in "cruds" if letter in self.letters and letter in other.letters)
        types = {self.type, other.type} - {"*"}
        queries = {self.query, other.query} - {""}
        if self.context != other.context or not letters or len(types) > 1 or len(queries) > 1:
            return None
        return _Scope(self.context, "".join(types) or "*", letters, "".join(queries))

    def text(self) -> str:
        return f"{self.context}/{self.type}.{self.letters}" + (f"?{self.query}" if self.query else "")


def granted(asked: str, registered: str) -> str:
    """The scopes to grant, in the order and (where all of one is granted) the words they were asked for in; empty when
    nothing of it is registered."""
    if len(asked) > LONGEST:
        return ""
    allowed = [scope for word in registered.split() if (scope := _parse(word)) is not None]
    found: dict[str, _Scope] = {}
    for word in dict.fromkeys(asked.split()):
        wanted = _parse(word)
        for met in (wanted.meet(scope) for scope in allowed) if wanted is not None else ():
            if met is not None and _allows(met.text(), met.context):
                found.setdefault(word if met == wanted else met.text(), met)
        if len(found) > _MOST:
            return ""
    return text if len(text := " ".join(_shortest(found))) <= LONGEST else ""


def _shortest(found: dict[str, _Scope]) -> list[str]:
    """Those that no other says all of; of two that say the same, the first."""
    kept: dict[str, _Scope] = {}
    for word, scope in found.items():
        if not any(wider.covers(scope) for wider in kept.values()):
            kept = {held: narrower for held, narrower in kept.items() if not scope.covers(narrower)}
            kept[word] = scope
    return list(kept)


def _parse(word: str) -> _Scope | None:
    match = _WORD.fullmatch(word)
    if match is None or not _allows(word, match[1]) or (match[2] != "*" and match[2] not in RESOURCE_TYPES):
        return None
    return _Scope(match[1], match[2], _VERSION_1.get(match[3], match[3]), match[4] or "")


def _allows(word: str, context: str) -> bool:
    """Whether a scope means anything: what means nothing must not, written anew, come to mean something."""
    scopes = Scopes(word)
    return any(scopes.allowed(letter, (context,)).named for letter in "cruds")

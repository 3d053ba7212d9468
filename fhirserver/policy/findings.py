"""What a Consent may ask of a resource that its facts do not say: when its care was, and which one it is.

A finding is a text that stands among the kinds of a grant's clauses (`Clause.kinds`), so that whatever is decided by
facts is decided by findings, too, once `policy.discerning` has put those that hold into the facts of a record. No
content has such a kind (`core.model.FINDING`), so without that nothing is open by one.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

from fhirserver.core.model import FINDING, Clause, Key, Visible
from fhirserver.policy.box import Kinds

Care = tuple[int, int] | None
"""`Index.care`."""


class Finding(msgspec.Struct, frozen=True, array_like=True):
    """``care``: the resource is dated, and its care overlaps this period (milliseconds, both ends included).
    ``keys``: it is one of these ``Type/id``. ``opposite``: it is dated and does not overlap; it is none of these."""

    care: tuple[int, int] | None = None
    keys: tuple[str, ...] = ()
    opposite: bool = False

    def holds(self, key: Key, care: Care) -> bool:
        """Whether it is true of this resource. Nothing is found of an undated one's dates."""
        if self.care is not None:
            first, last = self.care
            return care is not None and (care[0] <= last and care[1] >= first) != self.opposite
        return (str(key) in self.keys) != self.opposite


def written(finding: Finding) -> str:
    """The text that stands for it; the same for equal findings."""
    return FINDING + msgspec.json.encode(finding).decode()


@lru_cache(maxsize=4096)
def read(text: str) -> Finding:
    """The finding behind a text."""
    return msgspec.json.decode(text.removeprefix(FINDING), type=Finding)


def during(period: tuple[int, int]) -> str:
    """It is dated, and its care overlaps the period."""
    return written(Finding(care=period))


def apart_from(period: tuple[int, int]) -> str:
    """It is dated, and its care does not overlap the period."""
    return written(Finding(care=period, opposite=True))


def among(keys: Iterable[str]) -> str:
    """It is one of these."""
    return written(Finding(keys=tuple(sorted(keys))))


def besides(keys: Iterable[str]) -> str:
    """It is none of these."""
    return written(Finding(keys=tuple(sorted(keys)), opposite=True))


def asked(kinds: Kinds) -> Kinds:
    """Those of the sets that ask for findings; they never mix with what content has."""
    return tuple(one for one in kinds if any(kind.startswith(FINDING) for kind in one))


def asked_of(several: Iterable[Kinds]) -> frozenset[str]:
    """The findings that any of these asks for."""
    return frozenset(kind for kinds in several if kinds for one in asked(kinds) for kind in one)


@lru_cache(maxsize=1024)
def unasked(visible: Visible) -> Visible:
    """The same without what depends on findings: what a store can evaluate, never less than ``visible``."""
    if not asked_of(clause.kinds for clause in visible.clauses):
        return visible
    return Visible(tuple(dict.fromkeys(map(_unasked, visible.clauses))))


def _unasked(clause: Clause) -> Clause:
    found = asked(clause.kinds)
    kinds = tuple(one for one in clause.kinds if one not in found)
    return msgspec.structs.replace(clause, kinds=kinds) if found else clause

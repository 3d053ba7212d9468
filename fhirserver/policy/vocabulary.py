"""The code lists that access decisions use, as data: restricted labels, purposes of use, types that need more.

A label is compared as the ``system|code`` text of `Facts.labels`, in every spelling of its system that is known
(and without a system), so that an old or careless spelling of a restricted code is restricted all the same.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from importlib import resources
from typing import Any, TypeVar

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES

_Codes = dict[str, tuple[str, ...]]
_T = TypeVar("_T")


class _Labels(msgspec.Struct):
    systems: dict[str, tuple[str, ...]]
    normal: _Codes
    confidential: _Codes
    restricted: dict[str, _Codes]


class Purposes(msgspec.Struct, frozen=True):
    """Purposes of use: the systems and codes that are known, and TEFCA's exchange purposes in their terms."""

    systems: frozenset[str]
    codes: frozenset[str]
    tefca: dict[str, str]

    def known(self, code: str) -> bool:
        return code in self.codes or code in self.tefca

    def meanings(self, code: str) -> frozenset[str]:
        """The code and, of an exchange purpose, what it stands for."""
        return frozenset({code, self.tefca.get(code, code)})


class Disclosure(msgspec.Struct, frozen=True):
    """Types of which third parties see less: ``never`` anything; ``named`` only where the Consent lists the type;
    ``actors`` only where the resource names them; ``through`` (without a patient) only through another resource."""

    never: frozenset[str]
    named: frozenset[str]
    actors: frozenset[str]
    through: frozenset[str]
    identifying: frozenset[str]

    @property
    def open_types(self) -> frozenset[str]:
        """What a permit that lists no types opens."""
        return RESOURCE_TYPES - self.never - self.named


class Labels(msgspec.Struct, frozen=True):
    """The security labels that decide; every set holds all spellings.

    ``normal``: what unlabelled data is. ``confidential``: "restricted" without a reason (Confidentiality R), which
    accompanies a topic. ``restricted``: all that third parties get only under a Consent that permits it, R included.
    ``by_code`` finds the spellings of one code, ``groups`` the codes of one sensitivity scope.
    """

    normal: frozenset[str]
    confidential: frozenset[str]
    restricted: frozenset[str]
    by_code: dict[str, frozenset[str]]
    groups: dict[str, tuple[str, ...]]
    canonical: dict[str, str]

    def spellings(self, system: str, code: str) -> frozenset[str]:
        """All spellings of a known label; empty for one that is not known."""
        known = self.by_code.get(code, frozenset())
        return known if f"{system}|{code}" in known else frozenset()

    def named(self, names: Iterable[str]) -> list[dict[str, str]]:
        """The Codings of codes (``HIV``) or sensitivity scopes (``HIV_OR_STI``); ValueError naming an unknown one."""
        codes = [code for name in names for code in self.groups.get(name, (name,))]
        for code in codes:
            if code not in self.canonical:
                raise ValueError(f"{code!r} is no label; known: {', '.join(sorted(self.canonical))}.")
        return [{"system": self.canonical[code], "code": code} for code in dict.fromkeys(codes)]


@cache
def labels() -> Labels:
    """The table of `labels.json`."""
    data = _load("labels.json", _Labels)
    by_code: dict[str, frozenset[str]] = {}
    canonical: dict[str, str] = {}

    def collect(codes: Mapping[str, tuple[str, ...]]) -> frozenset[str]:
        found: set[str] = set()
        for system, names in codes.items():
            for code in names:
                by_code[code] = frozenset(f"{spelling}|{code}" for spelling in data.systems[system])
                canonical[code] = data.systems[system][0]
                found |= by_code[code]
        return frozenset(found)

    normal, confidential = collect(data.normal), collect(data.confidential)
    restricted = frozenset().union(confidential, *(collect(codes) for codes in data.restricted.values()))
    groups = {name: tuple(c for codes in listed.values() for c in codes) for name, listed in data.restricted.items()}
    return Labels(normal, confidential, restricted, by_code, {"NORMAL": ("N",), **groups}, canonical)


@cache
def purposes() -> Purposes:
    """The table of `purposes.json`."""
    return _load("purposes.json", Purposes)


@cache
def disclosure() -> Disclosure:
    """The table of `disclosure.json`."""
    return _load("disclosure.json", Disclosure)


def _load(name: str, shape: type[_T]) -> _T:
    raw: dict[str, Any] = msgspec.json.decode((resources.files("fhirserver.data") / name).read_bytes())
    return msgspec.convert(raw, shape)

"""Restricted topics from codes: which labels a resource's own codings give it, by lists that are data.

The lists of `sensitive.json` are a starting point; an installation adds its own (`lists_of`). Like the edition of the
search parameters, the lists in force are set once, by the composition root, and every process of an installation sets
the same: the facts that decide access follow from them, so a store keeps the `fingerprint` of those it was labelled by.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from hashlib import blake2b
from importlib import resources
from typing import Any

import msgspec

PROGRAM = {"system": "urn:fhirserver:program", "code": "42CFRPart2", "display": "42 CFR Part 2 program"}
"""`Organization.type` of a Part 2 program. It counts on Organizations that the operator keeps, and on no others."""

_LAST = ("Binary", "Provenance")
"""Types that are decided after all that inherit by reference, since they speak through others."""

_NONE: frozenset[str] = frozenset()

_MEMO = 50_000
"""Codes whose labels are remembered: nearly every coding of a chart has been seen before."""

_UNDOTTED = ("ICD-",)
"""Names of code systems whose codes are also written without their dot."""


class _Lists(msgspec.Struct, forbid_unknown_fields=True, rename={"except_": "except"}):
    version: str
    comment: str = ""
    systems: dict[str, tuple[str, ...]] = {}
    topics: dict[str, dict[str, tuple[str, ...]]] = {}
    also: tuple[str, ...] = ()
    except_: tuple[str, ...] = ()
    inherits: dict[str, tuple[str, ...]] = {}
    named_by: dict[str, tuple[str, ...]] = {}


class _Codes:
    """One code system's codes: whole ones, and beginnings by their length."""

    def __init__(self, *, undotted: bool) -> None:
        self.undotted = undotted
        self.whole: dict[str, set[str]] = {}
        self.begun: dict[str, set[str]] = {}
        self.lengths: set[int] = set()

    def add(self, code: str, topic: str) -> None:
        plain = self.plain(code.removesuffix("*"))
        if code.endswith("*"):
            self.begun.setdefault(plain, set()).add(topic)
            self.lengths.add(len(plain))
        else:
            self.whole.setdefault(plain, set()).add(topic)

    def plain(self, code: str) -> str:
        return code.replace(".", "").upper() if self.undotted else code

    def topics(self, code: str) -> frozenset[str]:
        plain = self.plain(code)
        found = set(self.whole.get(plain, ()))
        for length in self.lengths:
            found |= self.begun.get(plain[:length], set())
        return frozenset(found)


class Lists:
    """The lists of one installation. ``version`` names those that it is made of; ``inherits`` and ``named_by`` are
    the listed references along which labels are taken over, ``later`` what is decided with such a type or after it."""

    def __init__(self, parts: tuple[_Lists, ...]) -> None:
        base = parts[0]
        self.version = "+".join(part.version for part in parts)
        self.also, self.excepted = frozenset(base.also), frozenset(base.except_)
        self.inherits = {type_: tuple(map(_steps, paths)) for type_, paths in base.inherits.items()}
        self.order = tuple(self.inherits)
        after = (*self.order, *_LAST)
        self.later = {type_: frozenset(after[at:]) for at, type_ in enumerate(self.order)}
        self.named_by = {type_: frozenset(namers) for type_, namers in base.named_by.items()}
        self.namers = frozenset[str]().union(*self.named_by.values())
        self.topics = frozenset(topic for part in parts for topic in part.topics)
        self.fingerprint = blake2b(msgspec.json.encode(parts, order="deterministic"), digest_size=16).hexdigest()
        self._systems: dict[str, _Codes] = {}
        named: dict[str, _Codes] = {}
        for part in parts:
            for name, spellings in part.systems.items():
                codes = named.setdefault(name, _Codes(undotted=name.startswith(_UNDOTTED)))
                self._systems.update(dict.fromkeys(spellings, codes))
            for topic, listed in part.topics.items():
                for name, each in listed.items():
                    if name not in named:
                        raise ValueError(f"The topic {topic} lists codes of {name!r}, whose `systems` are not given.")
                    for code in each:
                        if not code.removesuffix("*"):
                            raise ValueError(f"The topic {topic} lists an empty code of {name!r}.")
                        named[name].add(code, topic)
        self._known: dict[tuple[str, str], frozenset[str]] = {}

    def topics_of(self, system: object, code: str) -> frozenset[str]:
        """The topics that this code says: codes of v3-ActCode."""
        if type(system) is not str:
            return _NONE
        known = self._known.get((system, code))
        return self._look_up(system, code) if known is None else known

    def _look_up(self, system: str, code: str) -> frozenset[str]:
        codes = self._systems.get(system)
        if codes is None:
            return _NONE
        if len(self._known) > _MEMO:
            self._known.clear()
        found = self._known[system, code] = codes.topics(code)
        return found


def lists_of(added: bytes | None = None) -> Lists:
    """The lists that come with the server, and those of a file of the same form. ValueError, in one sentence, for one
    that cannot be read."""
    return _shipped() if added is None else Lists((_read(), _own(added)))


@cache
def _shipped() -> Lists:
    return Lists((_read(),))


def _read() -> _Lists:
    raw = (resources.files("fhirserver.data") / "sensitive.json").read_bytes()
    return msgspec.json.decode(raw, type=_Lists)


def _own(raw: bytes) -> _Lists:
    try:
        own = msgspec.json.decode(raw, type=_Lists)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"The file of sensitive codes cannot be read: {error}.") from None
    if own.also or own.except_ or own.inherits or own.named_by:
        raise ValueError("A file of sensitive codes holds `version`, `systems` and `topics`, and nothing else.")
    return own


_in_force: Lists | None = None


def lists() -> Lists:
    """The lists that are in force."""
    return _in_force or _shipped()


def put_in_force(chosen: Lists) -> None:
    """For the composition root: once, before anything is indexed."""
    global _in_force
    _in_force = chosen


Steps = tuple[tuple[str, bool], ...]
"""Member names of a path; True: repeated to any depth."""


def _steps(path: str) -> Steps:
    return tuple((step.removesuffix("*"), step.endswith("*")) for step in path.split("."))


def references_at(resource: Mapping[str, Any], steps: Steps) -> Iterator[str]:
    """The literal references at a path of a validated resource."""
    nodes: list[Any] = [resource]
    for name, repeated in steps:
        found = _members(nodes, name)
        nodes = found
        while repeated and found:
            found = _members(found, name)
            nodes = nodes + found
    for node in nodes:
        reference = node.get("reference") if type(node) is dict else None
        if type(reference) is str:
            yield reference


def _members(nodes: list[Any], name: str) -> list[Any]:
    found: list[Any] = []
    for node in nodes:
        value = node.get(name) if type(node) is dict else None
        found += value if type(value) is list else [] if value is None else [value]
    return found

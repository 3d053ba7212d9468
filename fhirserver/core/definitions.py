"""The FHIR definitions as data: search parameters, compartments, owners, types; loaded on first use and kept.

Nothing here or in `core.index` knows a resource type by name, except that charts and owners are Patients and parties
are Organizations: what is true of one type only stands in a table of `fhirserver.data`, whose PROVENANCE.md says which
tables are official and generated and which are ours. Importing this module reads nothing.

Beside the published search parameters stand those of an `Edition`: what users of this installation have defined
(`core.ownparameters` reads them). An edition never changes; the composition root sets one, once, before it opens the
store, and every process of an installation sets the same. Whoever keeps something that follows from the parameters
(`search_parameters`, `core.plan`) keeps it by edition.

A compiled path in the tables is ``steps:type``, with ``(target)`` behind the type where a reference counts only if it
points at that type. Steps are JSON names joined by dots; ``name[field=text]`` keeps the items whose ``field`` has that
text, ``name[n]`` is the nth item, ``name*`` is that element repeated to any depth, and an empty first step leads back
to the resource.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from hashlib import blake2b
from importlib import resources
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import msgspec

PATIENT = "Patient"
"""The type whose compartments are charts."""
ORGANIZATION = "Organization"
"""The type whose resources are custodians and parties."""
INDEX_VERSION = 4
"""Raised whenever `core.index` makes other entries of the same content; see `fingerprint`."""
CARE_DATE = "clinical-date"
"""The id of the R4 search parameter that says which element is a resource's care date (17 types)."""

RESOURCE_TYPES: frozenset[str]
"""The 146 concrete resource types."""
DIRECTORY_TYPES: frozenset[str]
"""Types that are about nobody and readable by every authenticated caller."""
SUPPORTING_TYPES: frozenset[str]
"""Types that can accompany a chart without being a member: the directory, Device and Binary."""
patient_compartment: Mapping[str, tuple[str, ...]]
"""type -> codes of the parameters that put a resource into a Patient's chart: the official table with our changes."""
official_patient_compartment: Mapping[str, tuple[str, ...]]
"""The same exactly as published: 66 types, 100 parameters."""
owner_paths: Mapping[str, tuple[str, ...]]
"""type -> parameter codes or compiled paths that name the patients a resource is about; a type that is not
there is about every patient in whose compartment it stands."""
party_paths: Mapping[str, tuple[str, ...]]
"""type -> parameter codes or compiled paths whose Organizations may see a resource without being its custodian."""


class Component(msgspec.Struct, frozen=True):
    """One part of a composite parameter: the parameter that defines it, that one's type, and where it is."""

    id: str
    type: str
    expression: str


class Context(msgspec.Struct, frozen=True):
    """A node in which the components of a composite belong together, and per component the paths below it."""

    at: str
    parts: tuple[tuple[str, ...], ...]


class SearchParameter(msgspec.Struct, frozen=True, kw_only=True):
    """One search parameter as published, with its compiled paths per base type.

    ``type``: number, date, string, token, reference, composite, quantity, uri or special. ``targets`` is
    ``("Resource",)`` where any type but Parameters may be referred to. ``absent`` is the token of a resource that has
    none of the elements (only Patient `deceased`). ``paths`` is empty for a composite, which has ``contexts``, and for
    the three parameters without an expression (`_query`, `_content`, `_text`). ``canonical`` is empty for a parameter
    of R4 itself.
    """

    id: str
    code: str
    type: str
    base: tuple[str, ...]
    expression: str = ""
    targets: tuple[str, ...] = ()
    components: tuple[Component, ...] = ()
    absent: str = ""
    canonical: str = ""
    paths: dict[str, tuple[str, ...]] = {}
    contexts: dict[str, tuple[Context, ...]] = {}

    @property
    def url(self) -> str:
        """The canonical URL of the definition."""
        return self.canonical or f"http://hl7.org/fhir/SearchParameter/{self.id}"


class Edition:
    """The published parameters and ``added`` ones; compared by identity, so that it is cheap to keep things by."""

    __slots__ = ("added",)

    def __init__(self, added: tuple[SearchParameter, ...] = ()) -> None:
        self.added = added


class Step(NamedTuple):
    """One step of a compiled path; see the module docstring. ``field`` is empty, ``"#"`` for an index (``text``)."""

    name: str
    field: str = ""
    text: str = ""
    repeated: bool = False

    def passes(self, item: Any, at: int) -> bool:
        """Whether the step takes this item, the one at ``at`` of those that bear its name."""
        if not self.field:
            return True
        if self.field == "#":
            return str(at) == self.text
        return type(item) is dict and item.get(self.field) == self.text


class Path(NamedTuple):
    """A compiled path: its steps, the FHIR type at its end, and the type a reference there must have to count."""

    steps: tuple[Step, ...]
    type: str
    target: str = ""


class _Search(msgspec.Struct):
    parameters: tuple[SearchParameter, ...]


class _Types(msgspec.Struct):
    types: frozenset[str]
    plain: frozenset[str]


class _Directory(msgspec.Struct):
    directory: frozenset[str]
    supporting: frozenset[str]


class _Ours(msgspec.Struct):
    added: dict[str, tuple[str, ...]]
    without: dict[str, frozenset[str]]


class _Compartments(msgspec.Struct):
    compartment: str
    official: dict[str, tuple[str, ...]]
    ours: _Ours


class _Owners(msgspec.Struct):
    owners: dict[str, tuple[str, ...]]
    parties: dict[str, tuple[str, ...]]


_INDEXED_BY = (
    "search.json",
    "us-core.json",
    "types.json",
    "compartments.json",
    "owners.json",
    "directory.json",
    "ucum.json",
)
_T = TypeVar("_T")
_STEP = re.compile(r"(?P<name>\w*)(?P<repeated>\*)?(?:\[(?:(?P<field>\w+)=)?(?P<text>[^\]]*)\])?(?:\.|$)")
_END = re.compile(r"(?P<steps>.*):(?P<type>[\w.]+)(?:\((?P<target>\w+)\))?")


_edition = Edition()


def edition() -> Edition:
    """The edition that is in force."""
    return _edition


def put_in_force(edition: Edition) -> None:
    """For the composition root: once, before anything is indexed or searched. A store that was filled under another
    edition must be indexed again (`fingerprint` tells)."""
    global _edition
    _edition = edition


def search_parameters(type_: str) -> Mapping[str, SearchParameter]:
    """Code -> parameter, for every parameter that may be used on this type, the common ones included.

    An unknown type has the common ones only.
    """
    return search_parameters_of(type_, _edition)


@lru_cache(maxsize=512)
def search_parameters_of(type_: str, edition: Edition) -> Mapping[str, SearchParameter]:
    """The same in an edition that need not be in force."""
    found = {}
    for base in ("Resource", "DomainResource", type_):
        if base != "DomainResource" or type_ not in _load("types.json", _Types).plain:
            found.update(_by_base(edition).get(base, {}))
    return MappingProxyType(dict(sorted(found.items())))


@lru_cache(maxsize=8)
def fingerprint_of(edition: Edition) -> str:
    """A hash of all that index entries follow from: this code's `INDEX_VERSION`, the tables, and what was added.

    A store keeps the one it was filled under. Under another, searches would miss or invent matches.
    """
    digest = blake2b(b"%d" % INDEX_VERSION, digest_size=16)
    for name in _INDEXED_BY:
        digest.update(b"\0" + name.encode() + b"\0" + (resources.files("fhirserver.data") / name).read_bytes())
    for parameter in sorted(edition.added, key=lambda each: each.url):
        digest.update(b"\0" + msgspec.json.encode(parameter, order="deterministic"))
    return digest.hexdigest()


def fingerprint() -> str:
    """`fingerprint_of` the edition that is in force."""
    return fingerprint_of(_edition)


@cache
def parse_path(text: str) -> Path:
    """The compiled path that ``text`` writes; ValueError when it is not of that form."""
    whole = _END.fullmatch(text)
    if whole is None:
        raise ValueError(f"not a path: {text}")
    steps: list[Step] = []
    at = 0
    while at < len(whole["steps"]):
        match = _STEP.match(whole["steps"], at)
        if match is None or match.end() == at:
            raise ValueError(f"not a path: {text}")
        at = match.end()
        field = match["field"] or ("#" if match["text"] is not None else "")
        steps.append(Step(match["name"], field, match["text"] or "", match["repeated"] is not None))
    return Path(tuple(steps), whole["type"], whole["target"] or "")


def published() -> tuple[SearchParameter, ...]:
    """Every parameter of R4 and of US Core."""
    return (*_load("search.json", _Search).parameters, *_load("us-core.json", _Search).parameters)


@lru_cache(maxsize=8)
def _by_base(edition: Edition) -> dict[str, dict[str, SearchParameter]]:
    by_base: dict[str, dict[str, SearchParameter]] = {}
    for parameter in (*published(), *edition.added):
        for base in parameter.base:
            if by_base.setdefault(base, {}).setdefault(parameter.code, parameter) is not parameter:
                raise ValueError(f"the search parameter {parameter.code} of {base} is defined twice")
    return by_base


@cache
def _load(name: str, shape: type[_T]) -> _T:
    return msgspec.json.decode((resources.files("fhirserver.data") / name).read_bytes(), type=shape)


def _chart() -> Mapping[str, tuple[str, ...]]:
    table = _load("compartments.json", _Compartments)
    merged: dict[str, tuple[str, ...]] = {}
    for type_ in sorted(table.official.keys() | table.ours.added.keys()):
        codes = (*table.official.get(type_, ()), *table.ours.added.get(type_, ()))
        kept = tuple(code for code in codes if code not in table.ours.without.get(type_, ()))
        if kept:
            merged[type_] = kept
    return MappingProxyType(merged)


_ATTRIBUTES: dict[str, Callable[[], object]] = {
    "RESOURCE_TYPES": lambda: _load("types.json", _Types).types,
    "DIRECTORY_TYPES": lambda: _load("directory.json", _Directory).directory,
    "SUPPORTING_TYPES": lambda: _load("directory.json", _Directory).supporting,
    "patient_compartment": _chart,
    "official_patient_compartment": lambda: MappingProxyType(_load("compartments.json", _Compartments).official),
    "owner_paths": lambda: MappingProxyType(_load("owners.json", _Owners).owners),
    "party_paths": lambda: MappingProxyType(_load("owners.json", _Owners).parties),
}


def __getattr__(name: str) -> object:
    """The tables declared above, read when first asked for."""
    if name not in _ATTRIBUTES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = _ATTRIBUTES[name]()
    return value

"""Search parameters that the users of an installation define: SearchParameter resources, compiled like the published.

What cannot be answered is left out whole and said in a sentence (R4 SearchParameter; http.html leaves it to a server
which it takes). `modifier`, `comparator`, `chain`, `multipleOr` and `xpath` are not read: what the type of a parameter
allows is allowed for each. Two things are left out in silence: a definition that is known here under the same url, and
one derived from a known parameter that keeps its code, as implementation guides restate R4's.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from fhirserver.core import structure
from fhirserver.core.definitions import (
    RESOURCE_TYPES,
    Component,
    Context,
    Edition,
    SearchParameter,
    parse_path,
    published,
    search_parameters_of,
)
from fhirserver.core.entries import take_for
from fhirserver.core.expression import Fields, compile_contexts, compile_paths, is_existence
from fhirserver.core.values import items, text_of

_CODE = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
"""What can stand in a query without being read as a modifier, a chain, a composite or a parameter of the answer."""
_TYPES = ("number", "date", "string", "token", "reference", "composite", "quantity", "uri")
_LONGEST = 2000
_OF_ANY = ("id", "meta", "implicitRules", "language")
_COMMON: dict[str, tuple[str, ...]] = {
    "Resource": _OF_ANY,
    "DomainResource": (*_OF_ANY, "text", "contained", "extension", "modifierExtension"),
}
"""The abstract base types with their elements."""


class Refused(NamedTuple):
    """A definition that was left out: its url (or id), and the reason as a sentence."""

    url: str
    reason: str


class Extended(NamedTuple):
    """The edition with what could be compiled, and what could not."""

    edition: Edition
    refused: tuple[Refused, ...]


class _Left(Exception):
    """Why a definition is left out; no reason: it is known here already."""


def extended(resources: Iterable[Mapping[str, Any]]) -> Extended:
    """The published parameters with those that these resources define; never raises, whatever stands in them.

    The order of the resources does not matter, except that of two with one code the one whose url comes first stays.
    """
    added: dict[str, SearchParameter] = {}
    known = {parameter.url: parameter for parameter in published()}
    refused = []
    for resource in sorted(resources, key=_place):
        try:
            parameter = _parameter(resource, known, Edition(tuple(added.values())))
        except _Left as left:
            if left.args:
                refused.append(Refused(text_of(dict(resource), "url") or text_of(dict(resource), "id"), str(left)))
        else:
            added[parameter.url] = known[parameter.url] = parameter
    return Extended(Edition(tuple(added.values())), tuple(refused))


def _place(resource: Mapping[str, Any]) -> tuple[bool, str, str]:
    """Composites last, since their components must be known; else by url."""
    known = dict(resource)
    return known.get("type") == "composite", text_of(known, "url"), text_of(known, "id")


def _parameter(resource: Mapping[str, Any], known: Mapping[str, SearchParameter], edition: Edition) -> SearchParameter:
    texts = {name: text_of(dict(resource), name) for name in ("id", "url", "code", "type", "status", "expression")}
    url, code, type_, expression = texts["url"], texts["code"], texts["type"], texts["expression"]
    if not url:
        raise _Left("It has no url.")
    parent = known.get(text_of(dict(resource), "derivedFrom").partition("|")[0])
    if url in known or (
        parent is not None and parent.code == code and set(_texts(resource, "base")) <= set(parent.base)
    ):
        raise _Left
    if texts["status"] != "active":
        raise _Left(f"Its status is {texts['status'] or 'not given'}; only an active one is used.")
    if not _CODE.fullmatch(code):
        raise _Left(f"Its code {code!r} cannot be the name of a parameter here.")
    if type_ not in _TYPES:
        raise _Left(f"A parameter of the type {type_!r} cannot be defined here.")
    if not expression or len(expression) > _LONGEST:
        raise _Left(f"Its expression is missing or longer than {_LONGEST} characters.")
    base = _base(resource, code, edition)
    components = _components(resource, known) if type_ == "composite" else ()
    try:
        return SearchParameter(
            id=f"own-{texts['id'] or code}",
            canonical=url,
            code=code,
            type=type_,
            base=base,
            expression=expression,
            targets=_targets(resource) if type_ == "reference" else (),
            components=components,
            absent="false" if type_ == "token" and is_existence(expression) else "",
            paths={} if components else {each: _paths(expression, each, type_) for each in base},
            contexts={each: _contexts(expression, each, components) for each in base} if components else {},
        )
    except ValueError as error:
        raise _Left(f"Its expression is outside what this server can index: {error}.") from None


def _base(resource: Mapping[str, Any], code: str, edition: Edition) -> tuple[str, ...]:
    base = tuple(sorted(set(_texts(resource, "base"))))
    if not base:
        raise _Left("It has no base type.")
    for each in base:
        if each not in RESOURCE_TYPES and each not in _COMMON:
            raise _Left(f"Its base {each} is no resource type of R4.")
    for type_ in sorted(RESOURCE_TYPES if set(base) & set(_COMMON) else base):
        taken = search_parameters_of(type_, edition).get(code)
        if taken is not None:
            raise _Left(f"{type_} has a parameter with the code {code} already: {taken.url}.")
    return base


def _targets(resource: Mapping[str, Any]) -> tuple[str, ...]:
    targets = set(_texts(resource, "target"))
    unknown = sorted(targets - RESOURCE_TYPES - set(_COMMON))
    if unknown:
        raise _Left(f"Its target {unknown[0]} is no resource type of R4.")
    if not targets or targets & set(_COMMON) or targets >= RESOURCE_TYPES - {"Parameters"}:
        return ("Resource",)
    return tuple(sorted(targets))


def _components(resource: Mapping[str, Any], known: Mapping[str, SearchParameter]) -> tuple[Component, ...]:
    found = []
    for each in items(resource.get("component")):
        definition = text_of(each, "definition").partition("|")[0] if type(each) is dict else ""
        parameter = known.get(definition)
        if parameter is None or parameter.type == "composite":
            raise _Left(f"Its component {definition or 'without a definition'} is no known simple parameter.")
        found.append(Component(parameter.id, parameter.type, text_of(each, "expression")))
    if len(found) < 2:
        raise _Left("A composite needs two components.")
    return tuple(found)


def _paths(expression: str, base: str, type_: str) -> tuple[str, ...]:
    paths = compile_paths(expression, base, fields())
    parsed = [parse_path(path) for path in paths]
    if not all(path.steps for path in parsed):
        raise ValueError(f"{expression!r} is a resource and no element of one")
    if not any(take_for(type_, path.type) for path in parsed):
        types = ", ".join(sorted({path.type for path in parsed}))
        raise ValueError(f"a {type_} parameter finds nothing in {types}")
    return paths


def _contexts(expression: str, base: str, components: tuple[Component, ...]) -> tuple[Context, ...]:
    """A component's path is plain steps: there `core.composites` knows no filter."""
    compiled = compile_contexts(expression, [each.expression for each in components], base, fields())
    for _, parts in compiled:
        for path in (parse_path(path) for paths in parts for path in paths):
            if any(step.field for step in path.steps):
                raise ValueError("a component that is filtered")
        if not all(parts):
            raise ValueError("a component that selects nothing")
    return tuple(Context(at, parts) for at, parts in compiled)


def _texts(resource: Mapping[str, Any], name: str) -> Iterator[str]:
    return (each for each in items(resource.get(name)) if type(each) is str)


@cache
def fields() -> Fields:
    """The elements of every R4 type by the tables that validation uses. Primitives have none: their `id` and extensions
    stand beside them in JSON (`_birthDate`), where no path leads."""
    found = {
        type_: {f"{row.name}[x]" if row.choice else row.name: row.types for row in structure.elements(type_)}
        for type_ in structure.type_names()
    }
    for type_, names in _COMMON.items():
        found[type_] = {name: found["Basic"][name] for name in names}
    return found

"""Turn the official R4 package into `elements.json` and `bindings.json`, the tables that validation reads.

`elements.json` maps every type (resource, datatype, and each backbone element under its path, such as
``Observation.component``) to its rows in the order of the StructureDefinition. A row is an array

    [name, min, max, types, targets, binding, flags]

with trailing defaults left out: ``max`` 0 means ``*``; ``types`` are type names (backbone elements and resolved
content references by path); ``targets`` are the resource types a Reference may point to (empty: any);
``binding`` is the value set of a required binding that could be expanded; ``flags`` are letters: ``x`` a choice
(``value[x]``; the name is written without the brackets), ``a`` an attribute (no ``_sibling`` in JSON),
``s`` part of the summary, ``m`` a modifier, ``q`` a Quantity without comparator (the profile SimpleQuantity), ``o`` an
extensible binding to whole code systems of the FHIR specification.

`bindings.json` maps each such value set to ``{system: [codes]}``, and under ``closed`` each code system that an ``o``
is about to its codes: whatever else may stand there, a code of such a system must be one that it has.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any

from fhirserver.data.generate.package import Package

_HL7 = "http://hl7.org/fhir/StructureDefinition/"
_FHIR_TYPE = _HL7 + "structuredefinition-fhir-type"
_SIMPLE = _HL7 + "SimpleQuantity"
_FHIR = "http://hl7.org/fhir/"
_SYSTEM = "http://hl7.org/fhirpath/System."

Json = dict[str, Any]
Codes = dict[str, set[str]]


class NotExpandable(Exception):
    """The package does not hold the codes of a value set; the message says which part is missing."""


def generate(package: Package) -> dict[str, bytes]:
    """`elements.json` and `bindings.json`, whose ``unexpanded`` says which value sets are missing and why."""
    definitions = sorted(filter(_is_base, package.all("StructureDefinition")), key=lambda each: str(each["type"]))
    terminology = _Terminology(chain(package.all("ValueSet"), package.all("CodeSystem")))
    types: dict[str, list[list[Any]]] = {}
    for definition in definitions:
        if definition["kind"] != "primitive-type":
            types.update(_rows_by_type(definition))
    bindings, missing = _bindings(types, terminology)
    closed: dict[str, set[str]] = {}
    for rows in types.values():
        for row in rows:
            if row[5] and row[5] not in bindings:
                row[5] = ""
            extensible = row.pop()
            systems = terminology.whole(extensible) if {"Coding", "CodeableConcept"} & set(row[3]) else {}
            row[6] += "o" if systems else ""
            closed |= systems
    elements = {name: [_trim(row) for row in rows] for name, rows in types.items()}
    kinds = {str(each["type"]): _kind(each) for each in definitions}
    return {
        "elements.json": _table(
            {"primitives": sorted(name for name, kind in kinds.items() if kind == "primitive")},
            "types",
            elements,
        ),
        "bindings.json": _table(
            {"closed": {system: sorted(closed[system]) for system in sorted(closed)}, "unexpanded": missing},
            "codes",
            {name: {system: sorted(codes[system]) for system in sorted(codes)} for name, codes in bindings.items()},
        ),
    }


def _is_base(definition: Json) -> bool:
    return (
        definition.get("derivation") != "constraint"
        and definition["kind"] != "logical"
        and str(definition["url"]) == _HL7 + str(definition["type"])
        and definition["type"] not in ("Resource", "DomainResource", "BackboneElement")
    )


def _kind(definition: Json) -> str:
    kind = str(definition["kind"])
    return {"primitive-type": "primitive", "complex-type": "datatype"}.get(kind, kind)


def _rows_by_type(definition: Json) -> dict[str, list[list[Any]]]:
    found: dict[str, list[list[Any]]] = {}
    elements = definition["snapshot"]["element"]
    parents = {path.rpartition(".")[0] for path in (each["path"] for each in elements)}
    for element in elements:
        path: str = element["path"]
        owner, _, name = path.rpartition(".")
        if owner:
            found.setdefault(owner, []).append(_row(element, path, name, inline=path in parents))
    return found


def _row(element: Json, path: str, name: str, *, inline: bool) -> list[Any]:
    attribute = "xmlAttr" in element.get("representation", ())
    if inline:
        types = [path]
    elif "contentReference" in element:
        types = [element["contentReference"].partition("#")[2]]
    else:
        types = [_type_name(each) for each in element["type"]]
    if name == "id" and not attribute:
        types = ["id"]  # the published snapshots say "string"; the specification's table says id
    choice = name.endswith("[x]")
    flags = (
        ("x" if choice else "")
        + ("a" if attribute else "")
        + ("s" if element.get("isSummary") else "")
        + ("m" if element.get("isModifier") else "")
        + ("q" if any(_SIMPLE in each.get("profile", ()) for each in element.get("type", ())) else "")
    )
    maximum = 0 if element["max"] == "*" else int(element["max"])
    return [
        name.removesuffix("[x]"),
        element["min"],
        maximum,
        types,
        _targets(element.get("type", ())),
        _value_set(element, "required"),
        flags,
        _value_set(element, "extensible"),  # read and taken away by `generate`
    ]


def _type_name(each: Json) -> str:
    code = str(each["code"])
    if not code.startswith(_SYSTEM):
        return code
    return str(next(ext["valueUrl"] for ext in each["extension"] if ext["url"] == _FHIR_TYPE))


def _targets(types: Iterable[Json]) -> list[str]:
    found = {
        profile.rpartition("/")[2]
        for each in types
        if each["code"] == "Reference"
        for profile in each.get("targetProfile", ())
    }
    return [] if "Resource" in found else sorted(found)


def _value_set(element: Json, strength: str) -> str:
    binding = element.get("binding", {})
    if binding.get("strength") != strength:
        return ""
    return str(binding["valueSet"]).partition("|")[0]


def _bindings(types: Mapping[str, list[list[Any]]], terminology: _Terminology) -> tuple[dict[str, Codes], Json]:
    wanted = sorted({row[5] for rows in types.values() for row in rows if row[5]})
    found: dict[str, Codes] = {}
    missing: Json = {}
    for url in wanted:
        try:
            found[url] = terminology.expand(url)
        except NotExpandable as why:
            missing[url] = str(why)
    return found, missing


class _Terminology:
    """The package's value sets and code systems, and how to expand the former."""

    def __init__(self, resources: Iterable[Json]) -> None:
        self._value_sets: dict[str, Json] = {}
        self._code_systems: dict[str, Json] = {}
        for each in resources:
            if each.get("resourceType") == "ValueSet" and "url" in each:
                self._value_sets.setdefault(each["url"], each)
            elif each.get("resourceType") == "CodeSystem" and "url" in each:
                self._code_systems.setdefault(each["url"], each)

    def expand(self, url: str) -> Codes:
        value_set = self._value_sets.get(url.partition("|")[0])
        if value_set is None:
            raise NotExpandable(f"no ValueSet {url} in the package")
        compose = value_set.get("compose")
        if compose is None:
            raise NotExpandable("the ValueSet has no compose")
        codes: Codes = {}
        for include in compose["include"]:
            for system, more in self._included(include).items():
                codes.setdefault(system, set()).update(more)
        for exclude in compose.get("exclude", ()):
            for system, less in self._included(exclude).items():
                codes.get(system, set()).difference_update(less)
        return codes

    def whole(self, url: str) -> Codes:
        """The code systems of the specification itself that a value set includes as a whole; none if not expandable."""
        try:
            codes = self.expand(url)
            return {
                system: found
                for system, found in codes.items()
                if system.startswith(_FHIR) and found == self._of_system({"system": system})
            }
        except NotExpandable:
            return {}

    def _included(self, include: Json) -> Codes:
        parts: list[Codes] = [self.expand(url) for url in include.get("valueSet", ())]
        if "system" in include:
            parts.append({include["system"]: self._of_system(include)})
        common = parts[0]
        for part in parts[1:]:
            common = {system: common[system] & part[system] for system in common.keys() & part.keys()}
        return common

    def _of_system(self, include: Json) -> set[str]:
        if "concept" in include:
            return {each["code"] for each in include["concept"]}
        system = self._code_systems.get(include["system"])
        if system is None or system.get("content") != "complete" or not system.get("concept"):
            raise NotExpandable(f"the codes of {include['system']} are not in the package")
        parents: dict[str, set[str]] = {}
        _walk(system["concept"], (), parents)
        chosen = set(parents)
        for rule in include.get("filter", ()):
            if rule["property"] != "concept" or rule["op"] not in ("is-a", "is-not-a"):
                raise NotExpandable(f"filter {rule['property']} {rule['op']} is not one we expand")
            below = {code for code, above in parents.items() if rule["value"] == code or rule["value"] in above}
            chosen = chosen & below if rule["op"] == "is-a" else chosen - below
        return chosen


def _walk(concepts: Iterable[Json], above: tuple[str, ...], parents: dict[str, set[str]]) -> None:
    for concept in concepts:
        further = {
            str(each["valueCode"])
            for each in concept.get("property", ())
            if each["code"] == "subsumedBy" and "valueCode" in each
        }
        parents.setdefault(concept["code"], set()).update(above, further)
        _walk(concept.get("concept", ()), (*above, concept["code"]), parents)


def _trim(row: list[Any]) -> list[Any]:
    defaults: list[Any] = [None, None, None, None, [], "", ""]
    end = len(row)
    while end > 4 and row[end - 1] == defaults[end - 1]:
        end -= 1
    return row[:end]


def _table(header: Json, name: str, rows: Mapping[str, Any]) -> bytes:
    """Compact JSON with one line per row, so that a change of the tables reads as a diff."""
    lines = [f"{_compact(key)}:{_compact(value)}" for key, value in header.items()]
    body = ",\n".join(f"{_compact(key)}:{_compact(rows[key])}" for key in sorted(rows))
    return ("{\n" + "".join(line + ",\n" for line in lines) + f"{_compact(name)}:{{\n{body}\n}}\n}}\n").encode()


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

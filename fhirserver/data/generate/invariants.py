"""Turn the official R4 package into `invariants.json`: the constraints of every type, as published.

It maps each resource type and datatype to its invariants by key, each ``[severity, path, human, expression]``: where
it stands, and what it says in words and in FHIRPath. What a type inherits is under the type that defines it
(`ele-1` under `Element`, `dom-2` under `DomainResource`), except that the specialised quantities repeat what
`Quantity` has.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fhirserver.data.generate.package import Package

_HL7 = "http://hl7.org/fhir/StructureDefinition/"
_ABSTRACT = frozenset((_HL7 + "Element", _HL7 + "Extension", _HL7 + "DomainResource"))
"""Whose constraints stand on every element or resource, and so are listed once."""
_PROFILE = _HL7 + "SimpleQuantity"
"""The one profile that the specification itself uses as the type of elements."""

Json = dict[str, Any]


def generate(package: Package) -> dict[str, bytes]:
    """`invariants.json`."""
    rows: dict[str, dict[str, list[str]]] = {}
    for definition in package.all("StructureDefinition"):
        url = str(definition["url"])
        if url in (_HL7 + str(definition["type"]), _PROFILE) and definition["kind"] != "logical":
            own = {row[0]: row[1:] for row in _constraints(definition, url)}
            if own:
                rows[url.removeprefix(_HL7)] = own
    lines = ",\n".join(f"{_compact(name)}:{{\n{_lines(rows[name])}\n}}" for name in sorted(rows))
    return {"invariants.json": f"{{\n{lines}\n}}\n".encode()}


def _constraints(definition: Json, url: str) -> Iterator[list[str]]:
    for element in definition["snapshot"]["element"]:
        path = str(element["path"])
        for each in element.get("constraint", ()):
            source = str(each.get("source", url))
            inherited = "." not in path and source not in _ABSTRACT
            if inherited or (source == url and (url not in _ABSTRACT or "." not in path)):
                yield [each["key"], each["severity"], path, each["human"], each.get("expression", "")]


def _lines(rows: dict[str, list[str]]) -> str:
    return ",\n".join(f"{_compact(key)}:{_compact(rows[key])}" for key in sorted(rows))


def _compact(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))

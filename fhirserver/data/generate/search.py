"""Makes the tables of search parameters (R4's and those that US Core adds), the patient compartment and the types.

The package holds 1,400 SearchParameter files. The 1,375 that the specification publishes (the bundle
``search-parameters.json``) are exactly those that carry a standards status; the other 25 are examples and parameters
of extensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from fhirserver.core.expression import Fields, compile_contexts, compile_paths, is_existence
from fhirserver.data.generate.package import Package

_STANDARDS_STATUS = "http://hl7.org/fhir/StructureDefinition/structuredefinition-standards-status"
_RESOURCE = "http://hl7.org/fhir/StructureDefinition/Resource"
_CANONICAL = "http://hl7.org/fhir/SearchParameter/"
_SYSTEM_STRING = "http://hl7.org/fhirpath/System.String"
_US_CORE = Path(__file__).with_name("us_core.json")
"""What US Core defines beside R4, as published; compiled here like the official parameters."""

_ANY = "Resource"
"""Written for the 80 target lists that name every concrete type but Parameters: spelt out, 40 % of the table."""
_ADDED = {"Task": ["patient"]}
"""Ours: a Task stands in the chart of the patient it is `for`; the official table leaves Task out."""
_WITHOUT = {"Patient": ["link"]}
"""Ours: `Patient.link` is no chart membership. Two records of one person are joined by a Person that links both, whose
visibility is decided; a link inside one record must not put another patient's record into this patient's chart."""


def generate(package: Package) -> dict[str, bytes]:
    """The tables by file name."""
    structures = [
        structure for structure in package.all("StructureDefinition") if structure.get("derivation") != "constraint"
    ]
    concrete = sorted(s["type"] for s in structures if s["kind"] == "resource" and not s["abstract"])
    plain = sorted(s["type"] for s in structures if s.get("baseDefinition") == _RESOURCE and not s["abstract"])
    parameters = [p for p in package.all("SearchParameter") if _published(p)]
    fields = read_fields(structures)
    anything = set(concrete) - {"Parameters"}
    rows = sorted((_row(p, parameters, fields, anything) for p in parameters), key=lambda row: (row["code"], row["id"]))
    beside = [
        row | {"paths": {base: compile_paths(row["expression"], base, fields) for base in row["base"]}}
        for row in msgspec.json.decode(_US_CORE.read_bytes())["parameters"]
        if fields.keys() >= set(row["base"])
    ]
    return {
        "search.json": _lines({"parameters": rows}),
        "us-core.json": _lines({"parameters": beside}),
        "types.json": _lines({"types": concrete, "plain": plain}),
        "compartments.json": _lines(_compartment(package["CompartmentDefinition-patient.json"])),
    }


def _published(parameter: Mapping[str, Any]) -> bool:
    return any(extension["url"] == _STANDARDS_STATUS for extension in parameter.get("extension", ()))


def _row(
    parameter: Mapping[str, Any], parameters: Iterable[Mapping[str, Any]], fields: Fields, anything: set[str]
) -> dict[str, Any]:
    if parameter["url"] != _CANONICAL + parameter["id"]:
        raise ValueError(f"unexpected canonical {parameter['url']}")
    expression = parameter.get("expression", "")
    components = parameter.get("component", [])
    types = {p["url"]: p["type"] for p in parameters} if components else {}
    row: dict[str, Any] = {
        "id": parameter["id"],
        "code": parameter["code"],
        "type": parameter["type"],
        "base": sorted(parameter["base"]),
    }
    if expression:
        row["expression"] = expression
    if "target" in parameter:
        row["targets"] = [_ANY] if anything <= set(parameter["target"]) else sorted(parameter["target"])
    if components:
        row["components"] = [
            {
                "id": c["definition"].removeprefix(_CANONICAL),
                "type": types[c["definition"]],
                "expression": c["expression"],
            }
            for c in components
        ]
    if is_existence(expression):
        row["absent"] = "false"
    if components:
        parts = [c["expression"] for c in components]
        row["contexts"] = {
            base: [{"at": at, "parts": parts} for at, parts in compile_contexts(expression, parts, base, fields)]
            for base in row["base"]
        }
    elif expression:
        row["paths"] = {base: compile_paths(expression, base, fields) for base in row["base"]}
    return row


def read_fields(structures: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, tuple[str, ...]]]:
    """The elements of every resource and data type, from their StructureDefinition snapshots."""
    fields: dict[str, dict[str, tuple[str, ...]]] = {}
    for structure in structures:
        elements = structure["snapshot"]["element"]
        parents = {element["path"].rpartition(".")[0] for element in elements}
        for element in elements:
            parent, _, name = element["path"].rpartition(".")
            if not parent:
                fields.setdefault(element["path"], {})
                continue
            if "contentReference" in element:
                types: tuple[str, ...] = (element["contentReference"].partition("#")[2],)
            elif element["path"] in parents:
                types = (element["path"],)
            else:
                codes = dict.fromkeys(entry["code"] for entry in element["type"])
                types = tuple("string" if code == _SYSTEM_STRING else code for code in codes)
            fields.setdefault(parent, {})[name] = types
    return fields


def _compartment(definition: Mapping[str, Any]) -> dict[str, Any]:
    official = {entry["code"]: entry["param"] for entry in definition["resource"] if entry.get("param")}
    repeated = [code for code, count in Counter(e["code"] for e in definition["resource"]).items() if count > 1]
    if repeated:
        raise ValueError(f"types listed twice: {repeated}")
    return {
        "compartment": definition["code"],
        "official": dict(sorted(official.items())),
        "ours": {"added": _ADDED, "without": _WITHOUT},
    }


def _lines(table: Mapping[str, Any]) -> bytes:
    """JSON with one line per entry of each top-level list or object: compact, and diffs stay readable."""
    parts = []
    for name, value in table.items():
        if isinstance(value, list):
            body = "[\n" + ",\n".join(_text(item) for item in value) + "\n]"
        elif isinstance(value, dict):
            body = "{\n" + ",\n".join(f"{_text(key)}:{_text(item)}" for key, item in value.items()) + "\n}"
        else:
            body = _text(value)
        parts.append(f"{_text(name)}:{body}")
    return ("{\n" + ",\n".join(parts) + "\n}\n").encode()


def _text(value: Any) -> str:
    return msgspec.json.encode(value).decode()

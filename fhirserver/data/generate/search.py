"""Makes the tables of search parameters, the patient compartment and the resource types.

The package holds 1,400 SearchParameter files. The 1,375 that the specification publishes (the bundle
``search-parameters.json``) are exactly those that carry a standards status; the other 25 are examples and parameters
of extensions.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fhirserver.data.generate.expression import Fields, Found, compile_expression, is_existence, read_fields
from fhirserver.data.generate.package import Package

_STANDARDS_STATUS = "http://hl7.org/fhir/StructureDefinition/structuredefinition-standards-status"
_RESOURCE = "http://hl7.org/fhir/StructureDefinition/Resource"
_CANONICAL = "http://hl7.org/fhir/SearchParameter/"

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
    return {
        "search.json": _lines({"parameters": rows}),
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
        row["contexts"] = {base: _contexts(parameter, base, fields) for base in row["base"]}
    elif expression:
        row["paths"] = {base: [_path(found) for found in _select(parameter, base, fields)] for base in row["base"]}
    return row


def _contexts(parameter: Mapping[str, Any], base: str, fields: Fields) -> list[dict[str, Any]]:
    """The nodes in which a composite's components are looked for, each with the components' paths below it."""
    return [
        {
            "at": _path(context),
            "parts": [
                [_path(f) for f in compile_expression(c["expression"], fields, root=base, context=context)]
                for c in parameter["component"]
            ],
        }
        for context in _select(parameter, base, fields)
    ]


def _select(parameter: Mapping[str, Any], base: str, fields: Fields) -> list[Found]:
    found = compile_expression(parameter["expression"], fields, root=base)
    if not found:
        raise ValueError(f"{parameter['id']} selects nothing in {base}")
    return found


def _path(found: Found) -> str:
    """``steps:type`` with ``(target)`` for references that count only when they point at that type.

    A step is a JSON name, ``name[field=text]``, or ``name[n]`` for the nth item; an empty first step is the resource.
    """
    steps = ".".join(step if isinstance(step, str) else _filter(step) for step in found.steps)
    return f"{steps}:{found.type}" + (f"({found.target})" if found.target else "")


def _filter(step: tuple[str, str, str]) -> str:
    name, field, text = step
    return f"{name}[{text}]" if field == "#" else f"{name}[{field}={text}]"


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

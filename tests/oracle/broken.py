"""Searches that R4 gives no meaning, for every kind of parameter: a server answers 400 and names the parameter.

Not among them: an empty parameter (some ignore it), an unknown parameter (ignored, unless the caller is strict).
"""

from __future__ import annotations

from random import Random

from fhirserver.core.definitions import search_parameters
from tests.oracle.kinds import KINDS

Pair = tuple[str, str]

VALUES: dict[str, list[str]] = {
    "date": [
        "2020-13",
        "2020-02-30",
        "20-01-01",
        "2020-1-1",
        "23 May 2009",
        "xx2020",
        "eq",
        "2020-02-29T25:00:00Z",
        "2020,x",
    ],
    "number": ["x", "gt", "1.2.3", "NaN", "Infinity", "0x10", "5|mg", "1,x"],
    "quantity": ["x", "gt", "5|mg", "5|a|b|c", "|a|b", "x||mg", "NaN", "5,x"],
    "token": ["a|b|c", "|", "a,a|b|c"],
    "special": ["1", "x|y", "91|0|1|km", "0|181|1|km", "0|0|-1|km", "0|0|1|yards"],
    "composite": ["a", "a$b$c$d", "a$"],
}
MODIFIERS: dict[str, list[str]] = {
    "date": ["exact", "contains", "not", "text", "above"],
    "number": ["exact", "not"],
    "quantity": ["exact", "not", "text"],
    "token": ["exact", "contains", "nonsense", "identifier", "Patient"],
    "string": ["not", "of-type", "above", "nonsense"],
    "uri": ["exact", "not", "text"],
    "reference": ["exact", "contains", "not", "nonsense", "Nothing"],
    "composite": ["missing", "exact", "not"],
    "special": ["exact", "not"],
}
ANYWHERE: list[Pair] = [
    ("_sort", "nothing"),
    ("_sort", "-_id,nothing"),
    ("_include", "Nothing:patient"),
    ("_include", "Patient:nothing"),
    ("_include", "Patient:gender"),
    ("_include", "Patient"),
    ("_include:nonsense", "Patient:organization"),
    ("_revinclude", "Provenance:nothing"),
    ("_has:Nothing:patient:code", "a"),
    ("_has:Observation:nothing:code", "a"),
    ("_has:Observation:code:code", "a"),
    ("_has:Observation:patient:date", "x"),
    ("_has:Observation:patient", "a"),
    ("_lastUpdated", "yesterday"),
    ("_lastUpdated:not", "2020"),
    ("_id:exact", "1"),
    ("_tag:nonsense", "x"),
]


def broken(seed: int) -> tuple[str, Pair]:
    """A type and one parameter that means nothing for it."""
    random = Random(seed)  # noqa: S311  no secret
    type_ = random.choice(sorted(KINDS))
    if random.random() < 0.2:
        return type_, random.choice(ANYWHERE)
    parameters = [each for each in search_parameters(type_).values() if each.expression and each.code != "relationship"]
    parameter = random.choice(parameters)
    way = random.random()
    if way < 0.1 and parameter.type != "composite":
        return type_, (f"{parameter.code}:missing", random.choice(["maybe", "1", "True"]))
    if way < 0.2:
        rest = "nothing" if parameter.type == "reference" else random.choice(["name", "_id"])
        return type_, (f"{parameter.code}.{rest}", "x")
    if way < 0.6 and parameter.type in VALUES:
        return type_, (parameter.code, random.choice(VALUES[parameter.type]))
    modifier = random.choice(MODIFIERS[parameter.type])
    good = {"composite": "a$" + "1$1"[: 2 * len(parameter.components) - 3]}.get(parameter.type, "1")
    return type_, (f"{parameter.code}:{modifier}", good)

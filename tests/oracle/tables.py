"""How the hand-made tables ask the oracle: one resource and one parameter, or a small world and a query."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from tests.oracle.evaluate import evaluate
from tests.oracle.extract import JSON
from tests.oracle.reading import Reading

NOW = int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"


def made(type_: str, id_: str = "x", **elements: Any) -> JSON:
    """A resource with these elements."""
    return {"resourceType": type_, "id": id_, **elements}


def holds(resource: JSON, parameter: str, value: str, **reading: Any) -> bool:
    """Whether this one resource is found."""
    return bool(
        evaluate([resource], resource["resourceType"], [(parameter, value)], now=NOW, reading=Reading(**reading))
    )


def ids(world: list[JSON], type_: str, **query: Any) -> str:
    """The ids of the matches in order, with a blank between; ``query`` has names that may be keywords."""
    return asked(world, type_, list(query.items()))


def asked(world: list[JSON], type_: str | None, pairs: list[tuple[str, str]]) -> str:
    return " ".join(key.partition("/")[2] for key in evaluate(world, type_, pairs, now=NOW))


def concept(code: str, system: str | None = None, **more: Any) -> JSON:
    """A CodeableConcept with one coding."""
    return {"coding": [{**({"system": system} if system else {}), "code": code, **more}]}

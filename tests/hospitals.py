"""Two hospitals with a patient each, for tests of the gate, and what many of them ask.

A module says which world its tests get as ``w``: ``w = two_hospitals``.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Coroutine
from pathlib import Path
from typing import Any

import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Facts, Key, parse_facts
from tests.admitted import JSON, World, condition, observation, patient, person, seen, world


@pytest.fixture
async def two_hospitals(tmp_path: Path) -> AsyncIterator[World]:
    """North with the patient n and south with the patient s."""
    async with world(tmp_path) as made:
        await made.load("north", patient("n"), observation("n1", "n"))
        await made.load("south", patient("s"), observation("s1", "s"))
        yield made


@pytest.fixture
async def two_hospitals_and_a_human(tmp_path: Path) -> AsyncIterator[World]:
    """North and south with more in their charts, a directory, and one human who is a patient of both."""
    async with world(tmp_path) as made:
        await made.load("operator", {"resourceType": "Practitioner", "id": "dr"})
        await made.load("north", patient("n"), observation("n1", "n"), condition("n2", "n"), task("n3", "n"))
        await made.load("south", patient("s"), observation("s1", "s"), observation("s2", "s", "R", "HIV"))
        await made.load("operator", person("human", "n", "s"))
        yield made


def task(id: str, of: str, **more: object) -> JSON:
    about = {"reference": f"Patient/{of}"}
    return {"resourceType": "Task", "id": id, "status": "requested", "intent": "order", "for": about, **more}


def binary(id: str, *labels: str, **more: object) -> JSON:
    security = {"meta": observation("x", "x", *labels)["meta"]} if labels else {}
    return {"resourceType": "Binary", "id": id, **security, "contentType": "text/plain", "data": "eA==", **more}


async def searching(w: World, caller: str, org: str, scope: str | None = None, **more: str) -> list[str]:
    """The keys of everything that such a caller finds, in order."""
    scoped = await w.caller(caller, org, scope, interaction="search-system", **more)
    return await seen(await scoped.everyone())


async def refusal(attempt: Coroutine[Any, Any, object]) -> Kind:
    """The kind of the Fault that this must end in."""
    with pytest.raises(Fault) as refused:
        await attempt
    return refused.value.kind


async def facts_of(w: World, reference: str) -> Facts:
    """What the store knows of the current version, whoever may see it."""
    record = await w.store.get(Key.parse(reference))
    assert record is not None
    return parse_facts(record.facts)

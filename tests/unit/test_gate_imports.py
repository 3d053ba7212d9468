"""Import through the gate: item by item, again without effect, and by system work alone."""

from __future__ import annotations

import asyncio

import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Query
from tests.admitted import World, consent, observation, patient, person, put, seen
from tests.hospitals import two_hospitals

w = two_hospitals


async def test_importing_again_changes_nothing(w: World) -> None:
    resources = (patient("n"), observation("n1", "n"), person("h", "n"), consent("c", "n"))
    first = await w.load("north", *resources)
    before = await w.store.high_water()
    assert first == ["unchanged", "unchanged", "created", "created"]
    assert await w.load("north", *resources) == ["unchanged"] * 4
    assert (await w.store.high_water()).seq == before.seq


async def test_one_bad_item_never_blocks_its_batch(w: World) -> None:
    await w.load("south", observation("early", "squatted"))
    loaded = await w.load(
        "north",
        patient("squatted"),
        patient("fine"),
        observation("fine1", "fine"),
        observation("s1", "fine"),
        observation("x", "s"),
        observation("fine1", "fine", note=[{"text": "again"}]),
    )
    assert loaded == [
        "rejected: another organisation holds resources about this Patient",
        "created",
        "created",
        "rejected: Observation/s1 belongs to another organisation",
        "rejected: refers to Patient/s, which belongs to another organisation",
        "updated",
    ]


async def test_imports_at_the_same_time_all_arrive(w: World) -> None:
    batches = [[patient(f"p{n}"), *(observation(f"o{n}-{m}", f"p{n}") for m in range(5))] for n in range(6)]
    twice = [w.load("north", *batch) for batch in (*batches, *batches)]
    for loaded in await asyncio.gather(*twice):
        assert set(loaded) <= {"created", "unchanged", "updated"}
    people = await seen(w.system(), "Person")
    assert people == sorted([f"Person/p{n}" for n in range(6)] + ["Person/n", "Person/s"])
    assert await w.system().count(Query(types=frozenset({"Observation"}))) == 32


async def test_only_system_work_imports(w: World) -> None:
    for caller in ("member", "third-party"):
        scoped = await w.writer("north", caller)
        with pytest.raises(Fault) as refused:
            await scoped.load([put(patient("x"))])
        assert refused.value.kind is Kind.FORBIDDEN

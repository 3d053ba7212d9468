"""What is not there and what is not consented take as long: how long "no" takes does not tell who is a patient.

Samples are interleaved, so whatever else runs on the machine meets both alike; medians are compared as a ratio, never
times. The ratio is generous; what it finds is work that is done for the one and not for the other.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import pytest

from fhirserver.policy.charts import owners_of
from fhirserver.policy.scoped import Scoped
from tests.build import load, observation, organization, patient, person
from tests.http.test_consent import grant
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof
ASKED = 40
GENEROUS = 1.5
PATHS = {
    "read": "Patient/{}",
    "read of a resource": "Observation/{}",
    "vread": "Patient/{}/_history/1",
    "history": "Patient/{}/_history",
    "search": "Observation?patient={}",
    "search by id": "Patient?_id={}",
    "$everything": "Patient/{}/$everything",
    "$everything of a Person": "Person/{}/$everything",
    "a compartment": "Patient/{}/Observation",
}


@pytest.fixture
async def world(server: Served) -> Served:
    """Patients with data, who have consented to others and not to app; and one who has consented to app."""
    await load(server.gate, [organization("app"), organization("a"), organization("b")])
    for at in range(ASKED):
        name = f"there-{at:02}"
        about: list[dict[str, Any]] = [patient(name), observation(name, name)]
        about += [observation(f"{name}-{n}", name) for n in range(4)]
        await load(server.gate, [*about, person(name, name)], organization="north")
    for other in ("a", "b"):
        await grant(server, *(f"there-{at:02}" for at in range(ASKED)), org=other)
    await load(server.gate, [patient("mine"), observation("om", "mine")], organization="north")
    await grant(server, "mine")
    return server


async def ratio(server: Served, path: str) -> float:
    """How much longer it takes to be refused what is there than what is not."""
    token = server.token("third-party", org="app")
    took: dict[str, list[float]] = {"there": [], "none": []}
    told: dict[str, set[tuple[int, int]]] = {"there": set(), "none": set()}
    async with server.client(token) as client:
        for _ in range(5):
            await client.get(path.format("warm-up"))
        for at in range(ASKED):
            for what in ("there", "none") if at % 2 else ("none", "there"):
                name = f"{what}-{at:02}" if what == "there" else f"{what}--{at:02}"
                begun = time.perf_counter()
                answer = await client.get(path.format(name))
                took[what].append(time.perf_counter() - begun)
                told[what].add((answer.status_code, len(answer.json().get("entry", ()))))
    assert told["there"] == told["none"]
    return statistics.median(took["there"]) / statistics.median(took["none"])


def alike(found: float) -> bool:
    return 1 / GENEROUS < found < GENEROUS


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
async def test_no_takes_as_long_whatever_the_reason(world: Served, path: str) -> None:
    found = await ratio(world, path)
    if not alike(found):  # another look, with all caches warm for what is there: noise does not come twice
        found = await ratio(world, path)
    assert alike(found), found


async def test_the_comparison_finds_a_difference(world: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    told = Scoped._lets_see

    async def slower(self: Scoped, record: Any, named: Any) -> bool:
        if owners_of(record):  # as if only what is there were looked up once more
            end = time.perf_counter() + 0.004
            while time.perf_counter() < end:
                pass
        return await told(self, record, named)

    monkeypatch.setattr(Scoped, "_lets_see", slower)
    assert not alike(await ratio(world, PATHS["read"]))

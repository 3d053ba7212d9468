"""What goes with a commit: all or nothing, expected versions, the policy's epoch, derived facts."""

from __future__ import annotations

from collections.abc import Coroutine
from typing import Any

from fhirserver.core.errors import Kind
from fhirserver.core.model import Key, Query
from fhirserver.policy.derive import rederive
from fhirserver.policy.dossier import POLICY_EPOCH
from tests.admitted import JSON, World, classes, consent, observation, patient, person, put, status_of
from tests.hospitals import refusal, two_hospitals

w = two_hospitals


async def epoch(w: World) -> int:
    entry = await w.store.ledger.get(POLICY_EPOCH)
    return int(entry.value) if entry else 0


async def test_a_write_is_all_or_nothing(w: World) -> None:
    south = await w.writer("south")
    assert await refusal(south.write([put(observation("ok", "s")), put(observation("bad", "n"))])) is Kind.CONFLICT
    assert await status_of(south, "Observation/ok") == 404
    assert await refusal(south.write([put(observation("ok", "s")), put(observation("ok", "s"))])) is Kind.BAD_REQUEST
    assert await south.write([]) == []


async def test_if_version_is_held_to(w: World) -> None:
    north = await w.writer("north")
    for wrong in (0, 2, 7):
        assert await refusal(north.write([put(observation("n1", "n"), if_version=wrong)])) is Kind.PRECONDITION_FAILED
    assert await refusal(north.write([put(observation("new", "n"), if_version=1)])) is Kind.PRECONDITION_FAILED
    (record,) = await north.write([put(observation("n1", "n"), if_version=1)])
    assert record.version == 2
    (record,) = await north.write([put(observation("new", "n"), if_version=0)])
    assert record.version == 1


async def test_what_decides_access_moves_the_epoch_and_nothing_else_does(w: World) -> None:
    north = await w.writer("north")
    steps: list[tuple[Coroutine[Any, Any, object], bool]] = [
        (north.write([put(observation("x", "n"))]), False),
        (w.load("north", observation("y", "n")), False),
        (w.consent(consent("c", "n")), True),
        (north.delete([Key("Consent", "c")]), True),
        (north.write([put(person("q", "n"))]), True),
        (w.load("north", {"resourceType": "Organization", "id": "o", "name": "O"}), True),
        (north.write([put(patient("fresh"))], persons=False), True),
        (north.delete([Key("Patient", "fresh")]), True),
        (north.delete([Key("Observation", "x")]), False),
    ]
    for at, (step, moves) in enumerate(steps):
        before = await epoch(w)
        await step
        assert (await epoch(w) > before) == moves, at


async def test_when_a_view_widened_is_known_also_after_a_refusal_was_deleted(w: World) -> None:
    await w.consent(consent("c", "n"))
    await w.consent(consent("no", "n", project="x", type="deny", **{"class": classes("Condition")}))
    w.now += 1_000_000
    await w.system().delete([Key("Consent", "no")])
    scoped = await w.caller("third-party", "reader", interaction="$everything")
    opened = await scoped.chart(Key("Patient", "n"))
    assert opened.scoped.grant.widened_at["n"] >= w.now


async def test_rederiving_a_stored_version_gives_what_is_stored(w: World) -> None:
    provenance: JSON = {
        "resourceType": "Provenance",
        "id": "pr",
        "target": [{"reference": "Observation/n1"}, {"reference": "Observation/none"}],
        "recorded": "2027-01-01T00:00:00Z",
        "agent": [{"who": {"display": "x"}}],
    }
    await w.load("operator", person("human", "n", "s"))
    await w.load("north", provenance, observation("l", "n", "R", "HIV"))
    await w.consent(consent("c", "n"))
    async for batch in w.store.scan(Query()):
        for record in batch:
            facts, _ = rederive(record, record.body or b"")
            assert facts.text == record.facts, record.key

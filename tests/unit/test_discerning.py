"""Consents limited by dates and to named data, path by path: nothing is found by what its facts alone would let see."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhirserver.core.errors import Fault
from fhirserver.core.model import FINDING, HistoryQuery, Key, Query, parse_facts
from fhirserver.policy import dossier
from fhirserver.policy.discerning import Discerning
from fhirserver.policy.gate import Scoped
from fhirserver.policy.grant import Grant
from tests.admitted import World, consent, observation, patient, put, seen, status_of, world
from tests.hospitals import two_hospitals_and_a_human
from tests.stores import every_kind

w = two_hospitals_and_a_human
kind = every_kind
PERIOD = {"start": "2024", "end": "2025"}
OLD, NEW = {"effectiveDateTime": "2024-05-01"}, {"effectiveDateTime": "2026-05-01"}


async def charted(w: World) -> None:
    await w.load(
        "north", patient("p"), observation("old", "p", **OLD), observation("new", "p", **NEW), observation("none", "p")
    )


async def reader(w: World) -> Scoped:
    return await (await w.caller("third-party", "reader", interaction="$everything")).about({"p"})


@pytest.fixture(params=[dossier.MOST_LISTED, 0], ids=["listed", "wide"])
def most(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setattr(dossier, "MOST_LISTED", request.param)
    return int(request.param)


@pytest.mark.parametrize(
    ("provision", "expected"),
    [
        ({"dataPeriod": PERIOD}, ["old"]),
        ({"dataPeriod": {"end": "2025"}, "provision": [{"type": "permit", "dataPeriod": {"start": "2024-06"}}]}, []),
        ({"provision": [{"type": "deny", "dataPeriod": PERIOD}]}, ["new"]),
        ({"data": [{"meaning": "instance", "reference": {"reference": "Observation/none"}}]}, ["none"]),
        (
            {
                "provision": [
                    {"type": "deny", "data": [{"meaning": "instance", "reference": {"reference": "Observation/none"}}]}
                ]
            },
            ["new", "old"],
        ),
    ],
)
async def test_dates_and_named_data_decide_on_every_way(
    w: World, most: int, provision: dict[str, Any], expected: list[str]
) -> None:
    await charted(w)
    await w.consent(consent("c", "p", **provision))
    everyone = await (await w.caller("third-party", "reader", interaction="$everything")).everyone()
    for scoped in (await reader(w), everyone):
        query = Query(types=frozenset({"Observation"}))
        assert await seen(scoped, "Observation") == [f"Observation/{each}" for each in expected]
        assert await scoped.count(query) == len(expected)
        assert sum(tally.count for tally in await scoped.tally(query)) == len(expected)
        limited = Query(types=query.types, limit=1, bodies=False)
        assert [len(batch) async for batch in scoped.scan(limited)] == [1] * min(len(expected), 1)
        past = HistoryQuery(types=query.types)
        versions = [record.id async for batch in scoped.history(past) for record in batch]
        assert sorted(versions) == expected
        assert await scoped.count_history(past) == len(expected)
    for id in ("old", "new", "none"):
        assert await status_of(everyone, f"Observation/{id}") == (200 if id in expected else 403)
        assert await status_of(everyone, f"Observation/{id}", 1) == (200 if id in expected else 403)


async def test_a_date_that_moves_takes_the_old_version_along(w: World) -> None:
    await charted(w)
    await w.consent(consent("c", "p", dataPeriod=PERIOD))
    await w.load("north", observation("old", "p", **NEW), observation("new", "p", **OLD))
    scoped = await reader(w)
    assert [await status_of(scoped, "Observation/old", version) for version in (None, 1, 2)] == [403] * 3
    assert [await status_of(scoped, "Observation/new", version) for version in (None, 1, 2)] == [200, 403, 200]
    versions = [str(each.version) async for batch in scoped.history(HistoryQuery(types=frozenset({"Observation"})))
                for each in batch]  # fmt: skip
    assert versions == ["2"]


async def test_a_deletion_is_told_to_those_who_saw_what_was_deleted(w: World) -> None:
    await charted(w)
    await w.consent(consent("c", "p", dataPeriod=PERIOD))
    await w.system().delete([Key("Observation", "old"), Key("Observation", "new")])
    scoped = await reader(w)
    past = HistoryQuery(types=frozenset({"Observation"}))
    versions = [(each.id, each.deleted) async for batch in scoped.history(past) for each in batch]
    assert versions == [("old", True), ("old", False)]


async def test_content_cannot_pretend_a_finding(w: World) -> None:
    """A category that is written like a finding is no kind."""
    await charted(w)
    await w.consent(consent("c", "p", dataPeriod=PERIOD))
    scoped = await reader(w)
    texts = [kind for clause in scoped.grant.visible.clauses for one in clause.kinds for kind in one]
    assert texts
    forged = [{"coding": [{"code": text}, {"system": text, "code": "x"}]} for text in texts]
    await w.load("north", observation("forged", "p", category=forged))
    assert await status_of(await reader(w), "Observation/forged") == 403
    record = await w.store.get(Key("Observation", "forged"))
    assert record is not None
    assert not [kind for kind in parse_facts(record.facts).kinds if kind.startswith(FINDING)]


async def test_a_grant_without_findings_asks_the_store_itself(w: World) -> None:
    await charted(w)
    await w.consent(consent("c", "p"))
    assert (await reader(w))._store is w.store


async def test_history_holds_both_versions_to_what_was_found(tmp_path: Path, kind: str) -> None:
    """Past the view's own second look: the store that discerns does not give what the present version hides."""
    async with world(tmp_path, kind) as w:
        await charted(w)
        await w.load("north", observation("old", "p", **NEW))
        await w.consent(consent("c", "p", dataPeriod=PERIOD))
        scoped = await reader(w)
        assert isinstance(scoped._store, Discerning)
        query = HistoryQuery(types=frozenset({"Observation"}), visible=scoped.grant.visible)
        assert [record async for batch in scoped._store.history(query) for record in batch] == []
        assert await scoped._store.count_history(query) == 0


async def test_nothing_is_written_through_it(w: World) -> None:
    await charted(w)
    await w.consent(consent("c", "p", dataPeriod=PERIOD))
    scoped = await reader(w)
    with pytest.raises(Fault):
        await scoped.write([put(observation("mine", "p"))])
    assert isinstance(scoped.grant, Grant)

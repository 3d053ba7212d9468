"""What the server answers, beside what the oracle does: a random world is loaded, and each search asked of both."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

import httpx

from fhirserver.core.validate import parse
from fhirserver.policy.gate import Put
from tests.oracle.evaluate import evaluate, included, key_of
from tests.oracle.extract import JSON
from tests.oracle.reading import Reading, Unreadable
from tests.oracle.worlds import encoder
from tests.served import Served

NOW = 1_767_225_600_000
"""The server's time and the oracle's: the first moment of 2026."""
DAY = 86_400_000
DAILY = 8
"""Resources of one day."""
READING = Reading(below_segments=True, text="words", open_comparators=False)
"""How this server reads what R4 leaves open."""

Pairs = list[tuple[str, str]]


class Answer(NamedTuple):
    """The keys of the matches in their order and of what came with them; None and the outcome for a 400."""

    matches: list[str] | None
    others: frozenset[str] = frozenset()
    outcome: str = ""


class Answers(Protocol):
    """Whoever answers searches: the resources it holds in the order of its store, and its answer to a search."""

    async def stored(self) -> list[JSON]: ...

    async def answer(self, type_: str | None, pairs: Pairs) -> Answer: ...


class OverHTTP:
    """The server, asked as an operator; every page of an answer is read. ``world`` was loaded in this order."""

    def __init__(self, client: httpx.AsyncClient, world: Sequence[JSON]) -> None:
        self.client = client
        self.order = [key_of(resource) for resource in world]

    async def stored(self) -> list[JSON]:
        found = []
        for type_ in sorted({key.partition("/")[0] for key in self.order}):
            found += [entry["resource"] for entry in await self._entries(type_, [("_count", "1000")])]
        return sorted(found, key=lambda resource: self.order.index(key_of(resource)))

    async def answer(self, type_: str | None, pairs: Pairs) -> Answer:
        try:
            entries = await self._entries(type_ or "", pairs)
        except Refused as refused:
            return Answer(None, outcome=str(refused))
        keys = [(entry["search"]["mode"], key_of(entry["resource"])) for entry in entries]
        matches = [key for mode, key in keys if mode == "match"]
        return Answer(matches, frozenset(key for mode, key in keys if mode == "include"))

    async def _entries(self, path: str, pairs: Pairs) -> list[JSON]:
        response = await self.client.get(path, params=pairs)
        found: list[JSON] = []
        while True:
            if response.status_code == 400:
                raise Refused(response.text)
            assert response.status_code == 200, (path, pairs, response.status_code, response.text)
            bundle = response.json()
            found += bundle.get("entry", [])
            following = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
            if not following:
                return found
            response = await self.client.get(following[0])


class Refused(Exception):
    """A 400, with its OperationOutcome."""


class Clock:
    """The server's time: it moves while a world is loaded, and stands still at `NOW` for the searches.

    A token lasts an hour: whoever asks gets it after the loading.
    """

    def __init__(self) -> None:
        self.now = NOW - 40 * DAY

    def __call__(self) -> int:
        return self.now


async def loaded(server: Served, world: Sequence[JSON], clock: Clock) -> None:
    """Puts the world into the server's store over some days, with its decimals as they are written."""
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    for at in range(0, len(world), DAILY):
        clock.now = NOW - (len(world) - at) * DAY // DAILY + at
        raws = [encoder.encode(resource) for resource in world[at : at + DAILY]]
        drafts = [Put(resource=parse(raw), raw=raw, id=json.loads(raw)["id"]) for raw in raws]
        results = await scoped.load(drafts, persons=False)
        assert [item for item in results if item.status == "rejected"] == []
    clock.now = NOW


def expected(world: Sequence[JSON], type_: str | None, pairs: Pairs) -> Answer:
    """The oracle's answer."""
    try:
        matches = evaluate(world, type_, pairs, now=NOW, reading=READING)
    except Unreadable as unreadable:
        return Answer(None, outcome=str(unreadable))
    return Answer(matches, frozenset(included(world, matches, pairs, now=NOW, reading=READING)))


def difference(theirs: Answer, ours: Answer, type_: str | None, pairs: Pairs) -> str:
    """What is to be said when the two do not agree; nothing when they do."""
    if theirs[:2] == ours[:2]:
        return ""
    told: dict[str, Any] = {"search": f"{type_ or ''}?{'&'.join(map('='.join, pairs))}"}
    if theirs.matches is None or ours.matches is None:
        told |= {"server": theirs.outcome or theirs.matches, "oracle": ours.outcome or ours.matches}
    elif theirs.matches != ours.matches:
        told |= {"missing": [key for key in ours.matches if key not in theirs.matches]}
        told |= {"too many": [key for key in theirs.matches if key not in ours.matches]}
        told |= {"server": theirs.matches, "oracle": ours.matches}
    else:
        told |= {"not included": sorted(ours.others - theirs.others), "included": sorted(theirs.others - ours.others)}
    return json.dumps(told, ensure_ascii=False)

"""What the server answers to a search is what a naive evaluation of R4 search finds, in random worlds.

The evaluation (`tests.oracle`) shares no code with the index. Each example is a world with its searches; the searches
of the first test choose and order, those of the second include, and those of the third have no meaning.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from tests.counts import examples
from tests.oracle.broken import broken
from tests.oracle.extract import JSON
from tests.oracle.judge import Clock, OverHTTP, Pairs, difference, expected, loaded
from tests.oracle.queries import Asker
from tests.oracle.worlds import worlds
from tests.served import served
from tests.stores import KINDS

WORLDS = 10
"""Worlds of a test; ten times as many for the proof."""
SEARCHES = 20
"""Searches of each world: 2,000 for the proof."""

PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
"""No shrinking: each attempt would be a server of its own, and a difference names its search and its resources."""

seeds = st.integers(0, 2**32)
Question = Callable[[Asker, int], tuple[str | None, Pairs]]


def chosen(asker: Asker, seed: int) -> tuple[str | None, Pairs]:
    """A search for matches."""
    return asker.again(seed).query()


def joined(asker: Asker, seed: int) -> tuple[str | None, Pairs]:
    """A search, often for all of a type, with what is to come with the matches."""
    again = asker.again(seed)
    type_, pairs = again.query()
    return type_, [*pairs[: seed % 2], *again.includes(type_)] if type_ else pairs


def senseless(_: Asker, seed: int) -> tuple[str | None, Pairs]:
    """A parameter that a server answers with 400."""
    type_, pair = broken(seed)
    return type_, [pair]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("question", [chosen, joined, senseless], ids=lambda question: question.__name__)
def test_the_server_answers_what_the_oracle_does(kind: str, question: Question) -> None:
    @settings(max_examples=examples(WORLDS, kind), phases=PHASES)
    @given(worlds(), seeds)
    def agrees(world: list[JSON], seed: int) -> None:
        assert asyncio.run(differences(kind, world, [seed + each for each in range(SEARCHES)], question)) == []

    agrees()


async def differences(kind: str, world: Sequence[JSON], of: Sequence[int], question: Question) -> list[str]:
    """The searches that the server answers in another way, with both answers."""
    with tempfile.TemporaryDirectory() as folder:
        clock = Clock()
        async with served(Path(folder), kind, clock=clock) as server:
            await loaded(server, world, clock)
            async with server.client() as client:
                subject = OverHTTP(client, world)
                stored = await subject.stored()
                assert len(stored) == len(world)
                asker = Asker(stored, 0)
                asked = [question(asker, seed) for seed in of]
                told = [difference(await subject.answer(*each), expected(stored, *each), *each) for each in asked]
                return [each for each in told if each]

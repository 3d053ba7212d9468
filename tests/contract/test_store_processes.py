"""Several processes on one store, and processes that are killed while they write."""

from __future__ import annotations

import asyncio
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Draft, Key, Query, Record
from fhirserver.store.port import Store
from tests.contract.world import derive, draft, found, gathered, started, wall_clock
from tests.counts import PROOF
from tests.stores import KINDS, fresh

ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, sys, time
from fhirserver.core.errors import Conflict
from fhirserver.core.model import Key
from fhirserver.store.open import open_store
from tests.contract.world import draft

async def main(url, name, commits):
    store = open_store(url, clock=lambda: time.time_ns() // 1_000_000)
    await store.start()
    print("ready", flush=True)
    sys.stdin.readline()  # all begin together
    for at in range(commits):
        body = name * (1_200_000 // len(name) if at % 20 == 3 else 10)  # some out of line
        pair = [draft(f"Observation/{name}-{at}-{half}", name, text=body, terms=(name,)) for half in "ab"]
        while True:  # now and then everybody bumps one shared resource: a lost update would show
            shared = await store.get(Key("List", "shared")) if at % 5 == 4 else None
            version = shared.version if shared else 0
            bump = [draft("List/shared", name, if_version=version)] if at % 5 == 4 else []
            try:
                await store.commit([*pair, *bump], epochs=["turns"])
                break
            except Conflict:
                pass
        print(at, flush=True)  # acknowledged
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def writer(url: str, name: str, commits: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, url, name, str(commits)],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ready(process: subprocess.Popen[str]) -> None:
    """Wait until the writer has opened the store."""
    assert process.stdout is not None
    said = process.stdout.readline().strip()
    if said != "ready":
        _, errors = process.communicate()
        raise AssertionError(errors)


def go(process: subprocess.Popen[str]) -> None:
    """Let the writer write."""
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


def commits_of(records: list[Record], name: str) -> list[int]:
    """The seq of each commit of one writer, in the order in which the store made them."""
    return [record.seq for record in records if record.id.startswith(f"{name}-") and record.id.endswith("-a")]


@pytest.mark.parametrize("kind", KINDS)
async def test_writers_in_several_processes_lose_nothing_and_all_make_progress(kind: str, tmp_path: Path) -> None:
    each, count = 200 if PROOF else 40 if kind == "sqlite" else 24, 8
    with fresh(kind, tmp_path) as url:
        writers = [writer(url, f"w{number}", each) for number in range(count)]
        for process in writers:
            await asyncio.to_thread(ready, process)
        for process in writers:
            go(process)
        for process in writers:
            _, errors = await asyncio.to_thread(process.communicate)
            assert process.returncode == 0, errors
        async with started(url, wall_clock) as store:
            assert await store.count(Query()) == 2 * each * count + 1
            shared = await store.get(Key("List", "shared"))
            assert shared is not None
            assert shared.version == each // 5 * count
            assert await store.ledger.incr("turns", 0) == each * count
            records = await gathered(store.changes(0))
            assert [record.seq for record in records] == list(range(1, len(records) + 1))
            assert len(records) == (2 * each + each // 5) * count
            turns = [commits_of(records, f"w{number}") for number in range(count)]
            assert [len(mine) for mine in turns] == [each] * count
            # Nobody has finished before everybody has begun: no writer is kept out by the others.
            assert max(mine[0] for mine in turns) < min(mine[-1] for mine in turns)
            assert [sentence async for sentence in store.verify(derive)] == []


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("part", range(10 if PROOF else 1))
async def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_half(
    kind: str, part: int, tmp_path: Path
) -> None:
    chance = random.Random(part)  # noqa: S311 - no secret
    with fresh(kind, tmp_path) as url:
        for number in range(20 if PROOF else 4 if kind == "sqlite" else 2):
            await kill_one(url, f"k{number}", after=chance.uniform(0, 0.15))


async def kill_one(url: str, name: str, *, after: float) -> None:
    """Kill a writer some seconds after it began; then everything acknowledged is there, and writing goes on."""
    process = writer(url, name, 10_000)
    await asyncio.to_thread(ready, process)
    go(process)
    await asyncio.sleep(after)
    process.send_signal(signal.SIGKILL)
    assert process.stdout is not None
    # Not `communicate`: it leaves out what the readline of `ready` has already taken into its buffer.
    with process:
        output = await asyncio.to_thread(process.stdout.read)
    acknowledged = [int(line) for line in output.splitlines()]
    async with started(url, wall_clock) as store:
        there = {record.id for record in await found(store, Query(within=name, types=frozenset({"Observation"})))}
        assert there >= {f"{name}-{at}-{half}" for at in acknowledged for half in "ab"}
        assert len(there) in (2 * len(acknowledged), 2 * len(acknowledged) + 2)  # the last one may not have been told
        assert [sentence async for sentence in store.verify(derive)] == []
        await written(store, draft("Observation/after", name))


async def written(store: Store, one: Draft, *, within: float = 20) -> None:
    """Commit this as soon as the store takes it: a killed process may have left a transaction open on a server, which
    by itself would let go of it after a minute only."""
    until = time.monotonic() + within
    while True:
        try:
            await store.commit([one])
        except Unavailable:
            assert time.monotonic() < until
        else:
            return

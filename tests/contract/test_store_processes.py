"""Several processes on one store, and processes that are killed while they write."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from fhirserver.core.model import Key, Query
from fhirserver.store.open import open_store
from tests.contract.world import Clock, derive, draft, found, gathered

PROOF = "FHIRSERVER_PROOF" in os.environ
ROOT = Path(__file__).parents[2]

WRITER = """
import asyncio, sys, time
from fhirserver.core.errors import Conflict
from fhirserver.core.model import Guard, Key, Query
from fhirserver.store.open import open_store
from tests.contract.world import draft

async def main(url, name, commits):
    store = open_store(url, clock=lambda: time.time_ns() // 1_000_000)
    await store.start()
    print("ready", flush=True)
    for at in range(commits):
        body = name * (400_000 if at % 7 == 3 else 10)  # some out of line
        pair = [draft(f"Observation/{name}-{at}-{half}", name, text=body, terms=(name,)) for half in "ab"]
        while True:  # everybody bumps one shared resource: a lost update would show
            shared = await store.get(Key("List", "shared"))
            version = shared.version if shared else 0
            try:
                await store.commit([*pair, draft("List/shared", name, if_version=version)], epochs=["turns"])
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
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


async def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    url, each, count = f"sqlite:///{tmp_path}/store.db", 200 if PROOF else 15, 4 if PROOF else 3
    writers = [writer(url, f"w{number}", each) for number in range(count)]
    for process in writers:
        _, errors = await asyncio.to_thread(process.communicate)
        assert process.returncode == 0, errors
    store = open_store(url, clock=Clock())
    await store.start()
    assert await store.count(Query()) == 2 * each * count + 1
    shared = await store.get(Key("List", "shared"))
    assert shared is not None
    assert shared.version == each * count
    assert await store.ledger.incr("turns", 0) == each * count
    seqs = [record.seq for record in await gathered(store.changes(0))]
    assert seqs == list(range(1, 3 * each * count + 1))
    assert [sentence async for sentence in store.verify(derive)] == []
    await store.close()


async def test_a_killed_writer_loses_nothing_acknowledged_and_leaves_nothing_half(tmp_path: Path) -> None:
    url, chance = f"sqlite:///{tmp_path}/store.db", random.Random(5)  # noqa: S311 - no secret
    for number in range(100 if PROOF else 4):
        name = f"k{number}"
        process = writer(url, name, 10_000)
        assert process.stdout is not None
        assert (await asyncio.to_thread(process.stdout.readline)).strip() == "ready"
        await asyncio.sleep(chance.uniform(0, 0.15))
        process.send_signal(signal.SIGKILL)
        # Not `communicate`: it leaves out what the readline above has already taken into its buffer.
        with process:
            output = await asyncio.to_thread(process.stdout.read)
        acknowledged = [int(line) for line in output.splitlines()]
        store = open_store(url, clock=lambda: time.time_ns() // 1_000_000)
        await store.start()
        there = {record.id for record in await found(store, Query(within=name, types=frozenset({"Observation"})))}
        assert there >= {f"{name}-{at}-{half}" for at in acknowledged for half in "ab"}
        assert len(there) in (2 * len(acknowledged), 2 * len(acknowledged) + 2)  # the last one may not have been told
        assert [sentence async for sentence in store.verify(derive)] == []
        await store.commit([draft("Observation/after", name)])
        await store.close()

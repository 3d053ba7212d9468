# ruff: noqa: S311, ASYNC240 - made-up data; a measurement may look at its own files
"""Measure the embedded store by itself: reads, writes, growth and latency; the disk's own speed beside them.

    python tests/bench/store_probe.py [--chart 100000] [--grow 0,200000] [--directory DIR]

The data are made up but shaped like a Synthea export: per patient one directory of practitioners, encounters with
about ten resources each, 30 terms per resource of which four or five are found nowhere else.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from fhirserver.core.model import Clause, Draft, Facts, Index, Key, Query, Visible
from fhirserver.store.open import open_store
from fhirserver.store.port import Store

TYPES = (
    "Observation",
    "Observation",
    "Observation",
    "Condition",
    "Procedure",
    "Claim",
    "MedicationRequest",
    "Encounter",
)
FILLER = "".join(random.Random(7).choices('abcdefghij ",:{}', k=4000)).encode()


def clock() -> int:
    return time.time_ns() // 1_000_000


def patient_drafts(patient: str, size: int, chance: random.Random) -> Iterator[Draft]:
    """``size`` drafts of one patient's chart."""
    facts = Facts("org-1", (), (patient,), (), (patient,))
    doctors = [f"Practitioner/{chance.getrandbits(48):x}" for _ in range(5)]
    encounter = ""
    for at in range(size):
        kind = TYPES[at % len(TYPES)]
        name = f"{chance.getrandbits(122):032x}"
        if at % 10 == 0:
            encounter = f"Encounter/{name}"
        doctor = chance.choice(doctors)
        code = f"http://loinc.org|{int(chance.paretovariate(0.7)) % 3000}"
        moment = 1_500_000_000_000 + chance.randrange(200_000_000_000)
        terms = [
            f"{kind}|patient=Patient/{patient}", f"{kind}|subject=Patient/{patient}", f"{kind}|patient={patient}",
            f"{kind}|encounter={encounter}", f"{kind}|performer={doctor}", f"{kind}|code={code}",
            f"{kind}|code=|{code[-4:]}", f"{kind}|_id={name}", f"{kind}|identifier=urn:made-up|{name}",
            f"{kind}|identifier={name}",
            *(f"{kind}|{parameter}={value}" for parameter in ("status", "category", "class", "method", "site", "intent")
              for value in ("http://made.up/system|" + "abc"[at % 3], "abc"[at % 3])),
            *(f"{kind}|{parameter}=|{at % 5}" for parameter in ("type", "priority", "use", "outcome", "_profile")),
        ]  # fmt: skip
        index = Index(
            compartments=(patient,), owners=(patient,), references=(f"Patient/{patient}", encounter, doctor),
            supports=(doctor,), care=(moment, moment), terms=tuple(terms),
            texts=((f"{kind}|code:text", code),) if at % 4 == 0 else (),
            spans=((f"{kind}|date", float(moment), float(moment)),),
            sorts=((f"{kind}|date", float(moment)), (f"{kind}|_lastUpdated", float(at))),
        )  # fmt: skip
        start = chance.randrange(2000)
        head = f'{{"resourceType":"{kind}","id":"{name}","meta":{{'.encode()
        yield Draft(
            key=Key(kind, name), head=head, tail=b"}," + FILLER[start : start + chance.randrange(600, 2000)] + b"}",
            facts=facts, index=index,
        )  # fmt: skip


def drafts(chance: random.Random) -> Iterator[Draft]:
    """Charts of about 500 resources, without end."""
    while True:
        yield from patient_drafts(f"{chance.getrandbits(122):032x}", chance.randrange(200, 800), chance)


def disk(directory: Path) -> str:
    """Flushes per second and MB/s of a 64 MB write."""
    path = directory / "disk"
    with path.open("wb", buffering=0) as file:
        began, flushes = time.perf_counter(), 0
        while time.perf_counter() - began < 1:
            file.write(b"x" * 4096)
            os.fsync(file.fileno())
            flushes += 1
        began = time.perf_counter()
        file.write(bytes(64 << 20))
        os.fsync(file.fileno())
        speed = 64 / (time.perf_counter() - began)
    path.unlink()
    return f"disk: {flushes} flushes/s, {speed:.0f} MB/s"


async def write(store: Store, source: Iterator[Draft], total: int, batch: int) -> tuple[float, float]:
    """Versions per second of the commits alone, and the slowest commit in ms (two commits under way, as in ingest)."""
    spent, worst, done = 0.0, 0.0, 0
    while done < total:
        groups = [[next(source) for _ in range(batch)] for _ in range(4)]
        began = time.perf_counter()
        limit = asyncio.Semaphore(2)

        async def commit(group: list[Draft], limit: asyncio.Semaphore = limit) -> float:
            async with limit:
                start = time.perf_counter()
                await store.commit(group)
                return time.perf_counter() - start

        worst = max(worst, *(await asyncio.gather(*map(commit, groups))))
        spent += time.perf_counter() - began
        done += 4 * batch
    return done / spent, worst * 1000


async def commit_all(store: Store, groups: list[list[Draft]]) -> None:
    for group in groups:
        await store.commit(group)


async def read(store: Store, query: Query, batch: int = 256) -> tuple[int, float]:
    began, count = time.perf_counter(), 0
    async for records in store.scan(query, batch):
        count += len(records)
    return count, time.perf_counter() - began


class Lag:
    """How long the event loop keeps a timer of 1 ms waiting."""

    def __init__(self) -> None:
        self.lags: list[float] = []

    async def __aenter__(self) -> Lag:
        self._task = asyncio.create_task(self._watch())
        return self

    async def __aexit__(self, *_: object) -> None:
        self._task.cancel()

    async def _watch(self) -> None:
        while True:
            began = time.perf_counter()
            await asyncio.sleep(0.001)
            self.lags.append((time.perf_counter() - began - 0.001) * 1000)

    def __str__(self) -> str:
        return f"loop lag {spread(self.lags)}"


def spread(times: list[float]) -> str:
    times.sort()
    quantiles = [f"p{part} {times[min(len(times) - 1, len(times) * part // 100)]:.2f}" for part in (50, 95, 99)]
    return f"{' '.join(quantiles)} max {times[-1]:.2f} ms"


async def chart_reads(store: Store, size: int) -> None:
    mark = await store.high_water()
    everything = Query(within="big", as_of=mark.seq)
    owner = Visible((Clause(organization="org-1", owners=frozenset({"big", "other"})),))
    for name, query in (
        ("whole chart", everything),
        ("… narrowed to an owner", Query(within="big", as_of=mark.seq, visible=owner)),
        ("… without bodies", Query(within="big", as_of=mark.seq, bodies=False)),
        ("… of one type", Query(within="big", as_of=mark.seq, types=frozenset({"Claim"}))),
        ("… by a term", Query(within="big", as_of=mark.seq, terms=(("Observation|status=a",),))),
    ):
        best = min([await read(store, query) for _ in range(3)], key=lambda one: one[1])
        print(f"{name:28} {best[0]:7} records {best[0] / best[1]:10,.0f}/s")
    for batch in (64, 1024):
        found, spent = await read(store, everything, batch)
        print(f"… in batches of {batch:<12} {found:7} records {found / spent:10,.0f}/s")
    async with Lag() as lag:
        for _ in range(5):
            await read(store, everything)
    print(f"{'… beside it':28} {lag}")
    async with Lag() as lag:
        await busy_reader(store, everything)
    print(f"{'… with 2 µs of work a record':28} {lag}")
    for name, ask in (("count", store.count), ("tally", store.tally)):
        for visible in (everything, Query(within="big", as_of=mark.seq, visible=owner)):
            began = time.perf_counter()
            await ask(visible)
            print(f"{name + ' of the chart':28} {(time.perf_counter() - began) * 1000:.1f} ms")


async def busy_reader(store: Store, query: Query) -> None:
    """A consumer that works on each record, as the Bundle does."""
    began, count, spent = time.perf_counter(), 0, 0
    async for records in store.scan(query):
        chunk = bytearray()
        for record in records:
            chunk += b'{"fullUrl":"http://localhost/FHIR/R4/' + record.type.encode() + b"/" + record.id.encode()
            chunk += b'","resource":' + (record.body or b"") + b"},"
        count += len(records)
        spent += len(chunk)
        await asyncio.sleep(0)
    print(f"{'… into Bundle entries':28} {count:7} records {count / (time.perf_counter() - began):10,.0f}/s")


async def small_reads(store: Store, keys: list[Key], seconds: float = 2) -> str:
    times: list[float] = []
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        began = time.perf_counter()
        await store.get(random.choice(keys))
        times.append((time.perf_counter() - began) * 1000)
        await asyncio.sleep(0.0005)
    return spread(times)


async def run(directory: Path, size: int, growth: list[int], batch: int) -> None:
    print(disk(directory))
    store = open_store(f"sqlite:///{directory}/probe.db", clock=clock)
    await store.start()
    chance = random.Random(1)
    source = drafts(chance)
    total = 0
    for mark in growth:
        if mark > total:
            await write(store, source, mark - total, 2000)
            total = mark
        rate, worst = await write(store, source, 16_000, batch)
        total += 16_000
        file = sum(path.stat().st_size for path in directory.iterdir()) >> 20
        print(f"write at {mark:7}: {rate:8,.0f} versions/s in commits of {batch}, slowest {worst:.0f} ms, {file} MB")
    big = list(patient_drafts("big", size, chance))
    for at in range(0, size, 2000):
        await store.commit(big[at : at + 2000])
    await chart_reads(store, size)
    keys = [draft.key for draft in big]
    began = time.perf_counter()
    for key in keys[:3000]:
        await store.get(key)
    print(f"get, one after the other     {3000 / (time.perf_counter() - began):,.0f}/s")
    print(f"get beside nothing           {await small_reads(store, keys)}")
    ready = [[next(source) for _ in range(500)] for _ in range(40)]
    writer = asyncio.create_task(commit_all(store, ready))
    print(f"get beside a bulk writer     {await small_reads(store, keys, 2)}")
    await writer
    small = [next(source) for _ in range(2000)]
    began = time.perf_counter()
    for draft in small[:500]:
        await store.commit([draft])
    print(f"commits of one, one client   {500 / (time.perf_counter() - began):,.0f}/s")
    began = time.perf_counter()
    gate = asyncio.Semaphore(8)

    async def one(draft: Draft) -> None:
        async with gate:
            await store.commit([draft])

    await asyncio.gather(*map(one, small[500:]))
    print(f"commits of one, 8 clients    {1500 / (time.perf_counter() - began):,.0f}/s")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10} MB")
    await store.close()


async def versions(directory: Path) -> None:
    """A chart of 2,000 resources with 50 versions each against the same with one."""
    store = open_store(f"sqlite:///{directory}/versions.db", clock=clock)
    await store.start()
    chance = random.Random(2)
    charts = {name: list(patient_drafts(name, 2000, chance)) for name in ("one", "fifty")}
    await store.commit(charts["one"])
    for _ in range(49):
        await store.commit(charts["fifty"])
    mark = await store.high_water()
    began = time.perf_counter()
    await store.commit(charts["fifty"])
    print(f"superseding                  {2000 / (time.perf_counter() - began):,.0f} versions/s")
    times: dict[str, list[float]] = {"one": [], "fifty": []}
    after = await store.high_water()
    for _ in range(20):
        for name in charts:
            times[name].append((await read(store, Query(within=name, as_of=after.seq)))[1])
    best = {name: sorted(values)[5] for name, values in times.items()}
    print(f"50 versions against one      {best['fifty'] / best['one']:.2f}×")
    found, spent = await read(store, Query(within="fifty", as_of=mark.seq))
    print(f"… all superseded meanwhile   {found} records {found / spent:,.0f}/s")
    await store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chart", type=int, default=100_000)
    parser.add_argument("--grow", default="0,100000")
    parser.add_argument("--batch", type=int, default=1000)
    parser.add_argument("--directory", type=Path)
    options = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=options.directory))
    try:
        asyncio.run(run(directory, options.chart, [int(mark) for mark in options.grow.split(",")], options.batch))
        asyncio.run(versions(directory))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()

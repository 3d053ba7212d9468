"""Single creates through the gate's write path, in this process: what an HTTP create does behind its parsing."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Mapping
from itertools import chain, islice
from typing import Any

import uvloop

from fhirserver import app, config
from fhirserver.cli.bench.site import Site
from fixtures import charts

WRITERS = 8


def measured(site: Site, count: int, number: int, *, writers: int = WRITERS) -> tuple[float, list[float]]:
    """Creates per second, and the milliseconds of each."""
    numbers = range(number, number + writers)
    site.ingest(chain.from_iterable(charts.chart(1, number=each) for each in numbers))
    streams = [islice(charts.chart(2 + count // writers, number=each), 1, None) for each in numbers]
    shares = [list(charts.lines(stream)) for stream in streams]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_write(site.environment, site.writer_token(), shares))


async def _write(environment: Mapping[str, str], token: str, shares: list[list[bytes]]) -> tuple[float, list[float]]:
    times: list[float] = []
    async with app.opened(config.load(environment)) as runtime:
        waiting = [iter(share) for share in shares]
        for share in waiting:  # what is read once and kept is read before the clock runs
            await _create(runtime, token, next(share))
        began = time.perf_counter()
        await asyncio.gather(*[_writer(runtime, token, share, times) for share in waiting])
        spent = time.perf_counter() - began
    return len(times) / spent, times


async def _writer(runtime: app.Runtime, token: str, share: Iterator[bytes], times: list[float]) -> None:
    for raw in share:
        began = time.perf_counter()
        await _create(runtime, token, raw)
        times.append((time.perf_counter() - began) * 1000)


async def _create(runtime: app.Runtime, token: str, raw: bytes) -> None:
    from fhirserver.core.validate import parse
    from fhirserver.policy.gate import Put

    resource: dict[str, Any] = parse(raw)
    scoped = await runtime.gate.admit(token, interaction="create", type=resource["resourceType"])
    await scoped.write([Put(resource=resource, raw=raw, id=resource["id"], if_version=0)])

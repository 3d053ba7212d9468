"""The rows of search: the same searches over stores of different sizes, asked in turns, and deep pages."""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import NamedTuple

import msgspec

from fhirserver.cli.bench.client import Client
from fhirserver.cli.bench.row import Row, Tell, quantile
from fhirserver.cli.bench.searches import (
    CODE,
    KINDS,
    PATIENT_AND_CODE,
    Kind,
    late_charts,
    small_charts,
)
from fhirserver.cli.bench.site import READER, Running, Site
from fhirserver.cli.bench.turns import in_turns
from fhirserver.config import BASE_PATH as FHIR
from fixtures.consents import consents

AT_ONCE = 4_000
"""Charts in one file."""
CONSENTED = 20


class Size(NamedTuple):
    """How much is measured: the ``patients`` of each store, the ``consents`` of the organisations, requests of each
    kind and the seconds they may take, resources of the index, requests of a rate."""

    patients: tuple[int, ...]
    consents: tuple[int, ...]
    rounds: int
    seconds: float
    indexed: int
    rate: int


FULL = Size(
    patients=(1_000, 8_000, 64_000), consents=(1_000, 100_000), rounds=300, seconds=40, indexed=40_000, rate=4_000
)
FULL_ON_ENGINE = FULL._replace(patients=(1_000, 4_000, 16_000))
QUICK = Size(patients=(100, 1_000), consents=(100, 1_000), rounds=60, seconds=5, indexed=4_000, rate=500)


def measure(sites: Mapping[int, Site], size: Size, tell: Tell) -> Iterator[Row]:
    """The searches over a store for each number of patients."""
    for count, site in sites.items():
        spent = _fill(site, count)
        tell(f"{count:,} charts loaded in {spent:.0f} s")
    with served(sites.values()) as runnings:
        servers = dict(zip(sites, runnings, strict=True))
        for kind in KINDS:
            tell(kind.name)
            yield compared(kind, servers, size)
        largest = max(servers)
        tell("rates")
        yield from (_rate(servers[largest], largest, size, clients) for clients in (1, 8))
        tell("page by page")
        yield pages(servers[largest].writer, CODE, largest)


def _fill(site: Site, count: int) -> float:
    began = time.perf_counter()
    for first in range(0, count, AT_ONCE):
        site.ingest(small_charts(range(first, min(count, first + AT_ONCE))))
    site.ingest(late_charts(count))
    site.ingest(consents(range(0, count, max(1, count // CONSENTED)), READER), "--trust-consents")
    site.place.settle()
    return time.perf_counter() - began


@contextmanager
def served(sites: Iterable[Site]) -> Iterator[list[Running]]:
    """All of them at once."""
    with ExitStack() as stack:
        yield [stack.enter_context(site.serving()) for site in sites]


def compared(kind: Kind, servers: Mapping[int, Running], size: Size) -> Row:
    """How much longer a search takes in the largest store than in the smallest."""
    clients = [running.reader if kind.consented else running.writer for running in servers.values()]
    asks = [[kind.ask(number) for number in _spread(count, size.rounds)] for count in servers]
    answers = in_turns(clients, asks, seconds=size.seconds)
    return ratio(f"search: {kind.name}", dict(zip(servers, answers, strict=True)), 2.0, 1.5)


def ratio(name: str, answers: Mapping[int, Sequence[tuple[float, int]]], must: float, goal: float) -> Row:
    """The medians of the largest and the smallest, with everything that stands behind them; RuntimeError where hardly
    anything was found, since that is no search to measure."""
    detail: dict[str, object] = {}
    medians: dict[int, float] = {}
    for count, each in answers.items():
        times = [spent for spent, _ in each]
        medians[count] = statistics.median(times)
        found = [matches for _, matches in each]
        detail[f"{count}"] = {
            "p50_ms": round(medians[count], 2),
            "p99_ms": round(quantile(times, 0.99), 2),
            "matches": statistics.mean(found),
            "searches": len(times),
        }
        if 2 * sum(map(bool, found)) < len(found):
            raise RuntimeError(f"{name}: of {count:,} hardly a search found anything.")
    return Row(name, medians[max(medians)] / medians[min(medians)], "x", must, goal, True, detail)


def _spread(count: int, rounds: int) -> list[int]:
    """So many chart numbers, from everywhere."""
    return [number * count // rounds % count if count > rounds else number % count for number in range(rounds)]


def _rate(running: Running, count: int, size: Size, clients: int) -> Row:
    asks = [PATIENT_AND_CODE.ask(number) for number in _spread(count, size.rate)]
    running.writer.rate(asks[:100], clients)
    rate, times = running.writer.rate(asks, clients)
    detail = {
        "patients": count,
        "p50_ms": round(quantile(times, 0.50), 2),
        "p99_ms": round(quantile(times, 0.99), 2),
    }
    must, goal = (700, 1_500) if clients == 1 else (1_500, 3_000)
    who = "1 client" if clients == 1 else f"{clients} clients"
    return Row(f"search: {PATIENT_AND_CODE.name}, {who}", rate, "/s", must, goal, False, detail)


def pages(client: Client, kind: Kind, count: int) -> Row:
    """One search read to its end, page by page: its last pages against its second."""
    url: str | None = kind.ask(0).path
    times, total = [], 0
    with client.keep() as kept:
        while url:
            began = time.perf_counter()
            body = kept.get(url)
            times.append((time.perf_counter() - began) * 1000)
            bundle = msgspec.json.decode(body)
            total += len(bundle.get("entry", ()))
            following = {link["relation"]: link["url"] for link in bundle["link"]}.get("next")
            url = following[following.index(FHIR) :] if following else None
    early, late = statistics.median(times[1:21]), statistics.median(times[-21:-1])
    detail = {
        "patients": count,
        "pages": len(times),
        "matches": total,
        "pages_2_to_21_ms": round(early, 2),
        "last_20_ms": round(late, 2),
    }
    return Row(f"search: deep page to page 2, {kind.name}", late / early, "x", 1.5, 1.2, True, detail)

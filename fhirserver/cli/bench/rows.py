"""What is measured, row by row; each gives a figure and what stands behind it."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from typing import Any, NamedTuple

import msgspec

from fhirserver.cli.bench.client import Client, Resident
from fhirserver.cli.bench.server import CEILING
from fhirserver.cli.bench.site import Running, Site
from fixtures import charts

FHIR = "/FHIR/R4"


class Size(NamedTuple):
    """How much a run takes."""

    chart: int
    small: int
    versions: int
    versioned: int
    repeats: int


FULL = Size(chart=100_000, small=100, versions=50, versioned=500, repeats=5)
QUICK = Size(chart=10_000, small=20, versions=10, versioned=200, repeats=3)


class Row(NamedTuple):
    """One line of the table; ``below``: a smaller figure is better. ``must`` and ``goal`` are in ``unit``."""

    name: str
    figure: float
    unit: str
    must: float
    goal: float
    below: bool
    detail: dict[str, Any]

    @property
    def verdict(self) -> str:
        def met(bound: float) -> bool:
            return self.figure <= bound if self.below else self.figure >= bound

        return "goal" if met(self.goal) else "must" if met(self.must) else "MISSED"


Tell = Callable[[str], None]


def measure(site: Site, size: Size, tell: Tell) -> Iterator[Row]:
    """Every row, in the order of the table; ``tell`` hears what is going on."""
    tell(f"generating and ingesting a chart of {size.chart:,} resources")
    big = charts.patient_id(0)
    count, spent = site.ingest(charts.chart(size.chart))
    yield from _ingest(site, count, spent, size, tell)
    tell("consents")
    small = [charts.patient_id(number) for number in range(1, size.small + 1)]
    once, often = charts.patient_id(size.small + 1), charts.patient_id(size.small + 2)
    tell(f"{size.versions} versions of a chart of {size.versioned} resources")
    site.ingest(charts.chart(size.versioned, number=size.small + 1))
    for version in range(1, size.versions + 1):
        site.ingest(charts.chart(size.versioned, number=size.small + 2, version=version))
    site.consent([big, once, often, *small])
    path = f"{FHIR}/Patient/{big}/$everything"
    with site.serving() as running:
        tell("whole chart, against the ceiling")
        yield from _chart(running, path, size)
        tell("first byte")
        yield _first_byte(running, path)
        tell("memory")
        yield from _memory(running, path)
        tell("others during a stream")
        yield _others(running, path, f"{FHIR}/Patient/{big}")
        tell("small charts")
        yield _small(running, [f"{FHIR}/Patient/{id}/$everything" for id in small])
        tell("page by page")
        yield _pages(running, path)
        tell("versions")
        yield _versions(running, once, often, size)
        yield _read_gate(running, f"{FHIR}/Patient/{big}")
    tell("validation")
    yield _validation()


def _ingest(site: Site, count: int, spent: float, size: Size, tell: Tell) -> Iterator[Row]:
    tell(f"ingesting {size.small} charts of 100 resources on top")

    def more() -> Iterator[charts.Resource]:
        for number in range(1, size.small + 1):
            yield from charts.chart(100, number=number)

    later, later_spent = site.ingest(more())
    detail = {
        "resources": count,
        "seconds": round(spent, 2),
        "fsync_per_second": round(site.fsyncs()),
        "charts_of_100_on_top_per_second": round(later / later_spent),
    }
    yield Row("ingest, full path, resources/s", count / spent, "/s", 2_000, 5_000, False, detail)


def _chart(running: Running, path: str, size: Size) -> Iterator[Row]:
    """Three times, because the ceiling is the client's as much as the server's: read by httpx, as applications do, by
    the standard library's client, and off a bare socket, where the ceiling is what the loopback can copy."""
    running.reader.stream(path)
    clients = {"http.client": running.reader.library, "bare socket": running.reader.stream}
    if find_spec("httpx"):  # comes with the development extras
        clients = {"httpx": running.reader.application, **clients}
    for name, client in clients.items():
        charts_, ceilings = [], []
        for _ in range(size.repeats):
            charts_.append(client(path))
            ceilings.append(client(f"{CEILING}?bytes={charts_[0].bytes}"))
        chart = statistics.median(answer.rate for answer in charts_)
        ceiling = statistics.median(answer.rate for answer in ceilings)
        detail = {
            "chart_MB_per_s": [round(answer.rate / 1e6, 1) for answer in charts_],
            "ceiling_MB_per_s": [round(answer.rate / 1e6, 1) for answer in ceilings],
            "chart_seconds": [round(answer.whole, 3) for answer in charts_],
            "resources_per_second": round(size.chart / statistics.median(answer.whole for answer in charts_)),
            "bytes": charts_[0].bytes,
        }
        label = f"chart of {size.chart:,}, ratio to ceiling, {name}"
        yield Row(label, chart / ceiling, "", 0.20, 0.25, False, detail)
    pairs = [(running.operator.stream(path).whole, running.reader.stream(path).whole) for _ in range(size.repeats)]
    operator, third = (statistics.median(times) for times in zip(*pairs, strict=True))
    seconds = {"operator_seconds": round(operator, 3), "third_party_seconds": round(third, 3)}
    yield Row("gate: third party to operator, whole chart", third / operator, "x", 1.2, 1.1, True, seconds)


def _first_byte(running: Running, path: str) -> Row:
    times = sorted(running.reader.first_byte(path) * 1000 for _ in range(40))
    detail = {"p50_ms": round(statistics.median(times), 2), "p99_ms": round(times[-1], 2)}
    return Row("first byte, p50", statistics.median(times), "ms", 20, 10, True, detail)


def _memory(running: Running, path: str) -> Iterator[Row]:
    watch = Resident(running.pid)
    running.reader.stream(path)
    yield Row("memory growth, whole chart", watch.grown() / 2**20, "MB", 64, 16, True, {})
    watch = Resident(running.pid)
    running.reader.stall(path, 5)
    yield Row("memory growth, stalled reader", watch.grown() / 2**20, "MB", 64, 16, True, {})


def _stream_forever(client: Client, path: str) -> None:
    while True:
        client.stream(path)


def _others(running: Running, streamed: str, read: str) -> Row:
    kept = running.reader.keep()
    alone = sorted(kept.timed(read) * 1000 for _ in range(200))
    streaming = multiprocessing.get_context("spawn").Process(
        target=_stream_forever, args=(running.reader, streamed), daemon=True
    )
    streaming.start()
    try:
        time.sleep(1.5)
        times = []
        for _ in range(400):
            times.append(kept.timed(read) * 1000)
            time.sleep(0.005)
    finally:
        streaming.terminate()
        streaming.join()
    times.sort()
    p95 = times[int(len(times) * 0.95)]
    detail = {
        "p50_ms": round(statistics.median(times), 2),
        "p99_ms": round(times[int(len(times) * 0.99)], 2),
        "alone_p95_ms": round(alone[int(len(alone) * 0.95)], 2),
    }
    return Row("others' p95 during a stream", p95, "ms", 10, 3, True, detail)


def _small(running: Running, paths: list[str]) -> Row:
    clients = 4
    work = paths * max(1, 400 // len(paths))
    shares = [work[number::clients] for number in range(clients)]

    def read(share: list[str]) -> None:
        kept = running.reader.keep()
        for path in share:
            kept.get(path)

    read(paths)
    threads = [threading.Thread(target=read, args=(share,)) for share in shares]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rate = len(work) / (time.perf_counter() - began)
    return Row("charts of 100 resources", rate, "/s", 200, 300, False, {"clients": clients, "charts": len(work)})


def _pages(running: Running, path: str) -> Row:
    kept = running.reader.keep()
    url: str | None = f"{path}?_count=100"
    times = []
    while url:
        began = time.perf_counter()
        body = kept.get(url)
        times.append((time.perf_counter() - began) * 1000)
        links = {link["relation"]: link["url"] for link in msgspec.json.decode(body)["link"]}
        following = links.get("next")
        url = following[following.index(FHIR) :] if following else None
    early, late = statistics.median(times[1:21]), statistics.median(times[-21:-1])
    detail = {
        "pages": len(times),
        "page_1_ms": round(times[0], 2),
        "pages_2_to_21_ms": round(early, 2),
        "last_20_ms": round(late, 2),
    }
    return Row("page k to page 2", late / early, "x", 1.5, 1.2, True, detail)


def _versions(running: Running, once: str, often: str, size: Size) -> Row:
    def seconds(id: str) -> float:
        return running.reader.stream(f"{FHIR}/Patient/{id}/$everything").whole

    seconds(once), seconds(often)
    pairs = [(seconds(once), seconds(often)) for _ in range(20)]
    one, many = (statistics.median(times) for times in zip(*pairs, strict=True))
    detail = {"one_ms": round(one * 1000, 2), "many_ms": round(many * 1000, 2)}
    return Row(f"{size.versions} versions to one", many / one, "x", 1.5, 1.2, True, detail)


def _read_gate(running: Running, read: str) -> Row:
    kept = running.operator.keep(), running.reader.keep()
    pairs = [tuple(client.timed(read) for client in kept) for _ in range(400)]
    operator, third = (statistics.median(times) for times in zip(*pairs[100:], strict=True))
    detail = {"operator_ms": round(operator * 1000, 3), "third_party_ms": round(third * 1000, 3)}
    return Row("gate: third party to operator, read", third / operator, "x", 1.2, 1.1, True, detail)


def _validation() -> Row:
    from fhirserver.core.validate import parse

    lines = list(charts.lines(charts.chart(5_000)))
    for line in lines[:500]:
        parse(line)
    began = time.process_time()
    for line in lines:
        parse(line)
    rate = len(lines) / (time.process_time() - began)
    return Row("validation, resources/s and core", rate, "/s", 15_000, 50_000, False, {"resources": len(lines)})

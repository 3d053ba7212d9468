"""The rows measured through a running server; each gives a figure and what stands behind it."""

from __future__ import annotations

import multiprocessing
import statistics
import threading
import time
from collections.abc import Iterator
from importlib.util import find_spec

import msgspec

from fhirserver.cli.bench import bare
from fhirserver.cli.bench.client import Ask, Client, Resident
from fhirserver.cli.bench.row import Row, Size, quantile
from fhirserver.cli.bench.server import CEILING
from fhirserver.cli.bench.site import Running
from fhirserver.config import BASE_PATH as FHIR


def to_ceiling(running: Running, path: str, size: Size) -> Iterator[Row]:
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


def to_bare_driver(running: Running, environment: dict[str, str], patient: str, size: Size) -> Row:
    """Resources per second over HTTP to documents per second that a bare driver reads of the same chart, in turns."""
    path = f"{FHIR}/Patient/{patient}/$everything"
    running.reader.stream(path), bare.ask(environment, "chart", patient)
    charts_, drivers = [], []
    for _ in range(size.repeats):
        drivers.append(bare.ask(environment, "chart", patient))
        charts_.append(running.reader.stream(path))
    small = [bare.ask(environment, "batches", patient) for _ in range(2)]
    rates = [size.chart / answer.whole for answer in charts_]
    chart, driver = statistics.median(rates), statistics.median(answer["per_second"] for answer in drivers)
    detail = {
        "resources_per_second": round(chart),
        "bare_driver_per_second": round(driver),
        "bare_driver_in_batches_of_1000_per_second": max(answer["per_second"] for answer in small),
        "resources_per_second_each": [round(rate) for rate in rates],
        "bare_driver_each": drivers,
        "chart_MB_per_s": [round(answer.rate / 1e6, 1) for answer in charts_],
        "chart_seconds": [round(answer.whole, 3) for answer in charts_],
        "bytes": charts_[0].bytes,
    }
    return Row(f"chart of {size.chart:,}, ratio to bare driver", chart / driver, "", 0.6, 0.8, False, detail)


def chart_gate(running: Running, path: str, size: Size) -> Row:
    """The same chart for a third party and for the operator."""
    pairs = [(running.operator.stream(path).whole, running.reader.stream(path).whole) for _ in range(size.repeats)]
    operator, third = (statistics.median(times) for times in zip(*pairs, strict=True))
    seconds = {"operator_seconds": round(operator, 3), "third_party_seconds": round(third, 3)}
    return Row("gate: third party to operator, whole chart", third / operator, "x", 1.2, 1.1, True, seconds)


def first_byte(running: Running, path: str) -> Row:
    times = sorted(running.reader.first_byte(path) * 1000 for _ in range(40))
    detail = {"p50_ms": round(statistics.median(times), 2), "p99_ms": round(times[-1], 2)}
    return Row("first byte, p50", statistics.median(times), "ms", 20, 10, True, detail)


def memory(running: Running, path: str) -> Iterator[Row]:
    watch = Resident(running.pid)
    running.reader.stream(path)
    yield Row("memory growth, whole chart", watch.grown() / 2**20, "MB", 64, 16, True, {})
    watch = Resident(running.pid)
    running.reader.stall(path, 5)
    yield Row("memory growth, stalled reader", watch.grown() / 2**20, "MB", 64, 16, True, {})


def _stream_forever(client: Client, path: str) -> None:
    while True:
        client.stream(path)


def others(running: Running, streamed: str, read: str) -> Row:
    with running.reader.keep() as kept:
        alone = sorted(kept.timed(read) * 1000 for _ in range(200))
    streaming = multiprocessing.get_context("spawn").Process(
        target=_stream_forever, args=(running.reader, streamed), daemon=True
    )
    streaming.start()
    try:
        time.sleep(1.5)
        times = []
        with running.reader.keep() as kept:
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


def small(running: Running, paths: list[str]) -> Row:
    clients = 4
    work = paths * max(1, 400 // len(paths))
    shares = [work[number::clients] for number in range(clients)]

    def read(share: list[str]) -> None:
        with running.reader.keep() as kept:
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


def pages(running: Running, path: str) -> Row:
    url: str | None = f"{path}?_count=100"
    times = []
    with running.reader.keep() as kept:
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


def versions(running: Running, once: str, often: str, size: Size) -> Row:
    def seconds(id: str) -> float:
        return running.reader.stream(f"{FHIR}/Patient/{id}/$everything").whole

    seconds(once), seconds(often)
    pairs = [(seconds(once), seconds(often)) for _ in range(20)]
    one, many = (statistics.median(times) for times in zip(*pairs, strict=True))
    detail = {"one_ms": round(one * 1000, 2), "many_ms": round(many * 1000, 2)}
    return Row(f"{size.versions} versions to one", many / one, "x", 1.5, 1.2, True, detail)


def read_gate(running: Running, read: str) -> Row:
    with running.operator.keep() as one, running.reader.keep() as other:
        pairs = [(one.timed(read), other.timed(read)) for _ in range(400)]
    operator, third = (statistics.median(times) for times in zip(*pairs[100:], strict=True))
    detail = {"operator_ms": round(operator * 1000, 3), "third_party_ms": round(third * 1000, 3)}
    return Row("gate: third party to operator, read", third / operator, "x", 1.2, 1.1, True, detail)


def reads(running: Running, paths: list[Ask], clients: int) -> Row:
    """Reads by id of a chart's resources over so many connections."""
    running.reader.rate(paths[:200], clients)
    rate, times = running.reader.rate(paths, clients)
    detail = {
        "reads": len(times),
        "p50_ms": round(quantile(times, 0.50), 2),
        "p99_ms": round(quantile(times, 0.99), 2),
    }
    must, goal = (1_000, 2_000) if clients == 1 else (2_000, 4_000)
    who = "1 client" if clients == 1 else f"{clients} clients"
    return Row(f"read by id, {who}", rate, "/s", must, goal, False, detail)

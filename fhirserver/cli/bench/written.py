"""The rows of what is written through a running server: creates, transactions, and creates beside a large one."""

from __future__ import annotations

from collections.abc import Iterator

from fhirserver.cli.bench.client import Ask
from fhirserver.cli.bench.row import Row, Size, Tell, quantile, told
from fhirserver.cli.bench.site import Running, Site
from fhirserver.config import BASE_PATH as FHIR
from fixtures import charts

CLIENTS = 8
OBSERVED = 60
"""Resources of each chart whose Observations are posted, over and over: each time new ones."""
BEFORE = 3.0
"""Seconds of small creates alone, before the large transaction comes."""


def measure(site: Site, size: Size, number: int, tell: Tell) -> Iterator[Row]:
    """``number`` is the first of the patients of its own that it writes about."""
    numbers = range(number, number + CLIENTS)
    site.ingest(one for each in numbers for one in charts.chart(OBSERVED, number=each))
    with site.serving() as running:
        tell("creates")
        asks = _creates(numbers)
        yield creates(running, asks, size)
        tell("transactions")
        yield transactions(running, size)
        tell(f"creates beside a transaction of {size.entries:,} entries")
        yield others(running, asks, size)


def creates(running: Running, asks: list[Ask], size: Size) -> Row:
    """POST of Observations, each by itself, validated, audited, durable."""
    running.writer.rate(asks[:100], CLIENTS)
    alone, _ = running.writer.rate(_times(asks, size.creates // 4), 1)
    rate, times = running.writer.rate(_times(asks, size.creates), CLIENTS)
    detail = {
        "clients": CLIENTS,
        "creates": len(times),
        "p50_ms": round(quantile(times, 0.50), 2),
        "p99_ms": round(quantile(times, 0.99), 2),
        "one_client_per_second": round(alone, 1),
    }
    return Row(f"create, {CLIENTS} clients", rate, "/s", 300, 1_000, False, detail)


def transactions(running: Running, size: Size) -> Row:
    """A patient's chart of 100 resources as one transaction, its references resolved; every time a new patient."""
    ask = Ask(FHIR, bundle(list(charts.chart(100, number=1))))
    running.writer.rate([ask], 1)
    rate, times = running.writer.rate([ask] * size.transactions, 2)
    detail = {
        "clients": 2,
        "transactions": len(times),
        "entries_per_second": round(rate * 100),
        "bytes_each": len(ask.body),
        "p50_ms": round(quantile(times, 0.50), 1),
        "p99_ms": round(quantile(times, 0.99), 1),
    }
    return told("transactions of 100 entries", rate, "/s", **detail)


def others(running: Running, asks: list[Ask], size: Size) -> Row:
    """Creates by two clients while one transaction of many entries is processed; alone in the same run."""
    large = Ask(FHIR, bundle(list(charts.chart(size.entries, number=2))))
    alone, during, seconds = running.writer.beside(asks, large, 2, before=BEFORE)
    detail = {
        "entries": size.entries,
        "bytes": len(large.body),
        "seconds": round(seconds, 2),
        "creates_during": len(during),
        "p50_ms": round(quantile(during, 0.50), 2),
        "slowest_ms": round(max(during), 1),
        "alone_p50_ms": round(quantile(alone, 0.50), 2),
        "alone_p99_ms": round(quantile(alone, 0.99), 2),
    }
    return told(f"others' create p99 during a transaction of {size.entries:,}", quantile(during, 0.99), "ms", **detail)


def bundle(resources: list[charts.Resource]) -> bytes:
    """A transaction that creates the resources; what they say of each other, they say by ``urn:uuid``."""
    named = {f"{one['resourceType']}/{one['id']}".encode(): f"urn:uuid:{one['id']}".encode() for one in resources}
    entries = []
    for one in resources:
        kind = one["resourceType"].encode()
        parts = charts.encode(one).rstrip().split(b'"reference":"')
        body = parts[0] + b"".join(b'"reference":"' + _resolved(part, named) for part in parts[1:])
        full = named[kind + b"/" + one["id"].encode()]
        entries.append(
            b'{"fullUrl":"%s","resource":%s,"request":{"method":"POST","url":"%s"}}' % (full, body, kind),
        )
    return b'{"resourceType":"Bundle","type":"transaction","entry":[%s]}' % b",".join(entries)


def _resolved(part: bytes, named: dict[bytes, bytes]) -> bytes:
    reference, quote, rest = part.partition(b'"')
    return named.get(reference, reference) + quote + rest


def _creates(numbers: range) -> list[Ask]:
    """Observations of these patients, one patient after the other."""
    shares = [
        [charts.encode(one) for one in charts.chart(OBSERVED, number=each) if one["resourceType"] == "Observation"]
        for each in numbers
    ]
    return [Ask(f"{FHIR}/Observation", body) for bodies in zip(*shares, strict=False) for body in bodies]


def _times(asks: list[Ask], count: int) -> list[Ask]:
    """So many requests, the same ones again and again."""
    return [asks[number % len(asks)] for number in range(count)]

"""The rows of the index: its entries and bytes per resource, and what it adds to a write."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

import msgspec
import uvloop

from fhirserver import app, config
from fhirserver.cli import session
from fhirserver.cli.bench import sizes
from fhirserver.cli.bench.row import Row, Tell, told
from fhirserver.cli.bench.searched import Size
from fhirserver.cli.bench.searches import CHART, small_charts
from fhirserver.cli.bench.site import CUSTODIAN, Site
from fhirserver.cli.bench.stores import Engine
from fhirserver.core.index import extract
from fhirserver.core.model import Index
from fhirserver.core.validate import parse
from fhirserver.policy import items
from fhirserver.policy.gate import Put
from fixtures import charts

KINDS = ("terms", "texts", "spans", "sorts", "present")
BATCH = 500
"""Resources written together, as an import does."""
TURNS = 10
_TABLES = frozenset({"terms", "texts", "spans", "sorts", "entries"})


def measure(site: Site, size: Size, tell: Tell) -> Iterator[Row]:
    """Entries, their bytes in a store, and what they add to a write (which leaves a store without some of them)."""
    tell("entries of the index")
    yield entries(size.indexed)
    tell("bytes of the index")
    site.ingest(small_charts(range(size.indexed // CHART)))
    site.place.settle()
    yield bytes_(site)
    tell("what the index adds to a write")
    yield writes(site, size.indexed)


def entries(count: int) -> Row:
    """Entries per resource by kind, and the time it takes to make them."""
    resources = [parse(line) for line in _lines(0, count)]
    for resource in resources[:500]:
        extract(resource)
    began = time.process_time()
    indexes = [extract(resource) for resource in resources]
    spent = time.process_time() - began
    per = {kind: round(sum(len(getattr(index, kind)) for index in indexes) / len(indexes), 2) for kind in KINDS}
    per["references"] = round(sum(len(index.references) for index in indexes) / len(indexes), 2)
    detail = {"resources": len(indexes), **per, "extract_us": round(spent / len(indexes) * 1e6, 1)}
    return told("index: entries per resource", sum(per.values()), "", **detail)


def writes(site: Site, count: int) -> Row:
    """Imports with all entries of the index against imports without those of search, in turns, in this process.

    What decides access (owners, compartments, labels, references) stays. Making the entries counts as theirs: the time
    that it took is taken off where they are left out."""
    first = count // CHART + 1
    each = count // TURNS // CHART + 1
    parts = [list(_lines(first + number * each, count // TURNS)) for number in range(2 * TURNS)]
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        whole, without = runner.run(_write(site.environment, parts))
    bare = statistics.median(spent - made for spent, made in without)
    stored = statistics.median(spent for spent, _ in without)
    full = statistics.median(spent for spent, _ in whole)
    detail = {
        "resources_each": len(parts[0]),
        "seconds_with": [round(spent, 3) for spent, _ in whole],
        "seconds_without": [round(spent - made, 3) for spent, made in without],
        "of_which_storing": round(full / stored, 3),
        "per_second_with": round(len(parts[0]) / full),
    }
    return told("index: an import with it to one without", full / bare, "x", **detail)


async def _write(environment: Mapping[str, str], parts: Sequence[Sequence[bytes]]) -> tuple[list[Any], list[Any]]:
    whole: list[tuple[float, float]] = []
    without: list[tuple[float, float]] = []
    async with app.opened(config.load(environment)) as runtime:
        scoped = session.operator(runtime, "bench", organization=CUSTODIAN)
        for number, lines in enumerate(parts):
            puts = [_put(line) for line in lines]
            with _Entries(left_out=number % 2 == 1) as entries_:
                began = time.perf_counter()
                for at in range(0, len(puts), BATCH):
                    await scoped.load(puts[at : at + BATCH])
                spent = time.perf_counter() - began
            (without if number % 2 else whole).append((spent, entries_.spent))
    return whole, without


def _put(line: bytes) -> Put:
    resource = parse(line)
    return Put(resource=resource, raw=line, id=resource["id"])


class _Entries:
    """Within it the write path makes indexes here; ``spent`` seconds so far. ``left_out``: without entries of search.

    No setting does that, since a store without them would answer wrongly; so the function is put in another's place,
    in this process, which serves nobody."""

    def __init__(self, *, left_out: bool) -> None:
        self._left_out = left_out
        self.spent = 0.0

    def __enter__(self) -> _Entries:
        vars(items)["extract"] = self._extract
        return self

    def __exit__(self, *_: object) -> None:
        vars(items)["extract"] = extract

    def _extract(self, resource: Mapping[str, Any]) -> Index:
        began = time.perf_counter()
        index = extract(resource)
        self.spent += time.perf_counter() - began
        if not self._left_out:
            return index
        return msgspec.structs.replace(index, terms=(), texts=(), spans=(), sorts=(), present=())


def bytes_(site: Site) -> Row:
    """Bytes of the index per resource of a store, as its engine says."""
    if isinstance(site.place, Engine):
        stats = site.place.sizes()
        parts = [*sizes.collection("current", stats["current"], "resource"), *sizes.within(site.place, stats)]
        index = [part for part in parts if part.name in ("current, index terms", "current, BSON of index entries")]
        bodies = next(part for part in parts if part.name == "current, BSON of bodies")
    else:
        parts = sizes.tables(site, least=0)
        index = [part for part in parts if part.name in _TABLES]
        bodies = next(part for part in parts if part.name == "current")
    detail = {part.name: round(part.bytes / part.number, 1) for part in [*index, bodies]}
    total = sum(part.bytes / part.number for part in index)
    return told("index: bytes per resource", total, "B", resources=bodies.number, **detail)


def _lines(number: int, count: int) -> Iterator[bytes]:
    """So many resources of small charts, from this chart on."""
    return charts.lines(islice(small_charts(range(number, number + count)), count))

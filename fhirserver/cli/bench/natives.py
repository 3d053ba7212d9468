"""The cost of native documents: the same work on two databases of one engine, one with them and one without."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path

from fhirserver.cli.bench.client import Ask
from fhirserver.cli.bench.row import Row, Size, told
from fhirserver.cli.bench.site import READER, Site
from fhirserver.cli.bench.stores import Engine
from fhirserver.cli.bench.writes import WRITERS, measured
from fhirserver.config import BASE_PATH as FHIR
from fixtures import charts


def cost(url: str, folder: Path, size: Size) -> Iterator[Row]:
    """Rows of the form: with native documents to without, in seconds, in turns; nothing is claimed of them."""
    places = [Engine(url, folder, native=native) for native in (True, False)]
    try:
        sites = [Site(_below(folder, place.database), place) for place in places]
        yield _ingest(sites, size)
        yield _creates(sites, size)
        for place in places:
            place.settle()
        yield from _reads(sites, size)
    finally:
        for place in places:
            place.remove()


def _below(folder: Path, name: str) -> Path:
    path = folder / name
    path.mkdir()
    return path


def _turns(sites: Sequence[Site], number: int) -> Sequence[Site]:
    """Who goes first changes from turn to turn: what the machine does besides hits both."""
    return sites if number % 2 == 0 else sites[::-1]


def _row(what: str, unit: str, with_: Sequence[float], without: Sequence[float], **detail: object) -> Row:
    ratio = statistics.median(with_) / statistics.median(without)
    each = {
        f"with_{unit}": [round(one, 2) for one in with_],
        f"without_{unit}": [round(one, 2) for one in without],
    }
    return told(f"native documents: {what}, with to without", ratio, "x", **each, **detail)


def _ingest(sites: Sequence[Site], size: Size) -> Row:
    seconds: dict[Site, list[float]] = {site: [] for site in sites}
    for number in range(size.repeats + 1):
        for site in _turns(sites, number):
            spent = site.ingest(charts.chart(size.natives, number=number))[1]
            if number:  # the first charts also make the collections
                seconds[site].append(spent)
    return _row("ingest", "seconds", *seconds.values(), resources_each=size.natives)


def _creates(sites: Sequence[Site], size: Size) -> Row:
    spent: dict[Site, list[float]] = {site: [] for site in sites}
    for number in range(size.repeats):
        for site in _turns(sites, number):
            rate, _ = measured(site, size.creates // 2, 100 + number * WRITERS)
            spent[site].append(1000 / rate)
    return _row(f"create, {WRITERS} writers", "ms_each", *spent.values(), creates_each=size.creates // 2)


def _reads(sites: Sequence[Site], size: Size) -> Iterator[Row]:
    patient = charts.patient_id(1)
    path = f"{FHIR}/Patient/{patient}/$everything"
    paths = [Ask(f"{FHIR}/{one['resourceType']}/{one['id']}") for one in charts.chart(min(500, size.natives), number=1)]
    for site in sites:
        site.command("consent", "grant", "--patient", patient, "--org", READER)
    with sites[0].serving() as with_, sites[1].serving() as without:
        runnings = (with_, without)
        streams: list[list[float]] = [[], []]
        reads: list[list[float]] = [[], []]
        for number in range(-1, 2 * size.repeats):
            for at in (0, 1) if number % 2 == 0 else (1, 0):
                stream = runnings[at].reader.stream(path).whole * 1000
                read = statistics.median(runnings[at].reader.rate(paths, 1).times)
                if number >= 0:
                    streams[at].append(stream)
                    reads[at].append(read)
    yield _row("whole chart", "ms", *streams, resources_each=size.natives)
    yield _row("read by id", "ms", *reads)

"""What is measured, row by row, in the order of the table."""

from __future__ import annotations

import time
from collections.abc import Iterator
from itertools import islice

from fhirserver.cli.bench import bare, natives, served, written
from fhirserver.cli.bench.client import Ask
from fhirserver.cli.bench.row import Row, Size, Tell, told
from fhirserver.cli.bench.site import Running, Site
from fhirserver.cli.bench.stores import Engine
from fhirserver.config import BASE_PATH as FHIR
from fixtures import charts


def measure(site: Site, size: Size, tell: Tell) -> Iterator[Row]:
    """Every row; ``tell`` hears what is going on."""
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
    site.place.settle()
    path, read = f"{FHIR}/Patient/{big}/$everything", f"{FHIR}/Patient/{big}"
    with site.serving() as running:
        yield from _chart(site, running, big, size, tell)
        tell("first byte")
        yield served.first_byte(running, path)
        tell("memory")
        yield from served.memory(running, path)
        tell("others during a stream")
        yield served.others(running, path, read)
        tell("small charts")
        yield served.small(running, [f"{FHIR}/Patient/{id}/$everything" for id in small])
        tell("page by page")
        yield served.pages(running, path)
        tell("versions")
        yield served.versions(running, once, often, size)
        yield served.read_gate(running, read)
        tell("reads")
        paths = _paths(size.reads)
        yield from (served.reads(running, paths, clients) for clients in (1, 8))
    yield from written.measure(site, size, size.small + 3, tell)
    if isinstance(site.place, Engine):
        tell("the engine's own limits")
        yield from _limits(site, big)
        tell("with and without native documents")
        yield from natives.cost(site.place.url, site.folder, size)
    tell("validation")
    yield _validation()


def _paths(count: int) -> list[Ask]:
    """Addresses of a chart's resources, visit by visit."""
    return [Ask(f"{FHIR}/{one['resourceType']}/{one['id']}") for one in islice(charts.chart(count), count)]


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


def _chart(site: Site, running: Running, patient: str, size: Size, tell: Tell) -> Iterator[Row]:
    path = f"{FHIR}/Patient/{patient}/$everything"
    if isinstance(site.place, Engine):
        tell("whole chart, against the bare driver")
        yield served.to_bare_driver(running, site.environment, patient, size)
    else:
        tell("whole chart, against the ceiling")
        yield from served.to_ceiling(running, path, size)
    yield served.chart_gate(running, path, size)


def _limits(site: Site, patient: str) -> Iterator[Row]:
    """What the engine itself gives, in the same run."""
    reads = bare.ask(site.environment, "reads", patient)
    yield told("engine: find_one by _id, 1 client", reads["find_one_by_id_1_per_second"], "/s")
    yield told("engine: find_one by _id, 8 clients", reads["find_one_by_id_8_per_second"], "/s")
    inserts = bare.ask(site.environment, "inserts", patient)
    yield told("engine: insert_many, same documents and indexes", inserts["plain_per_second"], "/s", **inserts)
    commits = bare.ask(site.environment, "commits", patient)
    yield told("engine: transaction with one counter", commits["transactions_per_second"], "/s", **commits)


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

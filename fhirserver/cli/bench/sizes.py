"""What a million resources take: the collections, indexes or tables of a filled store, measured and extrapolated."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fhirserver.cli.bench.client import Ask
from fhirserver.cli.bench.row import Tell
from fhirserver.cli.bench.site import READER, Running, Site
from fhirserver.cli.bench.stores import Engine
from fhirserver.config import BASE_PATH as FHIR
from fhirserver.config import sqlite_path
from fixtures import charts

CHART = 400
"""Resources in a generated chart."""


class Part(NamedTuple):
    """One thing that takes room: ``number`` of ``each`` (resource, version, audit row) in ``bytes``."""

    name: str
    number: int
    each: str
    bytes: int

    @property
    def per_million(self) -> float:
        """Bytes, if there were a million."""
        return self.bytes / self.number * 1e6 if self.number else 0.0


def measure(site: Site, count: int, files: Sequence[Path], tell: Tell) -> list[Part]:
    """Fill the store with ``count`` generated resources, or with the files' instead, and say what takes which room."""
    tell("ingesting what is measured")
    if files:
        site.ingest_files(files)
    else:
        site.ingest(_charts(range(1, count // CHART + 1), 1))
    site.place.settle()
    if not isinstance(site.place, Engine):
        return tables(site)
    fresh = site.place.sizes()
    parts = collection("current", fresh["current"], "resource") + within(site.place, fresh) + _natives(fresh)
    tell("second versions and reads")
    if files:
        site.ingest(_charts(range(1, 6), 1))
    site.ingest(_charts(range(1, max(6, count // CHART // 10 + 1)), 2))
    with site.serving() as running:
        _read(site, running)
    site.place.settle()
    later = site.place.sizes()
    return (
        parts
        + collection("history", later["history"], "superseded version")
        + collection("audit", later["audit"], "audit row")
    )


def _charts(numbers: range, version: int) -> Iterator[charts.Resource]:
    for number in numbers:
        yield from charts.chart(CHART, number=number, version=version)


def _read(site: Site, running: Running) -> None:
    """A thousand answers, so that the trail holds what it usually holds."""
    patient = charts.patient_id(1)
    site.command("consent", "grant", "--patient", patient, "--org", READER)
    paths = [Ask(f"{FHIR}/{one['resourceType']}/{one['id']}") for one in charts.chart(CHART, number=1)]
    running.reader.rate((paths * 3)[:1000], 4)


def collection(name: str, stats: Mapping[str, Any], each: str) -> list[Part]:
    count = int(stats["count"])
    documents = Part(f"{name}, documents", count, each, int(stats["storageSize"]))
    indexes = sorted(stats["indexSizes"].items(), key=lambda item: -int(item[1]))
    return [documents, *(Part(f"{name}, index {index}", count, each, int(size)) for index, size in indexes)]


_INDEX_ENTRIES = ("terms", "texts", "spans", "sorts")
_SAMPLE = 5_000


def within(place: Engine, stats: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """What the documents of ``current`` consist of, as BSON before any compression: what a write sends to the engine
    and its log."""
    import bson

    some = place.sample("current", _SAMPLE)
    count = int(stats["current"]["count"])
    totals: Counter[str] = Counter()
    for document in some:
        entries = {name: document[name] for name in _INDEX_ENTRIES}
        totals["bodies"] += len(document.get("body", b""))
        totals["index entries"] += len(bson.encode(entries))
        totals["whole documents"] += len(bson.encode(document))
    return [
        Part(f"current, BSON of {name}", count, "resource", total * count // len(some))
        for name, total in totals.items()
    ]


def _natives(stats: Mapping[str, Mapping[str, Any]]) -> list[Part]:
    """The collections of native documents, which have the names of resource types, together."""
    those = [each for name, each in stats.items() if name[:1].isupper()]
    count = sum(int(each["count"]) for each in those)
    if not count:
        return []
    documents = sum(int(each["storageSize"]) for each in those)
    indexes = sum(int(each["totalIndexSize"]) for each in those)
    return [
        Part("native documents", count, "resource", documents),
        Part("native documents, indexes _id_", count, "resource", indexes),
    ]


def tables(site: Site, *, least: int = 1_000_000) -> list[Part]:
    """The embedded store's tables and indexes of more than ``least`` bytes, as the file's pages hold them."""
    path = sqlite_path(site.environment["FHIRSERVER_STORE"])
    resources = int(msgspec.json.decode(site.command("stats", "--json"))["resources"])
    try:
        with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
            found = connection.execute(
                "SELECT name, sum(pgsize) AS size FROM dbstat GROUP BY name HAVING size > ? ORDER BY size DESC",
                (least,),
            ).fetchall()
    except sqlite3.OperationalError:  # a SQLite without this table
        found = [("the whole file", path.stat().st_size if path else 0)]
    return [Part(name, resources, "resource", size) for name, size in found]

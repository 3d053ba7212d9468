"""`_deleted=only`: a history Bundle of what left a chart since a time, so that a client can follow.

Left means: deleted, moved to another patient, or (for a Person) standing in the chart of a Patient that is no longer
linked. An entry names the resource and nothing of its content, and only resources whose last version in the chart the
caller may still see are named. R4 forbids `entry.request` in a searchset (bdl-3), hence a Bundle of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from urllib.parse import quote

import msgspec
from starlette.types import ASGIApp

from fhirserver.core.model import Key, Query, Record, parse_facts
from fhirserver.core.stamp import instant
from fhirserver.http.respond import SECURITY_HEADERS
from fhirserver.http.selection import Selection
from fhirserver.http.server import Server
from fhirserver.http.stream import Streaming
from fhirserver.http.walk import NEVER_MEMBERS, OVERLAP_MILLISECONDS
from fhirserver.policy.gate import Chart


async def linked_since(chart: Chart, since: int) -> frozenset[str]:
    """The Patients that the Person came to link only after ``since`` (milliseconds)."""
    if chart.anchor.type != "Person":
        return frozenset()
    before = await chart.scoped.linked(chart.anchor.key, as_of=await chart.scoped.seq_at(since))
    return frozenset(chart.patients).difference(before)


async def departures(server: Server, chart: Chart, selection: Selection, *, path: str, media_type: str) -> ASGIApp:
    """The Bundle of what left since `_since`."""
    scoped = chart.scoped
    high = await scoped.high_water()
    since = (selection.since or 0) - OVERLAP_MILLISECONDS
    left = _Departures(chart, selection, before=await scoped.seq_at(since), as_of=high.seq)
    head: dict[str, object] = {
        "resourceType": "Bundle",
        "type": "history",
        "timestamp": instant(high.time),
        "link": [{"relation": "self", "url": selection.url(path)}],
    }
    base = path.removesuffix(f"{chart.anchor.type}/{quote(chart.anchor.id)}/$everything").encode()
    return Streaming(
        chunks=left.chunks(head, base, instant(high.time).encode()),
        headers={
            "Content-Type": f"{media_type}; charset=utf-8",
            "Vary": "Accept, Authorization",
            **SECURITY_HEADERS,
        },
        disclosure=scoped.disclosure(
            interaction="$everything",
            patients=chart.patients,
            detail={"anchor": str(chart.anchor.key), "query": selection.url("")},
        ),
        still_admitted=scoped.still_admitted,
        sent=lambda: left.sent,
        stall_seconds=server.stall_seconds,
    )


class _Departures:
    """The departed records of one chart between two snapshots."""

    def __init__(self, chart: Chart, selection: Selection, *, before: int, as_of: int) -> None:
        self.scoped = chart.scoped
        self.chart = chart
        self.types = selection.types
        self.before = before
        self.as_of = as_of
        self.sent = 0

    async def chunks(self, head: dict[str, object], base: bytes, time: bytes) -> AsyncGenerator[bytes, None]:
        opening = msgspec.json.encode(head)[:-1]
        async for batch in self._batches():
            entries = [_entry(record, base, time) for record in batch]
            yield (b"," if self.sent else opening + b',"entry":[') + b",".join(entries)
            self.sent += len(batch)
        yield (b"]" if self.sent else opening) + b',"total":%d}' % self.sent

    async def _batches(self) -> AsyncIterator[list[Record]]:
        for query in await self._queries():
            async for batch in self.scoped.scan(query):
                staying = await self._staying([record.key for record in batch])
                gone = [record for record in batch if record.key not in staying]
                if gone:
                    yield gone

    async def _queries(self) -> list[Query]:
        patients = self.chart.patients
        common = Query(types=self.types, not_types=NEVER_MEMBERS, as_of=self.as_of, bodies=False)
        replace = msgspec.structs.replace
        queries = [
            replace(common, within=patient, beyond=patients[:index], departed_since=self.before)
            for index, patient in enumerate(patients)
        ]
        if self.chart.anchor.type == "Person":
            linked = await self.scoped.linked(self.chart.anchor.key, as_of=self.before)
            unlinked = [patient for patient in linked if patient not in patients]
            queries += [replace(common, within=patient, as_of=self.before, beyond=patients) for patient in unlinked]
        return queries

    async def _staying(self, keys: list[Key]) -> set[Key]:
        """Those that still stand in a chart of this walk, only not in the one they left."""
        query = Query(keys=tuple(keys), as_of=self.as_of, bodies=False)
        patients = frozenset(self.chart.patients)
        staying: set[Key] = set()
        async for batch in self.scoped.scan(query):
            staying.update(
                record.key for record in batch if not patients.isdisjoint(parse_facts(record.facts).compartments)
            )
        return staying


def _entry(record: Record, base: bytes, time: bytes) -> bytes:
    name = f"{record.type}/{record.id}".encode()
    return (
        b'{"fullUrl":"%b%b","request":{"method":"DELETE","url":"%b"},"response":{"status":"204","lastModified":"%b"}}'
        % (base, name, name, time)
    )

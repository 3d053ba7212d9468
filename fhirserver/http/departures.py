"""`_deleted=only`: a history Bundle of what left a chart since a time, so that a client can follow.

Left means: deleted, moved to another patient, or (for a Person) standing in the chart of a Patient that is no longer
linked. An entry names the resource and nothing of its content, and only resources whose last version in the chart the
caller may still see are named. R4 forbids `entry.request` in a searchset (bdl-3), hence a Bundle of its own.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Mapping

import msgspec
from starlette.types import ASGIApp

from fhirserver.core.model import Key, Query, Record, parse_facts
from fhirserver.core.stamp import instant
from fhirserver.http.respond import streamed_headers
from fhirserver.http.selection import Selection
from fhirserver.http.server import Server
from fhirserver.http.stream import Streaming
from fhirserver.http.walk import NEVER_MEMBERS, OVERLAP_MILLISECONDS
from fhirserver.policy.gate import Chart, Scoped


async def linked_since(chart: Chart, since: int) -> frozenset[str]:
    """The Patients that the Person came to link only after ``since`` (milliseconds)."""
    if chart.anchor.type != "Person":
        return frozenset()
    before = await chart.scoped.linked(chart.anchor.key, as_of=await chart.scoped.seq_at(since))
    return frozenset(chart.patients).difference(before)


async def departures(
    server: Server, chart: Chart, selection: Selection, *, base: str, path: str, media_type: str
) -> ASGIApp:
    """The Bundle of what left since `_since`."""
    high = await chart.scoped.high_water()
    since = selection.since or 0
    window = [await chart.scoped.seq_at(time) for time in (since - OVERLAP_MILLISECONDS, since + 1)]
    before, after = (min(seq, high.seq) for seq in window)
    unlinked = await _unlinked(chart, before, after)
    scoped = await chart.scoped.about(unlinked)
    left = _Departures(scoped, chart, selection, unlinked, before=before, after=after, as_of=high.seq)
    head: dict[str, object] = {
        "resourceType": "Bundle",
        "type": "history",
        "timestamp": instant(high.time),
        "link": [{"relation": "self", "url": selection.url(path)}],
    }
    return Streaming(
        chunks=left.chunks(head, base.encode(), instant(high.time).encode()),
        headers=streamed_headers(media_type),
        disclosure=scoped.disclosure(
            interaction="$everything",
            patients=chart.patients,
            detail={"anchor": str(chart.anchor.key), "query": selection.url("")},
        ),
        still_admitted=scoped.still_admitted,
        sent=lambda: left.sent,
        stall_seconds=server.stall_seconds,
        place=server.streams.place(scoped.principal),
    )


async def _unlinked(chart: Chart, before: int, after: int) -> dict[str, int]:
    """The Patients that the Person linked then and does not now: id -> the later seq at which it did."""
    if chart.anchor.type != "Person":
        return {}
    linked = {
        patient: seq for seq in (before, after) for patient in await chart.scoped.linked(chart.anchor.key, as_of=seq)
    }
    return {patient: seq for patient, seq in linked.items() if patient not in chart.patients}


class _Departures:
    """The departed records of one chart since a time, which is two seqs: ``after`` shows all that a client may have
    seen then, ``before`` (earlier by the overlap) what it saw although it was just leaving."""

    def __init__(
        self,
        scoped: Scoped,
        chart: Chart,
        selection: Selection,
        unlinked: Mapping[str, int],
        *,
        before: int,
        after: int,
        as_of: int,
    ) -> None:
        self.scoped = scoped
        self.chart = chart
        self.types = selection.types
        self.unlinked = unlinked
        self.before = before
        self.after = after
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
        for query in self._queries():
            async for batch in self.scoped.scan(query):
                keys = [record.key for record in batch]
                told = await self._told(query, keys) | await self._staying(keys)
                gone = [record for record in batch if record.key not in told]
                if gone:
                    yield gone

    def _queries(self) -> list[Query]:
        patients = self.chart.patients
        # Other Persons are members of a Patient's chart, not of a Person's.
        never = NEVER_MEMBERS | {"Person"} if self.chart.anchor.type == "Person" else NEVER_MEMBERS
        common = Query(types=self.types, not_types=never, as_of=self.as_of, bodies=False)
        replace = msgspec.structs.replace
        queries = [
            replace(common, within=patient, beyond=patients[:index], departed_since=seq)
            for index, patient in enumerate(patients)
            for seq in sorted({self.before, self.after})
        ]
        queries += [
            replace(common, within=patient, as_of=seq, beyond=patients) for patient, seq in self.unlinked.items()
        ]
        return queries

    async def _told(self, query: Query, keys: list[Key]) -> set[Key]:
        """Those that the query of the earlier seq has named already."""
        if query.departed_since is None or query.departed_since == self.before:
            return set()
        earlier = msgspec.structs.replace(query, departed_since=self.before, keys=tuple(keys))
        return {record.key async for batch in self.scoped.scan(earlier) for record in batch}

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

"""What the operator does with the audit trail as a whole: hand it on, row by row, and drop what is too old.

Both are themselves in the trail. What is handed on holds what the rows hold: values of identifying parameters are
hashed in them already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec

from fhirserver.core.auditevent import event, render
from fhirserver.core.model import AuditRow
from fhirserver.core.stamp import instant
from fhirserver.core.trail import Entry, event_of
from fhirserver.policy.audit import Trail
from fhirserver.store.port import Store

DAY = 86_400_000

Told = list[tuple[str, AuditRow, bytes]]
"""Places with their rows, and each as a line of JSON (empty: nothing is to be told of it)."""


class Archive:
    """The trail, and the trail of whoever looks after it; made by the gate only."""

    def __init__(self, store: Store, trail: Trail) -> None:
        self._store = store
        self._trail = trail

    @asynccontextmanager
    async def handing_on(self, **detail: str) -> AsyncIterator[Handing]:
        """The context of one export: its intent is durable before the first row leaves, its outcome follows."""
        intent = self._trail.row("audit-export", "intent", detail=detail)
        await self._trail.append(intent)
        handing = Handing(self._store)
        outcome = "cut"
        try:
            yield handing
            outcome = "complete"
        finally:
            told = {"count": handing.count}
            await self._trail.append(self._trail.row("audit-export", outcome, detail=told, intent=intent.id))

    async def retain(self, days: int, now: int) -> int:
        """Drop the rows from the beginning of the trail that are older than so many days (``now`` in milliseconds
        since 1970); how many. ValueError for less than a day."""
        if days < 1:
            raise ValueError("--days must be at least 1.")
        before = now - days * DAY
        intent = self._trail.row("audit-retain", "intent", detail={"before": instant(before)})
        await self._trail.append(intent)
        dropped = await self._store.audit.drop(before)
        await self._trail.append(
            self._trail.row("audit-retain", "complete", detail={"count": dropped}, intent=intent.id)
        )
        return dropped


class Handing:
    """The rows that leave in one export. ``count``: lines so far."""

    def __init__(self, store: Store) -> None:
        self.count = 0
        self._store = store

    async def lines(self, after: str, *, rows: bool, settled: bool = False) -> AsyncIterator[Told]:
        """What stands behind the place ``after``, batch by batch. ``rows``: as rows with their places and links;
        else as AuditEvents, each when it has ended, and what has not as incomplete: it comes again when it has.
        ``settled``: only as far as nothing can come before it any more."""
        async for entries in self._store.audit.entries(after, settled=settled):
            told = [_row(each) for each in entries] if rows else await self._events(entries)
            self.count += sum(1 for _, _, line in told if line)
            yield told

    async def _events(self, entries: Sequence[Entry]) -> Told:
        found: dict[str, list[Entry]] = {}
        for each in await self._store.audit.events([event_of(entry.row) for entry in entries]):
            found.setdefault(event_of(each.row), []).append(each)
        told: Told = []
        for entry in entries:
            whole = found.get(event_of(entry.row), [entry])
            last = whole[-1].place == entry.place
            line = msgspec.json.encode(render(event([each.row for each in whole]))) if last else b""
            told.append((entry.place, entry.row, line))
        return told


def _row(entry: Entry) -> tuple[str, AuditRow, bytes]:
    told: dict[str, Any] = {"place": entry.place, "link": entry.link.hex(), **msgspec.to_builtins(entry.row)}
    return entry.place, entry.row, msgspec.json.encode(told)

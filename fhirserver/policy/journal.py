"""The audit log as the gate writes it: rows that nobody waits for go along with the next that somebody does.

The outcome of an answer follows when the answer has gone. A flush of the disk of its own would hold up the next
reader's intent, which must be durable first: measured, that is a third of the time of a read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fhirserver.core.model import AuditRow
from fhirserver.store.port import Store

LINGER = 0.005
"""Seconds that such a row waits for company."""


class Journal:
    """Appends to the log of one store, from one event loop."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._late: list[tuple[AuditRow, asyncio.Future[None]]] = []
        self._timer: asyncio.TimerHandle | None = None
        self._writing: set[asyncio.Task[None]] = set()
        """The loop itself holds futures only weakly."""

    async def append(self, row: AuditRow) -> None:
        """Durable when it returns."""
        if self._late:
            await asyncio.shield(self._write([row]))  # the others' row too, whether or not this caller stays
        else:
            await self._store.audit.append([row])

    async def follow(self, row: AuditRow) -> None:
        """The same; nobody is held up by it, so it waits up to `LINGER` for a row that is."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._late.append((row, done))
        if self._timer is None:
            self._timer = loop.call_later(LINGER, self._write, ())
        await done

    async def _append(self, rows: Sequence[AuditRow]) -> None:
        await self._store.audit.append(rows)  # a store that is closed has no log, which fails in here

    def _write(self, rows: Sequence[AuditRow]) -> asyncio.Task[None]:
        """Write what is late, and these after it."""
        if self._timer is not None:
            self._timer.cancel()
        late, self._late, self._timer = self._late, [], None
        writing = asyncio.get_running_loop().create_task(self._append([*(row for row, _ in late), *rows]))
        self._writing.add(writing)

        def settle(writing: asyncio.Task[None]) -> None:
            self._writing.discard(writing)
            error = asyncio.CancelledError() if writing.cancelled() else writing.exception()
            for _, done in late:
                if done.done():
                    continue
                if error is None:
                    done.set_result(None)
                else:
                    done.set_exception(error)

        writing.add_done_callback(settle)
        return writing

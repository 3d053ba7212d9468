"""Reader threads, each with its own connection; every call is one short piece of work."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from fhirserver.core.errors import Unavailable
from fhirserver.store.sqlite.schema import connect

T = TypeVar("T")


class Readers:
    """A few threads: SQLite works beside the event loop (it gives the interpreter lock away), and a slow read (a
    tally of a large chart) does not keep short ones waiting."""

    def __init__(self, path: str, *, threads: int = 4) -> None:
        self._path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store-reader")

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` returns; Unavailable if the store failed."""
        return await self.begin(work)

    def begin(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Start the work now; the caller awaits it later."""
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, self._call, work)
        except RuntimeError as error:
            raise Unavailable("The store is closed.") from error

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = connect(self._path, cache_mb=16, read_only=True)
                self._local.connection = connection
                with self._lock:
                    self._connections.append(connection)
            return work(connection)
        except sqlite3.Error as error:
            raise Unavailable from error

    def close(self) -> None:
        """End the threads; blocks until running work is done."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            while self._connections:
                self._connections.pop().close()

"""Reads: short ones at once on the event loop while the store answers at once, all others on reader threads.

Measured: handing a read of 15 µs to a thread and back costs 150 µs, and while the loop is busy each statement of a
thread waits for the interpreter lock (up to 5 ms); a streamed chart came half as fast through threads as without.
A read from a disk that is slow, on the other hand, must not hold the loop. So a short read runs where it is asked for
until one takes longer than `SLOW_SECONDS` or meets a lock; the next `COLD_READS` then go to threads.
"""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from time import perf_counter
from typing import TypeVar

from fhirserver.core.errors import Unavailable
from fhirserver.store.sqlite.file import StoreFile

T = TypeVar("T")

SLOW_SECONDS = 0.005
COLD_READS = 64


class Readers:
    """The loop's own connection, and a few threads with one each."""

    def __init__(self, file: StoreFile, *, threads: int = 4) -> None:
        self._file = file
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._own: sqlite3.Connection | None = None
        self._own_lock = threading.Lock()  # held while it reads: another event loop, or `close`, keeps away
        self._cold = 0
        self._lock = threading.Lock()
        self._closed = False
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="store-reader")

    @property
    def at_once(self) -> bool:
        """Whether `short` would now run on the loop."""
        return self._cold == 0

    async def short(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work``, a read of well below a millisecond, returns; Unavailable if the store failed."""
        if self._cold:
            self._cold -= 1
            return await self.run(work)
        if not self._own_lock.acquire(blocking=False):
            return await self.run(work)
        began = perf_counter()
        try:
            connection = self._connection_of_the_loop()
            began = perf_counter()  # opening it takes its time and says nothing of the disk
            return work(connection)
        except sqlite3.OperationalError as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)  # Python's own have none (undecodable text)
            if code & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise Unavailable from error
            self._cold = COLD_READS
        except sqlite3.Error as error:
            raise Unavailable from error
        finally:
            self._own_lock.release()
            if perf_counter() - began > SLOW_SECONDS:
                self._cold = COLD_READS
        return await self.run(work)  # where waiting for a lock holds nobody up

    def ahead(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """A short read begun on a thread before it is asked for; one of those that `COLD_READS` counts."""
        self._cold = max(0, self._cold - 1)
        return self.begin(work)

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What ``work`` returns, done on a thread; Unavailable if the store failed."""
        return await self.begin(work)

    def begin(self, work: Callable[[sqlite3.Connection], T]) -> asyncio.Future[T]:
        """Start the work on a thread now; the caller awaits it later."""
        try:
            return asyncio.get_running_loop().run_in_executor(self._pool, self._call, work)
        except RuntimeError as error:
            raise Unavailable("The store is closed.") from error

    def _connection_of_the_loop(self) -> sqlite3.Connection:
        if self._closed:
            raise Unavailable("The store is closed.")
        self._file.check_now_and_then()
        if self._own is None:
            self._own = self._file.connect(cache_mb=16, read_only=True)
            self._own.execute("PRAGMA busy_timeout = 0")
        return self._own

    def _call(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            self._file.check_now_and_then()
            connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
            if connection is None:
                connection = self._file.connect(cache_mb=16, read_only=True)
                self._local.connection = connection
                with self._lock:
                    self._connections.append(connection)
            return work(connection)
        except sqlite3.Error as error:
            raise Unavailable from error

    def close(self) -> None:
        """End the threads; blocks until running work is done."""
        with self._own_lock:
            self._closed = True
            if self._own is not None:
                self._own.close()
                self._own = None
        self._pool.shutdown(wait=True, cancel_futures=True)
        with self._lock:
            while self._connections:
                self._connections.pop().close()

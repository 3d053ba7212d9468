"""The process's one writer thread: merges whatever waits into one durable transaction, a savepoint for each.

A commit costs one flush of the disk however many share it, and one that loses (a guard, a version race) is rolled
back to its savepoint without costing the others anything. Other processes are kept out by SQLite's write lock only
while a transaction runs; everything that can be worked out before is.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import queue
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar

from fhirserver.core.errors import Unavailable
from fhirserver.store.sqlite.file import StoreFile
from fhirserver.store.sqlite.intern import Interner
from fhirserver.store.sqlite.write import Transaction

T = TypeVar("T")

GROUP_WEIGHT = 2000
"""Drafts merged into one transaction at most: the serialised section stays well below a second."""
CHECKPOINT_BYTES = 96 << 20
"""The log is copied into the file when it has grown to this: a page changed by many commits is copied once."""
_IDLE = 2.0
_PATIENCE = 30.0


class Job(Generic[T]):
    """One unit that commits or fails as a whole.

    ``prepare`` runs before the transaction; what it returns is handed to ``apply``. ``weight`` counts drafts.
    """

    def __init__(
        self,
        apply: Callable[[Transaction, Any], T],
        prepare: Callable[[], Any] = lambda: None,
        weight: int = 1,
    ) -> None:
        self.apply = apply
        self.prepare = prepare
        self.weight = weight
        self.prepared: Any = None
        self.result: T | None = None
        self.error: BaseException | None = None
        self.loop = asyncio.get_running_loop()
        self.future: asyncio.Future[T] = self.loop.create_future()

    def settle(self) -> None:
        """Hand the outcome to whoever waits; runs in the event loop."""
        if self.future.done():
            return
        if self.error is not None:
            self.future.set_exception(self.error)
        else:
            self.future.set_result(self.result)  # type: ignore[arg-type]  # set by `apply` unless there is an error


class Committer:
    """Takes jobs from any event loop; `close` finishes those that were submitted."""

    def __init__(self, file: StoreFile, *, clock: Callable[[], int]) -> None:
        self._file = file
        self._clock = clock
        self._queue: queue.SimpleQueue[Job[Any] | None] = queue.SimpleQueue()
        self._floor = 0
        self._lock = threading.Lock()
        self._closed = False
        # An import of 100,000 takes the same time with 128 MB, and 100 MB more of memory.
        self._connection = file.connect(cache_mb=32, read_only=False)
        self._connection.execute("PRAGMA busy_timeout = 0")  # waited for by `_begin`, more fairly
        self._connection.execute("PRAGMA wal_autocheckpoint = 0")
        self._connection.execute("PRAGMA journal_size_limit = 0")  # so that the log's file is as long as the log
        self._copying: threading.Thread | None = None
        self._interner = Interner()
        self._thread = threading.Thread(target=self._run, name="store-writer", daemon=True)
        self._thread.start()

    async def submit(self, job: Job[T]) -> T:
        """The job's result once it is durable; its own fault; Unavailable if the store failed."""
        with self._lock:
            if self._closed:
                raise Unavailable("The store is closed.")
            self._queue.put(job)
        return await job.future

    def now(self, least: int) -> int:
        """The clock's time, never less than it gave before nor than ``least``."""
        with self._lock:
            self._floor = max(self._floor, least, self._clock())
            return self._floor

    def close(self) -> None:
        """Finish what was submitted and end the thread; blocks until then."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._queue.put(None)
        self._thread.join()

    def _run(self) -> None:
        open_, dirty = True, False
        while open_:
            try:
                first = self._queue.get(timeout=_IDLE) if dirty else self._queue.get()
            except queue.Empty:
                self._tidy()
                dirty = False
                continue
            if first is None:
                break
            jobs, weight = [first], first.weight
            while weight < GROUP_WEIGHT:
                try:
                    job = self._queue.get_nowait()
                except queue.Empty:
                    break
                if job is None:
                    open_ = False
                    break
                jobs.append(job)
                weight += job.weight
            self._commit(jobs)
            _deliver(jobs)
            with contextlib.suppress(OSError, RuntimeError):  # no log to look at, no thread to be had: the next time
                self._checkpoint()
            dirty = True
        if self._copying is not None:
            self._copying.join()
        self._connection.close()

    def _checkpoint(self) -> None:
        """Have a long log copied beside the writing; what was added meanwhile (little) is copied here, in between.

        Only then is the log complete in the file and begun anew: copying alone would never catch up.
        """
        if self._copying is not None:
            if not self._copying.is_alive():
                self._copying = None
                with contextlib.suppress(sqlite3.Error):
                    self._connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        elif os.stat(self._file.log).st_size > CHECKPOINT_BYTES:
            self._copying = threading.Thread(target=_copy_log, args=(self._file,), name="store-checkpoint", daemon=True)
            self._copying.start()

    def _tidy(self) -> None:
        """Nobody has written for a while: empty the log, so that it neither stays large nor slows readers."""
        with contextlib.suppress(sqlite3.Error):  # a reader or another process is at it; the next time will do
            self._connection.execute("DELETE FROM ledger WHERE expires <= ?", (self._clock(),))
            self._connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()

    def _commit(self, jobs: list[Job[Any]]) -> None:
        ready = []
        for job in jobs:
            try:
                job.prepared = job.prepare()
                ready.append(job)
            except Exception as error:
                job.error = error
        if not ready:
            return
        try:
            self._file.check()
            self._begin()
            transaction = Transaction(self._connection, self._interner, self.now(0))
            for job in ready:
                self._apply(transaction, job)
            self._connection.execute("COMMIT")
            self._interner.settle()
        except Exception as error:
            self._abandon(ready, error)

    def _begin(self) -> None:
        """Wait for the write lock; short random sleeps, because SQLite's growing ones starve the unlucky."""
        until = time.monotonic() + _PATIENCE
        while True:
            try:
                self._connection.execute("BEGIN IMMEDIATE")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode & 0xFF != sqlite3.SQLITE_BUSY or time.monotonic() > until:
                    raise
                time.sleep(random.uniform(0.0005, 0.004))  # noqa: S311 - jitter, not a secret
            else:
                return

    def _apply(self, transaction: Transaction, job: Job[Any]) -> None:
        mark, last, head = self._interner.mark(), transaction.last, transaction.audit_head
        self._connection.execute("SAVEPOINT job")
        try:
            job.result = job.apply(transaction, job.prepared)
        except Exception as error:
            if not self._connection.in_transaction:  # SQLite gave the whole transaction up (a full disk, an I/O error)
                raise
            self._connection.execute("ROLLBACK TO job")
            self._interner.rewind(mark)
            transaction.last, transaction.audit_head = last, head
            job.error = _public(error)
        self._connection.execute("RELEASE job")

    def _abandon(self, jobs: Sequence[Job[Any]], error: Exception) -> None:
        self._interner.rewind(0)
        with contextlib.suppress(sqlite3.Error):  # the next BEGIN tells; nothing of these jobs is visible
            if self._connection.in_transaction:
                self._connection.execute("ROLLBACK")
        for job in jobs:
            if job.error is None:
                job.error = _public(error)


def _public(error: Exception) -> Exception:
    if isinstance(error, sqlite3.Error):
        fault = Unavailable()
        fault.__cause__ = error
        return fault
    return error


def _copy_log(file: StoreFile) -> None:
    with contextlib.suppress(sqlite3.Error, Unavailable):  # the next checkpoint makes up for it
        connection = file.connect(cache_mb=1, read_only=False)
        try:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
        finally:
            connection.close()


def _deliver(jobs: Sequence[Job[Any]]) -> None:
    loops = {job.loop for job in jobs}
    for loop in loops:
        mine = [job for job in jobs if job.loop is loop]

        def settle(jobs: list[Job[Any]] = mine) -> None:
            for job in jobs:
                job.settle()

        try:
            loop.call_soon_threadsafe(settle)
        except RuntimeError:
            continue  # the loop is closed: nobody waits any more

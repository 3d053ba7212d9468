"""The store's file, watched: SQLite goes on reading and writing one that no path leads to any more.

What is written there is lost when the process ends, and a connection opened later would see another file. So a store
whose file, or log, was deleted or replaced is unavailable, until it is put back or the server is started again.
"""

from __future__ import annotations

import os
import sqlite3
from time import monotonic

from fhirserver.core.errors import Unavailable
from fhirserver.store.sqlite.schema import connect

_EVERY = 0.1


class StoreFile:
    """The file at ``path`` and its log, as they were when `settle` was called."""

    def __init__(self, path: str) -> None:
        self.path = path
        self.log = path + "-wal"
        self._known: list[tuple[int, int]] = []
        self._next = 0.0

    def connect(self, *, cache_mb: int, read_only: bool) -> sqlite3.Connection:
        """A connection to this file; Unavailable if it is no longer there."""
        self.check()
        return connect(self.path, cache_mb=cache_mb, read_only=read_only)

    def settle(self) -> None:
        """Remember which files these are; the log is there once a connection that stays open has written."""
        self._known = [_identity(file) for file in (self.path, self.log)]

    def check(self) -> None:
        """Unavailable unless both are still the same; looks each time (some microseconds)."""
        if self._known and self._known != [_identity(file) for file in (self.path, self.log)]:
            self._next = 0.0
            raise Unavailable("The store's file is no longer there, or another one is in its place.")
        self._next = monotonic() + _EVERY

    def check_now_and_then(self) -> None:
        """`check` for reads, which should not each pay for it: some times a second."""
        if monotonic() >= self._next:
            self.check()


def _identity(file: str) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError as error:
        raise Unavailable("The store's file is no longer there.") from error
    return status.st_dev, status.st_ino

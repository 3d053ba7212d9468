"""The embedded default: one SQLite file in WAL mode, one writer thread and a few reader threads per process."""

from fhirserver.store.sqlite.store import SqliteStore

__all__ = ["SqliteStore"]

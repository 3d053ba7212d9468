"""Where a benchmark keeps its charts: a store made for it and removed after it, never anything else."""

from __future__ import annotations

import secrets
import sqlite3
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit, urlunsplit

from fhirserver.config import PREFIX, sqlite_path

PREFIX_OF_DATABASES = "fhirserver_bench_"
"""Every database a benchmark makes, and drops, has a name that begins so."""
BESIDE = "_beside"
"""What follows that name in the one where the bare driver writes."""


class Place(Protocol):
    """A store of the benchmark's own; ``name`` stands in the names of output files."""

    @property
    def name(self) -> str: ...

    @property
    def environment(self) -> dict[str, str]:
        """The settings under which commands find it."""

    def settle(self) -> None:
        """Called once it is filled: what the engine wants before it is measured."""

    def describe(self) -> dict[str, Any]:
        """What the engine says of itself."""

    def another(self, folder: Path) -> Place:
        """One more of the same kind, empty; ``folder`` is where its files go."""

    def remove(self) -> None:
        """Leave nothing."""


class Embedded:
    """A SQLite file in the benchmark's folder, which is removed with it."""

    name = ""

    def __init__(self, folder: Path) -> None:
        self.environment = {PREFIX + "STORE": f"sqlite:///{folder}/bench.db"}

    def settle(self) -> None:
        """Nothing: the store keeps its own statistics."""

    def describe(self) -> dict[str, Any]:
        return {"sqlite": sqlite3.sqlite_version}

    def another(self, folder: Path) -> Embedded:
        return Embedded(folder)

    def remove(self) -> None:
        """Nothing: the folder goes."""


class Engine:
    """A fresh database on somebody's MongoDB, dropped at the end."""

    name = "mongo"

    def __init__(self, url: str, folder: Path, *, native: bool = True) -> None:
        """``url``: the engine's; a database that it names is neither read nor written."""
        self.database = PREFIX_OF_DATABASES + secrets.token_hex(6)
        self.url = with_database(url, self.database)
        self.environment = {
            PREFIX + "STORE": self.url,
            PREFIX + "KEYS_FILE": str(folder / f"{self.database}.keys.json"),
            PREFIX + "NATIVE_DOCUMENTS": str(native).lower(),
        }

    def settle(self) -> None:
        """Statistics for the planner, where the engine has a command for them."""
        from pymongo.errors import OperationFailure

        with _client(self.url) as client:
            database = client[self.database]
            for name in database.list_collection_names():
                try:
                    database.command({"analyze": name})
                except OperationFailure:  # MongoDB itself keeps none and knows no such command
                    return

    def describe(self) -> dict[str, Any]:
        import pymongo

        with _client(self.url) as client:
            info = client.admin.command("buildInfo")
        kinds = [kind for kind in info.get("storageEngines", ()) if kind == "documentdb"]
        engine = "DocumentDB over the MongoDB wire protocol, announced as" if kinds else "MongoDB"
        return {"engine": f"{engine} {info['version']}", "pymongo": pymongo.version}

    def another(self, folder: Path) -> Engine:
        return Engine(self.url, folder)

    def sizes(self) -> dict[str, dict[str, Any]]:
        """The storage statistics of each collection that holds anything."""
        found: dict[str, dict[str, Any]] = {}
        with _client(self.url) as client:
            database = client[self.database]
            for name in sorted(database.list_collection_names()):
                (answer,) = database[name].aggregate([{"$collStats": {"storageStats": {}}}])
                if count := database[name].count_documents({}):  # the statistics may be behind
                    found[name] = {**answer["storageStats"], "count": count}
        return found

    def sample(self, collection: str, count: int) -> list[dict[str, Any]]:
        """The first documents of a collection by `_id`."""
        with _client(self.url) as client:
            return list(client[self.database][collection].find().sort("_id", 1).limit(count))

    def remove(self) -> None:
        with _client(self.url) as client:
            for name in (self.database, self.database + BESIDE):
                client.drop_database(name)


def _client(url: str) -> Any:
    from pymongo import MongoClient

    return MongoClient(url, serverSelectionTimeoutMS=10_000)


def with_database(url: str, database: str) -> str:
    """The same URL with another database in its path; who authenticates, still does so where it did."""
    parts = urlsplit(url)
    query = parts.query
    if "@" in parts.netloc and "authsource=" not in query.lower():
        query += ("&" if query else "") + f"authSource={parts.path.strip('/') or 'admin'}"
    return urlunsplit(parts._replace(path=f"/{database}", query=query))


def place(url: str | None, folder: Path) -> Embedded | Engine:
    """A store of the benchmark's own on the engine that ``url`` names; embedded unless given.

    ValueError with one sentence for a file: what is in it is nothing to measure with.
    """
    if url is None:
        return Embedded(folder)
    if sqlite_path(url) is not None:
        raise ValueError("The embedded store is measured in a file of its own; --folder says where that is made.")
    return Engine(url, folder)

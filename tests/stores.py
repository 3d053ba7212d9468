"""The kinds of store that tests run over, and a fresh store of each kind, gone again afterwards.

SQLite always. MongoDB when MONGODB_URL names a replica set, for example ``mongodb://127.0.0.1:27017/?replicaSet=rs0``:
each store is a database of its own, ``fhirserver_test_…``, and no other is touched.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from pymongo import MongoClient

from tests.counts import PROOF

MONGODB_URL = os.environ.get("MONGODB_URL", "")
KINDS: tuple[str, ...] = ("sqlite", "mongo") if MONGODB_URL else ("sqlite",)
LEFT_OUT = "MONGODB_URL is not set: whatever is tested on every kind of store is tested on SQLite alone"
Document = dict[str, Any]


@pytest.fixture(params=KINDS)
def every_kind(request: pytest.FixtureRequest) -> str:
    """Each kind in turn. A module whose tests are for every store says ``kind = every_kind``."""
    kind: str = request.param
    return kind


@pytest.fixture(params=KINDS if PROOF else ("sqlite",))
def every_kind_for_proof(request: pytest.FixtureRequest) -> str:
    """SQLite, and each kind for the proof: for tests of what stands in front of the store (see `counts`)."""
    kind: str = request.param
    return kind


@contextmanager
def fresh(kind: str, folder: Path) -> Iterator[str]:
    """The URL of a store that nobody has opened; ``folder`` is where a file goes."""
    if kind == "sqlite":
        yield f"sqlite:///{folder}/fhir.db"
        return
    url = database_url(f"fhirserver_test_{uuid.uuid4().hex[:12]}")
    try:
        yield url
    finally:
        with client_of(url) as client:
            client.drop_database(database_of(url))


def settings(url: str, folder: Path) -> dict[str, str]:
    """What `Settings` needs for this store; its keys lie in ``folder``."""
    return {"store": url, **({} if url.startswith("sqlite:") else {"keys_file": f"{folder}/keys.json"})}


def environment(url: str, folder: Path) -> dict[str, str]:
    """The environment of a command over this store: the tests' own, with no settings but these."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FHIRSERVER_")}
    return clean | {f"FHIRSERVER_{name.upper()}": value for name, value in settings(url, folder).items()}


def database_url(name: str, **options: str) -> str:
    """`MONGODB_URL` for this database, with further options."""
    parts = urlsplit(MONGODB_URL)
    query = "&".join([*filter(None, [parts.query]), *(f"{option}={value}" for option, value in options.items())])
    return parts._replace(path=f"/{name}", query=query).geturl()


def database_of(url: str) -> str:
    return urlsplit(url).path[1:]


def client_of(url: str) -> MongoClient[Document]:
    """A client beside the store's own, for looking at what it wrote and for damaging it."""
    return MongoClient(url, tz_aware=True)

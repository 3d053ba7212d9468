"""Stores to test: each fixture id names an adapter."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.contract.world import Clock, draft
from tests.stores import KINDS, client_of, database_of, fresh


@pytest.fixture
def clock() -> Clock:
    return Clock()


ON_THREADS = "sqlite, slow disk"
"""SQLite as it is when its disk does not answer at once: every read goes to the reader threads (ADR 0002)."""


@pytest.fixture(params=[*KINDS, ON_THREADS])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """An empty store of each kind, started."""
    if request.param == ON_THREADS:
        monkeypatch.setattr("fhirserver.store.sqlite.readers.SLOW_SECONDS", -1.0)
    with fresh(request.param.partition(",")[0], tmp_path) as url:
        opened = open_store(url, clock=clock)
        await opened.start()
        yield opened
        await opened.close()


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A closed SQLite store with a little of everything."""
    store = open_store(f"sqlite:///{tmp_path}/store.db", clock=Clock())
    await store.start()
    for text in "ab":
        await store.commit([
            *(draft(f"Observation/{at}", f"p{at % 3}", text=text, terms=("red", f"t{at}")) for at in range(30)),
            *(draft(f"Condition/{at}", f"p{at % 3}", text=text, terms=("red",)) for at in range(30)),
        ])  # fmt: skip
    await store.close()
    return tmp_path / "store.db"


@pytest.fixture
def connection(file: Path) -> Iterator[sqlite3.Connection]:
    """That store's file, past the store."""
    connection = sqlite3.connect(file, isolation_level=None)
    yield connection
    connection.close()


@pytest.fixture
def url(mongodb: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a MongoDB database that is not there yet."""
    with fresh("mongo", tmp_path) as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database[dict[str, Any]]]:
    """That database, past the store."""
    with client_of(url) as client:
        yield client[database_of(url)]

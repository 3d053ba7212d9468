"""Stores to test: each fixture id names an adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from pymongo.database import Database

from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.contract.world import Clock
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
def url(mongodb: str, tmp_path: Path) -> Iterator[str]:
    """The URL of a MongoDB database that is not there yet."""
    with fresh("mongo", tmp_path) as url:
        yield url


@pytest.fixture
def database(url: str) -> Iterator[Database[dict[str, Any]]]:
    """That database, past the store."""
    with client_of(url) as client:
        yield client[database_of(url)]

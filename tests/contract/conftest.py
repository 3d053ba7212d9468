"""Stores to test: each fixture id names an adapter."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.contract.world import Clock

STORES = ("sqlite",)
"""``mongo`` joins when its adapter is there and MONGODB_URL is set."""


@pytest.fixture
def clock() -> Clock:
    return Clock()


ON_THREADS = "sqlite, slow disk"
"""SQLite as it is when its disk does not answer at once: every read goes to the reader threads (ADR 0002)."""


@pytest.fixture(params=[*STORES, ON_THREADS])
async def store(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Store]:
    """An empty store of each kind, started."""
    if request.param == ON_THREADS:
        monkeypatch.setattr("fhirserver.store.sqlite.readers.SLOW_SECONDS", -1.0)
    opened = open_store(f"{request.param.partition(',')[0]}:///{tmp_path}/store.db", clock=clock)
    await opened.start()
    yield opened
    await opened.close()

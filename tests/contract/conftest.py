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


@pytest.fixture(params=STORES)
async def store(request: pytest.FixtureRequest, tmp_path: Path, clock: Clock) -> AsyncIterator[Store]:
    """An empty store of each kind, started."""
    opened = open_store(f"{request.param}:///{tmp_path}/store.db", clock=clock)
    await opened.start()
    yield opened
    await opened.close()

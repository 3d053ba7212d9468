"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.served import Served, served
from tests.stores import KINDS, LEFT_OUT, MONGODB_URL

settings.register_profile("quick", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quick")


def pytest_report_header() -> str:
    """What is run on which stores, in the first lines of every run."""
    return f"stores: {', '.join(KINDS)}" + ("" if "mongo" in KINDS else f" ({LEFT_OUT})")


@pytest.fixture
def kind() -> str:
    """The store that a test runs over; a module whose tests are for every store sets its own (`stores.every_kind`)."""
    return "sqlite"


@pytest.fixture
def mongodb() -> str:
    """`MONGODB_URL`; where it is not set, a line and a skip."""
    if not MONGODB_URL:
        print(LEFT_OUT)
        pytest.skip("MONGODB_URL is not set")
    return MONGODB_URL


@pytest.fixture
async def server(tmp_path: Path, kind: str) -> AsyncIterator[Served]:
    """A running server over an empty store."""
    async with served(tmp_path, kind) as running:
        yield running

"""Fixtures that many tests share."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.served import Served, served

settings.register_profile("quick", deadline=None, max_examples=30, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("quick")


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A running server over an empty embedded store."""
    async with served(tmp_path) as running:
        yield running

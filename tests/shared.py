"""Development data that lie beside the checkout on some machines: tests over them run there, and say so elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[1].parent / "shared"

DEV_FOLDERS = (
    "blaze-synthea-2021",
    "synthea-2021-hiv",
    "synthea-bulk-ndjson",
    "synthea-transaction",
    "us-core-7.0.0-examples",
)


def shared(place: str) -> Path:
    """The file or folder at ``place`` (below the shared folder); where it is not there, a line and a skip."""
    found = _ROOT / place
    if not found.exists():
        print(f"shared/{place} is not beside this checkout; this test did not run.")
        pytest.skip(f"shared/{place} is not beside this checkout")
    return found

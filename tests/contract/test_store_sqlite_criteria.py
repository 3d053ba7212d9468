"""How SQLite answers criteria: whichever way in it takes, and without walking the store where they meet rarely."""

from __future__ import annotations

import pytest

from fhirserver.store.open import open_store
from fhirserver.store.sqlite import asked, meaning, plan, scan, verify, ways, write
from tests.contract.test_criteria_model import agree
from tests.contract.world import Clock
from tests.counts import examples

SMALL = {
    "everything is large": {"_LARGE": 1, "_PROBE": 1, "_SMALL": 0, "_TINY": 0},
    "everything is large, and tests are in vain": {
        "_LARGE": 1,
        "_PROBE": 1,
        "_SMALL": 0,
        "_TINY": 0,
        "_TRIED": 1,
        "_RARE": 1,
    },
    "some of it is large": {"_LARGE": 3, "_PROBE": 2, "_SMALL": 1, "_TINY": 1, "_TRIED": 3, "_RARE": 2},
    "much is small, and looked at in many steps": {"_SMALL": 0, "_TINY": 0, "_STRIDE": 1, "_TESTED": 1, "_WINDOW": 1},
}  # fmt: skip
"""Bounds that no test would wait for otherwise."""


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("few", [1, 64])
async def test_any_way_in_gives_what_the_model_gives(
    monkeypatch: pytest.MonkeyPatch, name: str, few: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With regions of four versions, and with bounds that are soon reached."""
    for module in (asked, plan, verify, write):
        monkeypatch.setattr(module, "REGION_BITS", 2)
    for module in (asked, meaning):
        monkeypatch.setattr(module, "FEW", few)
    monkeypatch.setattr(ways, "MERGED_TERMS", 2 if few == 1 else 16)
    monkeypatch.setattr(ways, "_ALTERNATIVES", few)
    for bound, value in SMALL[name].items():
        module = plan if hasattr(plan, bound) else scan
        monkeypatch.setattr(module, bound, value)
    clock = Clock()
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/x.db", clock=clock)
    await store.start()
    try:
        await agree(store, clock, examples(25))
    finally:
        await store.close()

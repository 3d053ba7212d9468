"""Every folder of the shared development data comes in whole, and a second run changes nothing."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.imported import imports
from tests.shared import DEV_FOLDERS, shared


@pytest.mark.slow
@pytest.mark.parametrize("name", DEV_FOLDERS)
async def test_a_folder_of_real_charts_is_ingested_whole_and_a_second_run_changes_nothing(
    name: str, tmp_path: Path
) -> None:
    dev = shared("data/dev")
    expected = json.loads((dev / "expected-everything.json").read_bytes())[name]["types"]
    # The oracle counts Bundles as they are; what comes out of them is on top.
    single = expected.pop("Bundle", 0) == 0
    async with imports(tmp_path) as store:
        first = await store.ingest(dev / name)
        assert (first.rejected, first.updated, first.unresolved, first.warnings) == (0, 0, 0, ())
        before = await store.records(bodies=False)
        found: dict[str, int] = {}
        for key in before:
            found[key.type] = found.get(key.type, 0) + 1
        if single:
            assert found == expected
        else:
            assert {type_: count for type_, count in expected.items() if found.get(type_, 0) < count} == {}
        second = await store.ingest(dev / name)
        assert (second.created, second.updated, second.rejected) == (0, 0, 0)
        assert second.unchanged == first.created + first.unchanged
        assert await store.records(bodies=False) == before

"""`$everything` against an independent reading of the official compartment table, over the shared development data."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ingest.load import Options, ingest
from tests.served import Served
from tests.shared import DEV_FOLDERS, shared
from tests.stores import every_kind

kind = every_kind


@pytest.fixture
def expected() -> dict[str, Any]:
    answers: dict[str, Any] = json.loads(shared("data/dev/expected-everything.json").read_bytes())
    return answers


@pytest.mark.slow
@pytest.mark.parametrize("folder", DEV_FOLDERS)
async def test_every_chart_has_exactly_the_members_of_the_official_table(
    server: Served, expected: dict[str, Any], folder: str, tmp_path: Path
) -> None:
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    # The independent reading counts the four searchset Bundles of the US Core folder as resources of their own.
    options = Options(rejects=tmp_path / "rejects.ndjson", as_resources=folder.startswith("us-core"))
    report = await ingest([shared(f"data/dev/{folder}")], scoped, options, lambda _: None)
    assert report.rejected == 0
    patients = expected[folder]["patients"]
    assert patients
    async with server.client() as client:
        for name, answer in patients.items():
            for anchor in ("Person", "Patient"):
                bundle = (await client.get(f"{anchor}/{name}/$everything")).json()
                resources = [entry["resource"] for entry in bundle["entry"]]
                found = Counter(resource["resourceType"] for resource in resources)
                assert found.pop("Person") == 1
                assert bundle["total"] == len(resources)
                keys = [(resource["resourceType"], resource["id"]) for resource in resources]
                assert len(set(keys)) == len(keys)
                members = {type_: found[type_] for type_ in answer["types"]}
                assert members == answer["types"], (anchor, name)
                for type_, count in answer["one_hop"].items():
                    assert found[type_] >= count, (anchor, name, type_)

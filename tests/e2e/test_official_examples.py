"""The official R4 examples come back as they went in, byte for byte up to `id`, `meta` and insignificant whitespace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from ingest.load import Options, ingest
from tests.served import Served
from tests.shared import shared


def ordered(raw: bytes) -> Any:
    """The JSON with key order and number texts visible, and without the top-level `id` and `meta`."""

    def number(text: str) -> tuple[str, str]:
        return ("number", text)

    members = json.loads(raw, object_pairs_hook=tuple, parse_float=number, parse_int=number)
    return [member for member in members if member[0] not in ("id", "meta")]


@pytest.mark.slow
async def test_the_official_examples_read_back_as_they_were(server: Served, tmp_path: Path) -> None:
    examples = shared("data/examples/hl7-r4-examples")
    files = sorted(examples.glob("*.json"))
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    rejects = tmp_path / "rejects.ndjson"
    report = await ingest([examples], scoped, Options(as_resources=True, rejects=rejects), lambda _: None)
    assert len(files) - report.rejected >= 800
    refused = {json.loads(line)["source"] for line in rejects.read_text().splitlines()}
    compared = 0
    async with server.client(headers={"Accept": "application/fhir+json"}) as client:  # else a Binary is its content
        for file in files:
            if str(file) in refused or file.name in refused:
                continue
            raw = file.read_bytes()
            resource = json.loads(raw)
            if "id" not in resource:
                continue
            answer = await client.get(f"{resource['resourceType']}/{resource['id']}")
            assert answer.status_code == 200, file.name
            assert ordered(answer.content) == ordered(raw), file.name
            compared += 1
    assert compared >= 790
    again = await ingest([examples], scoped, Options(as_resources=True, rejects=rejects), lambda _: None)
    assert (again.created, again.updated) == (0, 0)

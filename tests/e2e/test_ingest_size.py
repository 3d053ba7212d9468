"""A transaction of any size is ingested in the same memory: measured in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import asyncio, json, resource, sys
from pathlib import Path
from types import SimpleNamespace
from fhirserver.core.model import Key
from fhirserver.policy.gate import Loaded
from ingest.load import Options, ingest

class Scoped:
    # Stores nothing: a store's page cache fills up to its own bound, which would hide what is measured here.
    principal = SimpleNamespace(organization="org")

    async def load(self, puts, **_):
        return [Loaded(key=Key(put.resource["resourceType"], put.id), status="created") for put in puts]

async def main(folder, small, large):
    options = Options(rejects=Path(folder, "rejects.ndjson"), scratch=Path(folder))
    await ingest([Path(small)], Scoped(), options)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    report = await ingest([Path(large)], Scoped(), options)
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(json.dumps([report.created, report.rejected, (after - before) // 1024]))

asyncio.run(main(*sys.argv[1:]))
"""


def write(path: Path, entries: int, *, first: int) -> None:
    """A transaction with one Patient and many Observations of about 2.3 kB, `type` after the entries."""
    person = "urn:uuid:00000000-0000-4000-8000-000000000000"
    text = "<div xmlns='http://www.w3.org/1999/xhtml'>" + "lorem <b>ipsum</b> " * 90 + "</div>"
    with path.open("w") as out:
        out.write('{"resourceType": "Bundle", "entry": [')
        request = {"method": "POST", "url": "Patient"}
        out.write(json.dumps({"fullUrl": person, "resource": {"resourceType": "Patient"}, "request": request}))
        for number in range(first, first + entries - 1):
            observation = {
                "resourceType": "Observation",
                "id": f"o{number}",
                "text": {"status": "generated", "div": text},
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": "8302-2"}]},
                "subject": {"reference": person},
                "effectiveDateTime": "2013-01-01T10:10:10+01:00",
                "valueQuantity": {"value": number / 7, "unit": "cm"},
            }
            request = {"method": "POST", "url": "Observation"}
            full = f"urn:uuid:00000000-0000-4000-8000-{number:012}"
            out.write(",\n" + json.dumps({"fullUrl": full, "resource": observation, "request": request}))
        out.write('], "type": "transaction"}')


@pytest.mark.slow
def test_memory_does_not_grow_with_the_size_of_a_transaction(tmp_path: Path) -> None:
    entries = 25_000 if os.environ.get("FHIRSERVER_PROOF") == "1" else 8_000
    small, large = tmp_path / "small.json", tmp_path / "large.json"
    write(small, 1200, first=1)
    write(large, entries, first=2000)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path), str(small), str(large)],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        check=False,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    created, rejected, grown = json.loads(done.stdout)
    assert (created, rejected) == (entries, 0)
    assert grown < 32, f"{large.stat().st_size >> 20} MB of input took {grown} MB of memory"

"""Real-world quirks: a published example with several of them is mended, or rejected where it is not JSON."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.imported import Imports, bundle, imports, observation, patient
from tests.shared import shared

PERSON = {
    "resourceType": "Person",
    "id": "19cff418-7d80",
    "name": [{"family": "Lin", "given": ["Derrick"], "use": "usual"}],
    "birthDate": "1973-06-03T00:00:00.000Z",
    "link": [{"target": {"reference": "Patient/eq081-VQEgP8drUUqCWzHfw3", "assurance": "level4"}}],
}


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Imports]:
    async with imports(tmp_path) as found:
        yield found


def check_person(person: dict[str, Any]) -> None:
    assert person["birthDate"] == "1973-06-03"
    assert person["link"] == [{"target": {"reference": "Patient/eq081-VQEgP8drUUqCWzHfw3"}, "assurance": "level4"}]


async def test_a_person_with_a_time_of_birth_and_a_misplaced_assurance_is_mended(store: Imports) -> None:
    base = "https://api.example.org/FHIR/R4"
    content = bundle({"fullUrl": f"{base}/Person/19cff418-7d80", "resource": PERSON}, kind="searchset")
    content["entry"].append({"fullUrl": f"{base}/Patient/x", "resource": patient("eq081-VQEgP8drUUqCWzHfw3")})
    content["entry"].append({"fullUrl": f"{base}/Observation/0021", "resource": observation("Patient/x", "fqzY4.LC")})
    report = await store.ingest(store.write("a.json", content))
    assert (report.created, report.rejected, report.mended) == (3, 0, 1)
    found = await store.resources()
    check_person(found["Person/19cff418-7d80"])
    assert found["Observation/fqzY4.LC"]["subject"]["reference"] == "Patient/eq081-VQEgP8drUUqCWzHfw3"


async def test_a_person_in_the_input_is_the_one_of_its_patients_wherever_it_stands(store: Imports) -> None:
    others = [patient("eq081-VQEgP8drUUqCWzHfw3"), *(patient(f"p{n}") for n in range(3))]
    report = await store.ingest(store.write("a.ndjson", *others, PERSON), persons=True)
    assert (report.created, report.rejected) == (5, 0)
    persons = [key for key in await store.resources() if key.startswith("Person/")]
    assert sorted(persons) == ["Person/19cff418-7d80", "Person/p0", "Person/p1", "Person/p2"]


async def test_the_published_example_is_rejected_with_its_place_and_taken_without_its_commas(store: Imports) -> None:
    text = shared("seeds/002_02fecf7f0baa8875.txt").read_text()
    start = text.index('{\n"resourceType": "Bundle"')
    example = text[start : text.index("\n\nAs you can see", start)]
    file = store.write("published.json", example.encode())
    assert (await store.ingest(file)).rejected == 1
    [line] = store.rejections()
    assert line["reason"] == "a comma before the closing bracket"
    assert example.splitlines()[line["line"] - 1].startswith("]")

    cleaned = example.replace("},\n]", "}\n]")
    report = await store.ingest(store.write("cleaned.json", cleaned.encode()))
    assert (report.created, report.rejected, report.mended) == (2, 0, 1)
    found = await store.resources()
    check_person(found["Person/19cff418-7d80"])
    assert "Observation/fqzY4YiPBHqsNx9iRD99etRNX.LClJFf33HYpZC1E1R04" in found

"""Conditional creates, updates and references: inside the input first, then in the store."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.imported import Imports, bundle, entry, imports, observation, patient, practitioner

U1 = "urn:uuid:11111111-1111-4111-8111-111111111111"
U2 = "urn:uuid:22222222-2222-4222-8222-222222222222"
BY = "Practitioner?identifier=http://npi|7"


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Imports]:
    async with imports(tmp_path) as found:
        yield found


def counts(report: Any) -> tuple[int, int, int, int]:
    return report.created, report.updated, report.unchanged, report.rejected


def seen_by(reference: str, id_: str = "o") -> dict[str, Any]:
    return observation("Patient/p", id_, performer=[{"reference": reference}])


async def performer(store: Imports, id_: str = "o") -> str:
    reference: str = (await store.resources())[f"Observation/{id_}"]["performer"][0]["reference"]
    return reference


@pytest.mark.parametrize(
    "reference",
    [
        BY,
        "Practitioner?identifier=7",
        "Practitioner?identifier=http%3A%2F%2Fnpi%7C7",
    ],
)
async def test_a_conditional_reference_finds_a_resource_that_comes_later(store: Imports, reference: str) -> None:
    store.write("in/1.ndjson", seen_by(reference))
    store.write("in/2.ndjson", practitioner("d", "7"), practitioner("e", "8"))
    report = await store.ingest(store.folder / "in")
    assert (await performer(store), report.unresolved) == ("Practitioner/d", 0)


async def test_then_one_of_the_same_custodian_or_of_the_shared_directory(store: Imports) -> None:
    await store.ingest(store.write("d.json", practitioner("d", "7")), organization="registry")
    await store.ingest(
        store.write("c.ndjson", patient("mine", identifier=[{"system": "http://mrn", "value": "1"}])),
    )
    await store.ingest(
        store.write("c.ndjson", patient("other", identifier=[{"system": "http://mrn", "value": "2"}])),
        organization="other",
    )
    file = store.write(
        "a.ndjson",
        seen_by(BY, "1"),
        seen_by("Patient?identifier=http://mrn|1", "2"),
        seen_by("Patient?identifier=http://mrn|2", "3"),
    )
    report = await store.ingest(file)
    assert [await performer(store, str(n)) for n in (1, 2, 3)] == [
        "Practitioner/d",
        "Patient/mine",
        "Patient?identifier=http://mrn|2",
    ]
    assert report.unresolved == 1


async def test_what_is_unresolved_is_left_counted_and_named_without_its_value(store: Imports) -> None:
    file = store.write(
        "a.ndjson",
        seen_by(BY, "1"),
        seen_by("Patient?identifier=http://mrn|SECRET", "2"),
        seen_by("Patient?name=SECRET", "3"),
        seen_by(U1, "4"),
    )
    report = await store.ingest(file)
    assert counts(report) == (4, 0, 0, 0)
    assert report.unresolved == 4
    assert report.warnings == (
        "1 reference by Practitioner?identifier=http://npi|… could not be resolved",
        "1 reference by Patient?identifier=http://mrn|… could not be resolved",
        "1 reference by Patient?name=… could not be resolved",
        "1 reference by urn could not be resolved",
    )
    assert await performer(store, "1") == BY


async def test_a_condition_that_two_resources_meet_is_not_resolved(store: Imports) -> None:
    file = store.write("a.ndjson", practitioner("d", "7"), practitioner("e", "7"), seen_by(BY))
    assert (await store.ingest(file)).unresolved == 1


async def test_the_system_counts_unless_none_is_asked_for(store: Imports) -> None:
    file = store.write("a.ndjson", practitioner("d", "7"), practitioner("e", "7", "http://other"), seen_by(BY))
    assert (await store.ingest(file)).unresolved == 0
    assert await performer(store) == "Practitioner/d"


async def test_a_conditional_create_is_left_out_when_another_entry_or_the_store_has_one(store: Imports) -> None:
    condition = "identifier=http://npi|7"
    first = bundle(entry(practitioner("d", "7"), U1, ifNoneExist=condition), entry(seen_by(U1, "1"), U2))
    second = bundle(
        entry(practitioner("e", "7"), U1, ifNoneExist="Practitioner?" + condition),
        entry(seen_by(U1, "2"), U2),
        entry(seen_by("Practitioner/e", "3")),
        entry(seen_by(BY, "4")),
    )
    one, two = store.write("in/1.json", first), store.write("in/2.json", second)
    assert counts(await store.ingest(store.folder / "in")) == (5, 0, 1, 0)
    assert counts(await store.ingest(two)) == (0, 0, 4, 0)
    assert counts(await store.ingest(one)) == (0, 0, 2, 0)
    assert [await performer(store, str(n)) for n in (1, 2, 3, 4)] == ["Practitioner/d"] * 4
    assert "Practitioner/e" not in await store.resources()


async def test_a_conditional_create_is_left_out_for_any_resource_of_the_input_that_meets_it(store: Imports) -> None:
    file = store.write(
        "a.json",
        bundle(
            entry(practitioner("e", "7"), U1, ifNoneExist="identifier=http://npi|7"),
            entry(practitioner("d", "7"), method="PUT"),
            entry(seen_by(U1), U2),
        ),
    )
    assert counts(await store.ingest(file)) == (2, 0, 1, 0)
    assert await performer(store) == "Practitioner/d"


async def test_a_conditional_create_that_several_stored_resources_meet_is_rejected(store: Imports) -> None:
    await store.ingest(store.write("a.ndjson", practitioner("d", "7"), practitioner("e", "7")))
    one = bundle(entry(practitioner("f", "7"), U1, ifNoneExist="identifier=http://npi|7"))
    assert counts(await store.ingest(store.write("b.json", one))) == (0, 0, 0, 1)
    assert store.rejections()[0]["reason"] == "several stored resources meet its condition"


async def test_a_conditional_update_writes_to_the_resource_that_meets_it(store: Imports) -> None:
    await store.ingest(store.write("a.json", practitioner("d", "7")))
    updating = entry(practitioner(None, "7", active=True), U1)
    updating["request"] = {"method": "PUT", "url": BY}
    file = store.write("b.json", bundle(updating, entry(seen_by(U1), U2)))
    assert counts(await store.ingest(file)) == (1, 1, 0, 0)
    assert counts(await store.ingest(file)) == (0, 0, 2, 0)
    assert (await store.resources())["Practitioner/d"]["active"] is True
    assert await performer(store) == "Practitioner/d"


async def test_conditions_hold_in_a_namespace_of_ones_own(store: Imports) -> None:
    file = store.write(
        "a.json",
        bundle(
            entry(practitioner("d", "7"), U1, ifNoneExist="identifier=http://npi|7"),
            entry(seen_by(U1, "1"), U2),
            entry(seen_by(BY, "2")),
        ),
    )
    assert counts(await store.ingest(file, namespace=True)) == (3, 0, 0, 0)
    assert counts(await store.ingest(file, namespace=True)) == (0, 0, 3, 0)
    found = await store.resources()
    [key] = [key for key in found if key.startswith("Practitioner/")]
    assert {item["performer"][0]["reference"] for item in found.values() if "performer" in item} == {key}


async def test_a_condition_is_met_by_a_resource_so_large_that_its_body_is_kept_apart(store: Imports) -> None:
    photo = [{"contentType": "image/png", "data": "AAAA" * 500_000}]
    await store.ingest(store.write("a.json", practitioner("d", "7", photo=photo)))
    assert (await store.ingest(store.write("b.json", seen_by(BY)))).unresolved == 0

"""The demo's charts and the generator's are valid R4, deterministic, and what their README says."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhirserver.core.validate import issues
from fixtures import charts

DEMO = Path(charts.__file__).parent / "demo"


def resources_of(path: Path) -> Iterator[bytes]:
    """Each resource's bytes of an NDJSON file or a Bundle."""
    raw = path.read_bytes()
    if path.suffix == ".ndjson":
        yield from raw.splitlines()
    else:
        for entry in msgspec.json.decode(raw, type=dict[str, Any])["entry"]:
            yield msgspec.json.encode(entry["resource"])


def demo() -> list[tuple[str, dict[str, Any]]]:
    """Each demo resource with the name of its file."""
    files = sorted(DEMO.glob("*.*json"))
    return [(path.name, msgspec.json.decode(raw)) for path in files for raw in resources_of(path)]


@pytest.mark.parametrize("path", sorted(DEMO.glob("*.*json")), ids=lambda path: path.name)
def test_every_demo_resource_is_valid(path: Path) -> None:
    for raw in path.read_bytes().splitlines() if path.suffix == ".ndjson" else [path.read_bytes()]:
        _, found = issues(raw)
        assert not found, raw[:80]


def test_every_reference_of_the_demo_leads_somewhere() -> None:
    known = {f"{resource['resourceType']}/{resource['id']}" for _, resource in demo()}
    known |= {"Organization/northfield-clinic", "Organization/riverton-hospital"}

    def references(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            if isinstance(value.get("reference"), str):
                yield value["reference"]
            for inner in value.values():
                yield from references(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from references(inner)

    for _, resource in demo():
        assert set(references(resource)) <= known, resource["id"]


def test_the_two_people_who_consent_are_patients_of_both_hospitals() -> None:
    custodian = {resource["id"]: file for file, resource in demo() if resource["resourceType"] == "Patient"}
    for person in (resource for _, resource in demo() if resource["resourceType"] == "Person"):
        linked = [link["target"]["reference"].removeprefix("Patient/") for link in person["link"]]
        assert len({custodian[id] for id in linked}) == (1 if person["id"] == "noor-haddad" else 2)


def test_each_resource_of_who_did_not_consent_carries_a_marker_of_its_own() -> None:
    markers: Counter[str] = Counter()
    for _, resource in demo():
        text = msgspec.json.encode(resource).decode()
        found = {word for word in text.replace('"', " ").replace("<", " ").split() if "CANARY-" in word}
        about_noor = "noor" in resource["id"]
        assert bool(found) == about_noor, resource["id"]
        markers.update(word[word.index("CANARY-") :].rstrip(".") for word in found)
    assert len(markers) >= 14
    assert all(count == 1 for count in markers.values()), markers


def test_the_demo_holds_numbers_that_a_float_would_spoil() -> None:
    raw = (DEMO / "northfield-clinic.ndjson").read_bytes()
    assert b'"value":7.20,' in raw
    assert b'"value":1.0e2,' in raw


def test_generated_resources_are_valid_whatever_the_chart() -> None:
    kinds = set()
    for resource in [*charts.directory(), *charts.chart(600), *charts.chart(150, number=3, seed=9, version=4)]:
        _, found = issues(charts.encode(resource))
        assert not found, (resource["resourceType"], found)
        kinds.add(resource["resourceType"])
    assert len(kinds) >= 16


def test_the_same_arguments_give_the_same_bytes() -> None:
    assert list(charts.lines(charts.chart(300))) == list(charts.lines(charts.chart(300)))
    assert list(charts.lines(charts.directory())) == list(charts.lines(charts.directory()))


@pytest.mark.parametrize("size", [1, 2, 100, 1_000])
def test_a_chart_has_as_many_resources_as_asked_for_and_one_patient(size: int) -> None:
    kinds = Counter(resource["resourceType"] for resource in charts.chart(size))
    assert kinds.total() == size
    assert kinds["Patient"] == 1


def test_a_longer_chart_begins_with_the_shorter_one() -> None:
    assert list(islice(charts.chart(500), 50)) == list(charts.chart(50))


def test_another_version_revises_every_resource_and_keeps_its_id() -> None:
    first, second = list(charts.chart(200)), list(charts.chart(200, version=2))
    assert [resource["id"] for resource in first] == [resource["id"] for resource in second]
    assert all(charts.encode(old) != charts.encode(new) for old, new in zip(first, second, strict=True))


def test_two_patients_share_no_id() -> None:
    one = {resource["id"] for resource in charts.chart(300, number=1)}
    two = {resource["id"] for resource in charts.chart(300, number=2)}
    assert not one & two
    assert charts.patient_id(1) in one


def test_generated_references_lead_into_the_chart_or_the_directory() -> None:
    known = {f"{r['resourceType']}/{r['id']}" for r in [*charts.directory(), *charts.chart(400)]}
    for resource in charts.chart(400):
        text = charts.encode(resource).decode()
        for part in text.split('"reference":"')[1:]:
            assert part.partition('"')[0] in known


def test_a_chart_without_a_patient_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one"):
        next(charts.chart(0))

"""The facts of a resource that decide access, against an independent reading; and that no content stops the index."""

from __future__ import annotations

import bz2
import copy
import gzip
import json
import random
from collections import Counter, defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhirserver.core.index import UNKNOWN_OWNER, extract
from fhirserver.core.model import Index
from tests.indexed import of, terms, to
from tests.shared import shared


@pytest.mark.parametrize(
    ("index", "compartments", "owners"),
    [
        (of("Observation", subject=to("Patient/1"), performer=[to("Patient/2")]), ("1", "2"), ("1",)),
        (of("Observation", subject=to("Patient/1"), focus=[to("Patient/2")]), ("1",), ("1",)),
        (of("Observation", subject=to("Group/1")), (), ()),
        (of("Observation", subject=to("http://far.example/Patient/1")), (), ()),
        (of("Patient", link=[{"other": to("Patient/2"), "type": "seealso"}]), ("it",), ("it",)),
        (of("Person", link=[{"target": to(f"Patient/{n}")} for n in (2, 1)]), ("1", "2"), ("1", "2")),
        (of("Person", link=[{"target": to("Practitioner/1")}]), (), ()),
        (of("Task", for_=to("Patient/1"), requester=to("Patient/2")), ("1",), ("1",)),
        (of("Coverage", beneficiary=to("Patient/1"), payor=[to("Patient/2")]), ("1", "2"), ("1",)),
        (of("Claim", patient=to("Patient/1"), payee={"party": to("Patient/2")}), ("1", "2"), ("1",)),
        (of("Communication", subject=to("Patient/1"), sender=to("Patient/2")), ("1", "2"), ("1",)),
        (of("Provenance", target=[to("Patient/1"), to("Observation/2")]), ("1",), ("1",)),
        (of("Appointment", participant=[{"actor": to(f"Patient/{n}")} for n in (1, 2)]), ("1", "2"), ("1", "2")),
        (of("Group", member=[{"entity": to("Patient/1")}]), ("1",), ("1",)),
        (of("List", source=to("Patient/1")), ("1",), ()),
        (of("AuditEvent", entity=[{"what": to("Patient/1")}]), ("1",), ("1",)),
        (of("Device", patient=to("Patient/1")), (), ("1",)),
        (of("Binary", securityContext=to("Patient/1")), (), ("1",)),
        (of("Binary", securityContext=to("DocumentReference/1")), (), ()),
        (of("Linkage", item=[{"resource": to(f"Patient/{n}")} for n in (1, 2)]), (), ("1", "2")),
        (of("Practitioner"), (), ()),
    ],
)  # fmt: skip
def test_charts_and_owners(index: Index, compartments: tuple[str, ...], owners: tuple[str, ...]) -> None:
    assert (index.compartments, index.owners) == (compartments, owners)


@pytest.mark.parametrize(
    "other",
    [
        to("http://far.example/fhir/Patient/2"),
        to("https://far.example/Patient/2/_history/3"),
        to("Patient?identifier=s|2"),
        to("#p"),
        {"type": "Patient", "identifier": {"value": "2"}},
        {"type": "Patient", "reference": "urn:uuid:5e5bd4a6-9e9b-4f3c-8a52-3d5d2b3d7a10"},
    ],
)
def test_a_resource_that_is_also_about_a_patient_who_is_not_here_is_not_open_by_the_others_alone(
    other: dict[str, Any],
) -> None:
    contained = [{"resourceType": "Patient", "id": "p"}, {"resourceType": "Device", "id": "d"}]
    actors = [{"actor": to("Patient/1")}, {"actor": other}, {"actor": to("#d")}]
    index = of("Appointment", contained=contained, participant=actors)
    assert (index.compartments, index.owners) == (("1",), ("1", UNKNOWN_OWNER))
    assert of("Account", contained=contained, subject=[other, to("Patient/1")]).owners == ("1", UNKNOWN_OWNER)
    assert of("Account", contained=contained, subject=[other]).owners == ()
    assert of("Person", link=[{"target": to("Patient/1")}, {"target": other}]).owners == ("1",)


def test_actors_who_are_no_patients_leave_an_appointment_to_its_patient() -> None:
    others = [
        to("#d"), to("#gone"), to("Practitioner/1"), to("http://far.example/Practitioner/2"), {"display": "Room 3"},
        {"type": "Location", "identifier": {"value": "3"}}, {"identifier": {"value": "4"}}, to("urn:uuid:x"),
    ]  # fmt: skip
    contained = [{"resourceType": "Device", "id": "d"}]
    actors = [{"actor": actor} for actor in [to("Patient/1"), *others]]
    assert of("Appointment", contained=contained, participant=actors).owners == ("1",)


@pytest.mark.parametrize(
    ("index", "parties"),
    [
        (of("Task", requester=to("Organization/b"), owner=to("Organization/a")), ("a", "b")),
        (of("Task", owner=to("Practitioner/a"), for_=to("Patient/1")), ()),
        (of("ServiceRequest", requester=to("Organization/r"), performer=[to("Organization/p")]), ("p", "r")),
        (of("Observation", performer=[to("Organization/p")]), ()),
        (of("Consent", organization=[to("Organization/o")]), ()),
    ],
)  # fmt: skip
def test_parties(index: Index, parties: tuple[str, ...]) -> None:
    assert index.parties == parties


def test_the_parties_of_a_consent_are_its_actors_at_any_depth_but_only_the_root_provision_is_searched() -> None:
    def provision(name: str, *nested: dict[str, Any]) -> dict[str, Any]:
        return {"actor": [{"reference": {"reference": f"Organization/{name}"}}], "provision": list(nested)}

    index = of("Consent", provision=provision("a", provision("b", provision("c")), provision("d")))
    assert index.parties == ("a", "b", "c", "d")
    assert terms(index, "Consent|actor") == {"=Organization/a"}


def test_labels_are_system_and_code_of_the_security_labels() -> None:
    security = [{"system": "s", "code": "R"}, {"code": "N"}, {"display": "no code"}]
    assert of("Basic", meta={"security": security}).labels == ("s|R", "|N")


def documents(path: Path) -> Iterator[dict[str, Any]]:
    """The JSON documents of a file, which may be compressed or one per line."""
    raw = path.read_bytes()
    raw = bz2.decompress(raw) if path.suffix == ".bz2" else gzip.decompress(raw) if path.suffix == ".gz" else raw
    for text in raw.splitlines() if ".ndjson" in path.name else [raw]:
        if text.strip():
            yield json.loads(text)


def resources(folder: Path) -> Iterator[dict[str, Any]]:
    """Every resource of a data set; references by fullUrl become ``Type/id``, conditional ones stay as they are."""
    for path in sorted(folder.iterdir()):
        for document in documents(path):
            if document["resourceType"] != "Bundle" or document["type"] != "transaction":
                yield document
                continue
            text = json.dumps(document)
            for entry in document["entry"]:
                name = f"{entry['resource']['resourceType']}/{entry['resource']['id']}"
                text = text.replace(json.dumps(entry["fullUrl"]), json.dumps(name))
            yield from (entry["resource"] for entry in json.loads(text)["entry"])


@pytest.mark.parametrize(
    "name",
    ["blaze-synthea-2021", "synthea-2021-hiv", "synthea-bulk-ndjson", "synthea-transaction", "us-core-7.0.0-examples"],
)
def test_charts_are_those_of_an_independent_reading_of_the_official_table(name: str) -> None:
    expected = json.loads(shared("data/dev/expected-everything.json").read_bytes())[name]["patients"]
    charts: dict[str, Counter[str]] = defaultdict(Counter)
    for resource in resources(shared(f"data/dev/{name}")):
        for patient in extract(resource).compartments:
            charts[patient][resource["resourceType"]] += 1
    assert {patient: dict(chart) for patient, chart in charts.items()} == {
        patient: chart["types"] for patient, chart in expected.items()
    }


def examples() -> Iterator[dict[str, Any]]:
    for path in sorted(shared("data/examples/hl7-r4-examples").rglob("*.json")):
        yield json.loads(path.read_bytes())


def test_every_official_example_is_indexed_into_sorted_lists_without_repetition() -> None:
    number = 0
    for resource in examples():
        index = extract(resource)
        number += 1
        for field in (
            "compartments",
            "owners",
            "parties",
            "labels",
            "references",
            "supports",
            "terms",
            "texts",
            "spans",
            "sorts",
            "present",
        ):
            values = getattr(index, field)
            assert list(values) == sorted(set(values)), (resource["resourceType"], resource.get("id"), field)
        assert set(index.supports) <= set(index.references)
        assert msgspec.json.decode(msgspec.json.encode(index), type=Index) == index
    assert number == 805


def test_odd_content_never_raises() -> None:
    chance = random.Random(4)  # noqa: S311  # a fixed seed, nothing secret
    odd: list[Any] = [
        None,
        True,
        0,
        -1.5,
        10**400,
        "",
        "x|y",
        "Patient/1",
        [],
        {},
        [[]],
        [None],
        {"a": 1},
        [{}],
        {"value": {}},
    ]
    for resource in chance.sample(list(examples()), 150):
        for _ in range(15):
            broken = copy.deepcopy(resource)
            node: Any = broken
            while True:
                members = list(node.items()) if isinstance(node, dict) else list(enumerate(node))
                key, child = chance.choice(members)
                if isinstance(child, dict | list) and child and chance.random() < 0.75:
                    node = child
                    continue
                node[key] = chance.choice(odd)
                break
            extract(broken)


@pytest.mark.parametrize(
    "resource", [{}, {"resourceType": 5}, {"resourceType": "Nothing"}, {"resourceType": ["Patient"]}]
)
def test_what_is_no_resource_has_an_empty_index(resource: dict[str, Any]) -> None:
    assert extract(resource) == Index()


def test_a_consent_nested_deeper_than_any_real_one_is_indexed() -> None:
    provision: dict[str, Any] = {"actor": [{"reference": {"reference": "Organization/deep"}}]}
    for _ in range(200):
        provision = {"provision": [provision]}
    assert of("Consent", provision=provision).parties == ("deep",)

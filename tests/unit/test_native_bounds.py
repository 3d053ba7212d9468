"""What has no native document: too deep, too large, or a name that BSON refuses."""

from __future__ import annotations

import json
from typing import Any

import bson
import pytest

from fhirserver.core.model import Key
from fhirserver.core.stamp import prepare, render
from fhirserver.core.validate import issues
from fhirserver.store.mongo.native import LARGEST, MAX_LEVELS, NATIVE_BOUND, document, stamped
from tests.build import patient
from tests.natives import FACTS, KEY, Document, content, made
from tests.stores import client_of, database_of, fresh


def nested(levels: int) -> bytes:
    """A valid Patient whose document has so many levels: each extension of an extension is an array and an object."""
    inner: Document = {"url": "http://e", "valueString": "x"}
    for _ in range(levels // 2 - (1 if levels % 2 else 3)):
        inner = {"url": "http://e", "extension": [inner]}
    if not levels % 2:
        inner = {"url": "http://e", "valueAddress": {"extension": [inner]}}
    return json.dumps(patient("p1", extension=[inner])).encode()


def depth(value: Any) -> int:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(depth, inner), default=0)


def claim(numbers: int) -> bytes:
    """A valid ExplanationOfBenefit with an item that has so many one-digit numbers."""
    return content(
        json.dumps(
            {
                "resourceType": "ExplanationOfBenefit",
                "status": "active",
                "type": {"text": "x"},
                "use": "claim",
                "patient": {"reference": "Patient/p1"},
                "created": "2026-01-01",
                "insurer": {"display": "x"},
                "provider": {"display": "x"},
                "outcome": "complete",
                "insurance": [{"focal": True, "coverage": {"display": "x"}}],
                "item": [
                    {"sequence": 1, "productOrService": {"text": "x"}, "noteNumber": [1] * numbers},
                ],
            }
        ).encode()
    )


@pytest.mark.parametrize("levels", [99, 100, 101, 102, 125])
def test_what_validation_allows_but_a_server_might_not_has_none(levels: int) -> None:
    raw = nested(levels)
    assert depth(json.loads(raw)) == levels
    assert issues(raw)[1] == []
    found = document(Key("Patient", "p1"), content(raw, "p1"), FACTS)
    assert (found is not None) == (levels <= MAX_LEVELS)


def test_many_shallow_members_are_not_deep() -> None:
    assert len(made(patient("p1", name=[{"family": "x"}] * 500), Key("Patient", "p1"))["name"]) == 500


@pytest.mark.parametrize("more", [0, 1])
def test_above_the_bound_there_is_none(more: int) -> None:
    def binary(size: int) -> bytes:
        return content(b'{"resourceType":"Binary","contentType":"x/y","data":"' + b"A" * size + b'"}')

    body = binary(NATIVE_BOUND + 1 - len(binary(0)) + more)
    assert len(body) == NATIVE_BOUND + 1 + more  # the "0" of the stamp does not count
    assert (document(Key("Binary", "o1"), body, FACTS) is None) == bool(more)


def test_the_stamp_makes_no_difference() -> None:
    def body(size: int, version: int) -> bytes:
        raw = b'{"resourceType":"Binary","data":"' + b"A" * size + b'"}'
        return render(*prepare(raw, id="o1"), version, version % 1000)

    spare = NATIVE_BOUND - len(body(0, 1)) + len("12023-11-14T22:13:20.123Z")
    for size, there in ((3, True), (spare, True), (spare + 1, False)):
        first, later = (document(Key("Binary", "o1"), body(size, version), FACTS) for version in (1, 10**9))
        assert first == later
        assert (first is not None) == there
    assert len(body(spare, 10**18)) <= LARGEST


def test_what_grows_too_large_as_bson_has_none() -> None:
    key = Key("ExplanationOfBenefit", "o1")
    whole = claim(1_400_000)
    assert len(whole) < NATIVE_BOUND
    assert document(key, claim(1_000_000), FACTS) is not None
    assert document(key, whole, FACTS) is None


def test_no_json_below_the_measured_size_grows_beyond_what_a_server_takes() -> None:
    fullest = (1 << 20) // 2
    assert len(bson.encode({"_id": "x", "a": [1] * fullest})) < 8 << 20


def test_a_name_that_bson_refuses_means_none() -> None:
    assert document(KEY, b'{"meta":{"versionId":"0","lastUpdated":""},"a":[{"b\\u0000c":1}]}', FACTS) is None
    found = document(KEY, b'{"meta":{"versionId":"0","lastUpdated":""},"a":[{"b":"\\u0000"}]}', FACTS)
    assert found is not None
    assert bson.decode(bson.encode(found))["a"] == [{"b": "\0"}]


def test_the_deepest_and_the_largest_are_taken_by_the_engine(mongodb: str, tmp_path: Any) -> None:
    deep = document(Key("Patient", "p1"), content(nested(MAX_LEVELS), "p1"), FACTS)
    large = document(Key("ExplanationOfBenefit", "o1"), claim(1_000_000), FACTS)
    assert deep is not None
    assert large is not None
    with fresh("mongo", tmp_path) as url, client_of(url) as client:
        database = client[database_of(url)]
        for name, each in (("Patient", deep), ("ExplanationOfBenefit", large)):
            database[name].insert_one(stamped(each, version=1, seq=1, updated=0))
            assert database[name].count_documents({}) == 1

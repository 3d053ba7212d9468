"""`_elements` and `_summary` on a resource's bytes: what stays is untouched, and nothing that stays is empty."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.project import tag_subsetted
from fhirserver.core.validate import issues
from fhirserver.http.subset import projection_of
from tests.shared import shared

Json = dict[str, Any]


def cut(resource: Json | bytes, *names: str, summary: str | None = None) -> Json:
    raw = resource if isinstance(resource, bytes) else json.dumps(resource).encode()
    project = projection_of(frozenset(names) or None, summary)
    assert project is not None
    found: Json = json.loads(project(raw))
    return found


DOCUMENT: Json = {
    "resourceType": "DocumentReference",
    "id": "d",
    "meta": {"versionId": "1", "tag": [{"code": "x"}]},
    "status": "current",
    "_status": {"id": "s"},
    "custodian": {"display": "not in a summary"},
    "content": [
        {
            "id": "c1",
            "extension": [{"url": "http://x", "valueString": "y"}],
            "attachment": {"contentType": "text/plain", "data": "QUJD", "title": "t"},
        },
        {"attachment": {"data": "QUJD"}},
    ],
}


def test_a_summary_is_cut_inside_elements_too() -> None:
    found = cut(DOCUMENT, summary="true")
    assert "custodian" not in found
    assert found["_status"] == {"id": "s"}
    assert found["content"][0] == {"attachment": {"contentType": "text/plain", "title": "t"}}


def test_what_would_become_empty_stays_whole() -> None:
    assert cut(DOCUMENT, summary="true")["content"][1] == {"attachment": {"data": "QUJD"}}
    absent = {
        "extension": [{"url": "http://hl7.org/fhir/StructureDefinition/data-absent-reason", "valueCode": "unknown"}]
    }
    resource = {"resourceType": "Condition", "id": "c", "subject": absent}
    assert cut(resource, summary="true")["subject"] == absent


def test_elements_are_kept_whole() -> None:
    assert cut(DOCUMENT, "content")["content"] == DOCUMENT["content"]


def test_the_tag_is_added_once_and_meta_is_made_where_there_is_none() -> None:
    once = tag_subsetted(b'{"versionId":"1"}')
    assert json.loads(once)["tag"][0]["code"] == "SUBSETTED"
    assert tag_subsetted(once) == once
    assert [tag["code"] for tag in cut(DOCUMENT, "type")["meta"]["tag"]] == ["x", "SUBSETTED"]
    found = cut({"resourceType": "Basic", "code": {"text": "x"}}, summary="true")
    assert list(found) == ["resourceType", "meta", "code"]


def test_numbers_and_unknown_orders_stay_as_written() -> None:
    raw = b'{"id":"o","status":"final","resourceType":"Observation","code":{"text":"x"},"valueQuantity":{"value":7.20}}'
    project = projection_of(None, "true")
    assert project is not None
    assert b'"valueQuantity":{"value":7.20}' in project(raw)


@pytest.mark.parametrize("summary", ["true", "text", "data"])
def test_summaries_of_the_official_examples_have_no_empty_elements(summary: str) -> None:
    project = projection_of(None, summary)
    assert project is not None
    for file in sorted(shared("data/examples/hl7-r4-examples").glob("*.json")):
        raw = file.read_bytes()
        if issues(raw)[1]:
            continue
        found = json.loads(project(raw))
        assert not list(empty(found)), file.name
        assert found.get("id") == json.loads(raw).get("id")


def empty(value: Any) -> Any:
    """The empty objects and lists inside."""
    if value in ({}, []):
        yield value
    for each in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from empty(each)

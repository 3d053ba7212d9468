"""Validation of whole resources: what comes back, of which type they are, how much is told, and in which words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.errors import Invalid
from fhirserver.core.examine import MAX_ISSUES
from fhirserver.core.validate import MAX_BYTES, advice, issues, parse
from tests.unit.validating import OBSERVATION, PATIENT, containing, found, observation


def test_a_valid_resource_is_returned_decoded() -> None:
    assert parse(json.dumps(OBSERVATION).encode()) == OBSERVATION


def test_all_issues_are_raised_at_once() -> None:
    with pytest.raises(Invalid) as caught:
        parse(b'{"resourceType":"Observation","status":"done","other":1}')
    assert [(issue.code, issue.expression) for issue in caught.value.issues] == [
        ("code-invalid", "Observation.status"),
        ("structure", "Observation.other"),
        ("required", "Observation.code"),
    ]
    assert caught.value.status == 422


@pytest.mark.parametrize("value", [[], "Patient", 1, None, True, [OBSERVATION]])
def test_only_an_object_is_a_resource(value: Any) -> None:
    resource, listed = issues(json.dumps(value).encode())
    assert resource is None
    assert [issue.code for issue in listed] == ["structure"]


@pytest.mark.parametrize(
    ("resource", "code"),
    [
        ({}, "required"),
        ({"id": "1"}, "required"),
        ({"resourceType": None}, "structure"),
        ({"resourceType": "Unicorn"}, "value"),
        ({"resourceType": "Resource"}, "value"),
        ({"resourceType": "HumanName"}, "value"),
        ({"resourceType": "Observation.component"}, "value"),
        ({"resourceType": ["Patient"]}, "value"),
        ({"resourceType": {}}, "value"),
    ],
)
def test_the_type_has_to_be_a_resource_of_r4(resource: Any, code: str) -> None:
    assert [each[0] for each in found(resource)] == [code]


def test_advice_warns_of_what_is_no_error() -> None:
    value_set = {"resourceType": "ValueSet", "status": "draft", "name": "a name"}
    assert found(value_set) == []
    assert [(each.severity, each.expression, each.diagnostics[:5]) for each in advice(value_set)] == [
        ("warning", "ValueSet.name", "vsd-0"),
        ("warning", "ValueSet", "dom-6"),
    ]
    empty = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml"> </div>'}
    assert [each.expression for each in advice(observation(text=empty))] == ["Observation.text.div"]


def test_advice_asks_neither_a_bundle_nor_a_contained_resource_for_a_narrative() -> None:
    inside = containing({"resourceType": "Patient", "id": "c1"})
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": inside}]}
    assert [each.expression for each in advice(bundle)] == ["Bundle.entry[0].resource"]


def test_entries_of_a_bundle_are_checked_as_their_own_types() -> None:
    bundle = {
        "resourceType": "Bundle",
        "type": "collection",
        "entry": [
            {"resource": OBSERVATION},
            {"resource": {"resourceType": "Patient", "gender": "f"}},
            {"resource": {}},
        ],
    }
    assert found(bundle) == [
        ("code-invalid", "Bundle.entry[1].resource.gender"),
        ("required", "Bundle.entry[2].resource.resourceType"),
    ]


def test_a_resource_beyond_the_size_limit_is_refused_unread() -> None:
    assert [issue.code for issue in issues(b" " * (MAX_BYTES + 1))[1]] == ["too-long"]


def test_a_flood_of_issues_ends_with_a_note() -> None:
    listed = issues(json.dumps({**PATIENT, "name": [{"x": 1}] * (MAX_ISSUES + 5)}).encode())[1]
    assert len(listed) == MAX_ISSUES + 1
    assert listed[-1].code == "too-costly"


def test_no_message_quotes_what_may_be_personal() -> None:
    secret = "Jane Doe 1970-01-01"
    resource = {
        **PATIENT,
        "birthDate": secret,
        "gender": secret,
        "deceasedDateTime": secret,
        "id": secret,
        "name": [{"family": [secret], "period": {"start": secret}}],
        "managingOrganization": {"reference": secret},
        secret: 1,
        "text": {"status": "generated", "div": f"<p>{secret}</p>"},
    }
    listed = issues(json.dumps(resource).encode())[1]
    assert len(listed) >= 9
    for issue in listed:
        assert "Jane" not in issue.diagnostics + issue.expression
        assert "1970" not in issue.diagnostics + issue.expression

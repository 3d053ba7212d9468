"""What a patch of either format may make of a resource: the same one still, told rightly, never too deep."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.errors import Fault, Invalid, Kind
from fhirserver.core.patch import Patch, fhirpath_patch, json_patch

PATIENT: dict[str, Any] = {"resourceType": "Patient", "id": "p", "meta": {"versionId": "1"}, "gender": "male"}


def raw(resource: dict[str, Any]) -> bytes:
    return json.dumps(resource, separators=(",", ":")).encode()


def ops(*operations: dict[str, Any]) -> Patch:
    return json_patch(json.dumps(operations).encode())


def narrated(status: str) -> dict[str, Any]:
    return {**PATIENT, "text": {"status": status, "div": '<div xmlns="http://www.w3.org/1999/xhtml">male</div>'}}


def test_no_operations_change_nothing() -> None:
    text = b'{"resourceType":"Patient","id":"p","multipleBirthInteger":1}'
    assert ops().apply(text) == text
    assert fhirpath_patch(b'{"resourceType":"Parameters"}').apply(text) == text


@pytest.mark.parametrize(
    ("operation", "place"),
    [
        ({"op": "replace", "path": "/id", "value": "q"}, "Patient.id"),
        ({"op": "remove", "path": "/id"}, "Patient.id"),
        ({"op": "replace", "path": "/id", "value": 1}, "Patient.id"),
        ({"op": "replace", "path": "/resourceType", "value": "Person"}, "Patient.resourceType"),
        ({"op": "remove", "path": "/resourceType"}, "Patient.resourceType"),
        ({"op": "replace", "path": "", "value": {}}, "Patient.resourceType"),
        ({"op": "replace", "path": "", "value": []}, "Patient"),
        ({"op": "replace", "path": "", "value": None}, "Patient"),
        ({"op": "move", "from": "/meta", "path": ""}, "Patient.resourceType"),
    ],
    ids=str,
)
def test_what_it_leaves_is_the_same_resource(operation: dict[str, Any], place: str) -> None:
    with pytest.raises(Fault) as caught:
        ops(operation).apply(raw(PATIENT))
    assert caught.value.kind is Kind.BAD_REQUEST
    assert caught.value.issues[0].expression == place


def test_the_whole_resource_may_be_replaced_by_another_state_of_it() -> None:
    new = {"resourceType": "Patient", "id": "p", "active": True}
    assert ops({"op": "replace", "path": "", "value": new}).apply(raw(PATIENT)) == raw(new)


GENDER = {"op": "replace", "path": "/gender", "value": "female"}


@pytest.mark.parametrize("status", ["generated", "extensions"])
def test_a_generated_narrative_goes_when_the_data_change_and_it_does_not(status: str) -> None:
    done = json.loads(ops(GENDER).apply(raw(narrated(status))))
    assert done == {**PATIENT, "gender": "female"}


def test_a_narrative_that_the_patch_sees_to_stays() -> None:
    text = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">female</div>'}
    for status in ("generated", "additional"):
        patch = ops(GENDER, {"op": "replace", "path": "/text", "value": text})
        assert json.loads(patch.apply(raw(narrated(status))))["text"] == text
        assert "text" not in json.loads(ops(GENDER, {"op": "remove", "path": "/text"}).apply(raw(narrated(status))))


def test_a_narrative_that_may_say_more_than_the_data_is_not_left_behind() -> None:
    with pytest.raises(Invalid) as caught:
        ops(GENDER).apply(raw(narrated("additional")))
    assert [(issue.code, issue.expression) for issue in caught.value.issues] == [("business-rule", "Patient.text")]


@pytest.mark.parametrize("status", ["generated", "additional", "empty"])
def test_a_narrative_stays_when_nothing_that_it_tells_of_changes(status: str) -> None:
    tag = {"op": "add", "path": "/meta/tag", "value": [{"code": "x"}]}
    same = {"op": "replace", "path": "/gender", "value": "male"}
    done = json.loads(ops(tag, same).apply(raw(narrated(status))))
    assert done["text"] == narrated(status)["text"]
    assert done["meta"]["tag"] == [{"code": "x"}]


def test_an_empty_narrative_stays_whatever_changes() -> None:
    assert "text" in json.loads(ops(GENDER).apply(raw(narrated("empty"))))


def test_a_document_that_grows_too_deep_is_refused() -> None:
    nest = [{"op": "add", "path": "/y" + "/x" * at, "value": {}} for at in range(150)]
    deepen = [{"op": "move", "from": "/z", "path": "/y" + "/x" * 150}, {"op": "move", "from": "/y", "path": "/z"}]
    patch = ops({"op": "add", "path": "/z", "value": {}}, *([*nest, *deepen] * 12))
    with pytest.raises(Invalid) as caught:
        patch.apply(raw(PATIENT))
    assert caught.value.issues[0].code == "too-costly"


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"[",
        b"\xff",
        b'[{"op":"add","op":"remove","path":"/gender","value":1}]',
        b'[{"op":"add","path":"/x","value":{"a":1,"a":2}}]',
        b'[{"op":"add","path":"/x","value":1e999}]',
        b'[{"op":"add","path":"/x","value":%b}]' % (b"[" * 5000 + b"]" * 5000),
        b'\xef\xbb\xbf[{"op":"remove","path":"/gender"}]',
    ],
    ids=lambda document: repr(document[:60]),
)
def test_what_is_no_json_is_refused(document: bytes) -> None:
    for read in (json_patch, fhirpath_patch):
        with pytest.raises(Fault) as caught:
            read(document)
        assert caught.value.status == 400

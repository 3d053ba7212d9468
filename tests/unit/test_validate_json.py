"""What validation says of the JSON itself: syntax, encoding, numbers, names that come twice, depth."""

from __future__ import annotations

import json

import pytest

from fhirserver.core.errors import Invalid, Issue
from fhirserver.core.validate import MAX_BYTES, issues, parse
from tests.unit.validating import observation


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "no content"),
        (b" \n", "no content"),
        (b'{"a":1,}', "line 1, column 8"),
        (b'{\n "a" : 01}', "line 2"),
        (b'{"a":1', "ends too early (line 1, column 7)"),
        (b'{"a":NaN}', "line 1, column 6"),
        (b'{"a":Infinity}', "line 1, column 6"),
        (b'{"a":-Infinity}', "line 1"),
        (b'{"a":+1}', "line 1"),
        (b'{"a":.5}', "line 1"),
        (b"{'a':1}", "line 1"),
        (b'{"a":1}\n{}', "line 2"),
        (b'{"\xc3\xa9":#}', "line 1, column 6"),
        (b'{"a":"\x01"}', "line 1"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":1}//', "line 1"),
    ],
)
def test_broken_json_is_told_by_line_and_column(raw: bytes, says: str) -> None:
    resource, (issue,) = issues(raw)
    assert resource is None
    assert (issue.code, issue.expression) == ("structure", "")
    assert says in issue.diagnostics


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"", 400),
        (b'{"resourceType":"Patient"', 400),
        (b'{"resourceType":"Patient","id":NaN}', 400),
        (b'{"resourceType":"Patient","id":"\\ud800"}', 400),
        (b'{"resourceType":"Patient","id":"\xff"}', 400),
        (b'\xef\xbb\xbf{"resourceType":"Patient"}', 400),
        (b"[" * 100_000, 400),
        (b"[]", 422),
        (b"{}", 422),
        (b'{"resourceType":"Patient","active":true,"active":true}', 422),
        (b'{"resourceType":"Patient","multipleBirthInteger":1e999}', 422),
        (b'{"resourceType":"Patient","x":%b}' % (b"[" * 100 + b"]" * 100), 422),
        (b"x" * (MAX_BYTES + 1), 413),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_the_status_tells_what_cannot_be_parsed_from_what_breaks_a_rule(raw: bytes, status: int) -> None:
    with pytest.raises(Invalid) as caught:
        parse(raw)
    assert caught.value.status == status
    assert list(caught.value.issues) == issues(raw)[1]


def test_bytes_that_are_no_utf_8_are_told_by_their_place() -> None:
    assert issues(b'{"resourceType":\n"\xff"}')[1] == [Issue("structure", "not valid UTF-8 (line 2, column 2)")]


def test_a_byte_order_mark_is_refused_and_the_rest_is_still_checked() -> None:
    listed = issues(b'\xef\xbb\xbf{"resourceType":"Patient","x":1}')[1]
    assert [issue.expression for issue in listed] == ["", "Patient.x"]
    assert "byte order mark" in listed[0].diagnostics


@pytest.mark.parametrize("text", ["1.00", "3e2", "1E-22", "-0.0", "123456789012345678901234567890.5", "0.1e+1"])
def test_a_decimal_may_have_any_json_number(text: str) -> None:
    raw = json.dumps(observation(valueQuantity={"value": "@"})).replace('"@"', text).encode()
    assert issues(raw)[1] == []


def test_a_number_beyond_any_float_is_refused() -> None:
    raw = json.dumps(observation(valueQuantity={"value": "@"})).replace('"@"', "1e999").encode()
    assert [issue.code for issue in issues(raw)[1]] == ["value"]


@pytest.mark.parametrize(
    ("raw", "paths"),
    [
        (b'{"resourceType":"Patient","active":true,"active":true}', ["Patient.active"]),
        (b'{"resourceType":"Patient","active" : true,"active":true}', ["Patient.active"]),
        (b'{"resourceType":"Patient","active"\n:true,"\\u0061ctive":true,"active":false}', ["Patient.active"]),
        (b'{"resourceType":"Patient","resourceType":"Patient"}', ["Patient.resourceType"]),
        (
            b'{"resourceType":"Patient","name":[{"family":"a","family":"b"},{"text":"x","text":"x"}],"id":"a","id":"a"}',
            ["Patient.id", "Patient.name[0].family", "Patient.name[1].text"],
        ),
        (b'{"resourceType":"Patient","name":[{"text":"a\\":","family":"x"}]}', []),
        (
            b'{"resourceType":"Patient","name":[{"text":"a\\":","family":"x" ,"family" :"y"}]}',
            ["Patient.name[0].family"],
        ),
    ],
)
def test_every_repeated_name_is_found_with_its_path(raw: bytes, paths: list[str]) -> None:
    listed = issues(raw)[1]
    assert [issue.expression for issue in listed] == paths
    assert all("more than once" in issue.diagnostics for issue in listed)


def test_a_repeated_name_does_not_hide_other_issues() -> None:
    listed = issues(b'{"resourceType":"Patient","active":true,"active":1,"x":1}')[1]
    assert [issue.expression for issue in listed] == ["Patient.active", "Patient.active", "Patient.x"]


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"resourceType":"Basic","extension":[{"extension":['])
def test_any_depth_is_answered_with_an_issue(opening: bytes) -> None:
    closing = {b"[": b"]", b'{"a":': b"}"}.get(opening, b"]}]}")
    for levels in (100, 900, 100_000):
        _, listed = issues(opening * levels + b"1" + closing * levels)
        assert listed

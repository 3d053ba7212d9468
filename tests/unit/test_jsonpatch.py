"""JSON Patch: the examples of RFC 6902, its rules one by one, and what it costs."""

from __future__ import annotations

import json
from time import perf_counter
from typing import Any

import msgspec
import pytest

from fhirserver.core import jsonpatch
from fhirserver.core.errors import Fault, Invalid, Kind
from fhirserver.core.jsontree import Node

TOO_DEEP = "/a" * 201


def minified(value: Any) -> bytes:
    return value if isinstance(value, bytes) else msgspec.json.encode(value)


def patched(document: Any, *operations: Any) -> bytes:
    """The text after these operations on a document; either may be given as bytes."""
    read = jsonpatch.parse(Node(minified(list(operations))))
    return jsonpatch.apply(read, Node(minified(document)), "Patient").text


def issue(document: Any, *operations: Any) -> tuple[str, str]:
    """Code and place of the one issue of a patch that cannot be applied."""
    with pytest.raises(Invalid) as caught:
        patched(document, *operations)
    assert caught.value.status == 422
    (found,) = caught.value.issues
    return found.code, found.expression


# (section of RFC 6902 appendix A, document, patch, result or None for an error)
APPENDIX: list[tuple[str, Any, list[Any], Any]] = [
    ("A.1", {"foo": "bar"}, [{"op": "add", "path": "/baz", "value": "qux"}], {"baz": "qux", "foo": "bar"}),
    ("A.2", {"foo": ["bar", "baz"]}, [{"op": "add", "path": "/foo/1", "value": "qux"}], {"foo": ["bar", "qux", "baz"]}),
    ("A.3", {"baz": "qux", "foo": "bar"}, [{"op": "remove", "path": "/baz"}], {"foo": "bar"}),
    ("A.4", {"foo": ["bar", "qux", "baz"]}, [{"op": "remove", "path": "/foo/1"}], {"foo": ["bar", "baz"]}),
    (
        "A.5",
        {"baz": "qux", "foo": "bar"},
        [{"op": "replace", "path": "/baz", "value": "boo"}],
        {"baz": "boo", "foo": "bar"},
    ),
    (
        "A.6",
        {"foo": {"bar": "baz", "waldo": "fred"}, "qux": {"corge": "grault"}},
        [{"op": "move", "from": "/foo/waldo", "path": "/qux/thud"}],
        {"foo": {"bar": "baz"}, "qux": {"corge": "grault", "thud": "fred"}},
    ),
    (
        "A.7",
        {"foo": ["all", "grass", "cows", "eat"]},
        [{"op": "move", "from": "/foo/1", "path": "/foo/3"}],
        {"foo": ["all", "cows", "eat", "grass"]},
    ),
    (
        "A.8",
        {"baz": "qux", "foo": ["a", 2, "c"]},
        [{"op": "test", "path": "/baz", "value": "qux"}, {"op": "test", "path": "/foo/1", "value": 2}],
        {"baz": "qux", "foo": ["a", 2, "c"]},
    ),
    ("A.9", {"baz": "qux"}, [{"op": "test", "path": "/baz", "value": "bar"}], None),
    (
        "A.10",
        {"foo": "bar"},
        [{"op": "add", "path": "/child", "value": {"grandchild": {}}}],
        {"foo": "bar", "child": {"grandchild": {}}},
    ),
    (
        "A.11",
        {"foo": "bar"},
        [{"op": "add", "path": "/baz", "value": "qux", "xyz": 123}],
        {"foo": "bar", "baz": "qux"},
    ),
    ("A.12", {"foo": "bar"}, [{"op": "add", "path": "/baz/bat", "value": "qux"}], None),
    ("A.14", {"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": 10}], {"/": 9, "~1": 10}),
    ("A.15", {"/": 9, "~1": 10}, [{"op": "test", "path": "/~01", "value": "10"}], None),
    (
        "A.16",
        {"foo": ["bar"]},
        [{"op": "add", "path": "/foo/-", "value": ["abc", "def"]}],
        {"foo": ["bar", ["abc", "def"]]},
    ),
]


@pytest.mark.parametrize(
    ("document", "patch", "result"), [row[1:] for row in APPENDIX], ids=[row[0] for row in APPENDIX]
)
def test_the_examples_of_the_rfc(document: Any, patch: list[Any], result: Any) -> None:
    if result is None:
        issue(document, *patch)
    else:
        assert json.loads(patched(document, *patch)) == result


# pointer -> value, in the document of RFC 6901 §5
POINTED: dict[str, Any] = {
    "/foo": ["bar", "baz"],
    "/foo/0": "bar",
    "/": 0,
    "/a~1b": 1,
    "/c%d": 2,
    "/e^f": 3,
    "/g|h": 4,
    "/i\\j": 5,
    '/k"l': 6,
    "/ ": 7,
    "/m~0n": 8,
}
DOCUMENT = {"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "e^f": 3, "g|h": 4, "i\\j": 5, 'k"l': 6, " ": 7, "m~n": 8}


@pytest.mark.parametrize("pointer", POINTED)
def test_the_pointers_of_the_rfc(pointer: str) -> None:
    assert patched(DOCUMENT, {"op": "test", "path": pointer, "value": POINTED[pointer]})
    issue(DOCUMENT, {"op": "test", "path": pointer, "value": "another"})


MALFORMED = [
    b"{}",
    b'"x"',
    b"[1]",
    b"[{}]",
    b'[{"op":"add","path":"/a"}]',
    b'[{"op":"replace","path":"/a"}]',
    b'[{"op":"test","path":"/a"}]',
    b'[{"op":"move","path":"/a"}]',
    b'[{"op":"copy","path":"/a"}]',
    b'[{"op":"move","path":"/a","from":"b"}]',
    b'[{"op":"remove"}]',
    b'[{"op":"remove","path":"a"}]',
    b'[{"op":"remove","path":1}]',
    b'[{"op":"remove","path":null}]',
    b'[{"op":"remove","path":["a"]}]',
    b'[{"op":"remove","path":"/a~2"}]',
    b'[{"op":"remove","path":"/a~"}]',
    b'[{"op":"delete","path":"/a"}]',
    b'[{"op":["add"],"path":"/a"}]',
    b'[{"op":{},"path":"/a"}]',
    b'[{"op":"Add","path":"/a","value":1}]',
    b'[{"op":"remove","path":"%s"}]' % TOO_DEEP.encode(),
]


@pytest.mark.parametrize("document", MALFORMED, ids=lambda document: document[:60].decode())
def test_what_is_no_json_patch_is_refused(document: bytes) -> None:
    with pytest.raises(Fault) as caught:
        jsonpatch.parse(Node(document))
    assert caught.value.kind is Kind.BAD_REQUEST


THERE = {"name": [{"family": "x", "given": ["a", "b"]}], "active": True}

# operation, code, place
IMPOSSIBLE: list[tuple[dict[str, Any], str, str]] = [
    ({"op": "remove", "path": "/gender"}, "not-found", "Patient.gender"),
    ({"op": "replace", "path": "/gender", "value": 1}, "not-found", "Patient.gender"),
    ({"op": "test", "path": "/gender", "value": None}, "not-found", "Patient.gender"),
    ({"op": "remove", "path": "/name/1"}, "not-found", "Patient.name[1]"),
    ({"op": "replace", "path": "/name/0/given/2", "value": "c"}, "not-found", "Patient.name[0].given[2]"),
    ({"op": "remove", "path": "/name/0/given/-"}, "value", "Patient.name[0].given"),
    ({"op": "test", "path": "/name/-", "value": 1}, "value", "Patient.name"),
    ({"op": "add", "path": "/name/2", "value": {}}, "value", "Patient.name[2]"),
    ({"op": "add", "path": "/name/01", "value": {}}, "value", "Patient.name"),
    ({"op": "add", "path": "/name/-1", "value": {}}, "value", "Patient.name"),
    ({"op": "add", "path": "/name/\u0661", "value": {}}, "value", "Patient.name"),
    ({"op": "add", "path": "/name/family", "value": {}}, "value", "Patient.name.family"),
    ({"op": "add", "path": "/active/x", "value": 1}, "not-found", "Patient.active.x"),
    ({"op": "add", "path": "/contact/0", "value": 1}, "not-found", "Patient.contact"),
    ({"op": "move", "from": "/name", "path": "/name/0/given"}, "value", "Patient.name[0].given"),
    ({"op": "move", "from": "/gender", "path": "/gender"}, "not-found", "Patient.gender"),
    ({"op": "copy", "from": "/gender", "path": "/x"}, "not-found", "Patient.gender"),
    ({"op": "remove", "path": ""}, "value", "Patient"),
    ({"op": "test", "path": "/active", "value": 1}, "conflict", "Patient.active"),
    ({"op": "test", "path": "/active", "value": False}, "conflict", "Patient.active"),
    ({"op": "test", "path": "/name", "value": []}, "conflict", "Patient.name"),
    ({"op": "test", "path": "/name/0/given", "value": ["b", "a"]}, "conflict", "Patient.name[0].given"),
    ({"op": "test", "path": "/_active/x", "value": 1}, "not-found", "Patient.active"),
]


@pytest.mark.parametrize(("operation", "code", "place"), IMPOSSIBLE, ids=lambda value: str(value)[:70])
def test_what_cannot_be_done_is_told_with_its_place(operation: dict[str, Any], code: str, place: str) -> None:
    assert issue(THERE, operation) == (code, place)


def test_messages_name_the_operation_and_no_values() -> None:
    with pytest.raises(Invalid) as caught:
        patched(
            {"name": [{"family": "Secret"}]},
            {"op": "test", "path": "/name/0/family", "value": "Secret"},
            {"op": "test", "path": "/name/0/family", "value": "Guess"},
        )
    (found,) = caught.value.issues
    assert found.diagnostics == "operation 2 (test) at /name/0/family: the value is another one."
    with pytest.raises(Invalid) as caught:
        patched({}, {"op": "remove", "path": "/John Doe 1950-01-01/0"})
    assert "John" not in caught.value.issues[0].diagnostics + caught.value.issues[0].expression


@pytest.mark.parametrize(
    ("there", "asked", "same"),
    [
        (b"1.00", b"1", True),
        (b"1.00", b"1.0", True),
        (b"3e2", b"300", True),
        (b"3e2", b"300.0", True),
        (b"-0", b"0", True),
        (b"0.1", b"0.10000000000000001", False),
        (b"12345678901234567890", b"12345678901234567891", False),
        (b"1", b"true", False),
        (b"0", b"false", False),
        (b'"1"', b"1", False),
        (b"null", b"null", True),
        (b"null", b"false", False),
        (b'"\\u00e9"', '"é"'.encode(), True),
        ('"é"'.encode(), '"e\u0301"'.encode(), False),
        (b'{"a":1.0,"b":[2]}', b'{"b":[2.0],"a":1}', True),
        (b'{"a":1,"b":2}', b'{"a":1}', False),
        (b"[1,2]", b"[1,2,3]", False),
        (b"[]", b"{}", False),
    ],
)
def test_test_compares_numbers_by_value_and_all_else_exactly(there: bytes, asked: bytes, same: bool) -> None:
    operations = b'[{"op":"test","path":"/x","value":%b}]' % asked
    document = b'{"x":%b}' % there
    read = jsonpatch.parse(Node(operations))
    if same:
        assert jsonpatch.apply(read, Node(document), "Patient").text == document
    else:
        with pytest.raises(Invalid):
            jsonpatch.apply(read, Node(document), "Patient")


def test_numbers_and_escapes_keep_their_text_where_nothing_was_asked() -> None:
    document = b'{"b":1.00,"a":{"x":3e2,"y":-0,"z":"\\u00e9\\/"},"list":[0.10,1E-7,12345678901234567890123]}'
    done = patched(
        document,
        {"op": "replace", "path": "/list/0", "value": 7},
        {"op": "add", "path": "/a/new", "value": []},
        {"op": "copy", "from": "/b", "path": "/c"},
        {"op": "move", "from": "/a/x", "path": "/list/-"},
    )
    assert done == (
        b'{"b":1.00,"a":{"y":-0,"z":"\\u00e9\\/","new":[]},"list":[7,1E-7,12345678901234567890123,3e2],"c":1.00}'
    )
    given = jsonpatch.parse(Node(b'[{"op":"add","path":"/v","value":{"value":2.50}}]'))
    assert jsonpatch.apply(given, Node(b"{}"), "Patient").text == b'{"v":{"value":2.50}}'


def test_a_replaced_member_keeps_its_place() -> None:
    assert patched(b'{"a":1,"b":2,"c":3}', {"op": "replace", "path": "/b", "value": 9}) == b'{"a":1,"b":9,"c":3}'
    assert patched(b'{"a":1,"b":2,"c":3}', {"op": "add", "path": "/a", "value": 9}) == b'{"a":9,"b":2,"c":3}'


def test_the_whole_document_can_be_replaced_and_a_move_to_itself_does_nothing() -> None:
    assert patched(b'{"a":1}', {"op": "replace", "path": "", "value": {"b": 1}}) == b'{"b":1}'
    assert patched(b'{"a":1}', {"op": "add", "path": "", "value": {"b": 1}}) == b'{"b":1}'
    assert patched(b'{"a":[1]}', {"op": "move", "from": "/a/0", "path": "/a/0"}) == b'{"a":[1]}'
    assert patched(b'{"a":{"b":1}}', {"op": "move", "from": "/a/b", "path": ""}) == b"1"


def test_one_read_patch_can_be_applied_many_times() -> None:
    read = jsonpatch.parse(Node(b'[{"op":"add","path":"/a","value":{"x":[]}},{"op":"add","path":"/a/x/-","value":1}]'))
    for _ in range(2):
        assert jsonpatch.apply(read, Node(b"{}"), "Patient").text == b'{"a":{"x":[1]}}'


def test_copies_that_double_the_document_end_soon() -> None:
    began = perf_counter()
    doubling = [{"op": "copy", "from": "", "path": f"/x{at}"} for at in range(64)]
    assert issue({"a": "x" * 1000}, *doubling)[0] == "too-costly"
    nesting = [{"op": "copy", "from": "", "path": "/x"} for _ in range(jsonpatch.MAX_OPERATIONS)]
    assert issue({}, *nesting)[0] == "too-costly"
    testing = [{"op": "test", "path": "", "value": {"a": 1.0}}] * jsonpatch.MAX_OPERATIONS
    assert issue({"a": 1, "b": "x" * 100_000}, *testing)[0] in ("conflict", "too-costly")
    equal_but_long = [{"op": "test", "path": "", "value": {"b": "x" * 100_000, "a": 1.0}}] * 1000
    assert issue({"a": 1, "b": "x" * 100_000}, *equal_but_long)[0] == "too-costly"
    assert perf_counter() - began < 20


def test_too_many_operations_are_refused_before_they_are_read() -> None:
    with pytest.raises(Fault) as caught:
        jsonpatch.parse(Node(b"[" + b",".join([b"1"] * (jsonpatch.MAX_OPERATIONS + 1)) + b"]"))
    assert caught.value.kind is Kind.TOO_LARGE

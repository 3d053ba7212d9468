"""Whatever is sent as a patch is done or refused in words, and leaves no malformed resource."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.element import resource
from fhirserver.core.errors import Fault
from fhirserver.core.fhirpath import FUNCTIONS, PathError, parse
from fhirserver.core.jsontree import Node
from fhirserver.core.locate import Locator
from fhirserver.core.patch import fhirpath_patch, json_patch
from fhirserver.core.validate import issues
from tests.rfc6902 import NAMES

WORDS = [
    *("Patient", "name", "given", "family", "birthDate", "multipleBirth", "extension", "contained", "id", "nonsense"),
    *FUNCTIONS,
    *(
        "ofType",
        "as",
        "is",
        "and",
        "or",
        "xor",
        "implies",
        "in",
        "true",
        "false",
        "Quantity",
        "string",
        "System.String",
    ),
    *("$this", "%resource", "'A'", "'", "1", "1.5", "@2020", "@T10:00", "@2020-01-01T00:00:00Z", "{}", "``", "`name`"),
    *("=", "!=", "~", "<", ">=", "-", "+", "[0]", "[", "]", "\u00e9", "\x00"),
]
PATIENT = {
    "resourceType": "Patient",
    "id": "p",
    "name": [{"given": ["A", "B"], "_given": [None, {"id": "b"}]}, {"family": "C"}],
    "birthDate": "1950",
    "_birthDate": {"extension": [{"url": "http://x", "valueQuantity": {"value": 1}}]},
    "multipleBirthInteger": 2,
    "contained": [{"resourceType": "Organization", "id": "o", "name": "O"}],
}
RAW = json.dumps(PATIENT, separators=(",", ":")).encode()
paths = st.lists(st.sampled_from(WORDS) | st.sampled_from([".", ".", ".", "(", ")", " ", ","]), max_size=16).map(
    "".join
)


@given(paths | st.text(max_size=20))
def test_whatever_stands_as_a_path_leads_to_elements_or_is_refused_in_words(path: str) -> None:
    words = ""
    found = []
    try:
        found = Locator().elements(parse(path), resource(Node(RAW)))
    except PathError as error:
        words = str(error)
    assert words or all(each.node is not None or each.sibling is not None for each in found)


jsons = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from([*NAMES, "op", "path"]), inner, max_size=3)
    ),
    max_leaves=6,
)
odd_operations = st.fixed_dictionaries(
    {},
    optional={
        "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "x"]) | jsons,
        "path": st.sampled_from(["", "/", "/name", "/name/0", "/name/-", "/name/0/given/1", "/id", "/x/y", "~"])
        | jsons,
        "from": st.sampled_from(["", "/name", "/name/0", "/birthDate", "/x"]) | jsons,
        "value": jsons,
    },
)
odd_parts = st.fixed_dictionaries(
    {"name": st.sampled_from(["type", "path", "name", "value", "index", "source", "destination", "x"])},
    optional={
        "valueCode": st.sampled_from(["add", "insert", "delete", "replace", "move", "x"]),
        "valueString": st.sampled_from(["Patient", "Patient.name", "Patient.name.given", "name", "given"]) | paths,
        "valueInteger": st.integers(-1, 3),
        "valueHumanName": st.just({"family": "Z"}),
        "_valueString": st.just({"id": "x"}),
        "part": st.just([{"name": "family", "valueString": "Q"}]),
        "resource": st.just({"resourceType": "Basic", "code": {"text": "x"}}),
    },
)


some_values = st.sampled_from(
    [
        {"valueString": "Q"},
        {"_valueString": {"id": "x"}},
        {"valueInteger": 3},
        {"valueDate": "1951"},
        {"valueHumanName": {"family": "Z"}},
        {"part": [{"name": "family", "valueString": "Q"}]},
        {"part": [{"name": "url", "valueUri": "http://y"}, {"name": "value", "valueCode": "c"}]},
        {"resource": {"resourceType": "Basic", "id": "new", "code": {"text": "x"}}},
    ]
)
known_paths = st.sampled_from(
    [
        "Patient",
        "Patient.name",
        "Patient.name[0]",
        "Patient.name[0].given",
        "Patient.name.given[1]",
        "Patient.name.given.where($this = 'A')",
        "Patient.name.given.where(id = 'b').id",
        "Patient.birthDate",
        "Patient.birthDate.extension",
        "Patient.birthDate.extension.value",
        "Patient.multipleBirth",
        "Patient.contained",
        "Patient.contained.name",
        "Patient.id",
    ]
)
known_names = st.sampled_from(
    ["name", "given", "family", "extension", "id", "birthDate", "contained", "value", "deceased"]
)


@st.composite
def shaped(draw: st.DrawFn) -> list[dict[str, Any]]:
    """The parts of an operation that has what its type needs."""
    kind = draw(st.sampled_from(["add", "insert", "delete", "replace", "move"]))
    parts = [{"name": "type", "valueCode": kind}, {"name": "path", "valueString": draw(known_paths)}]
    if kind == "add":
        parts.append({"name": "name", "valueString": draw(known_names)})
    for name in {"insert": ("index",), "move": ("source", "destination")}.get(kind, ()):
        parts.append({"name": name, "valueInteger": draw(st.integers(0, 2))})
    if kind in ("add", "insert", "replace"):
        parts.append({"name": "value", **draw(some_values)})
    return parts


def refused(patch: Callable[[], bytes]) -> tuple[Fault | None, bytes]:
    """The Fault of a patch, or what it leaves."""
    try:
        return None, patch()
    except Fault as fault:
        return fault, b""


@given(st.lists(odd_operations, max_size=4) | jsons)
def test_whatever_stands_as_a_json_patch_is_done_or_refused(document: Any) -> None:
    fault, done = refused(lambda: json_patch(json.dumps(document).encode()).apply(RAW))
    if fault is None:
        assert json.loads(done)["id"] == "p"
    else:
        assert fault.status in (400, 422)
        assert fault.issues[0].diagnostics


@given(st.lists(st.lists(odd_parts, min_size=1, max_size=5) | shaped(), max_size=3))
def test_whatever_stands_as_a_fhirpath_patch_is_done_or_refused(operations: list[list[Any]]) -> None:
    listed = [{"name": "operation", "part": parts} for parts in operations]
    document = json.dumps({"resourceType": "Parameters", **({"parameter": listed} if listed else {})}).encode()
    fault, done = refused(lambda: fhirpath_patch(document).apply(RAW))
    if fault is None:
        assert json.loads(done)["id"] == "p"
    else:
        assert fault.status in (400, 422)
        assert fault.issues[0].expression


@given(st.lists(shaped(), min_size=1, max_size=4))
def test_a_fhirpath_patch_of_a_valid_resource_leaves_no_malformed_one(operations: list[list[Any]]) -> None:
    """What types alone decide is decided by the patch: the result can lack or break a rule, but it has no unknown
    member, no empty one, and no arrays that do not stand side by side."""
    listed = [{"name": "operation", "part": parts} for parts in operations]
    document = json.dumps({"resourceType": "Parameters", "parameter": listed}).encode()
    fault, done = refused(lambda: fhirpath_patch(document).apply(RAW))
    found = [] if fault else [issue for issue in issues(done)[1] if issue.code == "structure"]
    assert found == []

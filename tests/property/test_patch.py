"""Patches against a plain model: the same outcome, and to the byte the same text."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from copy import deepcopy
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core import jsonpatch
from fhirserver.core.element import resource
from fhirserver.core.errors import Fault, Invalid
from fhirserver.core.fhirpath import FUNCTIONS, PathError, parse
from fhirserver.core.jsontree import Node
from fhirserver.core.locate import Locator
from fhirserver.core.patch import fhirpath_patch, json_patch
from fhirserver.core.validate import issues

# -- JSON Patch --------------------------------------------------------------------------------------------------


class Leaf(str):
    """The JSON text of a scalar, as it stands in a document."""

    __slots__ = ()


Tree = Any
"""dict, list or Leaf: a document whose scalars are texts."""

NUMBERS = ["1", "1.0", "1.00", "-0", "0", "3e2", "300", "0.1", "1E-7", "12345678901234567890", "0.30000000000000004"]
SCALARS = [*NUMBERS, "true", "false", "null", '""', '"a"', '"\\u00e9"', '"é"', '"\\/"', '"1"', '"a\\"b"']
NAMES = ["a", "b", "", "0", "-", "x/y", "m~n"]

leaves = st.sampled_from(SCALARS).map(Leaf)
trees = st.recursive(
    leaves,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=4),
    max_leaves=12,
)


def written(tree: Tree) -> str:
    if isinstance(tree, dict):
        return "{" + ",".join(f"{json.dumps(name)}:{written(each)}" for name, each in tree.items()) + "}"
    if isinstance(tree, list):
        return "[" + ",".join(map(written, tree)) + "]"
    return str(tree)


def valued(tree: Tree) -> Any:
    """What the document means; numbers exact and told from booleans."""
    decoded = json.loads(written(tree), parse_int=Decimal, parse_float=Decimal)

    def told(value: Any) -> Any:
        if isinstance(value, dict):
            return {name: told(each) for name, each in value.items()}
        if isinstance(value, list):
            return [told(each) for each in value]
        return (type(value).__name__, value)

    return told(decoded)


class Impossible(Exception):
    """The model cannot do it."""


def get(tree: Tree, path: list[str]) -> Tree:
    for step in path:
        if isinstance(tree, dict) and step in tree:
            tree = tree[step]
        elif isinstance(tree, list) and step.isdecimal() and str(int(step)) == step and int(step) < len(tree):
            tree = tree[int(step)]
        else:
            raise Impossible
    return tree


def modelled(tree: Tree, operation: dict[str, Any]) -> Tree:
    """The document after one operation, by the words of RFC 6902 §4."""
    tree = deepcopy(tree)
    op, path = operation["op"], operation["path"]
    if op == "test":
        if valued(get(tree, path)) != valued(operation["value"]):
            raise Impossible
        return tree
    if op == "replace":
        get(tree, path)
        if not path:
            return operation["value"]
        parent = get(tree, path[:-1])
        parent[path[-1] if isinstance(parent, dict) else int(path[-1])] = operation["value"]
        return tree
    if op == "move" and path == operation["from"]:
        get(tree, path)
        return tree
    if op == "move" and path[: len(operation["from"])] == operation["from"]:
        raise Impossible
    value = operation.get("value")
    if op in ("move", "copy"):
        value = deepcopy(get(tree, operation["from"]))
    if op in ("move", "remove"):
        source = operation["from"] if op == "move" else path
        if not source:
            raise Impossible
        get(tree, source)
        parent = get(tree, source[:-1])
        del parent[source[-1] if isinstance(parent, dict) else int(source[-1])]
        if op == "remove":
            return tree
    if not path:
        return value
    parent, last = get(tree, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list) and last == "-":
        parent.append(value)
    elif isinstance(parent, list) and last.isdecimal() and str(int(last)) == last and int(last) <= len(parent):
        parent.insert(int(last), value)
    else:
        raise Impossible
    return tree


def places(tree: Tree, path: list[str] | None = None) -> list[list[str]]:
    """Every place in a document, and beside each some that are not."""
    path = path or []
    found = [path, [*path, "a"], [*path, "0"], [*path, "-"], [*path, "00"]]
    inside = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for name, each in inside:
        found += places(each, [*path, str(name)])
    return found


def pointer(path: list[str]) -> str:
    return "".join("/" + step.replace("~", "~0").replace("/", "~1") for step in path)


def text_of(operation: dict[str, Any]) -> str:
    parts = [f'"op":"{operation["op"]}"', f'"path":{json.dumps(pointer(operation["path"]))}']
    if "from" in operation:
        parts.append(f'"from":{json.dumps(pointer(operation["from"]))}')
    if "value" in operation:
        parts.append(f'"value":{written(operation["value"])}')
    return "{" + ",".join(parts) + "}"


def applied(tree: Tree, operations: list[dict[str, Any]]) -> str:
    read = jsonpatch.parse(Node(("[" + ",".join(map(text_of, operations)) + "]").encode()))
    return jsonpatch.apply(read, Node(written(tree).encode()), "Patient").text.decode()


@given(st.data())
def test_a_json_patch_does_what_the_rfc_says_and_to_the_byte_nothing_else(data: st.DataObject) -> None:
    before = data.draw(trees)
    operations: list[dict[str, Any]] = []
    after: Tree = before
    possible = True
    for _ in range(data.draw(st.integers(1, 5))):
        op = data.draw(st.sampled_from(["add", "remove", "replace", "move", "copy", "test"]))
        operation: dict[str, Any] = {"op": op, "path": data.draw(st.sampled_from(places(after)))}
        if op in ("move", "copy"):
            operation["from"] = data.draw(st.sampled_from(places(after)))
        if op in ("add", "replace", "test"):
            operation["value"] = data.draw(trees)
        if op == "test" and data.draw(st.booleans()):
            with suppress(Impossible):
                operation["value"] = get(after, operation["path"])
        operations.append(operation)
        try:
            after = modelled(after, operation)
        except Impossible:
            possible = False
            break
    if possible:
        assert applied(before, operations) == written(after)
    else:
        with pytest.raises(Invalid) as caught:
            applied(before, operations)
        assert caught.value.message.removeprefix("Patient").find(f"operation {len(operations)} ") >= 0


def difference(old: Tree, new: Tree, path: list[str]) -> list[dict[str, Any]]:
    """Operations that make ``new`` of ``old``."""
    if isinstance(old, dict) and isinstance(new, dict):
        found = [{"op": "remove", "path": [*path, name]} for name in old if name not in new]
        for name, each in new.items():
            if name in old:
                found += difference(old[name], each, [*path, name])
            else:
                found.append({"op": "add", "path": [*path, name], "value": each})
        return found
    if isinstance(old, list) and isinstance(new, list):
        found = [{"op": "remove", "path": [*path, str(at)]} for at in range(len(old) - 1, len(new) - 1, -1)]
        for at, each in enumerate(new):
            if at < len(old):
                found += difference(old[at], each, [*path, str(at)])
            else:
                found.append({"op": "add", "path": [*path, "-"], "value": each})
        return found
    return [] if old == new and type(old) is type(new) else [{"op": "replace", "path": path, "value": new}]


@given(trees, trees)
def test_a_difference_that_is_applied_gives_the_other_document(old: Tree, new: Tree) -> None:
    operations = difference(old, new, [])
    assert valued_text(applied(old, operations)) == valued(new)
    # and what is the same in both keeps its text: the tests pass on either side
    checks = [{"op": "test", "path": [], "value": new}]
    assert applied(old, operations + checks) == applied(old, operations)


def valued_text(text: str) -> Any:
    return valued(Leaf(text))


# -- FHIRPath Patch ----------------------------------------------------------------------------------------------

names = st.lists(
    st.builds(
        lambda given, marked: {"given": given} | ({"_given": [{"id": "x"}] * len(given)} if marked else {}),
        st.lists(st.sampled_from(["A", "B", "C", "\u00e9"]), min_size=1, max_size=4),
        st.booleans(),
    ),
    min_size=1,
    max_size=3,
)
PARTS = {"type": "valueCode", "index": "valueInteger", "source": "valueInteger", "destination": "valueInteger"}


def parameters(operations: list[dict[str, Any]]) -> bytes:
    listed = [
        {
            "name": "operation",
            "part": [{"name": name, PARTS.get(name, "valueString"): each} for name, each in operation.items()],
        }
        for operation in operations
    ]
    return json.dumps({"resourceType": "Parameters", "parameter": listed}).encode()


@given(st.data())
def test_both_formats_make_the_same_of_a_list(data: st.DataObject) -> None:
    """Each operation on a list of primitives with ids, said in FHIRPath and said as edits of its two arrays."""
    resource = {"resourceType": "Patient", "id": "p", "name": data.draw(names)}
    before = json.dumps(resource, separators=(",", ":")).encode()
    which = data.draw(st.integers(0, len(resource["name"]) - 1))
    name = resource["name"][which]
    size, marked = len(name["given"]), "_given" in name
    at, to = data.draw(st.integers(0, size - 1)), data.draw(st.integers(0, size - 1))
    path = f"Patient.name[{which}].given"
    base = f"/name/{which}"

    def edits(one: dict[str, Any], other: dict[str, Any]) -> list[dict[str, Any]]:
        both = [(f"{base}/given", one), *([(f"{base}/_given", other)] if marked else [])]
        return [
            {key: place + each if key in ("path", "from") else each for key, each in edit.items()}
            for place, edit in both
        ]

    kind = data.draw(st.sampled_from(["insert", "move", "delete", "replace", "add"]))
    if kind == "insert":
        said = {"type": kind, "path": path, "index": at, "value": "Z"}
        done = edits({"op": "add", "path": f"/{at}", "value": "Z"}, {"op": "add", "path": f"/{at}", "value": None})
    elif kind == "add":
        said = {"type": kind, "path": f"Patient.name[{which}]", "name": "given", "value": "Z"}
        done = edits({"op": "add", "path": "/-", "value": "Z"}, {"op": "add", "path": "/-", "value": None})
    elif kind == "move":
        said = {"type": kind, "path": path, "source": at, "destination": to}
        move = {"op": "move", "from": f"/{at}", "path": f"/{to}"}
        done = edits(move, move)
    elif kind == "replace":
        said = {"type": kind, "path": f"{path}[{at}]", "value": "Z"}
        done = edits(
            {"op": "replace", "path": f"/{at}", "value": "Z"}, {"op": "replace", "path": f"/{at}", "value": None}
        )
    else:
        said = {"type": kind, "path": f"{path}.skip({at}).first()"}
        done = edits({"op": "remove", "path": f"/{at}"}, {"op": "remove", "path": f"/{at}"})
    if size == 1 and kind in ("delete", "replace"):
        # what would be left empty is left out: the array of ids, or the name and the names
        gone = f"{base}/_given" if kind == "replace" else base if len(resource["name"]) > 1 else "/name"
        done = [
            *(done[:1] if kind == "replace" else []),
            *([{"op": "remove", "path": gone}] if gone != f"{base}/_given" or marked else []),
        ]
    assert fhirpath_patch(parameters([said])).apply(before) == json_patch(json.dumps(done).encode()).apply(before)


# -- whatever is sent --------------------------------------------------------------------------------------------

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

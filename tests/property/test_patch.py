"""Patches against a plain model: the same outcome, and to the byte the same text."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core import jsonpatch
from fhirserver.core.errors import Invalid
from fhirserver.core.jsontree import Node
from fhirserver.core.patch import fhirpath_patch, json_patch
from tests.rfc6902 import Impossible, Leaf, Tree, difference, get, modelled, places, text_of, trees, valued, written


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


def valued_text(text: str) -> Any:
    return valued(Leaf(text))


@given(trees, trees)
def test_a_difference_that_is_applied_gives_the_other_document(old: Tree, new: Tree) -> None:
    operations = difference(old, new, [])
    assert valued_text(applied(old, operations)) == valued(new)
    # and what is the same in both keeps its text: the tests pass on either side
    checks = [{"op": "test", "path": [], "value": new}]
    assert applied(old, operations + checks) == applied(old, operations)


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

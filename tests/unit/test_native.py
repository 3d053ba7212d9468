"""A native document is the resource as BSON: same members in the same order, and back as it was."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import bson
from bson import Decimal128, Int64
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.model import Key
from fhirserver.core.shapes import shape
from fhirserver.core.stamp import prepare, render
from fhirserver.core.validate import issues
from fhirserver.store.mongo.native import document, stamped
from tests.build import observation, patient
from tests.natives import FACTS, KEY, Document, content, made
from tests.shared import shared


def test_the_id_comes_first_then_the_members_in_their_order_then_what_the_server_knows() -> None:
    found = made({"resourceType": "Patient", "active": True, "id": "p1", "birthDate": "1970"}, Key("Patient", "p1"))
    assert list(found) == ["_id", "resourceType", "active", "id", "meta", "birthDate", "_store"]
    assert (found["_id"], found["id"], found["active"], found["birthDate"]) == ("p1", "p1", True, "1970")
    assert found["_store"] == {
        "custodian": "org",
        "parties": ["party"],
        "owners": ["p1"],
        "compartments": ["p1", "p2"],
        "labels": ["system|R"],
    }


def test_a_stamp_fills_meta_and_store_and_leaves_the_rest_and_the_original() -> None:
    found = made(patient("p1", meta={"versionId": "9", "tag": [{"code": "x"}]}), Key("Patient", "p1"))
    before = bson.encode(found)
    whole = stamped(found, version=3, seq=2**40, updated=1_700_000_000_123)
    assert bson.encode(found) == before
    back = bson.decode(bson.encode(whole), codec_options=bson.CodecOptions(tz_aware=True))
    assert back["meta"] == {"versionId": "3", "lastUpdated": "2023-11-14T22:13:20.123Z", "tag": [{"code": "x"}]}
    assert list(back["_store"])[-3:] == ["version", "seq", "updated"]
    assert (back["_store"]["version"], back["_store"]["seq"]) == (3, 2**40)
    assert back["_store"]["updated"].isoformat() == "2023-11-14T22:13:20.123000+00:00"
    assert {**back, "meta": 0, "_store": 0} == {**found, "meta": 0, "_store": 0}


def test_a_small_seq_is_a_long_like_a_large_one() -> None:
    whole = stamped(made(patient("p1")), version=1, seq=1, updated=0)
    assert type(bson.decode(bson.encode(whole))["_store"]["seq"]) is Int64


def test_the_members_are_those_of_the_stamped_body() -> None:
    raw = json.dumps(observation("o1", "p1", meta={"profile": ["http://p"]}, note=[{"text": "é\n"}])).encode()
    head, tail = prepare(raw, id="o1")
    found = document(KEY, head + b'"versionId":"0","lastUpdated":""' + tail, FACTS)
    assert found is not None
    whole = stamped(found, version=2, seq=5, updated=1_000)
    del whole["_id"], whole["_store"]
    assert json.dumps(whole) == json.dumps(json.loads(render(head, tail, 2, 1_000)))


def test_extensions_of_the_resources_id_do_not_take_the_place_of_the_id() -> None:
    found = made(patient("p1", _id={"extension": [{"url": "http://e", "valueString": "x"}]}), Key("Patient", "p1"))
    assert found["_id"] == "p1"
    assert next(iter(found)) == "_id"


def test_no_resource_type_has_a_member_that_the_servers_own_would_hide() -> None:
    assert [name for name in RESOURCE_TYPES if {"store", "_store"} & set(shape(name).members)] == []


def numbers_as_text(value: Any) -> Any:
    """A tree with every number as the text of its decimal, so that types and scales can be compared."""
    if isinstance(value, dict):
        return {name: numbers_as_text(each) for name, each in value.items()}
    if isinstance(value, list):
        return [numbers_as_text(each) for each in value]
    if isinstance(value, Decimal128):
        return "number", str(value.to_decimal())
    return ("number", str(value)) if isinstance(value, (int, Decimal)) and not isinstance(value, bool) else value


def assert_returns(raw: bytes, key: Key) -> None:
    """Through BSON and back the document is the JSON, apart from the server's own."""
    found = document(key, content(raw, key.id), FACTS)
    assert found is not None
    back = bson.decode(bson.encode(stamped(found, version=1, seq=1, updated=0)))
    assert back.pop("_id") == key.id
    del back["_store"]
    whole = json.loads(render(*prepare(raw, id=key.id), 1, 0), parse_float=Decimal)
    assert json.dumps(numbers_as_text(back)) == json.dumps(numbers_as_text(whole))


_TEXTS = st.text(st.characters(codec="utf-8", exclude_characters="@"), max_size=12)
_SCALARS = (
    st.booleans()
    | _TEXTS
    | st.integers(-(10**25), 10**25)
    | st.decimals(-(10**25), 10**25, places=3).map(lambda number: f"@{number}@")
)
_NAMES = st.text("abcXYZ_09", min_size=1, max_size=6)
_TREES = st.recursive(
    _SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_NAMES, inner, max_size=4), max_leaves=30
)


@given(st.dictionaries(_NAMES.filter(lambda name: name not in ("_id", "_store", "id", "meta")), _TREES, max_size=5))
def test_any_tree_returns_as_it_was(members: Document) -> None:
    raw = json.dumps({"resourceType": "Basic", **members}).replace('"@', "").replace('@"', "").encode()
    assert_returns(raw, Key("Basic", "b1"))


def examples() -> Iterator[tuple[str, bytes]]:
    for path in sorted(shared("data/examples/hl7-r4-examples").rglob("*.json")):
        yield path.name, path.read_bytes()


def test_the_official_examples_return_as_they_were() -> None:
    count, none = 0, []
    for name, raw in examples():
        resource, found = issues(raw)
        if resource is None or found:
            continue
        key = Key(resource["resourceType"], "e1")
        if document(key, content(raw, key.id), FACTS) is None:
            none.append(name)
            continue
        assert_returns(raw, key)
        count += 1
    assert count > 700
    assert none == []

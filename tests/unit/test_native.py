"""A native document is the resource as BSON: same members, same numbers, or none at all."""

from __future__ import annotations

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64
from hypothesis import example, given
from hypothesis import strategies as st

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.model import Facts, Key
from fhirserver.core.shapes import shape
from fhirserver.core.stamp import prepare, render
from fhirserver.core.validate import issues
from fhirserver.store.mongo.native import LARGEST, MAX_LEVELS, NATIVE_BOUND, decimal, document, stamped
from tests.build import observation, patient
from tests.shared import shared
from tests.stores import client_of, database_of, fresh

FACTS = Facts("org", ("party",), ("p1",), ("system|R",), ("p1", "p2"))
KEY = Key("Observation", "o1")
Document = dict[str, Any]


def content(raw: bytes, id: str = "o1") -> bytes:
    """What a commit hands over: prepared for stamping, with a stamp that does not count."""
    head, tail = prepare(raw, id=id)
    return head + b'"versionId":"0","lastUpdated":""' + tail


def made(resource: Document, key: Key = KEY) -> Document:
    """The document of a valid resource that must have one."""
    raw = json.dumps(resource).encode()
    assert issues(raw)[1] == []
    found = document(key, content(raw, key.id), FACTS)
    assert found is not None
    return found


def with_number(text: str) -> bytes:
    """A valid Observation whose value is this number."""
    raw = json.dumps(observation("o1", "p1", valueQuantity={"value": "@"})).encode().replace(b'"@"', text.encode())
    assert issues(raw)[1] == [], text
    return raw


def stored(text: str) -> Any:
    """What becomes of a number on its way through BSON."""
    found = document(KEY, content(with_number(text)), FACTS)
    assert found is not None
    return bson.decode(bson.encode(found))["valueQuantity"]["value"]


# -- the document ----------------------------------------------------------------------------------------------------


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


# -- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.00", "1.00"),
        ("0.10", "0.10"),
        ("7.20", "7.20"),
        ("3e2", "3E+2"),
        ("1E+5", "1E+5"),
        ("1e-7", "1E-7"),
        ("1.0e2", "1.0E+2"),
        ("-0.0", "-0.0"),
        ("0.000", "0.000"),
        ("0e400", "0E+400"),
        ("1e308", "1E+308"),
        ("1e-6176", "1E-6176"),
    ],
)
def test_a_decimal_keeps_the_scale_of_its_text(text: str, expected: str) -> None:
    assert stored(text) == Decimal128(expected)
    assert str(stored(text)) == expected


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("0", int),
        ("2147483647", int),
        ("-2147483648", int),
        ("2147483648", Int64),
        ("9223372036854775807", Int64),
        ("-9223372036854775808", Int64),
        ("9223372036854775808", Decimal128),
        ("-9223372036854775809", Decimal128),
        ("18446744073709551616", Decimal128),
    ],
)
def test_a_whole_number_is_an_int_a_long_or_a_decimal(text: str, kind: type) -> None:
    found = stored(text)
    assert (type(found), str(found)) == (kind, text)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param("0.12345678901234567890123456789012345", "0.1234567890123456789012345678901234", id="half, down"),
        pytest.param("0.12345678901234567890123456789012335", "0.1234567890123456789012345678901234", id="half, up"),
        pytest.param("0.123456789012345678901234567890123451", "0.1234567890123456789012345678901235", id="up"),
        pytest.param("9" * 35, "1.000000000000000000000000000000000E+35", id="a long whole number"),
        pytest.param("9" * 36 + ".5", "1.000000000000000000000000000000000E+36", id="beyond what is remembered"),
        pytest.param("1." + "0" * 50, "1." + "0" * 33, id="zeros count as digits"),
        pytest.param("1" + "0" * 299, "1." + "0" * 33 + "E+299", id="300 digits"),
    ],
)
def test_more_than_34_digits_are_rounded_half_to_even(text: str, expected: str) -> None:
    assert stored(text) == Decimal128(expected)


@pytest.mark.parametrize(
    "text",
    ["1e-6177", "1e-7000", "1.5e-6176", "-1e-99999999999999999999", "1e-" + "9" * 60, "0." + "0" * 6176 + "12"],
)
def test_what_is_too_small_for_a_decimal128_stays_text(text: str) -> None:
    assert stored(text) == text


def test_a_zero_is_a_zero_whatever_its_exponent() -> None:
    assert stored("0e999999999999999999999") == Decimal128("0E+6111")
    assert stored("0e-999999999999999999999") == Decimal128("0E-6176")


@pytest.mark.parametrize("text", ["1e6145", "-1e6145", "1e99999999999999999999"])
def test_a_number_too_large_for_a_decimal128_would_stay_text_too(text: str) -> None:
    assert decimal(text) == text


def by_the_book(text: str) -> Decimal | str:
    """The number that must stand in the document, worked out with whole numbers only."""
    exact = Decimal(text)
    sign, digits, exponent = exact.as_tuple()
    assert isinstance(exponent, int)
    number, excess = int("".join(map(str, digits))), len(digits) - 34
    if excess > 0:
        number, rest = divmod(number, 10**excess)
        number += rest * 2 > 10**excess or (rest * 2 == 10**excess and number % 2)
        exponent += excess
        if number == 10**34:
            number, exponent = 10**33, exponent + 1
    if number and (exponent < -6176 or exponent > 6111):
        return text
    held = tuple(map(int, str(number)))
    return Decimal((sign, held, max(-6176, min(exponent, 6111))))


WHOLE = st.from_regex(r"-?(0|[1-9][0-9]{0,45})", fullmatch=True)
FRACTION = st.from_regex(r"(\.[0-9]{1,45})?", fullmatch=True)
EXPONENT = st.from_regex(r"([eE](\+?[0-9]{1,3}|-[0-9]{1,4}))?", fullmatch=True)
NUMBERS = st.tuples(WHOLE, FRACTION, EXPONENT).map("".join).filter(lambda text: abs(float(text)) < 1e308)


@given(NUMBERS)
@example("-0")
@example("0.5e-6175")
@example("1" + "0" * 33 + "5e-6176")
def test_every_number_arrives_as_the_book_says(text: str) -> None:
    found = stored(text)
    if isinstance(found, int):
        assert found == int(text)
        return
    expected = by_the_book(text)
    if isinstance(expected, str):
        assert found == expected
    else:
        assert found.to_decimal().as_tuple() == expected.as_tuple()


# -- round trips -----------------------------------------------------------------------------------------------------


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


# -- what has no document --------------------------------------------------------------------------------------------


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


# -- on the engine ---------------------------------------------------------------------------------------------------


def test_documents_are_on_the_engine_what_they_are_here(mongodb: str, tmp_path: Any) -> None:
    numbers = ["1.00", "3e2", "-0.0", "72", "9223372036854775807", "9223372036854775808", "1e-7", "1e-7000"]
    documents = []
    for at, text in enumerate(numbers):
        found = document(Key("Observation", f"o{at}"), content(with_number(text), f"o{at}"), FACTS)
        assert found is not None
        documents.append(stamped(found, version=1, seq=at, updated=1_700_000_000_000 + at))
    with fresh("mongo", tmp_path) as url, client_of(url) as client:
        collection = client[database_of(url)]["Observation"]
        collection.insert_many(documents)
        back = list(collection.find().sort("_store.seq"))
        assert [bson.encode(each) for each in back] == [bson.encode(each) for each in documents]
        assert [each["_id"] for each in collection.find({"valueQuantity.value": 1}).sort("_id")] == ["o0"]
        between = collection.find({"valueQuantity.value": {"$gt": 71.5, "$lt": 301}}).sort("_id")
        assert [each["_id"] for each in between] == ["o1", "o3"]


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

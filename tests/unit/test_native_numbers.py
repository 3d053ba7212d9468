"""Numbers of a native document: int, long or Decimal128 with the scale of the text."""

from __future__ import annotations

import json
from decimal import Decimal
from typing import Any

import bson
import pytest
from bson import Decimal128, Int64
from hypothesis import example, given
from hypothesis import strategies as st

from fhirserver.core.model import Key
from fhirserver.core.validate import issues
from fhirserver.store.mongo.native import decimal, document, stamped
from tests.build import observation
from tests.natives import FACTS, KEY, content
from tests.stores import client_of, database_of, fresh


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

"""JSON indented for people: the same whole and in pieces, cut anywhere, with every number and string untouched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.indent import Indenter, indent

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def in_pieces(raw: bytes, cut: int) -> bytes:
    indenter = Indenter()
    return b"".join(indenter.feed(raw[at : at + cut]) for at in range(0, len(raw), cut))


def test_numbers_and_strings_stay_as_they_are_written() -> None:
    raw = b'{"a":1.00,"b":[3e2,{},[]],"c":"\\u00e9\\"{[,:\\\\","d":null}'
    expected = """{
  "a": 1.00,
  "b": [
    3e2,
    {},
    []
  ],
  "c": "\\u00e9\\"{[,:\\\\",
  "d": null
}"""
    assert indent(raw).decode() == expected
    assert in_pieces(raw, len(raw)).decode() == expected


@given(value=JSON, cut=st.integers(1, 40), ascii_=st.booleans())
def test_pieces_give_what_the_whole_gives(value: object, cut: int, ascii_: bool) -> None:
    raw = json.dumps(value, ensure_ascii=ascii_, separators=(",", ":")).encode("utf-8", "surrogatepass")
    if b"\xed" in raw:  # half a surrogate pair is no JSON
        return
    assert in_pieces(raw, cut) == indent(raw)


@pytest.mark.parametrize("cut", [1, 7, 1000])
def test_a_long_string_passes_through_without_being_gathered(cut: int) -> None:
    raw = b'{"data":"' + b"QUJD\\/" * 20_000 + b'"}'
    indenter = Indenter()
    kept = 0
    for at in range(0, len(raw), cut):
        piece = raw[at : at + cut]
        kept += len(piece) - len(indenter.feed(piece).translate(None, b" \n"))
        assert kept <= 1

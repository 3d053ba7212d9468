"""The content of a Binary in pieces is what decoding the whole gives, wherever the pieces are cut."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.content import Content, Encoder
from fhirserver.core.lexical import base64_problem

BEFORE = '{"resourceType":"Binary","id":"b","meta":{"versionId":"1","tag":[{"code":"\\"data\\":\\"x"}]},'
CONTEXT = '"securityContext":{"reference":"Patient/p","extension":[{"url":"u","valueString":"data"}]},'


def pieces(raw: bytes, size: int) -> list[bytes]:
    return [raw[at : at + size] for at in range(0, len(raw), size)]


def read(raw: bytes, size: int) -> tuple[bytes, Content]:
    content = Content()
    return b"".join(content.feed(piece) for piece in pieces(raw, size)), content


@given(st.binary(max_size=600), st.integers(1, 40), st.booleans())
def test_it_is_the_decoded_data_wherever_the_pieces_are_cut(data: bytes, size: int, last: bool) -> None:
    text = f'"data":"{b64encode(data).decode()}"' if data else '"_data":{"id":"x"}'
    kind = '"contentType":"text/plain"'
    raw = (BEFORE + CONTEXT + (f"{kind},{text}" if last else f"{text},{kind}") + "}").encode()
    json.loads(raw)
    found, content = read(raw, size)
    assert found == data
    assert (content.described().contentType, content.described().context) == ("text/plain", "Patient/p")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 7, 1000])
@pytest.mark.parametrize(
    "written",
    ["QUJD\\/+8=", "QUJD\\u002f+8=", "QUJD\\n /+8=", "QU JD/+8=", "Q\\u0055JD\\u000a/+8=", "QUJD\u00a0/+8="],
)
def test_escapes_and_blanks_are_understood(written: str, size: int) -> None:
    raw = f'{{"resourceType":"Binary","contentType":"a/b","data":"{written}"}}'.encode()
    value = json.loads(raw)["data"]
    assert base64_problem(value) == ""
    assert read(raw, size)[0] == b64decode("".join(value.split())) == b"ABC\xff\xef"


def test_a_member_named_data_inside_another_element_is_not_the_content() -> None:
    raw = b'{"contentType":"a/b","meta":{"data":"QUJD"},"extension":[{"data":"QUJD"}],"data":"QUJE"}'
    assert read(raw, 4)[0] == b"ABD"


def test_a_binary_without_data_has_no_content() -> None:
    found, content = read(b'{"resourceType":"Binary","contentType":"a/b"}', 5)
    assert (found, content.described().context) == (b"", "")


@given(st.lists(st.binary(max_size=20)))
def test_encoding_in_pieces_is_encoding_the_whole(given_pieces: list[bytes]) -> None:
    encoder = Encoder()
    text = b"".join([*map(encoder.feed, given_pieces), encoder.end()])
    assert text == b64encode(b"".join(given_pieces))

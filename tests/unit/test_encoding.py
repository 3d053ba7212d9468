"""Choice of the content encoding, compressed chunks that arrive at once, and bodies that come compressed."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any

import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.errors import Fault
from fhirserver.http.encoding import Compressor, chosen_encoding, compressed, compressible
from fhirserver.http.limits import PIECE, _Gzip, _Zstd

ENCODINGS = ("gzip", "zstd")


def packed(data: bytes, encoding: str) -> bytes:
    return gzip.compress(data, 1) if encoding == "gzip" else zstandard.ZstdCompressor(level=1).compress(data)


def unpacked(data: bytes, encoding: str) -> bytes:
    if encoding == "gzip":
        return gzip.decompress(data)
    with zstandard.ZstdDecompressor().stream_reader(data) as reader:
        return reader.read()


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("gzip, deflate, br, zstd", "zstd"),
        ("gzip;q=1.0, zstd;q=0.5", "gzip"),
        ("gzip;q=0", None),
        ("GZIP; q=0.2", "gzip"),
        ("gzip;q=nonsense", None),
        ("br", None),
    ],
)
def test_the_best_offered_encoding_is_chosen(accept: str, chosen: str | None) -> None:
    assert chosen_encoding(accept) == chosen


def test_what_is_packed_already_is_not_packed_again() -> None:
    assert compressible("application/fhir+json; charset=utf-8")
    assert compressible("application/fhir+ndjson")
    assert compressible("text/plain")
    assert not compressible("image/png")
    assert not compressible("")


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_the_first_chunk_can_be_read_before_the_second_is_made(encoding: str) -> None:
    chunks = [b'{"n":%d}' % number * 100 for number in range(50)]
    stream = Compressor(encoding)
    reader: Any = zlib.decompressobj(wbits=31) if encoding == "gzip" else zstandard.ZstdDecompressor().decompressobj()
    assert reader.decompress(stream.feed(chunks[0])) == chunks[0]
    rest = b"".join([stream.feed(chunk) for chunk in chunks[1:]] + [stream.feed(b"", last=True)])
    assert reader.decompress(rest) == b"".join(chunks[1:])


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("size", [0, 1, 65_536, 65_537, 1_000_000])
async def test_a_whole_body_is_packed_whatever_its_length(encoding: str, size: int) -> None:
    body = (b"0123456789" * (size // 10 + 1))[:size]
    assert unpacked(await compressed(body, encoding), encoding) == body


def decoded(raw: bytes, encoding: str, cut: int) -> tuple[bytes, bool]:
    """What came out, and whether all of it did."""
    decoder = _Gzip() if encoding == "gzip" else _Zstd()
    out: list[bytes] = []
    for at in range(0, len(raw), cut):
        out += decoder.feed(raw[at : at + cut])
    return b"".join(out), decoder.ended


@given(
    data=st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 5000)), max_size=6),
    encoding=st.sampled_from(ENCODINGS),
    cut=st.integers(1, 3000),
    twice=st.booleans(),
)
def test_a_packed_body_comes_out_as_it_went_in(
    data: list[tuple[bytes, int]], encoding: str, cut: int, twice: bool
) -> None:
    body = b"".join(text * times for text, times in data)
    raw = packed(body, encoding) * (2 if twice else 1)
    assert decoded(raw, encoding, cut) == (body * (2 if twice else 1), True)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_a_body_that_ends_too_early_is_not_whole(encoding: str) -> None:
    raw = packed(b'{"resourceType":"Patient"}' * 50, encoding)
    assert not decoded(raw[:-3], encoding, 64)[1]
    with pytest.raises(Fault, match="Content-Encoding"):
        decoded(b"not compressed at all, by no means", encoding, 64)


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_much_in_few_bytes_comes_out_in_pieces(encoding: str) -> None:
    bomb = packed(b"\0" * 50_000_000, encoding)
    decoder = _Gzip() if encoding == "gzip" else _Zstd()
    parts: Iterator[bytes] = decoder.feed(bomb)
    assert max(len(next(parts)) for _ in range(5)) <= 8 * 1024 * 1024 + PIECE

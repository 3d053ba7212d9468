"""Choice of the content encoding, and compressed chunks that arrive at once."""

from __future__ import annotations

import zlib
from collections.abc import AsyncIterator

import pytest
import zstandard

from fhirserver.http.stream import chosen_encoding, compressed


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


async def chunks() -> AsyncIterator[bytes]:
    for number in range(50):
        yield b'{"n":%d}' % number * 100


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_the_first_chunk_can_be_read_before_the_second_is_made(encoding: str) -> None:
    stream = compressed(chunks(), encoding)
    first = await anext(stream)
    if encoding == "gzip":
        gzip = zlib.decompressobj(wbits=31)
        zstd = None
        assert gzip.decompress(first) == b'{"n":0}' * 100
    else:
        gzip = None
        zstd = zstandard.ZstdDecompressor().decompressobj()
        assert zstd.decompress(first) == b'{"n":0}' * 100
    rest = b"".join([data async for data in stream])
    text = gzip.decompress(rest) if gzip else zstd.decompress(rest)
    assert text == b"".join([b'{"n":%d}' % number * 100 for number in range(1, 50)])

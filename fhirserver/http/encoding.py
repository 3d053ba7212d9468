"""gzip and zstd of answers: which one a client takes, of a whole body or of one that streams.

Source: RFC 9110 §12.5.3 (Accept-Encoding), RFC 1952, RFC 8878.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import cache, lru_cache
from typing import Any

WORTH_IT = 1024
"""A whole answer of fewer bytes is sent as it is."""

_PIECE = 64 * 1024


@lru_cache(maxsize=256)
def chosen_encoding(accept: str) -> str | None:
    """``zstd`` or ``gzip`` if the Accept-Encoding header allows it (q=0 refuses), else None: identity."""
    weights: dict[str, float] = {}
    for item in accept.lower().split(","):
        name, _, parameter = item.strip().partition(";")
        try:
            weights[name.strip()] = float(parameter.strip().removeprefix("q=")) if parameter else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    offered = [(weights[name], name) for name in ("gzip", "zstd") if weights.get(name, 0.0) > 0]
    return max(offered)[1] if offered else None


def compressible(content_type: str) -> bool:
    """Whether a body of this type becomes smaller: text in any form; images and the like are packed already."""
    name = content_type.partition(";")[0].strip().lower()
    return name.startswith("text/") or name.endswith(("json", "xml"))


class Compressor:
    """One answer's compression; ``feed`` flushes after the first chunk, so that it arrives at once."""

    def __init__(self, encoding: str) -> None:
        self._stream, self._flush = _streams(encoding)
        self._begun = False

    def feed(self, chunk: bytes, *, last: bool = False) -> bytes:
        """What this chunk becomes; nothing, as long as the compressor keeps it."""
        data: bytes = self._stream.compress(chunk)
        if last:
            return data + bytes(self._stream.flush())
        if not self._begun:
            self._begun = True
            data += self._flush()
        return data


def _streams(encoding: str) -> tuple[Any, Callable[[], bytes]]:
    if encoding == "zstd":
        import zstandard

        zstd = zstandard.ZstdCompressor(level=1).compressobj()
        return zstd, lambda: zstd.flush(zstandard.COMPRESSOBJ_FLUSH_BLOCK)
    from isal import isal_zlib

    gzip = isal_zlib.compressobj(level=1, wbits=31)
    return gzip, lambda: gzip.flush(isal_zlib.Z_SYNC_FLUSH)


async def compressed(body: bytes, encoding: str) -> bytes:
    """A whole body, compressed; a long one piece by piece, so that other requests are served meanwhile."""
    if len(body) <= _PIECE:
        return _at_once(encoding)(body)
    compressor = Compressor(encoding)
    parts = []
    for at in range(0, len(body), _PIECE):
        parts.append(compressor.feed(body[at : at + _PIECE], last=at + _PIECE >= len(body)))
        await asyncio.sleep(0)
    return b"".join(parts)


@cache
def _at_once(encoding: str) -> Callable[[bytes], bytes]:
    if encoding == "zstd":
        import zstandard

        return zstandard.ZstdCompressor(level=1).compress
    from isal import isal_zlib

    return lambda body: isal_zlib.compress(body, 1, 31)

"""Bodies of requests: bounded in size, decoded, and not waited for longer than a slow line needs.

Source: RFC 9110 §8.4 (Content-Encoding), §15.5.9 (408), §15.5.14 (413), §15.5.16 (415); RFC 9659 (the window of zstd).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, Protocol

from starlette.requests import Request

from fhirserver.core.errors import Fault, Kind
from fhirserver.http.respond import Refused

if TYPE_CHECKING:
    from fhirserver.http.server import Server

SLOWEST = 8 * 1024
"""Bytes a second that a sender must reach once its first patience (`stall_seconds`) is used up."""

PIECE = 64 * 1024
"""Bytes of a decoded piece, about."""

_SLICE = 256
"""Bytes given to the zstd decoder at once: they cannot become more than 8 MiB (a block of 128 KiB takes 4 bytes)."""

_WINDOW = 8 * 1024 * 1024


async def body_of(request: Request, server: Server, *, limit: int | None = None) -> bytes:
    """The whole body, decoded; at most ``limit`` bytes (None: `server.max_body`).

    Fault TOO_LARGE, UNSUPPORTED_MEDIA (an unknown Content-Encoding), TIMEOUT (a sender that is too slow), BAD_REQUEST
    (what does not decode).
    """
    most = server.max_body if limit is None else limit
    return b"".join([piece async for piece in pieces(request, limit=most, patience=server.stall_seconds)])


async def pieces(request: Request, *, limit: int, patience: float = 60.0) -> AsyncGenerator[bytes, None]:
    """The body, decoded, piece by piece; faults as `body_of`."""
    decoder = _decoder(request)
    length = request.headers.get("content-length", "")
    if decoder is None and length.isdigit() and (len(length) > 15 or int(length) > limit):
        raise _too_large(limit)
    size = 0
    async for raw in _received(request, limit, patience):
        for piece in (raw,) if decoder is None else decoder.feed(raw):
            size += len(piece)
            if size > limit:
                raise _too_large(limit)
            yield piece
            if decoder is not None:
                await asyncio.sleep(0)
    if decoder is not None and not decoder.ended:
        raise _unreadable()


async def _received(request: Request, limit: int, patience: float) -> AsyncIterator[bytes]:
    """What comes over the line. A little more than ``limit``: a body that does not compress grows by that."""
    now = asyncio.get_running_loop().time
    began = now()
    size = 0
    while True:
        until = min(now() + patience, began + patience + size / SLOWEST)
        try:
            async with asyncio.timeout_at(until):
                message = await request.receive()
        except TimeoutError:
            raise Fault(Kind.TIMEOUT, "The body did not arrive in time.") from None
        if message["type"] == "http.disconnect":
            raise Fault(Kind.BAD_REQUEST, "The body did not arrive.")
        raw: bytes = message.get("body", b"")
        size += len(raw)
        if size > limit + limit // 64 + 1024:
            raise _too_large(limit)
        if raw:
            yield raw
        if not message.get("more_body", False):
            return


def _too_large(limit: int) -> Fault:
    return Fault(Kind.TOO_LARGE, f"The body is longer than {limit} bytes.")


def _unreadable() -> Fault:
    return Fault(Kind.BAD_REQUEST, "The body is not what its Content-Encoding says, or ends too early.")


class _Decoder(Protocol):
    """``ended``: all that was begun is complete. ``feed`` raises a Fault for what does not decode."""

    ended: bool

    def feed(self, raw: bytes) -> Iterator[bytes]: ...


def _decoder(request: Request) -> _Decoder | None:
    given = ",".join(request.headers.getlist("content-encoding"))
    codings = [item for item in (part.strip().lower() for part in given.split(",")) if item not in ("", "identity")]
    if not codings:
        return None
    if codings in (["gzip"], ["x-gzip"]):
        return _Gzip()
    if codings == ["zstd"]:
        return _Zstd()
    told = "This server decodes gzip and zstd, one of them at a time."
    raise Refused(Kind.UNSUPPORTED_MEDIA, told, headers={"Accept-Encoding": "gzip, zstd"})


class _Gzip:
    """RFC 1952, of one or more members; what comes out is cut to pieces, however much is packed into a few bytes."""

    def __init__(self) -> None:
        from isal import isal_zlib

        zlib: Any = isal_zlib
        self._new: Callable[[], Any] = lambda: zlib.decompressobj(wbits=31)
        self._failure: type[Exception] = zlib.IsalError
        self._stream = self._new()
        self.ended = False

    def feed(self, raw: bytes) -> Iterator[bytes]:
        pending = bool(raw)
        while pending:
            if self.ended:
                self._stream, self.ended = self._new(), False
            try:
                piece = self._stream.decompress(raw, PIECE)
            except self._failure:
                raise _unreadable() from None
            self.ended = self._stream.eof
            raw = self._stream.unused_data if self.ended else self._stream.unconsumed_tail
            # A full piece may leave more behind although nothing of the input is left.
            pending = bool(raw) or (len(piece) == PIECE and not self.ended)
            if piece:
                yield piece


class _Zstd:
    """RFC 8878, of one or more frames."""

    def __init__(self) -> None:
        import zstandard

        self._new: Callable[[], Any] = zstandard.ZstdDecompressor(max_window_size=_WINDOW).decompressobj
        self._failure: type[Exception] = zstandard.ZstdError
        self._stream = self._new()
        self.ended = False

    def feed(self, raw: bytes) -> Iterator[bytes]:
        held: list[bytes] = []
        size = 0
        view = memoryview(raw)
        at = 0
        while at < len(view):
            if self.ended:
                self._stream, self.ended = self._new(), False
            given = view[at : at + _SLICE]
            try:
                out = self._stream.decompress(given)
            except self._failure:
                raise _unreadable() from None
            self.ended = self._stream.eof
            at += len(given) - (len(self._stream.unused_data) if self.ended else 0)
            held.append(out)
            size += len(out)
            if size >= PIECE:
                yield b"".join(held)
                held, size = [], 0
        if size:
            yield b"".join(held)

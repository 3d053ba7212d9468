"""Async batches of records in, bytes of a searchset Bundle or of NDJSON out, in chunks of about 64 KiB.

Chunk size is measured: a send per entry is several times slower, and fresh buffers of 256 KiB and more leave the
allocator's fast path. The first chunk goes out as soon as the first batch is there; a body kept out of line is
passed on piece by piece.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Callable

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.model import Record

CHUNK = 64 * 1024

Body = Callable[[Record], AsyncIterator[bytes]]
Project = Callable[[bytes], bytes]


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """How an answer is written around its resources.

    ``opening`` comes once, before the first resource; ``before(record)`` and ``after`` around each, ``between``
    between two. ``closing(empty)`` is asked for when the last resource is out, and told whether there was none (then
    ``opening`` has not been written).
    """

    opening: bytes
    before: Callable[[Record], bytes]
    after: bytes
    between: bytes
    closing: Callable[[bool], bytes]


def searchset(*, base: bytes, head: bytes, tail: Callable[[], bytes]) -> Shape:
    """A Bundle whose members before the entries are ``head`` (``{"resourceType":…`` without the closing brace) and
    after them ``tail()`` (each led by a comma). ``base`` is the FHIR base with a trailing slash."""

    begun = {type_: b'{"fullUrl":"%b%b/' % (base, type_.encode()) for type_ in RESOURCE_TYPES}

    def before(record: Record) -> bytes:
        return begun[record.type] + record.id.encode() + b'","search":{"mode":"match"},"resource":'

    def closing(empty: bool) -> bytes:
        # R4 forbids an empty array, so a Bundle without entries has no `entry`.
        return (head if empty else b"]") + tail() + b"}"

    return Shape(opening=head + b',"entry":[', before=before, after=b"}", between=b",", closing=closing)


def ndjson(*, last: Callable[[], bytes]) -> Shape:
    """One resource a line; ``last()`` is the closing line, which only a complete answer has."""

    def closing(_empty: bool) -> bytes:
        return last() + b"\n"

    return Shape(opening=b"", before=lambda _record: b"", after=b"\n", between=b"", closing=closing)


async def write(
    shape: Shape, batches: AsyncIterable[list[Record]], *, body: Body, project: Project | None = None
) -> AsyncGenerator[bytes, None]:
    """The answer's bytes. ``body`` reads a body kept out of line; ``project`` cuts each resource (`_elements`)."""
    before, after, between = shape.before, shape.after, shape.between
    pieces: list[bytes] = [shape.opening]
    size = 0
    empty = True
    flushed = False
    async for batch in batches:
        for record in batch:
            content = record.body
            if content is None and project is None:
                pieces += (b"" if empty else between, before(record))
                async for piece in body(record):
                    pieces.append(piece)
                    yield b"".join(pieces)
                    pieces, size, flushed = [], 0, True
                pieces.append(after)
            else:
                if content is None:
                    content = b"".join([piece async for piece in body(record)])
                if project is not None:
                    content = project(content)
                pieces += (b"" if empty else between, before(record), content, after)
                size += len(content)
            empty = False
            if size >= CHUNK:
                for chunk in _cut(b"".join(pieces)):
                    yield chunk
                pieces, size, flushed = [], 0, True
        if not flushed and not empty:
            yield b"".join(pieces)
            pieces, size, flushed = [], 0, True
    closing = shape.closing(empty)
    yield closing if empty else b"".join(pieces) + closing


def _cut(data: bytes) -> list[bytes]:
    if len(data) <= 2 * CHUNK:
        return [data]
    return [data[at : at + CHUNK] for at in range(0, len(data), CHUNK)]

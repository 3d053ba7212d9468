"""Bodies: how one out of line is cut into chunks, that each comes back whole, and how many bytes go into a batch."""

from __future__ import annotations

from collections.abc import AsyncIterator

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Draft, Record

BATCH_BYTES = 4 << 20
"""A batch ends before its bodies grow beyond this (one record at least): memory does not follow the resources' size."""
CHUNK = 256 << 10
STAMP_PART = 1 << 20
"""Chunks of the head are numbered below, of the tail above: the stamp is only known at the commit."""
KEPT = 24 * 3600 * 1000
"""Staged and never published for a day (milliseconds): the process that staged it is gone."""


def parts(draft: Draft) -> list[tuple[int, bytes]]:
    """(number, bytes) of a draft's chunks; the stamp belongs between, as number ``STAMP_PART``."""
    head, tail = draft.head, draft.tail
    found = [(at, head[at * CHUNK : (at + 1) * CHUNK]) for at in range(-(-len(head) // CHUNK))]
    found += [(STAMP_PART + 1 + at, tail[at * CHUNK : (at + 1) * CHUNK]) for at in range(-(-len(tail) // CHUNK))]
    return found


def stamp_part(version: int, stamp: str) -> bytes:
    """The bytes of part ``STAMP_PART``; ``stamp`` is `core.stamp.instant` of the commit's time."""
    return f'"versionId":"{version}","lastUpdated":"{stamp}"'.encode()


async def whole(record: Record, pieces: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """The pieces of the record's body as they come; Unavailable at their end unless they were all of it."""
    given = 0
    async for piece in pieces:
        given += len(piece)
        yield piece
    if given != record.size:  # what is not whole must not end like what is
        raise Unavailable

"""The audit trail as values: its rows with their places, questions about them, and the chain that binds them.

Every row carries a link: the hash of the link before it, of its own place and of its canonical bytes. Whoever changes,
removes or puts in a row breaks the link of the next one. The hash has no key, so the chain proves what was done to the
trail by someone who does not write all of it anew; against that someone, links are exported (docs/audit.md).
"""

from __future__ import annotations

from hashlib import sha256
from typing import NamedTuple

import msgspec

from fhirserver.core.model import AuditRow

BEGIN = bytes(32)
"""The link before the first row."""

canonical = msgspec.msgpack.Encoder(order="deterministic").encode
"""The bytes of a row that its link is made of: the same for equal rows, whichever store has kept them."""


def link(before: bytes, place: bytes, row: bytes) -> bytes:
    """The link of the row at ``place`` with these canonical bytes; ``before``: the link of the row before it."""
    return sha256(before + len(place).to_bytes(2, "big") + place + row).digest()


class Entry(NamedTuple):
    """A row where it stands: ``place`` orders rows as they were appended (a text that its store alone understands);
    ``link`` is empty for rows from before there was a chain."""

    place: str
    row: AuditRow
    link: bytes


class TrailQuery(msgspec.Struct, frozen=True, kw_only=True):
    """Rows of one organisation, about one patient, of a time, newest first (or ``oldest_first``).

    ``since`` <= `AuditRow.at` < ``until``, both in milliseconds since 1970. ``after``: only what comes behind the row
    with this time and place. ``limit``: at most this many.
    """

    organization: str | None = None
    patient: str | None = None
    since: int | None = None
    until: int | None = None
    after: tuple[int, str] | None = None
    oldest_first: bool = False
    limit: int = 500


def event_of(row: AuditRow) -> str:
    """What the row and the one that it closes have in common: the id of the first of them."""
    return row.intent or row.id

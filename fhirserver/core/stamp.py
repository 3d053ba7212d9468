"""Put id, versionId and lastUpdated into a resource's bytes without touching anything else.

A resource is minified once (insignificant whitespace only) and cut where `meta.versionId` and
`meta.lastUpdated` go; a commit then joins ``head + stamp + tail``. Key order, number texts such as ``1.00`` or
``3e2``, unicode escapes and primitive extensions stay as they came.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple

import msgspec

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SPLIT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ENCODE = msgspec.json.Encoder().encode


class Stampable(NamedTuple):
    """A resource cut open at the place of its stamp; see `prepare` and `render`."""

    head: bytes
    tail: bytes


def prepare(raw: bytes, *, id: str) -> Stampable:
    """Minify ``raw`` and cut it for stamping under the logical id ``id``.

    ``raw`` must be a JSON object without duplicate keys (validation has seen to that). An existing `id` or `meta`
    keeps its place; a missing one follows `resourceType`. `meta.versionId` and `meta.lastUpdated` (with their
    primitive extensions) are replaced, everything else in `meta` stays.
    """
    members = _SPLIT.decode(msgspec.json.format(raw, indent=-1))
    meta = _SPLIT.decode(members["meta"]) if "meta" in members else {}
    rest = [
        _member(name, bytes(value))
        for name, value in meta.items()
        if name not in ("versionId", "lastUpdated", "_versionId", "_lastUpdated")
    ]
    order = list(members)
    for name, before in (("id", "resourceType"), ("meta", "id")):
        if name not in members:
            at = order.index(before) + 1 if before in order else 0
            order.insert(at, name)
    where = order.index("meta")

    def written(names: list[str]) -> list[bytes]:
        return [_member(name, _ENCODE(id) if name == "id" else bytes(members[name])) for name in names]

    before_meta, after_meta = written(order[:where]), written(order[where + 1 :])
    head = b"{" + b"".join(part + b"," for part in before_meta) + b'"meta":{'
    tail = b"".join(b"," + part for part in rest) + b"}" + b"".join(b"," + part for part in after_meta) + b"}"
    return Stampable(head, tail)


def _member(name: str, value: bytes) -> bytes:
    return _ENCODE(name) + b":" + value


def render(head: bytes, tail: bytes, version: int, updated: int) -> bytes:
    """The body of version ``version`` last updated at ``updated`` (milliseconds since 1970)."""
    return b'%b"versionId":"%d","lastUpdated":"%b"%b' % (head, version, instant(updated).encode(), tail)


def digest(head: bytes, tail: bytes) -> bytes:
    """16 bytes that are equal for equal content, whatever version it is stamped with."""
    return blake2b(tail, digest_size=16, key=blake2b(head, digest_size=16).digest()).digest()


@lru_cache(maxsize=64)
def instant(milliseconds: int) -> str:
    """Milliseconds since 1970 as a FHIR instant in UTC: ``2026-01-31T09:00:00.000Z``."""
    moment = _EPOCH + timedelta(milliseconds=milliseconds)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.") + f"{moment.microsecond // 1000:03d}Z"

"""Rewrite the references and links of a resource's bytes, and nothing else.

Number texts, key order, unicode escapes and white space survive, because nothing is decoded and encoded again: every
change is an edit of a byte range.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from fhirserver.core.jsontext import UNREADABLE
from fhirserver.core.values import local

_REFERENCE = re.compile(rb'"reference"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_URI = re.compile(rb'"(url|uri|[a-z][A-Za-z]*(?:Uri|Url))"\s*:\s*"((?:urn:|https?:|[A-Z][A-Za-z]+/)[^"\\]+)"')
_LINK = re.compile(rb"(?:href|src)\s*=\s*(?:\\\"|')(urn:(?:uuid|oid):[^\"'\\#<>\s]+)")
_STRING = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)
_LOOKED_FOR = re.compile("reference|url|uri|[a-z][A-Za-z]*(?:Uri|Url)")
_COLON = re.compile(rb"\s*:")
_ENCODE = msgspec.json.Encoder().encode

Resolve = Callable[[str], str | None]
"""The new text of a reference, or None to leave it."""


class Edit(NamedTuple):
    """Put ``text`` in place of the bytes from ``start`` to ``end``."""

    start: int
    end: int
    text: bytes


def apply(raw: bytes, edits: list[Edit]) -> bytes:
    """``raw`` with all edits made; they may not overlap."""
    if not edits:
        return raw
    edits.sort()
    pieces: list[bytes] = []
    at = 0
    for start, end, text in edits:
        pieces += (raw[at:start], text)
        at = end
    pieces.append(raw[at:])
    return b"".join(pieces)


def refer(raw: bytes, resolve: Resolve) -> bytes:
    """Every `Reference.reference` as ``resolve`` wants it."""
    raw = _plainly_named(raw)
    edits: list[Edit] = []
    for found in _REFERENCE.finditer(raw):
        text = _text(found[1])
        new = resolve(text)
        if new is not None and new != text:
            edits.append(Edit(found.start(1), found.end(1), _ENCODE(new)[1:-1]))
    return apply(raw, edits)


def relative(raw: bytes, base: str) -> bytes:
    """Absolute references to resources of this server, whose FHIR base is ``base``, as relative ones: whichever way a
    client writes them, they are references to what is here (R4 references §2.3.0.1)."""
    if base.encode() not in raw and b"\\/" not in raw:
        return raw
    begins = base + "/"

    def resolve(text: str) -> str | None:
        rest = text.removeprefix(begins)
        return rest if rest != text and local(rest) is not None else None

    return refer(raw, resolve)


def _plainly_named(raw: bytes) -> bytes:
    """Without escapes in the names that are looked for: ``"re\\u0066erence"`` is the same name."""
    if b"\\u00" not in raw:
        return raw
    edits = []
    for found in _STRING.finditer(raw):
        if b"\\" in found[0] and _COLON.match(raw, found.end()):
            name = _text(found[0][1:-1])
            if _LOOKED_FOR.fullmatch(name):
                edits.append(Edit(*found.span(), _ENCODE(name)))
    return apply(raw, edits)


def _text(inner: bytes) -> str:
    if b"\\" not in inner:
        return inner.decode(errors="replace")
    try:
        return str(msgspec.json.decode(b'"' + inner + b'"'))
    except UNREADABLE:  # what is not Unicode in it is for validation to complain of
        return inner.decode(errors="replace")


def _is_top(raw: bytes, at: int) -> bool:
    """Whether a value belongs to the resource itself and not to something inside it."""
    before = _STRING.sub(b"", raw[: at - 1])
    return before.count(b"{") + before.count(b"[") - before.count(b"}") - before.count(b"]") == 1


def relink(raw: bytes, resolve: Resolve) -> bytes:
    """Uris and attachment urls outside of references, and links in the narrative, as ``resolve`` wants them.

    The resource's own `url` is its identity and stays (R4 http.html, "transaction rules", asks for all uris).
    """
    edits: list[Edit] = []
    for found in _URI.finditer(raw):
        new = resolve(found[2].decode(errors="replace"))
        if new is not None and not (found[1] == b"url" and _is_top(raw, found.start(2))):
            edits.append(Edit(found.start(2), found.end(2), _ENCODE(new)[1:-1]))
    for found in _LINK.finditer(raw):
        new = resolve(found[1].decode(errors="replace"))
        if new is not None:
            edits.append(Edit(found.start(1), found.end(1), _ENCODE(new)[1:-1]))
    return apply(raw, edits)

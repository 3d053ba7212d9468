"""Rewrite the few bytes of a resource that the import must change, and no others.

Number texts, key order, unicode escapes and white space survive, because nothing is decoded and encoded again:
every change is an edit of a byte range. What is rewritten: references (and uris, attachment urls and links in
the narrative that name an entry of the same Bundle), the id, and known quirks of real sources:

* `birthDate` written as a dateTime: its date part, with no conversion of time zones (it is a date);
* `assurance` inside `Person.link.target`: moved to `Person.link.assurance`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import NamedTuple

import msgspec

from fhirserver.core import structure
from ingest.scan import places, plain, spans

_REFERENCE = re.compile(rb'"reference"\s*:\s*"([^"\\]*(?:\\.[^"\\]*)*)"', re.DOTALL)
_URI = re.compile(rb'"(url|uri|[a-z][A-Za-z]*(?:Uri|Url))"\s*:\s*"((?:urn:|https?:|[A-Z][A-Za-z]+/)[^"\\]+)"')
_LINK = re.compile(rb"(?:href|src)\s*=\s*(?:\\\"|')(urn:(?:uuid|oid):[^\"'\\#<>\s]+)")
_BIRTH = re.compile(rb'"birthDate"\s*:\s*"\d{4}-\d{2}-\d{2}(T[^"\\]*)"')
_BORN = frozenset({"Patient", "Person", "Practitioner", "RelatedPerson"})
_ENCODE = msgspec.json.Encoder().encode

Resolve = Callable[[str], str | None]
"""The new text of a reference, or None to leave it."""


class Edit(NamedTuple):
    """Put ``text`` in place of the bytes from ``start`` to ``end``."""

    start: int
    end: int
    text: bytes


class Cleaned(NamedTuple):
    """A resource ready to be validated; ``quirks``: whether it was written in one of the known wrong ways."""

    raw: bytes
    quirks: bool


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


def straighten(raw: bytes, type_: str) -> Cleaned:
    """Mend the known quirks."""
    edits: list[Edit] = []
    if type_ in _BORN:
        edits += [Edit(found.start(1), found.end(1), b"") for found in _BIRTH.finditer(raw)]
    if type_ == "Person" and b'"assurance"' in raw:
        edits += _assurance(raw)
    return Cleaned(apply(raw, edits), bool(edits))


def _assurance(raw: bytes) -> list[Edit]:
    """Move `assurance` from each `link.target` up to its `link`; one that has both is left for validation."""
    edits: list[Edit] = []
    for top in spans(raw):
        if top.name != "link" or raw[top.value] != ord("["):
            continue
        for start, _ in places(raw, top.value):
            link = spans(raw, start) if raw[start] == ord("{") else []
            target = next((part for part in link if part.name == "target" and raw[part.value] == ord("{")), None)
            if target is None or any(part.name == "assurance" for part in link):
                continue
            inside = spans(raw, target.value)
            for at, part in enumerate(inside):
                if part.name == "assurance" and len(inside) > 1:
                    moved = raw[part.start : part.end]
                    if at:
                        edits.append(Edit(inside[at - 1].end, part.end, b""))
                    else:
                        edits.append(Edit(part.start, inside[1].start, b""))
                    edits.append(Edit(target.end, target.end, b"," + moved))
                    break
    return edits


def refer(raw: bytes, resolve: Resolve) -> bytes:
    """Every `Reference.reference` as ``resolve`` wants it."""
    edits: list[Edit] = []
    for found in _REFERENCE.finditer(raw):
        text = _text(found[1])
        new = resolve(text)
        if new is not None and new != text:
            edits.append(Edit(found.start(1), found.end(1), _ENCODE(new)[1:-1]))
    return apply(raw, edits)


def _text(inner: bytes) -> str:
    return plain(b'"' + inner + b'"') if b"\\" in inner else inner.decode(errors="replace")


def relink(raw: bytes, resolve: Resolve) -> bytes:
    """Uris and attachment urls outside of references, and links in the narrative, as ``resolve`` wants them.

    The resource's own `url` is its identity and stays (R4 http.html, "transaction rules", asks for all uris).
    """
    edits: list[Edit] = []
    for found in _URI.finditer(raw):
        new = resolve(found[2].decode(errors="replace"))
        if new is not None:
            edits.append(Edit(found.start(2), found.end(2), _ENCODE(new)[1:-1]))
    if edits:
        own = {part.value + 1 for part in spans(raw) if part.name == "url"}
        edits = [edit for edit in edits if edit.start not in own]
    for found in _LINK.finditer(raw):
        new = resolve(found[1].decode(errors="replace"))
        if new is not None:
            edits.append(Edit(found.start(1), found.end(1), _ENCODE(new)[1:-1]))
    return apply(raw, edits)


def rename(raw: bytes, id_: str, *, source: tuple[str, str] | None = None) -> bytes:
    """The same resource with the id ``id_``, and with the identifier ``source`` (system, value) if its type has one."""
    parts = spans(raw)
    edits: list[Edit] = []
    first = next((part for part in parts if part.name == "resourceType"), None)
    at = first.end if first else 1
    new = b""
    own = [part for part in parts if part.name == "id"]
    edits += [Edit(part.value, part.end, _ENCODE(id_)) for part in own]
    if not own:
        new += b',"id":' + _ENCODE(id_)
    if source is not None:
        identifier = b'{"system":%b,"value":%b}' % (_ENCODE(source[0]), _ENCODE(source[1]))
        present = next((part for part in parts if part.name == "identifier"), None)
        many = _identifiers(plain(raw[first.value : first.end]) if first else "")
        if present is None and many is not None:
            new += b',"identifier":' + (b"[" + identifier + b"]" if many else identifier)
        elif present is not None and many and raw[present.value] == ord("["):
            empty = not places(raw, present.value)
            edits.append(Edit(present.end - 1, present.end - 1, (b"" if empty else b",") + identifier))
    if new:
        edits.append(Edit(at, at, new))
    return apply(raw, edits)


def _identifiers(type_: str) -> bool | None:
    """Whether the type has several identifiers (True), one (False), or none (None)."""
    try:
        row = next((row for row in structure.elements(type_) if row.name == "identifier"), None)
    except KeyError:
        return None
    return None if row is None or row.types != ("Identifier",) else row.maximum != 1

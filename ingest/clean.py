"""Rewrite the few bytes of a resource that the import must change, and no others.

Number texts, key order, unicode escapes and white space survive, because nothing is decoded and encoded again:
every change is an edit of a byte range. Rewritten here (references are `core.rewrite`'s): the id, and known quirks of
real sources:

* `birthDate` written as a dateTime: its date part, with no conversion of time zones (it is a date);
* `assurance` inside `Person.link.target`: moved to `Person.link.assurance`.
"""

from __future__ import annotations

import re
from typing import NamedTuple

import msgspec

from fhirserver.core import structure
from fhirserver.core.rewrite import Edit, apply
from ingest.scan import places, plain, spans

_BIRTH = re.compile(rb'"birthDate"\s*:\s*"\d{4}-\d{2}-\d{2}(T[^"\\]*)"')
_BORN = frozenset({"Patient", "Person", "Practitioner", "RelatedPerson"})
_ENCODE = msgspec.json.Encoder().encode


class Cleaned(NamedTuple):
    """A resource ready to be validated; ``quirks``: whether it was written in one of the known wrong ways."""

    raw: bytes
    quirks: bool


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

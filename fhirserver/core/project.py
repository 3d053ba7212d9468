"""`_elements` and `_summary`: a resource cut to some of its elements, the rest byte for byte.

Source: R4 search §3.1.1.5.8-9. The mandatory elements always stay, and the result is tagged SUBSETTED. What would leave
an element empty is not cut, since FHIR has no empty elements.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import msgspec

_SPLIT = msgspec.json.Decoder(dict[str, msgspec.Raw])
_ITEMS = msgspec.json.Decoder(list[msgspec.Raw])
SUBSETTED = "SUBSETTED"
"""The code of the tag of a view that leaves something out; what carries it cannot be written back."""

_TAG = b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}'
_ALWAYS = frozenset({"resourceType", "id"})

Kept = Mapping[str, str]
"""Members that stay -> the type by which they are cut inside, or empty: they stay whole."""


def projection(keep: Callable[[str], Kept], inside: Callable[[str], Kept]) -> Callable[[bytes], bytes]:
    """A function that cuts one resource's JSON: ``keep(type)`` says what stays of a resource, ``inside(type)`` of an
    element of that type."""

    def project(content: bytes) -> bytes:
        members = _SPLIT.decode(content)
        kept = keep(msgspec.json.decode(members["resourceType"]))
        parts = []
        if "meta" not in members:
            members = {name: members[name] for name in ("resourceType", "id") if name in members} | {
                "meta": msgspec.Raw(b"{}"),
                **members,
            }
        for name, value in members.items():
            if name == "meta":
                parts.append(b'"meta":' + tag_subsetted(bytes(value)))
            elif name in _ALWAYS:
                parts.append(_member(name, bytes(value)))
            elif name.removeprefix("_") in kept:
                type_ = kept[name.removeprefix("_")]
                parts.append(_member(name, _cut(bytes(value), type_, inside) if type_ else bytes(value)))
        return b"{" + b",".join(parts) + b"}"

    return project


def _cut(value: bytes, type_: str, inside: Callable[[str], Kept]) -> bytes:
    """An element, or a list of them, cut inside; ``null`` in a list stays."""
    if value[:1] == b"[":
        return b"[" + b",".join([_cut(bytes(item), type_, inside) for item in _ITEMS.decode(value)]) + b"]"
    if value[:1] != b"{":
        return value
    kept = inside(type_)
    parts = []
    for name, member in _SPLIT.decode(value).items():
        known = kept.get(name.removeprefix("_"))
        if known is not None:
            parts.append(_member(name, _cut(bytes(member), known, inside) if known else bytes(member)))
    return b"{" + b",".join(parts) + b"}" if parts else value


def _member(name: str, value: bytes) -> bytes:
    return msgspec.json.encode(name) + b":" + value


def tag_subsetted(meta: bytes) -> bytes:
    """The `meta` element's bytes with the SUBSETTED tag, which it may have already."""
    members = _SPLIT.decode(meta)
    tags = bytes(members["tag"]) if "tag" in members else b"[]"
    if _TAG in tags:
        return meta
    tagged = tags[:-1] + (b"," if tags != b"[]" else b"") + _TAG + b"]"
    parts = [_member(name, bytes(value)) for name, value in members.items() if name != "tag"]
    return b"{" + b",".join([*parts, b'"tag":' + tagged]) + b"}"

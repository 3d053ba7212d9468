"""`_elements` and `_summary`: a resource cut to some of its top-level elements, the rest byte for byte.

Source: R4 search §3.1.1.5.8-9. Elements are kept whole (a summary is not cut inside an element); the mandatory ones
always stay, and the result is tagged SUBSETTED.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

_SPLIT = msgspec.json.Decoder(dict[str, msgspec.Raw])
SUBSETTED = "SUBSETTED"
"""The code of the tag of a view that leaves something out; what carries it cannot be written back."""

_TAG = b'{"system":"http://terminology.hl7.org/CodeSystem/v3-ObservationValue","code":"SUBSETTED"}'
_ALWAYS = frozenset({"resourceType", "id", "meta"})


def projection(keep: Callable[[str], Callable[[str], bool]]) -> Callable[[bytes], bytes]:
    """A function that cuts one resource's JSON; ``keep(type)(member)`` says which top-level members stay."""

    def project(content: bytes) -> bytes:
        members = _SPLIT.decode(content)
        kept = keep(msgspec.json.decode(members["resourceType"]))
        parts = []
        for name, value in members.items():
            if name == "meta":
                parts.append(b'"meta":' + tag_subsetted(bytes(value)))
            elif name in _ALWAYS or kept(name.removeprefix("_")):
                parts.append(msgspec.json.encode(name) + b":" + bytes(value))
        return b"{" + b",".join(parts) + b"}"

    return project


def tag_subsetted(meta: bytes) -> bytes:
    """The `meta` element's bytes with the SUBSETTED tag added."""
    members = _SPLIT.decode(meta)
    tags = bytes(members["tag"]) if "tag" in members else b"[]"
    tagged = tags[:-1] + (b"," if tags != b"[]" else b"") + _TAG + b"]"
    parts = [msgspec.json.encode(name) + b":" + bytes(value) for name, value in members.items() if name != "tag"]
    return b"{" + b",".join([*parts, b'"tag":' + tagged]) + b"}"

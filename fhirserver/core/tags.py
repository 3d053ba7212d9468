"""The sets of `meta`: profiles, tags and security labels, joined and taken away, all other bytes left as they are.

Source: R4 resource-operations `$meta-add`, `$meta-delete`: a tag or label is its system and code, a profile its URL.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator

import msgspec

SETS = ("profile", "security", "tag")
MOST = 10_000
"""How many different profiles, tags and labels one summary holds."""

_split = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_items = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode
_NULL = b"null"


class _Coding(msgspec.Struct):
    system: str = ""
    code: str = ""


class _Holder(msgspec.Struct):
    meta: dict[str, msgspec.Raw] = {}


_coding = msgspec.json.Decoder(_Coding).decode
_holder = msgspec.json.Decoder(_Holder).decode

_Pairs = list[tuple[bytes, bytes]]
"""An array with the one of its primitive extensions beside it."""


def meta_of(body: bytes) -> bytes:
    """The `meta` of a resource's JSON; ``{}`` where there is none."""
    members = _split(body)
    return bytes(members["meta"]) if "meta" in members else b"{}"


def added(body: bytes, given: bytes) -> bytes:
    """The resource with the sets of the Meta ``given`` added to its own; the same bytes where it has them all."""

    def join(held: _Pairs, more: _Pairs, identity: Callable[[bytes], Hashable]) -> _Pairs:
        known = {identity(value) for value, _ in held}
        joined = list(held)
        for value, _ in more:
            if identity(value) not in known:
                known.add(identity(value))
                joined.append((value, _NULL))
        return joined

    return _changed(body, given, join)


def removed(body: bytes, given: bytes) -> bytes:
    """The resource without what the Meta ``given`` names; the same bytes where it has none of it."""

    def leave(held: _Pairs, fewer: _Pairs, identity: Callable[[bytes], Hashable]) -> _Pairs:
        named = {identity(value) for value, _ in fewer}
        return [pair for pair in held if identity(pair[0]) not in named]

    return _changed(body, given, leave)


def _changed(
    body: bytes, given: bytes, change: Callable[[_Pairs, _Pairs, Callable[[bytes], Hashable]], _Pairs]
) -> bytes:
    members, asked = _split(body), _split(given)
    meta = _split(members["meta"]) if "meta" in members else {}
    unchanged = True
    for name in SETS:
        if name not in asked:
            continue
        before = _pairs(meta, name)
        after = change(before, _pairs(asked, name), _url if name == "profile" else _code)
        if after != before:
            unchanged = False
            _put(meta, name, after)
    if unchanged:
        return body
    if "meta" not in members:  # a stored resource always has one
        members = {**members, "meta": msgspec.Raw(b"{}")}
    members["meta"] = msgspec.Raw(_object(meta))
    return _object(members)


def _pairs(meta: dict[str, msgspec.Raw], name: str) -> _Pairs:
    values = [msgspec.json.format(bytes(item), indent=-1) for item in _items(meta[name])] if name in meta else []
    beside = [bytes(item) for item in _items(meta[f"_{name}"])] if f"_{name}" in meta else []
    return list(zip(values, beside + [_NULL] * (len(values) - len(beside)), strict=True))


def _put(meta: dict[str, msgspec.Raw], name: str, pairs: _Pairs) -> None:
    for key, values in ((name, [value for value, _ in pairs]), (f"_{name}", [beside for _, beside in pairs])):
        if not pairs or (key != name and all(value == _NULL for value in values)):
            meta.pop(key, None)
        else:
            meta[key] = msgspec.Raw(b"[" + b",".join(values) + b"]")


def _object(members: dict[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(_encode(name) + b":" + bytes(value) for name, value in members.items()) + b"}"


def _url(value: bytes) -> Hashable:
    return value


def _code(value: bytes) -> Hashable:
    coding = _coding(value)
    return (coding.system, coding.code) if coding.system or coding.code else value


class Summary:
    """The profiles, tags and labels of many resources, each once, in the order in which they are met."""

    def __init__(self) -> None:
        self._found: dict[str, dict[Hashable, bytes]] = {name: {} for name in SETS}

    def take(self, body: bytes) -> None:
        """Those of one resource's JSON. OverflowError when there are more than `MOST` different ones in all."""
        for name, value in _values(body):
            found = self._found[name]
            found.setdefault((_url if name == "profile" else _code)(value), value)
            if len(found) > MOST:
                raise OverflowError

    def meta(self) -> bytes:
        """A Meta with all of them; ``{}`` where there is none."""
        sets = {
            name: msgspec.Raw(b"[" + b",".join(found.values()) + b"]") for name, found in self._found.items() if found
        }
        return _object(sets)


def _values(body: bytes) -> Iterator[tuple[str, bytes]]:
    meta = _holder(body).meta
    for name in SETS:
        if name in meta:
            for value, _ in _pairs(meta, name):
                if value != _NULL:
                    yield name, value

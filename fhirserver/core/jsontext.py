"""JSON text into values, strictly, with the place of what is wrong: syntax, encoding, duplicate names."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

from fhirserver.core.errors import Invalid, Issue, Kind

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_DECODER = msgspec.json.Decoder()
_POSITION = re.compile(r"\(byte (\d+)\)")
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}").fullmatch


UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What `msgspec.json.decode` raises for bytes that are no JSON, not UTF-8, too deep, or not of the type asked for."""


class Malformed(Invalid):
    """The bytes cannot be read; ``issue`` says what and where.

    A BAD_REQUEST where they are no JSON, INVALID where they are and hold a number that nothing here can hold.
    """

    def __init__(self, issue: Issue, kind: Kind = Kind.BAD_REQUEST) -> None:
        super().__init__([issue], kind)
        self.issue = issue


def without_mark(raw: bytes) -> bytes:
    """``raw`` without a UTF-8 byte order mark, which RFC 8259 forbids to send and allows to ignore."""
    return raw.removeprefix(_BYTE_ORDER_MARK)


def is_json(raw: bytes) -> bool:
    """Whether the bytes can be parsed, whatever they say; RFC 8259 lets a parser refuse what begins with a mark."""
    try:
        decode(raw)
    except Malformed as malformed:
        return malformed.kind is Kind.INVALID
    return True


def decode(raw: bytes) -> Any:
    """The JSON value; raises Malformed. Of duplicate names the last one stays: see `duplicates`."""
    try:
        return _DECODER.decode(raw)
    except msgspec.ValidationError:
        told = Issue("value", "holds a number beyond the range of a 64-bit float")
        raise Malformed(told, Kind.INVALID) from None
    except msgspec.DecodeError as error:
        raise Malformed(Issue("structure", _syntax(raw, str(error)))) from None
    except UnicodeDecodeError:
        raise Malformed(Issue("structure", _encoding(raw))) from None
    except RecursionError:
        raise Malformed(Issue("structure", "the JSON is nested too deeply")) from None


def _syntax(raw: bytes, message: str) -> str:
    if raw.startswith(_BYTE_ORDER_MARK):
        return "must not begin with a byte order mark"
    match = _POSITION.search(message)
    if match is not None:
        what = message.removeprefix("JSON is malformed: ")[: match.start() - len(message)].strip()
        return f"not valid JSON: {what.partition(' (byte')[0]}{_place(raw, int(match[1]))}"
    if not raw.strip():
        return "there is no content"
    if _HALF.search(raw):
        return "not valid JSON: a string holds half of a surrogate pair, or the text ends too early"
    return f"not valid JSON: it ends too early{_place(raw, len(raw))}"


def _encoding(raw: bytes) -> str:
    try:
        raw.decode()
    except UnicodeDecodeError as error:
        return f"not valid UTF-8{_place(raw, error.start)}"
    return "not valid UTF-8"


def _place(raw: bytes, position: int) -> str:
    before = raw[:position]
    line = before.count(b"\n") + 1
    column = len(before[before.rfind(b"\n") + 1 :].decode(errors="replace")) + 1
    return f" (line {line}, column {column})"


def is_single(raw: bytes, members: int) -> bool:
    """Whether the JSON surely repeats no name, given how many members its decoded objects hold in all.

    Without insignificant blanks every name is followed by ``":``. The same three characters inside a string, or
    a repeated name, make the count larger, never smaller: equal counts mean no repetition.
    """
    return msgspec.json.format(raw, indent=-1).count(b'":') == members


class _Members(dict[str, Any]):
    """An object as read, with the names that came more than once."""

    repeated: tuple[str, ...] = ()


def _object(pairs: list[tuple[str, Any]]) -> _Members:
    made = _Members(pairs)
    if len(made) != len(pairs):
        seen: set[str] = set()
        made.repeated = tuple(dict.fromkeys(name for name, _ in pairs if name in seen or seen.add(name)))  # type: ignore[func-returns-value]  # the idiom: add() is None, so a first meeting is not listed
    return made


def duplicates(raw: bytes) -> list[Issue]:
    """An issue for each name that an object has more than once, in document order."""
    top = json.loads(raw, object_pairs_hook=_object, parse_int=len, parse_float=len)
    root = top.get("resourceType") if isinstance(top, dict) else None
    found: list[Issue] = []
    pending: list[tuple[str, Any]] = [(root if isinstance(root, str) and _NAME(root) else "", top)]
    while pending:
        path, value = pending.pop()
        if isinstance(value, _Members):
            for name in value.repeated:
                known = bool(_NAME(name))
                text = f"the member {name} is there more than once" if known else "a member is there more than once"
                found.append(Issue("structure", text, _join(path, name) if known else path))
            pending.extend((_join(path, name), value[name]) for name in reversed(value))
        elif isinstance(value, list):
            pending.extend((f"{path}[{at}]", each) for at, each in reversed(list(enumerate(value))))
    return found


def _join(path: str, name: str) -> str:
    plain = name.removeprefix("_")
    return f"{path}.{plain}" if path else plain

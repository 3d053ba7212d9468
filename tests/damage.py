"""JSON taken apart at random: members lost, doubled, replaced by what nobody expects; then the text itself."""

from __future__ import annotations

import gzip
import json
from random import Random
from typing import Any

DEEP = 3_000
STRINGS = (
    "", " ", "\x00", "\ud800", "\udfff\ud800", "é" * 300, "a" * 70_000, "Patient/", "Patient/p0", "#", "#x",
    "urn:uuid:x",
    "Patient?identifier=", "2020-02-30", "9999-99-99", "0000", "-1", "1e999", "<div>", "<!DOCTYPE a [<!ENTITY b 'c'>]>",
    '<div xmlns="http://www.w3.org/1999/xhtml">&lt;</div>', "\u202e", "\ufeff", "%00", "${1}", "' OR 1=1 --",
    "\r\nX: y",
    "$where", "../../etc/passwd", "Observation", "resourceType", "id", "true", "null", "(((((", "Patient.name[",
    "a|b|c|d",
)  # fmt: skip
NUMBERS = (
    "0", "-0", "1", "-1", "1e400", "-1e400", "1E-400", "0.1e1", "1" * 40, "1" * 5_000, "1.5", "9223372036854775808",
    "-9223372036854775809", "1." + "0" * 400, "3e2", "2147483648",
)  # fmt: skip
NAMES = (
    "id", "meta", "resourceType", "extension", "_id", "_status", "valueString", "value", "contained", "text", "div",
    "reference", "", "\x00", "é", "\ud800", "__proto__", "$set", "a.b", "url", "fhir_comments", "entry", "resource",
)  # fmt: skip


class Members(list[Any]):
    """A JSON object as pairs, so that a name can come twice."""


class Number(str):
    """The text of a JSON number."""

    __slots__ = ()


def tree(text: bytes) -> Any:
    return json.loads(
        text,
        object_pairs_hook=lambda pairs: Members(list(pair) for pair in pairs),
        parse_int=Number,
        parse_float=Number,
    )


def written(value: Any) -> str:
    if isinstance(value, Members):
        return "{" + ",".join(f"{json.dumps(name)}:{written(each)}" for name, each in value) + "}"
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    return value if isinstance(value, Number) else json.dumps(value)


def anything(random: Random) -> Any:
    """A value of any kind, wrong almost everywhere."""
    kind = random.randrange(10)
    if kind < 3:
        return random.choice(STRINGS)
    if kind < 5:
        return Number(random.choice(NUMBERS))
    if kind == 5:
        return random.choice((True, False, None))
    if kind == 6:
        return random.choice(([], [None], [[]], [Members()], Members()))
    if kind == 7:
        return Members([[random.choice(NAMES), random.choice(STRINGS)], [random.choice(NAMES), None]])
    if kind == 8:
        return [random.choice(STRINGS)] * random.choice((1, 2, 200))
    return Members([["resourceType", random.choice(("Patient", "Bundle", "Nonsense", "Parameters"))]])


def damage(value: Any, random: Random) -> Any:
    """The value with one thing in it changed; objects and lists are changed where they stand."""
    places: list[tuple[Any, int]] = []
    pending = [value]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            places += [(one, at) for at in range(len(one))]
            pending += [pair[1] for pair in one] if isinstance(one, Members) else one
    if not places or random.random() < 0.02:
        return anything(random)
    holder, at = random.choice(places)
    pairs = isinstance(holder, Members)
    how = random.randrange(6)
    if how == 0:
        del holder[at]
    elif how == 1:
        holder.insert(random.randrange(len(holder) + 1), holder[at])
    elif how == 2 and pairs:
        holder[at] = [random.choice(NAMES), holder[at][1]]
    elif how == 3 and pairs:
        holder.insert(at, [random.choice(NAMES), anything(random)])
    elif how == 4 and pairs:
        other = random.choice(places)
        holder[at] = [holder[at][0], other[0][other[1]][1] if isinstance(other[0], Members) else other[0][other[1]]]
        if _within(holder, holder[at][1]):
            holder[at] = [holder[at][0], None]
    elif pairs:
        holder[at] = [holder[at][0], anything(random)]
    else:
        holder[at] = anything(random)
    return value


def _within(holder: Any, value: Any) -> bool:
    """Whether ``value`` holds ``holder``, which would make it endless."""
    pending = [value]
    while pending:
        one = pending.pop()
        if one is holder:
            return True
        if isinstance(one, list):
            pending += one
    return False


def text(value: Any, random: Random) -> bytes:
    """The JSON text; once in a while with its bytes damaged too, or with something nested without end in it."""
    made = written(value).encode(errors="surrogatepass")
    how = random.randrange(60)
    at = random.randrange(len(made) + 1)
    if how == 0:
        return made[:at]
    if how == 1:
        return made[:at] + random.randbytes(random.randrange(1, 9)) + made[at:]
    if how == 2:
        return made.replace(b":", b":" + b"[" * DEEP + b"]" * DEEP + b",", 1)
    if how == 3:
        return b'{"a":' * DEEP + made + b"}" * DEEP
    if how == 4:
        return random.choice(
            (b"", b" ", b"null", b"[]", b"{}", b'""', b"0", b"\xef\xbb\xbf" + made, made + made, random.randbytes(50))
        )
    if how == 5:
        return made.replace(b'"', b'"\\ud800', random.randrange(1, 4))
    return made


def coded(body: bytes, random: Random) -> tuple[bytes, bytes]:
    """(Content-Encoding, body) that may or may not belong together: bombs, truncated and mislabelled streams."""
    import zstandard

    packed = gzip.compress(body, 1)
    zstd = zstandard.ZstdCompressor(level=1).compress(body)
    return random.choice((
        (b"gzip", packed), (b"gzip", packed[:-5]), (b"gzip", body), (b"zstd", zstd), (b"zstd", zstd[:-3]),
        (b"zstd", packed), (b"x-gzip", packed + packed), (b"br", body), (b"gzip, gzip", gzip.compress(packed)),
        (b"identity", body), (b"gzip", _BOMB), (b"zstd", _ZSTD_BOMB), (b"gzip", b""), (b"\xff", body),
    ))  # fmt: skip


def _bombs() -> tuple[bytes, bytes]:
    import zstandard

    zeros = b"[" * (8 << 20)
    return gzip.compress(zeros, 9), zstandard.ZstdCompressor(level=3).compress(zeros)


_BOMB, _ZSTD_BOMB = _bombs()

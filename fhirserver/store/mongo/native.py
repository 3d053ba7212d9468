"""Native documents: current resources as BSON that people query with MongoDB's own tools; see docs/native-documents.md.

A document is the resource's JSON, member by member, with its id as ``_id`` in front and what the server knows about it
in ``_store`` at the end. It is a copy for queries: nothing is ever served from it, so it may round what BSON cannot
hold, and a resource that BSON cannot hold at all has none.
"""

from __future__ import annotations

from decimal import MAX_EMAX, MIN_EMIN, ROUND_HALF_EVEN, Context, DecimalException
from functools import lru_cache
from typing import Any

import bson
import msgspec
from bson.datetime_ms import DatetimeMS
from bson.decimal128 import Decimal128
from bson.int64 import Int64

from fhirserver.core.model import Facts, Key
from fhirserver.core.stamp import instant

NATIVE_BOUND = 4 << 20
"""Bytes of JSON, less the two values of the stamp, above which a resource has no native document."""
LARGEST = NATIVE_BOUND + 64
"""Bytes of a stamped body above which it has none, whatever its stamp: not worth reading."""
MAX_BSON = 15 << 20
"""Bytes of BSON above which there is none: a server takes 16 MiB, and the stamp is still to come."""
MAX_LEVELS = 100
"""Objects and arrays within each other, the document itself included: what MongoDB documents as its limit."""
MAX_DIGITS = 34
"""Significant digits of a Decimal128."""

_MEASURED_FROM = 1 << 20
"""Bytes of JSON from which the BSON is measured. An array of one-digit numbers grows most, to 6.5 times its size, the
two in `_store` that repeat ids from references stay below that; so what is smaller fits."""
_REMEMBERED = 40
"""Characters of the longest number whose Decimal128 is remembered: the same numbers come again and again."""
_AS_ZERO = bytes.maketrans(b"123456789", b"000000000")
_LONG_NUMBER = b"0" * 19
"""Every integer beyond 64 bits has at least so many digits."""
_ROUND = Context(prec=MAX_DIGITS, rounding=ROUND_HALF_EVEN, Emin=MIN_EMIN, Emax=MAX_EMAX, traps=[])
_INT64 = range(-(2**63), 2**63)


def document(key: Key, content: bytes, facts: Facts) -> dict[str, Any] | None:
    """The resource as a document, still to be `stamped`; None when it cannot stand as one.

    ``content`` is its JSON with any stamp that `core.stamp` gives; the stamp does not count, so every version of equal
    content has a document or has none. It has none when it is larger than `NATIVE_BOUND`, or as BSON than `MAX_BSON`,
    is nested deeper than `MAX_LEVELS`, or has a member name with U+0000.
    """
    if len(content) > LARGEST:
        return None
    members = _decode(content)
    meta = members["meta"]
    size = len(content) - len(meta["versionId"]) - len(meta["lastUpdated"])
    if size > NATIVE_BOUND or (_doubtful(content) and not _settle(members)):
        return None
    meta["versionId"] = meta["lastUpdated"] = ""
    found: dict[str, Any] = {"_id": key.id}
    found.update(members)
    found["_id"] = key.id  # not the extensions of the resource's id, which have the same name in JSON
    found["_store"] = {
        "custodian": facts.custodian,
        "parties": list(facts.parties),
        "owners": list(facts.owners),
        "compartments": list(facts.compartments),
        "labels": list(facts.labels),
    }
    if size >= _MEASURED_FROM and len(bson.encode(found)) > MAX_BSON:
        return None
    return found


def stamped(document: dict[str, Any], *, version: int, seq: int, updated: int) -> dict[str, Any]:
    """A copy with the version's numbers in ``meta`` and ``_store``; ``updated`` in milliseconds since 1970."""
    return {
        **document,
        "meta": {**document["meta"], "versionId": str(version), "lastUpdated": instant(updated)},
        "_store": {**document["_store"], "version": version, "seq": Int64(seq), "updated": DatetimeMS(updated)},
    }


def decimal(text: str) -> Decimal128 | str:
    """A JSON number as Decimal128, with the scale of its text: ``1.00`` stays ``1.00`` and ``3e2`` ``3E+2``.

    More than `MAX_DIGITS` significant digits are rounded, half to even. A number that is too small or too large for
    the exponent (10**-6176 to 10**6144) stays the text it is.
    """
    return _remembered(text) if len(text) <= _REMEMBERED else _decimal(text)


@lru_cache(maxsize=8192)
def _remembered(text: str) -> Decimal128 | str:
    return _decimal(text)


def _decimal(text: str) -> Decimal128 | str:
    try:
        return Decimal128(text)
    except DecimalException:  # does not fit as it is
        pass
    rounded = _ROUND.create_decimal(text)
    if not rounded or not rounded.is_finite():
        return text
    try:
        return Decimal128(rounded)
    except DecimalException:
        return text


_decode = msgspec.json.Decoder(dict[str, Any], float_hook=decimal).decode


def _doubtful(content: bytes) -> bool:
    """Whether the JSON might hold what takes a walk to find; a few fast looks at its bytes say no to nearly all."""
    return (
        content.count(b"{") + content.count(b"[") > MAX_LEVELS
        or _LONG_NUMBER in content.translate(_AS_ZERO)
        or b"\\u0000" in content
    )


def _settle(root: dict[str, Any]) -> bool:
    """Make integers beyond 64 bits Decimal128, in place. False when BSON cannot hold the depth or a name."""
    level: list[Any] = [root]
    for _ in range(MAX_LEVELS):
        deeper: list[Any] = []
        for container in level:
            named = type(container) is dict
            if named and "\0" in "".join(container):
                return False
            for place, value in container.items() if named else enumerate(container):
                kind = type(value)
                if kind is dict or kind is list:
                    deeper.append(value)
                elif kind is int and value not in _INT64:
                    container[place] = decimal(str(value))
        if not deeper:
            return True
        level = deeper
    return False

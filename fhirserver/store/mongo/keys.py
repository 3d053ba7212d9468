"""Keys: texts and spans as strings, kept among the terms of a resource so that one index bounds them all.

An array of ``{n, v}`` under an index on both fields does not do: the engine bounds such an index by the name alone
(measured on 40,000 documents: 40 ms and 40,000 documents read where a range of flat strings reads the 5 that match in
0.5 ms), and another index costs every write.

* A text: its mark, its name, and the first `TEXT_BOUND` characters.
* A span: its mark, its name, a letter for how wide it is, and where it begins, in an order-preserving form that is a
  little coarser than the number. With the width known, a bound on where a span ends is one on where it begins.

A span ``name=unit`` has no key where there is the same span ``name``: of a quantity it is there once per way to name
its unit, and these were a third of all keys.

Names are cut down to checksums: written out, they made the keys three times as long and the index a quarter larger.
What lies in a range of keys is only what a criterion may hold for; the entries themselves decide.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from math import inf
from zlib import crc32

from fhirserver.core.model import Index
from fhirserver.store.widths import beginnings, width_class

TEXT_BOUND = 48
_TEXT, _SPAN = "\x01", "\x02"
"""Marks that no term begins with."""

_LETTERS = "pdyw"
"""Of the classes of `store.widths`."""
_ALPHABET = "-0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
_PAIRS = [first + second for first in _ALPHABET for second in _ALPHABET]
_HALVES = (36, 24, 12, 0)
_SIGN, _ALL = 1 << 47, (1 << 48) - 1

Range = tuple[str, str]
"""From the first key on, up to the second one, which does not belong to it."""


def keys(index: Index) -> list[str]:
    """The keys of a resource's texts and spans, sorted, each once."""
    found = {_name(_TEXT, name) + text[:TEXT_BOUND] for name, text in index.texts}
    spans = set(index.spans)
    for name, low, high in index.spans:
        bare = name.partition("=")[0]
        if bare == name or (bare, low, high) not in spans:
            found.add(_name(_SPAN, name) + _LETTERS[width_class(low, high)] + ordered(low))
    return sorted(found)


def text_range(name: str, beginning: str) -> Range:
    """Where the texts of this name lie that begin so."""
    return _beginning_with(_name(_TEXT, name) + beginning[:TEXT_BOUND])


def span_ranges(name: str, low: tuple[float, float], high: tuple[float, float]) -> list[Range]:
    """Where the spans of this name lie that begin within ``low`` and end within ``high``."""
    ranges = []
    for each in dict.fromkeys((name, name.partition("=")[0])):
        for number, first, last in beginnings(low, high):
            begin = _name(_SPAN, each) + _LETTERS[number]
            start = begin if first == -inf else begin + ordered(first)
            ranges.append((start, _beginning_with(begin if last == inf else begin + ordered(last))[1]))
    return ranges


def _beginning_with(text: str) -> Range:
    return text, after(text) or _TEXT


def after(text: str) -> str | None:
    """The least text that is greater than all that begin with this one; None: there is none."""
    for at in range(len(text) - 1, -1, -1):
        code = ord(text[at]) + 1
        if code <= 0x10FFFF:
            return text[:at] + chr(0xE000 if code == 0xD800 else code)
    return None


@lru_cache(maxsize=8192)
def _name(mark: str, name: str) -> str:
    code = crc32(name.encode("utf-8", "surrogatepass"))
    return mark + _PAIRS[code >> 24 & 0xFFF] + _PAIRS[code >> 12 & 0xFFF] + _PAIRS[code & 0xFFF]


def ordered(number: float) -> str:
    """Eight letters that sort as the numbers do; close ones (36 bits alike: times of 16 ms) have the same."""
    (bits,) = struct.unpack(">Q", struct.pack(">d", number + 0.0))
    top = bits >> 16
    top = top ^ _ALL if bits >> 63 else top | _SIGN
    return "".join([_PAIRS[top >> half & 0xFFF] for half in _HALVES])

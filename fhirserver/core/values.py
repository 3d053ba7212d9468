"""Normal forms of FHIR values for the search index: text, dates, numbers, references; cached, and total.

Every function here takes whatever stands in the resource and gives None (or nothing) for a value that has no normal
form, because an index must never refuse what validation accepted.
"""

from __future__ import annotations

import math
import re
import unicodedata
from decimal import Decimal
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from fhirserver.core import definitions
from fhirserver.core.dates import interval
from fhirserver.core.model import MAX_TIME, MIN_TIME

TEXT_LIMIT = 1000
"""A normalised text is cut here: prefix search needs no more, and a megabyte of markdown must not enter an index."""
MIN_NUMBER = -1.7976931348623157e308
"""The open low end of a Range; finite, so that it survives JSON and every store."""
MAX_NUMBER = 1.7976931348623157e308
"""The open high end of a Range."""

_REST = r"([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[A-Za-z0-9\-.]{1,64})?(?:#\S*)?"
_LOCAL = re.compile(_REST, re.ASCII)
_ABSOLUTE = re.compile(rf"https?://[^\s?#]*/{_REST}", re.ASCII)


class Target(NamedTuple):
    """What a local reference points at; ``text`` is ``Type/id``."""

    text: str
    type: str
    id: str


def text_of(value: dict[str, Any], field: str) -> str:
    """The string at ``field``, empty when it is not there or no string."""
    found = value.get(field)
    return found if type(found) is str else ""


def items(value: Any) -> list[Any]:
    """A list as it is, nothing for anything else."""
    return value if type(value) is list else []


def normalise(text: str) -> str:
    """Case folded, accents stripped, whitespace collapsed, at most `TEXT_LIMIT` characters."""
    if not text.isascii():
        decomposed = unicodedata.normalize("NFKD", text[: 4 * TEXT_LIMIT].casefold())
        text = "".join(character for character in decomposed if not unicodedata.combining(character))
    return " ".join(text[: 4 * TEXT_LIMIT].casefold().split())[:TEXT_LIMIT]


def unpunctuated(text: str) -> str:
    """`normalise` without punctuation, as a string parameter looks for texts (R4 search §3.1.1.4.8)."""
    normal = normalise(text)
    if normal.isalnum():
        return normal
    if normal.isascii():
        return " ".join(normal.encode().translate(None, _PUNCTUATION).decode().split())
    return " ".join("".join(each for each in normal if not _is_punctuation(each)).split())


def _is_punctuation(character: str) -> bool:
    return unicodedata.category(character).startswith("P")


_PUNCTUATION = bytes(code for code in range(128) if _is_punctuation(chr(code)))


def exact(text: str) -> str:
    """The text as `:exact` compares it: as it is; one longer than `TEXT_LIMIT` by its beginning and a digest of all."""
    if len(text) <= TEXT_LIMIT:
        return text
    return f"{text[:TEXT_LIMIT]}#{blake2b(text.encode(errors='surrogatepass'), digest_size=16).hexdigest()}"


@lru_cache(maxsize=16384)
def local(reference: str) -> Target | None:
    """The target of ``Type/id``, with or without ``/_history/n`` and ``#fragment``; None for any other form."""
    match = _LOCAL.fullmatch(reference)
    if match is None or match[1] not in definitions.RESOURCE_TYPES:
        return None
    return Target(f"{match[1]}/{match[2]}", match[1], match[2])


@lru_cache(maxsize=16384)
def named_type(reference: str) -> str:
    """The resource type that a reference's text names, local or absolute; empty when it names none."""
    match = _LOCAL.fullmatch(reference) or _ABSOLUTE.fullmatch(reference)
    return match[1] if match is not None and match[1] in definitions.RESOURCE_TYPES else ""


@lru_cache(maxsize=16384)
def moment(text: str) -> tuple[int, int] | None:
    """The first and last millisecond of a date, dateTime or instant."""
    try:
        low, high = interval(text)
    except ValueError:
        return None
    return min(max(low, MIN_TIME), MAX_TIME), min(max(high, MIN_TIME), MAX_TIME)


def period(value: Any) -> tuple[int, int] | None:
    """A Period's first and last millisecond; a missing end is open; None when both are missing.

    One that ends before it starts is taken from the earlier date to the later.
    """
    if type(value) is not dict:
        return None
    start, end = value.get("start"), value.get("end")
    first = moment(start) if type(start) is str else None
    last = moment(end) if type(end) is str else None
    if first is None:
        return (MIN_TIME, last[1]) if last else None
    if last is None:
        return first[0], MAX_TIME
    return (first[0], last[1]) if first[0] <= last[1] else (last[0], first[1])


def timing(value: Any) -> tuple[int, int] | None:
    """From the first to the last millisecond of a Timing's events and of its repetition's bounds, where these are a
    Period: the outer limits of all times, even if there are gaps (R4 search §3.1.1.4.7). None when it names no time."""
    if type(value) is not dict:
        return None
    found = [moment(event) for event in items(value.get("event")) if type(event) is str]
    repeat = value.get("repeat")
    found.append(period(repeat.get("boundsPeriod")) if type(repeat) is dict else None)
    known = [each for each in found if each is not None]
    return (min(low for low, _ in known), max(high for _, high in known)) if known else None


def number(value: Any) -> float | None:
    """A JSON number as a finite float."""
    if type(value) is float:
        return value if math.isfinite(value) else None
    if type(value) is int or isinstance(value, Decimal):
        try:
            converted = float(value)
        except OverflowError:
            return None
        return converted if math.isfinite(converted) else None
    return None


def limits(low: float | None, high: float | None) -> tuple[float, float] | None:
    """The interval between two numbers, from the lesser to the greater; either end may be open; None when both are."""
    if low is None:
        return None if high is None else (MIN_NUMBER, high)
    if high is None:
        return low, MAX_NUMBER
    return (low, high) if low <= high else (high, low)


def contained_type(reference: str, resource: Any) -> str:
    """The type of the contained resource that ``#id`` names; empty when there is none."""
    contained = items(resource.get("contained")) if type(resource) is dict else []
    for inner in contained:
        if type(inner) is dict and inner.get("id") == reference[1:]:
            return text_of(inner, "resourceType")
    return ""

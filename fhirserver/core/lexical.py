"""What R4 allows as the value of each primitive datatype (https://hl7.org/fhir/R4/datatypes.html#primitive).

Each rule tells a problem in words and never quotes the value: it may be a name or a birth date. Where the
specification says SHOULD, nothing is refused, with one exception: characters that XML cannot carry at all (such
as U+0000) are, because a FHIR resource has to have both forms.
"""

from __future__ import annotations

import re
from binascii import Error, a2b_base64
from calendar import monthrange
from collections.abc import Callable
from typing import Any, NamedTuple

from fhirserver.core.narrative import narrative_problem

MAX_STRING = 1024 * 1024
"""Characters in a string or markdown: R4, "strings SHALL NOT exceed 1MB (1024*1024 characters) in size"."""

Problem = Callable[[Any], str]
"""value of the right JSON kind -> what is wrong with it; empty when nothing is."""


class Primitive(NamedTuple):
    """``kinds``: the Python types of its JSON values; ``said``: the JSON kind in words; ``problem``: its rule.

    ``repeats``: values recur so often that remembering good ones beats judging them again.
    """

    name: str
    kinds: tuple[type, ...]
    said: str
    problem: Problem
    repeats: bool = False


_UNSUITABLE = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")
_YEAR = r"(?!0000)[0-9]{4}"
_CLOCK = r"(?:[01][0-9]|2[0-3]):[0-5][0-9]:(?:[0-5][0-9]|60)(?:\.[0-9]+)?"
_ZONE = r"(?:Z|[+-](?:(?:0[0-9]|1[0-3]):[0-5][0-9]|14:00))"
_DAY = rf"({_YEAR})-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
_DATE = re.compile(rf"{_DAY}|{_YEAR}(?:-(?:0[1-9]|1[0-2]))?").fullmatch
_DATE_TIME = re.compile(rf"{_DAY}(?:T{_CLOCK}{_ZONE})?|{_YEAR}(?:-(?:0[1-9]|1[0-2]))?").fullmatch
_INSTANT = re.compile(rf"{_DAY}T{_CLOCK}{_ZONE}").fullmatch
_ZONELESS = re.compile(rf"{_DAY}T{_CLOCK}").fullmatch
_TIME = re.compile(_CLOCK).fullmatch
is_id = re.compile(r"[A-Za-z0-9\-.]{1,64}").fullmatch
"""Whether a text is an `id`: 1 to 64 letters, digits, '-' and '.'."""
is_absolute = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:").match
"""Whether a URI begins with a scheme (RFC 3986 §4.3), and so is none that is relative to something."""
_CODE = re.compile(r"[^\s]+(?:\s[^\s]+)*").fullmatch
_BLANK = re.compile(r"\s").search
_OID = re.compile(r"urn:oid:[0-2](?:\.(?:0|[1-9][0-9]*))+").fullmatch
_UUID = re.compile(r"urn:uuid:[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}").fullmatch


def string_problem(value: str) -> str:
    """`string`: not empty, at most 1 MB, no characters that XML cannot carry."""
    if not value:
        return "must not be empty"
    if len(value) > MAX_STRING:
        return "is longer than 1 MB (1,048,576 characters)"
    if not value.isprintable() and _UNSUITABLE.search(value):
        return "holds a control character that FHIR content cannot carry"
    return ""


def code_problem(value: str) -> str:
    """`code`: no blanks around it, single ones inside."""
    if _CODE(value):
        return string_problem(value)
    return "must not be empty" if not value else "must have no blanks around it and only single ones inside"


def id_problem(value: str) -> str:
    """`id`: 1-64 of A-Z a-z 0-9 - and the full stop."""
    return "" if is_id(value) else "must be 1 to 64 letters, digits, '-' or '.'"


def uri_problem(value: str) -> str:
    """`uri`, `url`, `canonical`: no blanks; R4 asks for no more, so ``urn:uuid:patient-1`` passes."""
    if not value:
        return "must not be empty"
    if _BLANK(value):
        return "must not contain blanks"
    return string_problem(value)


def oid_problem(value: str) -> str:
    return "" if _OID(value) else "must be an OID such as urn:oid:2.16.840"


def uuid_problem(value: str) -> str:
    return "" if _UUID(value) else "must be a lower-case UUID such as urn:uuid:c757873d-ec9a-4326-a141-556f43239520"


def date_problem(value: str) -> str:
    """`date`: a year, month or existing day."""
    match = _DATE(value)
    if match is None:
        return "must be a date such as 2026, 2026-02 or 2026-02-27"
    return _no_such_day(match)


def date_time_problem(value: str) -> str:
    """`dateTime`: as date, or with a time to the second and its zone."""
    match = _DATE_TIME(value)
    if match is not None:
        return _no_such_day(match)
    if _ZONELESS(value):
        return "has a time and so must have a timezone"
    return "must be a date or a date and time such as 2026-02-27T09:30:00Z"


def instant_problem(value: str) -> str:
    """`instant`: a day, time to the second, and zone."""
    match = _INSTANT(value)
    if match is not None:
        return _no_such_day(match)
    return "must be a time to the second with its timezone such as 2026-02-27T09:30:00Z"


def time_problem(value: str) -> str:
    return "" if _TIME(value) else "must be a time such as 09:30:00"


def _no_such_day(match: re.Match[str]) -> str:
    year, month, day = match.groups()
    if day is None or int(day) <= 28 or int(day) <= monthrange(int(year), int(month))[1]:
        return ""
    return "names a day that does not exist"


def base64_problem(value: str) -> str:
    """`base64Binary`: RFC 4648 with its padding; blanks are allowed between the characters."""
    if not value:
        return "must not be empty"
    try:
        a2b_base64(value, strict_mode=True)
    except (Error, ValueError):
        try:
            if not a2b_base64("".join(value.split()), strict_mode=True):
                return "must not be empty"
        except (Error, ValueError):
            return "is not valid base64"
    return ""


def _within(low: int, high: int) -> Problem:
    def problem(value: int) -> str:
        return "" if low <= value <= high else f"must be between {low} and {high}"

    return problem


def any_value(_: Any) -> str:
    """`boolean`, `decimal`: whatever JSON has of their kind."""
    return ""


_TEXT = ((str,), "a JSON string")
_WHOLE = ((int,), "a JSON number without fraction or exponent")

PRIMITIVES: dict[str, Primitive] = {
    each.name: each
    for each in (
        Primitive("base64Binary", *_TEXT, base64_problem),
        Primitive("boolean", (bool,), "true or false", any_value),
        Primitive("canonical", *_TEXT, uri_problem, repeats=True),
        Primitive("code", *_TEXT, code_problem, repeats=True),
        Primitive("date", *_TEXT, date_problem, repeats=True),
        Primitive("dateTime", *_TEXT, date_time_problem, repeats=True),
        Primitive("decimal", (int, float), "a JSON number", any_value),
        Primitive("id", *_TEXT, id_problem),
        Primitive("instant", *_TEXT, instant_problem, repeats=True),
        Primitive("integer", *_WHOLE, _within(-(2**31), 2**31 - 1)),
        Primitive("markdown", *_TEXT, string_problem),
        Primitive("oid", *_TEXT, oid_problem, repeats=True),
        Primitive("positiveInt", *_WHOLE, _within(1, 2**31 - 1)),
        Primitive("string", *_TEXT, string_problem, repeats=True),
        Primitive("time", *_TEXT, time_problem, repeats=True),
        Primitive("unsignedInt", *_WHOLE, _within(0, 2**31 - 1)),
        Primitive("uri", *_TEXT, uri_problem, repeats=True),
        Primitive("url", *_TEXT, uri_problem, repeats=True),
        Primitive("uuid", *_TEXT, uuid_problem, repeats=True),
        Primitive("xhtml", *_TEXT, narrative_problem),
    )
}
"""The primitive datatypes of R4 by name."""

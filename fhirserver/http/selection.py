"""The parameters of `$everything`, parsed strictly: what is not understood is named, never guessed.

Source: R4 Patient/$everything (operation-patient-everything), search §3.1.1.4-5 for `_elements` and `_summary`,
and the HealthEx API for `_offset`.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import Request

from fhirserver.core.dates import interval
from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.jsontext import UNREADABLE
from fhirserver.core.model import MAX_TIME, MIN_TIME
from fhirserver.core.search.values import escape
from fhirserver.http.limits import pieces
from fhirserver.http.negotiation import must_be_json
from fhirserver.http.subset import elements_of, summary_of

Pairs = list[tuple[str, str]]

REPEATABLE = frozenset({"_type", "_elements"})
KNOWN = frozenset(
    {"_type", "_since", "start", "end", "_count", "_offset", "_page", "_elements", "_summary", "_deleted", "_format"}
)
TOLERATED = frozenset({"_pretty", "_totalMethod"})
"""Habits of existing clients: accepted in silence, also under strict handling, and without effect."""

_LARGEST = 2**31 - 1
_DIGITS = 32

MOST_BODY = 256 * 1024
"""Bytes of a Parameters body: every type and element by name is far less."""


class Selection(msgspec.Struct, frozen=True, kw_only=True):
    """What the caller asked for. Times in milliseconds since 1970; ``applied`` holds the fixed parameters in the
    order of the links, as text."""

    types: frozenset[str] | None = None
    since: int | None = None
    care: tuple[int, int] | None = None
    elements: frozenset[str] | None = None
    summary: str | None = None
    departed: bool = False
    count: int | None = None
    offset: int = 0
    page: str | None = None
    format: str | None = None
    applied: tuple[tuple[str, str], ...] = ()

    @property
    def paged(self) -> bool:
        return self.count is not None or self.page is not None

    def url(self, path: str, extra: Iterable[tuple[str, str]] = ()) -> str:
        """The absolute URL of this selection; ``extra`` (`_count`, `_offset`, `_page`) comes first, as in the seed."""
        pairs = [*extra, *self.applied]
        query = "&".join(f"{name}={quote(value, safe=',:')}" for name, value in pairs)
        return f"{path}?{query}" if query else path


async def pairs_of(request: Request) -> Pairs:
    """The parameters of a GET's query string, and of a POST's Parameters body."""
    pairs = list(request.query_params.multi_items())
    return pairs + await parameters_of(request) if request.method == "POST" else pairs


async def parameters_of(request: Request, *, codings: Collection[str] = ()) -> Pairs:
    """The parameters of a Parameters body; those of ``codings`` may be a Coding, which comes as a search's token."""
    raw = b"".join([piece async for piece in pieces(request, limit=MOST_BODY)])
    if not raw.strip():
        return []
    must_be_json(request, missing=False)
    return _from_parameters(raw, codings)


def _from_parameters(raw: bytes, codings: Collection[str]) -> Pairs:
    try:
        body = msgspec.json.decode(raw)
    except RecursionError as error:
        raise Fault(Kind.BAD_REQUEST, "The body is nested too deeply.") from error
    except UNREADABLE as error:
        raise Fault(Kind.BAD_REQUEST, f"The body is not JSON: {error}") from error
    if not isinstance(body, dict) or body.get("resourceType") != "Parameters":
        raise Fault(Kind.BAD_REQUEST, "The body must be a Parameters resource.")
    given = body.get("parameter", [])
    if not isinstance(given, list):
        raise Fault(Kind.BAD_REQUEST, "parameter must be a list.", expression="Parameters.parameter")
    return [_parameter(item, f"Parameters.parameter[{index}]", codings) for index, item in enumerate(given)]


def _parameter(item: Any, place: str, codings: Collection[str]) -> tuple[str, str]:
    if not isinstance(item, dict) or not isinstance(item.get("name"), str):
        raise Fault(Kind.BAD_REQUEST, "A parameter needs a name.", expression=place)
    if item["name"] in codings and "valueCoding" in item:
        return item["name"], _token(item["valueCoding"], place)
    values = [value for key, value in item.items() if key.startswith("value")]
    if len(values) != 1 or isinstance(values[0], dict | list) or values[0] is None:
        raise Fault(Kind.BAD_REQUEST, f"{item['name']} needs one primitive value.", expression=place)
    return item["name"], str(values[0])


def _token(coding: Any, place: str) -> str:
    given = [coding.get(name, "") for name in ("system", "code")] if isinstance(coding, dict) else ["", ""]
    if not (all(isinstance(each, str) for each in given) and given[1]):
        raise Fault(Kind.BAD_REQUEST, "A Coding needs a code.", expression=f"{place}.valueCoding")
    return "|".join(escape(each) for each in given if each)


def parse(pairs: Sequence[tuple[str, str]], *, strict: bool) -> Selection:
    """The Selection; a bad value, a repeated or (under ``strict``) an unknown parameter is a 400 naming it."""
    given: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in TOLERATED:
            continue
        if name not in KNOWN:
            if strict:
                raise Fault(Kind.BAD_REQUEST, f"Unknown parameter {name[:64]!r} (Prefer: handling=strict).")
            continue
        if not value.strip():
            raise bad(name, "is empty")
        if name in given and name not in REPEATABLE:
            raise bad(name, "is given more than once")
        given.setdefault(name, []).append(value)
    one = {name: values[0] for name, values in given.items()}
    types = _types(given["_type"]) if "_type" in given else None
    elements = elements_of(given.get("_elements", []))
    summary = summary_of(one.get("_summary"))
    departed = _choice("_deleted", one.get("_deleted"), frozenset({"only"})) == "only"
    since = moment("_since", one["_since"])[0] if "_since" in one else None
    if departed and since is None:
        raise bad("_deleted", "needs _since")
    count = number("_count", one["_count"]) if "_count" in one else None
    if summary == "count":
        count = 0
    applied = [
        (name, ",".join(given[name]) if name in REPEATABLE else plus(one[name]))
        for name in ("_type", "_since", "start", "end", "_elements", "_summary", "_deleted", "_format")
        if name in given
    ]
    return Selection(
        types=types,
        since=since,
        care=care(one.get("start"), one.get("end")),
        elements=elements,
        summary=None if summary == "count" else summary,
        departed=departed,
        count=count,
        offset=number("_offset", one["_offset"]) if "_offset" in one else 0,
        page=one.get("_page"),
        format=one.get("_format"),
        applied=tuple(applied),
    )


def bad(name: str, reason: str) -> Fault:
    """The 400 that names a parameter."""
    return Fault(Kind.BAD_REQUEST, f"{name} {reason}.", expression=name)


def _listed(name: str, values: list[str]) -> list[str]:
    items = [item.strip() for value in values for item in value.split(",")]
    if not all(items):
        raise bad(name, "holds an empty name")
    return items


def _types(values: list[str]) -> frozenset[str]:
    names = _listed("_type", values)
    for name in names:
        if name not in RESOURCE_TYPES:
            raise bad("_type", f"names {name[:64]!r}, which is no R4 resource type")
    return frozenset(names)


def _choice(name: str, value: str | None, allowed: frozenset[str]) -> str | None:
    if value is not None and value not in allowed:
        raise bad(name, f"must be one of {', '.join(sorted(allowed))}")
    return value


def number(name: str, value: str) -> int:
    """A whole number that no store has to refuse."""
    # The length comes first: Python refuses to read thousands of digits.
    if not (value.isascii() and value.isdigit() and len(value) <= _DIGITS) or int(value) > _LARGEST:
        raise bad(name, "must be a whole number, 0 or greater")
    return int(value)


def plus(value: str) -> str:
    """A time as it was meant."""
    # "+02:00" in an unescaped query string arrives as " 02:00".
    return value.strip().replace(" ", "+")


def moment(name: str, value: str) -> tuple[int, int]:
    """First and last millisecond of a FHIR date or time."""
    try:
        return interval(plus(value))
    except ValueError as error:
        raise bad(name, str(error)) from error


def care(start: str | None, end: str | None) -> tuple[int, int] | None:
    """First and last millisecond of the care dates that `start` and `end` name; None where neither does."""
    if start is None and end is None:
        return None
    first = moment("start", start)[0] if start else MIN_TIME
    last = moment("end", end)[1] if end else MAX_TIME
    if first > last:
        raise bad("start", "is after end")
    return first, last

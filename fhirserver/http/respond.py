"""Records and faults as HTTP answers: ETag, Last-Modified, 304, OperationOutcome, content types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fhirserver.core.errors import STATUS, Fault, Kind
from fhirserver.core.model import Record

FHIR_JSON = "application/fhir+json"
NDJSON = "application/fhir+ndjson"
_JSON_NAMES = {FHIR_JSON, "application/json", "json", "text/json", "application/*", "*/*", "application/json+fhir"}
_NDJSON_NAMES = {NDJSON, "application/ndjson", "application/x-ndjson", "ndjson"}

SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def outcome(fault: Fault) -> bytes:
    """The OperationOutcome of a fault."""
    issues = []
    for issue in fault.issues:
        item: dict[str, object] = {"severity": issue.severity, "code": issue.code, "diagnostics": issue.diagnostics}
        if issue.expression:
            item["expression"] = [issue.expression]
        issues.append(item)
    return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": issues})


def refusal(fault: Fault, *, allowed: Iterable[str] = ()) -> Response:
    """The error answer of a fault, with the headers its status asks for; ``allowed``: the methods to use instead."""
    headers = dict(SECURITY_HEADERS)
    if fault.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if fault.kind in (Kind.UNAVAILABLE, Kind.THROTTLED):
        headers["Retry-After"] = "1"
    if allowed:
        headers["Allow"] = ", ".join(sorted(allowed))
    return Response(outcome(fault), STATUS[fault.kind][0], headers, media_type=FHIR_JSON + "; charset=utf-8")


def content_type(request: Request, format_: str | None = None, *, ndjson: bool = False) -> str:
    """The media type of the answer, from `_format` or Accept; 406 where neither JSON (nor NDJSON) will do.

    A client that asks for plain ``application/json`` gets that name back (R4 http §3.1.0.1.11).
    """
    for item in [format_] if format_ else _accepted(request):
        # In a query string a bare "+" arrives as a blank.
        name = item.partition(";")[0].strip().lower().replace(" ", "+")
        if ndjson and name in _NDJSON_NAMES:
            return NDJSON
        if name in _JSON_NAMES:
            return "application/json" if name == "application/json" else FHIR_JSON
    raise Fault(Kind.NOT_ACCEPTABLE, f"This server answers {FHIR_JSON}" + (f" and {NDJSON}." if ndjson else "."))


def _accepted(request: Request) -> list[str]:
    """The media ranges of the Accept header, what is preferred first, without what is refused (RFC 9110 §12.5.1)."""
    ranges = [item for item in ",".join(request.headers.getlist("accept")).split(",") if item.strip()]
    weights = {item: _weight(item) for item in ranges or ["*/*"]}
    return sorted((item for item in weights if weights[item] > 0), key=lambda item: -weights[item])


def _weight(item: str) -> float:
    for parameter in item.split(";")[1:]:
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "q":
            try:
                return float(value)
            except ValueError:
                return 0.0
    return 1.0


def etag(record: Record, cut: str | None = None) -> str:
    """The weak entity tag; a view that was cut for the caller has a tag of its own."""
    return f'W/"{record.version}-{cut}"' if cut else f'W/"{record.version}"'


def http_date(milliseconds: int) -> str:
    """Milliseconds since 1970 as an HTTP date (whole seconds, as Last-Modified is)."""
    return format_datetime(datetime.fromtimestamp(milliseconds // 1000, UTC), usegmt=True)


def not_modified(request: Request, tag: str, updated: int | None) -> bool:
    """Whether the client's copy is still good: If-None-Match decides, else If-Modified-Since (None: only the tag can
    tell)."""
    given = request.headers.get("if-none-match")
    if given is not None:
        return given.strip() == "*" or tag in [part.strip() for part in given.split(",")]
    since = request.headers.get("if-modified-since")
    if since is None or updated is None:
        return False
    try:
        moment = parsedate_to_datetime(since)
    except ValueError:
        return False
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return updated // 1000 <= int(moment.timestamp())


def json_answer(
    body: bytes, media_type: str, *, status: int = 200, headers: Mapping[str, str] | None = None
) -> Response:
    """A complete JSON answer."""
    merged = {**SECURITY_HEADERS, **(headers or {})}
    return Response(body, status, merged, media_type=media_type + "; charset=utf-8")

"""Records and faults as HTTP answers: ETag, Last-Modified, 304, OperationOutcome, content types."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import format_datetime, parsedate_to_datetime

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fhirserver.core.errors import STATUS, Fault, Kind
from fhirserver.core.model import Record
from fhirserver.http.labels import NOTICE_HEADER
from fhirserver.http.negotiation import FHIR_JSON, NDJSON, content_type
from fhirserver.policy.gate import Scoped, Throttled

__all__ = [
    "FHIR_JSON",
    "NDJSON",
    "SECURITY_HEADERS",
    "Refused",
    "content_type",
    "etag",
    "http_date",
    "json_answer",
    "not_modified",
    "notices",
    "outcome",
    "refusal",
    "streamed_headers",
]

SECURITY_HEADERS = {"X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"}


def streamed_headers(media_type: str) -> dict[str, str]:
    """The headers of an answer in UTF-8 that depends on who asks, and how."""
    return {
        "Content-Type": f"{media_type}; charset=utf-8",
        "Vary": "Accept, Authorization",
        **SECURITY_HEADERS,
    }


class Refused(Fault):
    """A Fault whose answer has headers of its own, such as what to send instead."""

    def __init__(self, kind: Kind, message: str, *, headers: Mapping[str, str], expression: str = "") -> None:
        super().__init__(kind, message, expression=expression)
        self.headers = dict(headers)


def outcome(fault: Fault) -> bytes:
    """The OperationOutcome of a fault."""
    issues = []
    for issue in fault.issues:
        item: dict[str, object] = {"severity": issue.severity, "code": issue.code, "diagnostics": issue.diagnostics}
        if issue.expression:
            item["expression"] = [issue.expression]
        issues.append(item)
    return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": issues})


def refusal(fault: Fault) -> Response:
    """The error answer of a fault, with the headers its status asks for."""
    headers = dict(SECURITY_HEADERS)
    if fault.kind is Kind.UNAUTHENTICATED:
        headers["WWW-Authenticate"] = "Bearer"
    if fault.kind in (Kind.UNAVAILABLE, Kind.THROTTLED):
        headers["Retry-After"] = "1"
    if fault.kind is Kind.TIMEOUT:
        headers["Connection"] = "close"
    if isinstance(fault, Throttled):
        headers |= _pace(fault)
    if isinstance(fault, Refused):
        headers |= fault.headers
    return Response(outcome(fault), STATUS[fault.kind][0], headers, media_type=FHIR_JSON + "; charset=utf-8")


def _pace(fault: Throttled) -> dict[str, str]:
    """When to come again; of a limit on requests also which, in the usual names (draft-ietf-httpapi-ratelimit-headers,
    as it was until its version 7, which clients know)."""
    again = str(fault.retry_after)
    if fault.limit is None:
        return {"Retry-After": again}
    limit = f"{fault.limit}, {fault.limit};w=60"
    return {"Retry-After": again, "RateLimit-Limit": limit, "RateLimit-Remaining": "0", "RateLimit-Reset": again}


def etag(record: Record, cut: str | None = None) -> str:
    """The weak entity tag; a view that was cut for the caller has a tag of its own."""
    return f'W/"{record.version}-{cut}"' if cut else f'W/"{record.version}"'


def notices(scoped: Scoped, record: Record) -> dict[str, str]:
    """The header with the prohibition of redisclosure, where it goes with this record."""
    notice = scoped.notice(record)
    return {NOTICE_HEADER: notice} if notice else {}


def http_date(milliseconds: int) -> str:
    """Milliseconds since 1970 as an HTTP date (whole seconds, as Last-Modified is)."""
    return format_datetime(datetime.fromtimestamp(milliseconds // 1000, UTC), usegmt=True)


def not_modified(request: Request, tag: str, updated: int | None) -> bool:
    """Whether the client's copy is still good: If-None-Match decides, else If-Modified-Since (None: only the tag can
    tell)."""
    given = ",".join(request.headers.getlist("if-none-match"))
    if given:
        # Compared weakly (RFC 9110 §13.1.2): caches on the way may have taken the W/ off.
        tags = [part.strip().removeprefix("W/") for part in given.split(",")]
        return "*" in tags or tag.removeprefix("W/") in tags
    since = request.headers.get("if-modified-since")
    if since is None or updated is None:
        return False
    try:
        moment = parsedate_to_datetime(since)
    except (ValueError, OverflowError):  # RFC 9110 §13.1.3: what is no date is ignored
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

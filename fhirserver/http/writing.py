"""What every interaction that writes has in common: the resource that was sent, and the answer.

Source: R4 http §3.1.0.1.5 (ETag, If-Match), §3.1.0.1.8 (Prefer), §3.1.0.6 (body, content type).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import msgspec
from starlette.requests import Request
from starlette.responses import Response

from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.jsontext import decode
from fhirserver.core.model import Key, Record
from fhirserver.core.rewrite import relative
from fhirserver.core.validate import parse
from fhirserver.http.limits import body_of
from fhirserver.http.negotiation import must_be_json, prefer
from fhirserver.http.respond import SECURITY_HEADERS, content_type, etag, http_date, json_answer
from fhirserver.http.server import Server
from fhirserver.http.subset import asked
from fhirserver.policy.gate import ANY, Scoped, must_stand_at, view_tag

_TAG = re.compile(r'\s*(?:W/)?"([1-9][0-9]{0,8})(?:-[^"]*)?"\s*')


class Sent(NamedTuple):
    """A resource as it came: ``resource`` is what ``raw`` says."""

    resource: dict[str, Any]
    raw: bytes


async def received(request: Request, server: Server, type_: str) -> Sent:
    """The resource of the request's body, validated.

    Fault UNSUPPORTED_MEDIA (not FHIR JSON), TOO_LARGE, INVALID with every issue, BAD_REQUEST where it is of another
    type than the URL says. Absolute references to resources of this server become relative ones.
    """
    must_be_json(request)
    raw = await body_of(request, server)
    return validated(localised(raw, type_, server.fhir_base(request)), type_)


def localised(raw: bytes, type_: str, base: str) -> bytes:
    """A resource that names others of this server relatively. A Bundle stays as it is: its references are to its own
    entries."""
    return raw if type_ == "Bundle" else relative(raw, base)


def validated(raw: bytes, type_: str | None) -> Sent:
    """A resource of this type (None: of any) from its bytes."""
    return _sent(parse(raw), raw, type_)


def decoded(raw: bytes, type_: str) -> Sent:
    """The same of a resource that has been validated already."""
    return _sent(decode(raw), raw, type_)


def _sent(resource: dict[str, Any], raw: bytes, type_: str | None) -> Sent:
    if type_ is not None and resource["resourceType"] != type_:
        told = f"The URL says {type_}, the resource says {resource['resourceType']}."
        raise Fault(Kind.BAD_REQUEST, told, expression="resourceType")
    return Sent(resource, raw)


def if_match(headers: Mapping[str, str]) -> int | None:
    """The ``if_version`` that a request's headers ask for: by If-Match a version or `ANY` (``*``), by
    ``If-None-Match: *`` (RFC 9110 §13.1.2) that there be none; None without either.

    Fault BAD_REQUEST for an If-Match that is no version of ours, and for an If-None-Match that names versions: a
    precondition that is not understood must not be passed over.
    """
    given, barred = headers.get("if-match"), headers.get("if-none-match", "").strip()
    if barred not in ("", "*"):
        raise Fault(Kind.BAD_REQUEST, "If-None-Match of a write must be *.", expression="If-None-Match")
    if given is None:
        return 0 if barred else None
    if given.strip() == "*":
        return ANY
    found = _TAG.fullmatch(given)
    if found is None:
        raise Fault(Kind.BAD_REQUEST, 'If-Match must be one version, such as W/"3".', expression="If-Match")
    return int(found[1])


async def current(scoped: Scoped, key: Key, version: int | None) -> tuple[Record, bytes]:
    """A resource that is to be changed in places, and its JSON.

    Fault as `Scoped.read`; PRECONDITION_FAILED if it is not at ``version``; FORBIDDEN where the caller sees it only in
    part: the rest would be lost.
    """
    record = await scoped.read(key)
    if view_tag(record) is not None:
        raise await scoped.refused(key, f"You see only a part of {key}, so you cannot change it.")
    must_stand_at(version, key, record)
    return record, await scoped.whole(record)


async def answered(
    request: Request,
    server: Server,
    scoped: Scoped,
    record: Record,
    *,
    created: bool,
    stored: bool = True,
    issues: tuple[Issue, ...] = (),
) -> Response:
    """The answer to a write: 201 or 200, Location, ETag, Last-Modified, and what `Prefer: return` asks for.

    The resource is shown as the caller may read it now; who may write and not read gets no content. ``stored`` is
    False for one that a conditional create has found; ``issues`` are warnings for an OperationOutcome.
    """
    media_type = content_type(request, request.query_params.get("_format"))
    base = server.fhir_base(request)
    status = 201 if created else 200
    shown = await scoped.shown(record)
    headers = {
        "ETag": etag(record, view_tag(shown) if shown else None),
        "Last-Modified": http_date(record.updated),
        "Location": f"{base}/{record.key}/_history/{record.version}",
    }
    form = prefer(request).returned or "representation"
    if form == "OperationOutcome":
        issues = (*issues, *scoped.warnings)
        said = f"{record.key} was stored." if stored else f"{record.key} was there already; nothing was stored."
        return json_answer(told(said, issues), media_type, status=status, headers=headers)
    if form == "minimal" or shown is None or shown.body is None:
        return Response(status_code=status, headers={**SECURITY_HEADERS, **headers})
    cut = asked(request)
    return json_answer(cut(shown.body) if cut else shown.body, media_type, status=status, headers=headers)


def told(message: str, issues: tuple[Issue, ...] = ()) -> bytes:
    """An OperationOutcome that says what was done, and warns of ``issues``."""
    said = [{"severity": "information", "code": "informational", "diagnostics": message}]
    for issue in issues:
        place = {"expression": [issue.expression]} if issue.expression else {}
        said.append({"severity": issue.severity, "code": issue.code, "diagnostics": issue.diagnostics, **place})  # type: ignore[dict-item]
    return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": said})

"""token, introspect, revoke: the OAuth endpoints below ``/oauth``.

A form in, plain JSON out, errors in OAuth's shape and never as an OperationOutcome. Source: RFC 6749 §3.2, §5; RFC 7662
§2; RFC 7009 §2.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from urllib.parse import parse_qsl

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.http.limits import body_of
from fhirserver.http.respond import SECURITY_HEADERS
from fhirserver.http.server import Server, bearer
from fhirserver.policy.authorization import Refusal
from fhirserver.policy.rates import Throttled

TOKEN = "/oauth/token"  # noqa: S105  a path
INTROSPECT = "/oauth/introspect"
REVOKE = "/oauth/revoke"

LARGEST = 64 * 1024
"""Bytes of a form."""

_FORM = "application/x-www-form-urlencoded"
_MOST_FIELDS = 32
_HEADERS = {**SECURITY_HEADERS, "Pragma": "no-cache"}

Form = dict[str, str]
Work = Callable[[Form], Awaitable[object]]


async def token(request: Request, server: Server) -> ASGIApp:
    """A token for a registered client (`POST /oauth/token`)."""
    audiences, asked, address = _urls(request, server, TOKEN), server.gate.authorization, _address(request)
    return await _answered(request, server, lambda form: asked.token(form, audiences, address))


async def introspect(request: Request, server: Server) -> ASGIApp:
    """What a token is (`POST /oauth/introspect`)."""
    audiences, asked, address = _urls(request, server, TOKEN, INTROSPECT), server.gate.authorization, _address(request)
    return await _answered(request, server, lambda form: asked.introspect(form, bearer(request), audiences, address))


async def revoke(request: Request, server: Server) -> ASGIApp:
    """The end of a token (`POST /oauth/revoke`)."""
    audiences, asked, address = _urls(request, server, TOKEN, REVOKE), server.gate.authorization, _address(request)
    return await _answered(request, server, lambda form: asked.revoke(form, bearer(request), audiences, address))


async def _answered(request: Request, server: Server, work: Work) -> Response:
    try:
        told = await work(await _form(request, server))
    except Refusal as refused:
        return _error(refused.status, refused.code, refused.description)
    except Fault as fault:
        code = "temporarily_unavailable" if fault.status in (429, 503) else "invalid_request"
        wait = fault.retry_after if isinstance(fault, Throttled) else 1
        return _error(fault.status, code, fault.message, wait=wait)
    body = b"" if told is None else msgspec.json.encode(told)
    return Response(body, 200, dict(_HEADERS), media_type="application/json")


def _error(status: int, code: str, description: str, *, wait: int = 1) -> Response:
    headers = dict(_HEADERS)
    if status == 401:
        headers["WWW-Authenticate"] = "Bearer"
    if status in (429, 503):
        headers["Retry-After"] = str(wait)
    if status == 408:
        headers["Connection"] = "close"
    body = msgspec.json.encode({"error": code, "error_description": description})
    return Response(body, status, headers, media_type="application/json")


async def _form(request: Request, server: Server) -> Form:
    """The fields of the body, each once; those without a value are not there (RFC 6749 §3.2)."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != _FORM:
        raise Fault(Kind.BAD_REQUEST, f"The body must be {_FORM}.")
    body = await body_of(request, server, limit=LARGEST)
    try:
        pairs = parse_qsl(body.decode("ascii"), keep_blank_values=True, max_num_fields=_MOST_FIELDS, errors="strict")
    except ValueError:
        raise Fault(Kind.BAD_REQUEST, "The body is not a form that can be read.") from None
    form = dict(pairs)
    if len(form) < len(pairs):
        raise Fault(Kind.BAD_REQUEST, "A parameter is there more than once.")
    return {name: value for name, value in form.items() if value}


def _address(request: Request) -> str:
    """Where a request comes from, as the server or the proxy in front of it says."""
    return request.client.host if request.client else ""


def _urls(request: Request, server: Server, *paths: str) -> tuple[str, ...]:
    """The URLs of these endpoints as clients know them: under the base URL that is set, else as this request says."""
    root = server.root(request)
    return tuple(root + path for path in paths)

"""read and vread: one resource by its identity.

``GET [base]/{type}/{id}`` and ``GET [base]/{type}/{id}/_history/{vid}``. Source: R4 http §3.1.0.7-8.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.http.respond import content_type, etag, http_date, json_answer, not_modified
from fhirserver.http.server import Server, bearer
from fhirserver.policy.persons import view_tag


async def read(request: Request, server: Server) -> ASGIApp:
    """The resource with its ETag and Last-Modified; 304 when the client's copy is still good."""
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction="read", type=key.type)
    media_type = content_type(request, request.query_params.get("_format"))
    version = _version(request)
    record = await scoped.read(key, version)
    tag = etag(record, view_tag(record))
    headers = {"ETag": tag, "Last-Modified": http_date(record.updated), "Vary": "Accept, Authorization"}
    if not_modified(request, tag, record.updated):
        return Response(status_code=304, headers=headers)
    async with scoped.disclosure(interaction="read", patients=(), detail={"resource": str(key)}) as note:
        body = record.body
        if body is None:
            body = b"".join([piece async for piece in scoped.body(record)])
        note.count = 1
        note.complete()
    return json_answer(body, media_type, headers=headers)


def _version(request: Request) -> int | None:
    text = request.path_params.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Fault(Kind.NOT_FOUND, "There is no such version.")
    return int(text)

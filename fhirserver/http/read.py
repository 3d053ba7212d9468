"""read and vread: one resource by its identity.

``GET [base]/{type}/{id}`` and ``GET [base]/{type}/{id}/_history/{vid}``. Source: R4 http §3.1.0.7-8. HEAD, and a 304,
are audited as a read of nothing: that the resource is there is told, what it holds is not.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.http.negotiation import HEAD_ONLY
from fhirserver.http.respond import SECURITY_HEADERS, content_type, etag, http_date, json_answer, not_modified, notices
from fhirserver.http.server import Server, bearer
from fhirserver.http.stream import Disclosed, Streaming
from fhirserver.http.subset import asked
from fhirserver.policy.gate import Disclosure, Scoped
from fhirserver.policy.persons import view_tag


async def read(request: Request, server: Server) -> ASGIApp:
    """The resource with its ETag and Last-Modified; 304 when the client's copy is still good."""
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction="read", type=key.type)
    media_type = content_type(request, request.query_params.get("_format"))
    cut = asked(request)
    version = version_of(request)
    record = await scoped.read(key, version)
    tag = etag(record, view_tag(record))
    headers = {"ETag": tag, "Last-Modified": http_date(record.updated), "Vary": "Accept, Authorization"}
    headers |= notices(scoped, record)
    disclosure = scoped.disclosure(interaction="read", patients=(), detail={"resource": str(key)})
    # A view changes with the grant and the labels, not only with the resource.
    if not_modified(request, tag, None if key.type == "Person" or view_tag(record) else record.updated):
        return Disclosed(Response(status_code=304, headers=headers), disclosure, count=0)
    if record.body is None and cut is None:

        async def still_admitted() -> None:
            again = await server.gate.admit(bearer(request), interaction="read", type=key.type, again=True)
            await again.read(key, record.version)

        whole = {**headers, "Content-Type": f"{media_type}; charset=utf-8", "Content-Length": str(record.size)}
        return _streamed(server, scoped, scoped.body(record), whole, disclosure, still_admitted)
    body = await scoped.whole(record)
    answer = json_answer(cut(body) if cut else body, media_type, headers=headers)
    return Disclosed(answer, disclosure, count=0 if request.scope.get(HEAD_ONLY) else 1)


def _streamed(
    server: Server,
    scoped: Scoped,
    body: AsyncIterator[bytes],
    headers: dict[str, str],
    disclosure: Disclosure,
    still_admitted: Callable[[], Awaitable[None]],
) -> Streaming:
    """A body that is kept out of line, piece by piece: a Binary of many megabytes costs no more than a chart does,
    ends when consent is withdrawn, and is audited as cut when its reader leaves."""
    sent = 0

    async def pieces() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        held = b""  # a reader may leave with the last byte: by then it must be known that it was the last
        async for piece in body:
            if held:
                yield held
            held = piece
        yield held
        sent = 1

    return Streaming(
        chunks=pieces(),
        headers={**SECURITY_HEADERS, **headers},
        disclosure=disclosure,
        still_admitted=still_admitted,
        sent=lambda: sent,
        stall_seconds=server.stall_seconds,
        place=server.streams.place(scoped.principal),
    )


def version_of(request: Request) -> int | None:
    """The version of a vread's path; None without one. Fault NOT_FOUND for what no version can be."""
    text = request.path_params.get("version")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise Fault(Kind.NOT_FOUND, "There is no such version.")
    return int(text)

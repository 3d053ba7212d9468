"""Binary: the one type whose content can be had, and sent, as what it is.

``GET [base]/Binary/{id}``, ``GET [base]/Binary/{id}/_history/{vid}``, ``POST [base]/Binary``,
``PUT [base]/Binary/{id}``. Source: R4 binary §2.35.5.

A reader who asks for FHIR gets the resource, anybody else its content; a body that is a Binary resource is stored as
one, any other as the content of one. Both ways the content passes in pieces. It was made by somebody else and comes
from our origin, so it is sent as a download that no browser runs, sniffs or keeps.
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, AsyncIterator
from io import BytesIO
from uuid import uuid4

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message

from fhirserver.core.content import Content, Described, Encoder
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.jsontext import UNREADABLE
from fhirserver.core.model import Key, Record
from fhirserver.core.stamp import Stampable
from fhirserver.core.validate import parse
from fhirserver.http.create import create
from fhirserver.http.limits import body_of, pieces
from fhirserver.http.negotiation import FHIR_JSON, GENERIC, prefer, preferred
from fhirserver.http.read import read, version_of
from fhirserver.http.respond import SECURITY_HEADERS, content_type, etag, http_date, not_modified, notices
from fhirserver.http.server import Server, bearer
from fhirserver.http.stream import WHOLE, Disclosed, Streaming
from fhirserver.http.update import update
from fhirserver.http.writing import answered, if_match
from fhirserver.policy.gate import Put, Scoped

HARDENED = {
    **SECURITY_HEADERS,
    "Content-Disposition": "attachment",
    "Content-Security-Policy": "sandbox; default-src 'none'",
    "Cross-Origin-Resource-Policy": "same-site",
    "Vary": "Accept, Authorization",
}
"""What goes with every raw content."""

CONTEXT = "X-Security-Context"

_FHIR = frozenset({FHIR_JSON, "application/json+fhir"})
_XML = frozenset({"application/fhir+xml", "application/xml+fhir"})
_JSON = _FHIR | frozenset(GENERIC)
_XML_BINARY = re.compile(rb"<(?:\w+:)?Binary[\s/>]").search
_TOKEN = r"[A-Za-z0-9!#$%&'*+.^_`|~-]+"  # noqa: S105  RFC 9110 §5.6.2
_MEDIA_TYPE = re.compile(rf'{_TOKEN}/{_TOKEN}(?:[ ]?;[ ]?{_TOKEN}=(?:{_TOKEN}|"[ -!#-\[\]-~]*"))*')
_HEADER_SAFE = re.compile(r"[!-~]+")


class _Head(msgspec.Struct):
    resourceType: str = ""  # noqa: N815  the element's name


_head = msgspec.json.Decoder(_Head).decode


# -- reading


async def read_binary(request: Request, server: Server) -> ASGIApp:
    """The content in its own type, or the resource to a reader who asks for FHIR; 304 for a copy that is still good."""
    form = _form(request)
    if form == "resource":
        return await read(request, server)
    key = Key("Binary", request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction="read", type=key.type)
    record = await scoped.read(key, version_of(request))
    told, length = await _described(scoped, record)
    if form == "either" and not _is_json(told.contentType):
        return await read(request, server)
    disclosure = scoped.disclosure(interaction="read", detail={"resource": str(key), "form": "content"})
    headers = {**HARDENED, "ETag": etag(record), "Last-Modified": http_date(record.updated), **notices(scoped, record)}
    if not_modified(request, headers["ETag"], record.updated):
        return Disclosed(Response(status_code=304, headers=headers), disclosure, count=0)
    # A header is no place for whatever a `code` may hold.
    headers["Content-Type"] = (
        told.contentType if _MEDIA_TYPE.fullmatch(told.contentType) else "application/octet-stream"
    )
    if _HEADER_SAFE.fullmatch(told.context):
        headers[CONTEXT] = told.context
    if length >= WHOLE:
        headers["Content-Length"] = str(length)
    sent = 0

    async def chunks() -> AsyncGenerator[bytes, None]:
        nonlocal sent
        left = length
        async for piece in _content(scoped, record):
            left -= len(piece)
            sent = int(left == 0)  # a reader may leave with the last byte
            yield piece
        if not length:
            sent = 1
            yield b""

    async def still_admitted() -> None:
        again = await server.gate.admit(bearer(request), interaction="read", type=key.type, again=True)
        await again.read(key, record.version)

    return Streaming(
        chunks=chunks(),
        headers=headers,
        disclosure=disclosure,
        still_admitted=still_admitted,
        sent=lambda: sent,
        stall_seconds=server.stall_seconds,
        place=server.streams.place(scoped.principal),
    )


async def _described(scoped: Scoped, record: Record) -> tuple[Described, int]:
    """What the Binary says of its content, which may stand behind it, and how many bytes that has: one pass ahead."""
    content, length = Content(), 0
    async for piece in scoped.body(record):
        length += len(content.feed(piece))
    return content.described(), length


async def _content(scoped: Scoped, record: Record) -> AsyncIterator[bytes]:
    content = Content()
    async for piece in scoped.body(record):
        found = content.feed(piece)
        if found:
            yield found


def _form(request: Request) -> str:
    """``resource``, ``raw``, or ``either`` where only a generic JSON type is asked for (R4: the content, if it is
    JSON). `_format` always means FHIR."""
    if request.query_params.get("_format"):
        return "resource"
    asked = preferred(request, _FHIR | _XML)
    for name in asked:
        if name in _FHIR:
            return "resource"
        if name in GENERIC:
            return "either"
        if name not in _XML:
            return "raw"
    if asked:
        content_type(request)  # nothing but FHIR in XML: the Fault says what there is
    return "raw"


def _is_json(media_type: str) -> bool:
    name = media_type.partition(";")[0].strip().lower()
    return name in GENERIC or name.endswith("+json")


# -- writing


async def create_binary(request: Request, server: Server) -> ASGIApp:
    """201: a Binary resource is created as any other, whatever else comes becomes the content of one."""
    scoped = await server.gate.admit(bearer(request), interaction="create", type="Binary")
    body = await _json_body(request, server)
    if body is not None and _is_binary(body):
        return await create(_again(request, body), _widely(server))
    if "if-none-exist" in request.headers:
        raise Fault(Kind.BAD_REQUEST, "Raw content cannot be created conditionally.", expression="If-None-Exist")
    put = await _raw_put(request, server, body, str(uuid4()), if_version=0)
    [record] = await scoped.write([put])
    return await answered(_quietly(request), server, scoped, record, created=True)


async def update_binary(request: Request, server: Server) -> ASGIApp:
    """200 (201 where there was none) with the new version's place; 412 if If-Match names another version."""
    scoped = await server.gate.admit(bearer(request), interaction="update", type="Binary")
    body = await _json_body(request, server)
    if body is not None and _is_binary(body):
        return await update(_again(request, body), _widely(server))
    put = await _raw_put(request, server, body, request.path_params["id"], if_version=if_match(request.headers))
    [record] = await scoped.write([put])
    return await answered(_quietly(request), server, scoped, record, created=scoped.is_new(record))


async def _json_body(request: Request, server: Server) -> bytes | None:
    """The body, if it is sent as JSON and may therefore be a Binary resource."""
    if _sent_type(request).partition(";")[0] not in _JSON:
        return None
    return await body_of(request, server, limit=server.max_binary)


def _is_binary(body: bytes) -> bool:
    try:
        return _head(body).resourceType == "Binary"
    except msgspec.ValidationError:
        return False  # JSON, but no object or no resource: content like any other
    except UNREADABLE:
        raise Fault(Kind.BAD_REQUEST, "The body is not the JSON that its Content-Type says.") from None


async def _raw_put(request: Request, server: Server, body: bytes | None, id_: str, *, if_version: int | None) -> Put:
    """The Binary whose content is the body. The resource is put together ready to be stamped: between the line and the
    store its base64 is held once."""
    described: dict[str, object] = {"resourceType": "Binary", "id": id_, "contentType": _sent_type(request)}
    if context := request.headers.get(CONTEXT, "").strip():
        reference = context.removeprefix(server.fhir_base(request) + "/")
        described["securityContext"] = {"reference": reference}
    resource = parse(msgspec.json.encode(described))
    around = msgspec.json.encode({name: described[name] for name in described if name not in ("resourceType", "id")})
    tail = BytesIO()
    tail.write(b"}," + around[1:-1] + b',"data":"')
    encoder, size = Encoder(), 0
    async for piece in _pieces(request, server, body):
        if size == 0 and described["contentType"] in _XML and _XML_BINARY(piece[:4096]):
            raise Fault(Kind.UNSUPPORTED_MEDIA, "This server reads Binary resources in JSON, not in XML.")
        size += len(piece)
        tail.write(encoder.feed(piece))
    if not size:
        raise Fault(Kind.BAD_REQUEST, "There is no content.")
    tail.write(encoder.end() + b'"}')
    head = b'{"resourceType":"Binary","id":%b,"meta":{' % msgspec.json.encode(id_)
    return Put(resource=resource, raw=b"", id=id_, if_version=if_version, prepared=Stampable(head, tail.getvalue()))


async def _pieces(request: Request, server: Server, body: bytes | None) -> AsyncIterator[bytes]:
    if body is not None:
        yield body
        return
    async for piece in pieces(request, limit=server.max_binary, patience=server.stall_seconds):
        yield piece


def _sent_type(request: Request) -> str:
    """The Content-Type in the spelling of a FHIR `code`: blanks are single ones."""
    given = " ".join(request.headers.get("content-type", "").split())
    name, mark, parameters = given.partition(";")
    return f"{name.strip().lower()}{mark}{parameters}" or "application/octet-stream"


def _again(request: Request, body: bytes) -> Request:
    """The request with a body that has been read already."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]
    headers = [pair for pair in request.scope["headers"] if pair[0] not in (b"content-encoding", b"content-length")]

    async def receive() -> Message:
        return messages.pop() if messages else await request.receive()

    return Request({**request.scope, "headers": headers}, receive)


def _widely(server: Server) -> Server:
    """A Binary resource may be as large as raw content."""
    return msgspec.structs.replace(server, max_body=max(server.max_body, server.max_binary))


def _quietly(request: Request) -> Request:
    """Who sends content as it is gets it back as a resource only if it asks for that."""
    if prefer(request).returned is not None:
        return request
    return Request({**request.scope, "headers": [*request.scope["headers"], (b"prefer", b"return=minimal")]})

"""`$meta`, `$meta-add`, `$meta-delete`: the profiles, tags and security labels of a resource, or of all there is.

``GET [base]/$meta``, ``[base]/{type}/$meta``, ``[base]/{type}/{id}[/_history/{vid}]/$meta``;
``POST [base]/{type}/{id}/$meta-add`` and ``…/$meta-delete``. Source: R4 resource-operations.

A change makes a new version: labels decide who sees a resource, so what they were must be told by its history and not
be rewritten. What changes nothing makes none.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable, Mapping

from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.model import Key, Query, Record
from fhirserver.core.tags import Summary, added, meta_of, removed
from fhirserver.core.validate import parse
from fhirserver.http.conditions import pinned, repeated
from fhirserver.http.parameters import asked
from fhirserver.http.read import version_of
from fhirserver.http.respond import SECURITY_HEADERS, content_type, etag, http_date, json_answer, notices
from fhirserver.http.server import Server, bearer
from fhirserver.http.stream import Disclosed, Streaming
from fhirserver.http.writing import current, if_match
from fhirserver.policy.gate import Put, Scoped, view_tag

INTERACTION = "$meta"
MOST = 50_000
"""Resources that one summary looks at: the labels in use are no index of their own."""

_NOTHING = (
    b'{"extension":[{"url":"http://hl7.org/fhir/StructureDefinition/data-absent-reason","valueCode":"not-applicable"}]}'
)
"""A Meta cannot be empty (ele-1), and `return` cannot be left out."""


async def meta_instance(request: Request, server: Server) -> ASGIApp:
    """The `meta` of a resource, or of one of its versions, as reading it would show."""
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction=INTERACTION, type=key.type)
    media_type = content_type(request, request.query_params.get("_format"))
    await asked(request, server, names=())
    record = await scoped.read(key, version_of(request))
    answer = _answer(meta_of(await scoped.whole(record)), media_type, record, notices(scoped, record))
    return _shown(answer, scoped, INTERACTION, key)


async def meta_summary(request: Request, server: Server) -> ASGIApp:
    """All profiles, tags and labels in use, of one type or of all, on what the caller may see."""
    type_ = request.path_params.get("type")
    name = "search-type" if type_ else "search-system"
    scoped = await server.gate.admit(bearer(request), interaction=name, type=type_)
    media_type = content_type(request, request.query_params.get("_format"))
    await asked(request, server, names=())
    scoped = await scoped.everyone()
    seen = 0

    async def chunks() -> AsyncGenerator[bytes, None]:
        nonlocal seen
        summary = Summary()
        try:
            async for batch in scoped.scan(Query(types=frozenset({type_}) if type_ else None, limit=MOST + 1)):
                seen += len(batch)
                if seen > MOST:
                    raise OverflowError
                for record in batch:
                    summary.take(await scoped.whole(record))
        except OverflowError:
            told = f"There are more than {MOST} resources, or too many different labels; ask for a type, or a resource."
            raise Fault(Kind.BAD_REQUEST, told, issues=[Issue("too-costly", told)]) from None
        await scoped.still_admitted()
        yield _body(summary.meta())

    return Streaming(
        chunks=chunks(),
        headers={"Content-Type": f"{media_type}; charset=utf-8", **SECURITY_HEADERS},
        disclosure=scoped.disclosure(interaction=INTERACTION, detail={"type": type_} if type_ else {}),
        still_admitted=scoped.still_admitted,
        sent=lambda: seen,
        stall_seconds=server.stall_seconds,
        place=server.streams.place(scoped.principal),
    )


async def meta_add(request: Request, server: Server) -> ASGIApp:
    """The profiles, tags and labels of the Meta that was sent are added; answers the resource's `meta`."""
    return await _change(request, server, "$meta-add", added)


async def meta_delete(request: Request, server: Server) -> ASGIApp:
    """Those of the Meta that was sent are removed; it is no error where they are not there."""
    return await _change(request, server, "$meta-delete", removed)


async def _change(request: Request, server: Server, name: str, change: Callable[[bytes, bytes], bytes]) -> ASGIApp:
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction=name, type=key.type)
    media_type = content_type(request, request.query_params.get("_format"))
    given = (await asked(request, server, names=(), elements=("meta",))).elements.get("meta")
    if given is None:
        raise Fault(Kind.BAD_REQUEST, f"{name} needs the parameter meta, with a valueMeta.", expression="meta")
    _must_be_meta(given)
    version = if_match(request.headers)

    async def attempt() -> ASGIApp:
        record, body, changed = await _changed(scoped, key, version, lambda body: change(body, given))
        answer = _answer(meta_of(body), media_type, record)
        return answer if changed else _shown(answer, scoped, name, key)

    return await repeated(attempt)


async def _changed(
    scoped: Scoped, key: Key, version: int | None, change: Callable[[bytes], bytes]
) -> tuple[Record, bytes, bool]:
    """The resource with its labels changed: what is stored now, its JSON, and whether that is a new version."""
    record, before = await current(scoped, key, version)
    after = change(before)
    put = Put(resource=parse(after), raw=after, id=key.id, if_version=record.version)
    if after == before:
        await scoped.rehearse([put])
        return record, before, False
    with pinned(version):
        [stored] = await scoped.write([put])
    return stored, stored.body if stored.body is not None else after, True


def _must_be_meta(given: bytes) -> None:
    """Fault INVALID naming the place unless it is a Meta."""
    parse(b'{"resourceType":"Parameters","parameter":[{"name":"meta","valueMeta":%b}]}' % given)


def _shown(answer: ASGIApp, scoped: Scoped, name: str, key: Key) -> ASGIApp:
    """An answer that shows what is there: audited as a read, whatever was asked for."""
    return Disclosed(answer, scoped.disclosure(interaction=name, detail={"resource": str(key)}), count=1)


def _answer(meta: bytes, media_type: str, record: Record, more: Mapping[str, str] | None = None) -> ASGIApp:
    headers = {"ETag": etag(record, view_tag(record)), "Last-Modified": http_date(record.updated)}
    return json_answer(_body(meta), media_type, headers={**headers, **(more or {})})


def _body(meta: bytes) -> bytes:
    value = meta if meta != b"{}" else _NOTHING
    return b'{"resourceType":"Parameters","parameter":[{"name":"return","valueMeta":%b}]}' % value

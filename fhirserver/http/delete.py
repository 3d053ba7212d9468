"""delete: a tombstone in place of a resource; conditional by search criteria.

``DELETE [base]/{type}/{id}`` and ``DELETE [base]/{type}?criteria``. Source: R4 http §3.1.0.9. What a caller may not
see is refused as the Answers table of `$everything` says, whether it is there or not.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key, Record
from fhirserver.http.conditions import criteria, pinned, repeated
from fhirserver.http.negotiation import prefer
from fhirserver.http.respond import SECURITY_HEADERS, content_type, etag, json_answer
from fhirserver.http.server import Server, bearer
from fhirserver.http.writing import if_match, told
from fhirserver.policy.gate import Condition, Erase, Scoped, must_stand_at

MOST = 1_000
"""Matches that one conditional delete takes at most, where several are allowed at all."""


async def delete(request: Request, server: Server) -> ASGIApp:
    """204, also for what is deleted already; 412 if If-Match names another version."""
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction="delete", type=key.type)
    [record] = await scoped.write([Erase(key=key, if_version=if_match(request.headers))])
    return _gone(request, scoped, [record])


async def delete_conditional(request: Request, server: Server) -> ASGIApp:
    """204 for no match and for one; 412 for several, unless the server is set to delete them all."""
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction="delete", type=type_)
    query = criteria(type_, request.url.query, server.clock())
    version = if_match(request.headers)
    several = server.conditional_delete == "multiple"

    async def attempt() -> ASGIApp:
        found = await scoped.find(query, limit=MOST + 1 if several else 2)
        if len(found) > (MOST if several else 1):
            raise Fault(Kind.PRECONDITION_FAILED, "The condition matches several resources.")
        if version not in (None, 0) and not found:
            raise Fault(Kind.PRECONDITION_FAILED, "The condition matches no resource, so none is at a version.")
        for record in found:
            must_stand_at(version, record.key, record)
        erased = [Erase(key=record.key, if_version=record.version) for record in found]
        with pinned(None):
            records = await scoped.write(erased, conditions=[Condition(query, len(found))])
        return _gone(request, scoped, records)

    return await repeated(attempt)


def _gone(request: Request, scoped: Scoped, records: list[Record]) -> Response:
    headers = {"ETag": etag(records[0])} if len(records) == 1 else {}
    if prefer(request).returned == "OperationOutcome":
        media_type = content_type(request, request.query_params.get("_format"))
        return json_answer(told(f"{len(records)} deleted.", scoped.warnings), media_type, headers=headers)
    return Response(status_code=204, headers={**SECURITY_HEADERS, **headers})

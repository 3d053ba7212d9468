"""update: a new version of a resource, or a new one under the client's id; conditional by search criteria.

``PUT [base]/{type}/{id}`` and ``PUT [base]/{type}?criteria``. Source: R4 http §3.1.0.7.
"""

from __future__ import annotations

from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.http.conditions import criteria, holding, pinned, repeated, the_one_for
from fhirserver.http.definitions import must_be_free
from fhirserver.http.server import Server, bearer
from fhirserver.http.writing import Sent, answered, if_match, received
from fhirserver.policy.gate import Condition, Put, Scoped


async def update(request: Request, server: Server) -> ASGIApp:
    """200 with the new version, 201 where there was none (or a deleted one); 412 if If-Match names another version."""
    type_, id_ = request.path_params["type"], request.path_params["id"]
    scoped = await server.gate.admit(bearer(request), interaction="update", type=type_)
    sent = await received(request, server, type_)
    if sent.resource.get("id") != id_:
        raise Fault(Kind.BAD_REQUEST, "The resource's id must be the one of the URL.", expression=f"{type_}.id")
    return await _stored(request, server, scoped, sent, id_, if_match(request.headers), ())


async def update_conditional(request: Request, server: Server) -> ASGIApp:
    """Update the one match; without any, create (under the resource's own id if it has one and it is free, else 409);
    412 for several."""
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction="update", type=type_)
    sent = await received(request, server, type_)
    query = criteria(type_, request.url.query, server.clock())
    version = if_match(request.headers)

    async def attempt() -> ASGIApp:
        given = sent.resource.get("id")
        there = await the_one_for(scoped, query, Key(type_, given) if given else None)
        if there is not None and given not in (None, there.id):
            told = "The condition finds a resource of another id than the one that was sent."
            raise Fault(Kind.BAD_REQUEST, told, expression=f"{type_}.id")
        id_ = there.id if there else given or str(uuid4())
        must_be_free(Key(type_, id_))
        held = holding(query, there)
        if there is not None or version is not None:
            return await _stored(request, server, scoped, sent, id_, version, held)
        with pinned(None):  # nothing is overwritten but what the condition finds
            return await _stored(request, server, scoped, sent, id_, 0, held)

    return await repeated(attempt)


async def _stored(
    request: Request,
    server: Server,
    scoped: Scoped,
    sent: Sent,
    id_: str,
    version: int | None,
    conditions: tuple[Condition, ...],
) -> ASGIApp:
    put = Put(resource=sent.resource, raw=sent.raw, id=id_, if_version=version)
    [record] = await scoped.write([put], conditions=conditions)
    return await answered(request, server, scoped, record, created=scoped.is_new(record))

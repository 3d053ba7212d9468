"""create: a new resource under an id of the server's, unless a condition finds one that is there.

``POST [base]/{type}``, with ``If-None-Exist`` for a conditional create. Source: R4 http §3.1.0.8.
"""

from __future__ import annotations

from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.http.conditions import criteria, found, holding, repeated, the_one
from fhirserver.http.server import Server, bearer
from fhirserver.http.stream import Disclosed
from fhirserver.http.writing import answered, received
from fhirserver.policy.gate import Put


async def create(request: Request, server: Server) -> ASGIApp:
    """201 with the stored resource; with a condition that one resource meets, 200 with that one."""
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction="create", type=type_)
    sent = await received(request, server, type_)
    put = Put(resource=sent.resource, raw=sent.raw, id=str(uuid4()), if_version=0)
    condition = _condition(request)
    if condition is None:
        [record] = await scoped.write([put])
        return await answered(request, server, scoped, record, created=True)
    query = criteria(type_, condition, server.clock())

    async def attempt() -> ASGIApp:
        there = await the_one(scoped, query)
        if there is not None:
            with found():
                there = await scoped.read(there.key)
            shown = await answered(request, server, scoped, there, created=False, stored=False)
            disclosure = scoped.disclosure(interaction="create", detail={"resource": str(there.key)})
            return Disclosed(shown, disclosure, count=1)
        [record] = await scoped.write([put], conditions=holding(query, None))
        return await answered(request, server, scoped, record, created=True)

    return await repeated(attempt)


def _condition(request: Request) -> str | None:
    """If-None-Exist, which may have letters of any alphabet as they are: in UTF-8, as everything in FHIR."""
    given = request.headers.get("if-none-exist")
    try:
        return given and given.encode("latin-1").decode()
    except UnicodeDecodeError:
        told = "If-None-Exist is not UTF-8; write it with percent signs."
        raise Fault(Kind.BAD_REQUEST, told, expression="If-None-Exist") from None

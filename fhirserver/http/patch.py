"""patch: a resource changed in places, by JSON Patch or FHIRPath Patch; conditional by search criteria.

``PATCH [base]/{type}/{id}`` and ``PATCH [base]/{type}?criteria``. Source: R4 http §3.1.0.6, fhirpatch.html; RFC 5789.
A patch sees what its caller may read and nothing else, so neither its tests nor its failures tell of anything more;
what it makes is validated and stored as an update of the version that it was made from.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.core.patch import Patch, fhirpath_patch, json_patch
from fhirserver.http.conditions import criteria, found, holding, pinned, repeated, the_one
from fhirserver.http.limits import body_of
from fhirserver.http.negotiation import FHIR_JSON, READABLE, sent_type
from fhirserver.http.respond import Refused
from fhirserver.http.server import Server, bearer
from fhirserver.http.writing import answered, current, if_match, localised, validated
from fhirserver.policy.gate import Condition, Put, Scoped, must_stand_at

JSON_PATCH = "application/json-patch+json"
ACCEPTED = f"{JSON_PATCH}, {FHIR_JSON}"
"""Accept-Patch (RFC 5789 §3.1)."""

_READERS: dict[str, Callable[[bytes], Patch]] = {JSON_PATCH: json_patch, **dict.fromkeys(READABLE, fhirpath_patch)}
UNPATCHED = {"AuditEvent": "GET, HEAD, OPTIONS", "Binary": "DELETE, GET, HEAD, OPTIONS, PUT"}
"""Types without patch, with the methods to use: R4 leaves open what a patch of a Binary means, and AuditEvents are the
server's alone."""


class _Asked(NamedTuple):
    """What a request asks for: its patch, and the version of its If-Match."""

    change: Patch
    version: int | None


async def patch(request: Request, server: Server) -> ASGIApp:
    """200 with the new version. 412 if If-Match names another version, 400 for what is no patch, 422 for one that
    cannot be applied (a failed `test` too) or makes an invalid resource."""
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await _admitted(request, server)
    await scoped.read(key)  # what is not to be seen is refused whatever was sent
    asked = await _asked(request, server)
    return await repeated(partial(_patched, request, server, scoped, key, asked, ()))


async def patch_conditional(request: Request, server: Server) -> ASGIApp:
    """The same of the one match; 404 for none, 412 for several."""
    scoped = await _admitted(request, server)
    query = criteria(request.path_params["type"], request.url.query, server.clock())
    asked = await _asked(request, server)

    async def attempt() -> ASGIApp:
        there = await the_one(scoped, query)
        if there is None:
            raise Fault(Kind.NOT_FOUND, "The condition matches no resource.")
        must_stand_at(asked.version, there.key, there)
        # Made from the very version that the condition found: a later one may not meet it, and the patch not fit it.
        of_this = asked._replace(version=there.version)
        with found(), pinned(None):
            return await _patched(request, server, scoped, there.key, of_this, holding(query, there))

    return await repeated(attempt)


async def revised(scoped: Scoped, key: Key, change: Patch, version: int | None = None, *, base: str, most: int) -> Put:
    """What the patch makes of the resource as the caller reads it now, to be stored if nobody was first.

    ``base`` is the absolute FHIR base URL. Fault as `current`; METHOD_NOT_ALLOWED for a type without patch; BAD_REQUEST
    or INVALID for a patch that fails; TOO_LARGE for one that makes it larger than ``most`` bytes, which no update could
    send back.
    """
    _must_be_patchable(key.type)
    record, body = await current(scoped, key, version)
    try:
        raw = localised(change.apply(body), key.type, base)
        if len(raw) > max(most, len(body)):
            raise Fault(Kind.TOO_LARGE, f"The patch makes the resource larger than {most} bytes.")
        resource = validated(raw, key.type).resource
    except Fault:
        # A failure tells something of the content, as a read does.
        async with scoped.disclosure(interaction="patch", detail={"resource": str(key)}) as note:
            note.complete()
        raise
    return Put(resource=resource, raw=raw, id=key.id, if_version=record.version)


async def _admitted(request: Request, server: Server) -> Scoped:
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction="patch", type=type_)
    _must_be_patchable(type_)
    return scoped


def _must_be_patchable(type_: str) -> None:
    if type_ in UNPATCHED:
        raise Refused(Kind.METHOD_NOT_ALLOWED, f"{type_} cannot be patched here.", headers={"Allow": UNPATCHED[type_]})


async def _asked(request: Request, server: Server) -> _Asked:
    """The patch of the request's body, by its content type; whatever else could be refused is looked at before it."""
    version = if_match(request.headers)
    given = _reader(sent_type(request))
    return _Asked(given(await body_of(request, server)), version)


def patch_of(type_: str, body: bytes) -> Patch:
    """The patch of a body of this content type."""
    return _reader(type_)(body)


def _reader(type_: str) -> Callable[[bytes], Patch]:
    read = _READERS.get(type_)
    if read is None:
        told = f"A patch is {JSON_PATCH}, or Parameters as {FHIR_JSON}."
        raise Refused(Kind.UNSUPPORTED_MEDIA, told, headers={"Accept-Patch": ACCEPTED})
    return read


async def _patched(
    request: Request, server: Server, scoped: Scoped, key: Key, asked: _Asked, conditions: tuple[Condition, ...]
) -> ASGIApp:
    put = await revised(scoped, key, asked.change, asked.version, base=server.fhir_base(request), most=server.max_body)
    with pinned(asked.version):
        [record] = await scoped.write([put], conditions=conditions)
    return await answered(request, server, scoped, record, created=False)

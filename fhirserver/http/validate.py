"""`$validate`: whether a resource is valid, and whether storing or deleting it would succeed.

``POST [base]/{type}/$validate`` and ``GET|POST [base]/{type}/{id}/$validate``. Source: R4 resource-operation-validate.

A 200 says that the validation was done, whatever it found; a 4xx that it could not be. Nothing is stored, and what a
caller may not see is not validated for it either.
"""

from __future__ import annotations

from uuid import uuid4

from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.model import Key
from fhirserver.core.validate import advice, issues
from fhirserver.http.parameters import Asked, asked
from fhirserver.http.respond import content_type, json_answer, outcome
from fhirserver.http.server import Server, bearer
from fhirserver.http.stream import Disclosed
from fhirserver.http.writing import if_match
from fhirserver.policy.gate import Erase, Put, Scoped

INTERACTION = "$validate"
PARAMETERS = frozenset({"mode", "profile"})
MODES = frozenset({"create", "update", "delete", "profile"})
DEFINED = "http://hl7.org/fhir/StructureDefinition/"

_TOLD = frozenset(
    {
        Kind.BAD_REQUEST,
        Kind.INVALID,
        Kind.FORBIDDEN,
        Kind.NOT_FOUND,
        Kind.METHOD_NOT_ALLOWED,
        Kind.CONFLICT,
        Kind.PRECONDITION_FAILED,
    }
)
"""What a write may be refused for and a validation therefore finds; anything else has kept it from being done."""

_FINE = Issue("informational", "No issues were found.", "", "information")


async def validate_type(request: Request, server: Server) -> ASGIApp:
    """The issues of the resource that was sent; with mode=create also why it could not be created."""
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction=INTERACTION, type=type_)
    media_type = content_type(request, request.query_params.get("_format"))
    given = await _asked(request, server, type_)
    mode = given.values.get("mode")
    if mode in ("update", "delete"):
        raise Fault(Kind.BAD_REQUEST, f"mode={mode} is for one resource: {type_}/[id]/$validate.", expression="mode")
    if given.resource is None:
        raise Fault(Kind.BAD_REQUEST, "There is no resource to validate.", expression="resource")
    found, resource = _content(given.resource, type_)
    if mode == "create" and resource is not None and not _errors(found):
        put = Put(resource=resource, raw=given.resource, id=str(uuid4()), if_version=0)
        found += await _refused(scoped, put)
    return json_answer(_outcome(found), media_type)


async def validate_instance(request: Request, server: Server) -> ASGIApp:
    """The issues of the stored resource, or of the one that was sent; with mode=update or delete also why the stored
    one could not be updated to it, or deleted."""
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction=INTERACTION, type=key.type)
    media_type = content_type(request, request.query_params.get("_format"))
    given = await _asked(request, server, key.type)
    mode = given.values.get("mode")
    if mode == "create":
        raise Fault(Kind.BAD_REQUEST, f"mode=create is for a type: {key.type}/$validate.", expression="mode")
    if mode == "update" and given.resource is None:
        raise Fault(Kind.BAD_REQUEST, "mode=update needs the resource as it would be.", expression="resource")
    record = await scoped.read(key)
    if mode == "delete":
        found = await _refused(scoped, Erase(key=key, if_version=if_match(request.headers)))
        return json_answer(_outcome(found), media_type)
    if given.resource is not None:
        found, resource = _content(given.resource, key.type)
        if mode == "update" and resource is not None and not _errors(found):
            found += await _update(scoped, key, resource, given.resource, if_match(request.headers))
        return json_answer(_outcome(found), media_type)
    found, _ = _content(await scoped.whole(record), key.type)
    disclosure = scoped.disclosure(interaction=INTERACTION, detail={"resource": str(key)})
    return Disclosed(json_answer(_outcome(found), media_type), disclosure, count=1)


async def _asked(request: Request, server: Server, type_: str) -> Asked:
    given = await asked(request, server, names=PARAMETERS, resource="resource")
    mode, profile = given.values.get("mode"), given.values.get("profile")
    if mode is not None and mode not in MODES:
        raise Fault(Kind.BAD_REQUEST, f"mode must be one of {', '.join(sorted(MODES))}.", expression="mode")
    if mode == "profile" and profile is None:
        raise Fault(Kind.BAD_REQUEST, "mode=profile needs a profile.", expression="profile")
    if profile is not None and not _is_base(profile, type_):
        # R4: a server that cannot validate against the nominated profile SHALL return an error.
        told = "This server validates against the base definition of each type and knows no other profile."
        raise Fault(Kind.BAD_REQUEST, told, issues=[Issue("not-supported", told, "profile")])
    return given


def _is_base(profile: str, type_: str) -> bool:
    url, _, version = profile.partition("|")
    return url in {DEFINED + name for name in (type_, "DomainResource", "Resource")} and version in ("", "4.0.1", "4.0")


def _content(raw: bytes, type_: str) -> tuple[list[Issue], dict[str, object] | None]:
    """The issues of a resource's content, and the resource where it could be read."""
    resource, found = issues(raw)
    found = list(found)
    if resource is None:
        return found, None
    stated = resource.get("resourceType")
    if isinstance(stated, str) and stated != type_:
        found.append(Issue("invalid", f"is a {stated[:64]}, not a {type_}", "resourceType"))
    meta = resource.get("meta")
    claimed = meta.get("profile") if isinstance(meta, dict) else None
    for at, profile in enumerate(claimed if isinstance(claimed, list) else []):
        if isinstance(profile, str) and not _is_base(profile, type_):
            told = "was not checked: this server validates against base definitions only"
            found.append(Issue("informational", told, f"{type_}.meta.profile[{at}]", "information"))
    return (found if _errors(found) else found + advice(resource)), resource


async def _update(
    scoped: Scoped, key: Key, resource: dict[str, object], raw: bytes, version: int | None
) -> list[Issue]:
    if resource.get("id") != key.id:
        return [Issue("invalid", "must be the id of the URL", f"{key.type}.id")]
    return await _refused(scoped, Put(resource=resource, raw=raw, id=key.id, if_version=version))


async def _refused(scoped: Scoped, change: Put | Erase) -> list[Issue]:
    """Why the change would be refused, or what it would be warned of."""
    try:
        await scoped.rehearse([change])
    except Fault as fault:
        if fault.kind not in _TOLD:
            raise
        return list(fault.issues)
    return list(scoped.warnings)


def _errors(found: list[Issue]) -> bool:
    return any(issue.severity in ("error", "fatal") for issue in found)


def _outcome(found: list[Issue]) -> bytes:
    return outcome(Fault(Kind.INVALID, "", issues=found or [_FINE]))

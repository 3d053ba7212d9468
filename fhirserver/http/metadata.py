"""`/metadata`: the CapabilityStatement, made from the definition tables.

Source: R4 http §3.1.0.15 (capabilities).
"""

from __future__ import annotations

from functools import lru_cache
from hashlib import blake2b
from importlib.resources import files

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

import fhirserver
from fhirserver.core.definitions import RESOURCE_TYPES, search_parameters
from fhirserver.http.respond import content_type, json_answer
from fhirserver.http.server import Server

RELEASED = "2026-11-20"
INTERACTIONS = ("read", "vread", "search-type")
EVERYTHING = {
    "Patient": "http://hl7.org/fhir/OperationDefinition/Patient-everything",
    "Person": "{base}/OperationDefinition/Person-everything",
}
"""Types with `$everything` and the canonical of its definition. A test holds both to the route table."""


async def metadata(request: Request, server: Server) -> ASGIApp:
    """What this server can do; its ETag changes with the content."""
    media_type = content_type(request, request.query_params.get("_format"))
    body = statement(server.fhir_base(request))
    tag = f'W/"{blake2b(body, digest_size=8).hexdigest()}"'
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers={"ETag": tag})
    return json_answer(body, media_type, headers={"ETag": tag, "Cache-Control": "no-cache"})


@lru_cache(maxsize=16)
def statement(base: str) -> bytes:
    """The CapabilityStatement of the server at this FHIR base, as JSON."""
    return msgspec.json.encode(
        {
            "resourceType": "CapabilityStatement",
            "status": "active",
            "date": RELEASED,
            "kind": "instance",
            "software": {"name": "fhirserver", "version": fhirserver.__version__},
            "implementation": {"description": "FHIR R4 facade with a streaming $everything", "url": base},
            "fhirVersion": "4.0.1",
            "format": ["application/fhir+json"],
            "rest": [
                {
                    "mode": "server",
                    "security": {
                        "cors": False,
                        "description": "Bearer tokens (ES256 JWT); what a caller sees is decided by its organisation, "
                        "its scopes and the patients' Consent resources.",
                    },
                    "resource": [_resource(type_, base) for type_ in sorted(RESOURCE_TYPES)],
                }
            ],
        }
    )


def _resource(type_: str, base: str) -> dict[str, object]:
    resource: dict[str, object] = {
        "type": type_,
        "interaction": [{"code": code} for code in INTERACTIONS],
        "versioning": "versioned",
        "readHistory": True,
        "searchParam": [{"name": name, "type": kind} for name, kind in _parameters(type_)],
    }
    if type_ in EVERYTHING:
        resource["operation"] = [{"name": "everything", "definition": EVERYTHING[type_].format(base=base)}]
    return resource


def _parameters(type_: str) -> list[tuple[str, str]]:
    names = ["identifier"] if "identifier" in search_parameters(type_) else []
    names += ["link", "patient"] if type_ == "Person" else []
    return [("_id", "token"), *((name, search_parameters(type_)[name].type) for name in names)]


async def person_everything_definition(request: Request, server: Server) -> ASGIApp:
    """Our OperationDefinition of `Person/$everything`, which R4 does not define."""
    media_type = content_type(request, request.query_params.get("_format"))
    return json_answer(files("fhirserver.data").joinpath("Person-everything.json").read_bytes(), media_type)

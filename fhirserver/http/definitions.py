"""The definitions behind the CapabilityStatement, served as resources that everybody may read and nobody changes.

``GET [base]/OperationDefinition/{id}`` for the operations that R4 does not define, and
``GET [base]/SearchParameter/{id}`` for the search parameters that are answered. Every other id is a stored resource
like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache, lru_cache
from hashlib import blake2b
from importlib.resources import files
from typing import TYPE_CHECKING

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fhirserver.core.definitions import RESOURCE_TYPES, SearchParameter, published
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.core.search import UNSUPPORTED
from fhirserver.http.respond import content_type, json_answer, not_modified
from fhirserver.http.server import Server
from fhirserver.http.subset import asked

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fhirserver.http.routes import Row

OFFICIAL = "http://hl7.org/fhir/OperationDefinition/"
OF_ANY = frozenset({"validate", "meta", "meta-add", "meta-delete"})
"""Operations that R4 defines for every type."""
OF_ONE = frozenset({"Patient-everything", "Encounter-everything", "Group-everything"})
"""Operations that R4 defines for one type."""
OF_US_CORE = {"DocumentReference-docref": "http://hl7.org/fhir/us/core/OperationDefinition/docref"}
"""Operations that US Core defines, and their canonical URLs."""
OURS = ("Person-everything",)
"""Ids of our OperationDefinitions; each is a file of `fhirserver.data`."""

PREFIX = "r4-"
"""Ids of the served SearchParameters are those of R4 behind this: R4's own stay free for who stores its examples."""

DEFINED = ("OperationDefinition", "SearchParameter")
"""The types of the definitions."""

_OF_R4 = "http://hl7.org/fhir/SearchParameter/"
_ANYTHING = ("Resource",)


def canonical(type_: str, name: str, base: str) -> str:
    """The canonical URL of the definition of an operation on this type (empty: on the whole system)."""
    if name in OF_ANY:
        return f"{OFFICIAL}Resource-{name}"
    known = f"{type_}-{name}"
    if known in OF_US_CORE:
        return OF_US_CORE[known]
    return f"{OFFICIAL}{known}" if known in OF_ONE else f"{base}/OperationDefinition/{known}"


def is_ours(parameters: Mapping[str, str]) -> bool:
    """Whether a path names one of these definitions."""
    if parameters["type"] == "OperationDefinition":
        return parameters["id"] in OURS
    return parameters["id"].startswith(PREFIX) and parameters["id"] in _parameters()


def must_be_free(key: Key) -> None:
    """Fault METHOD_NOT_ALLOWED for the id of a definition: what is stored under it nobody would see."""
    if key.type in DEFINED and is_ours({"type": key.type, "id": key.id}):
        raise Fault(Kind.METHOD_NOT_ALLOWED, f"{key} is the server's own and cannot be written.")


async def definition(request: Request, server: Server) -> ASGIApp:
    """The definition, with an ETag that changes with its content."""
    media_type = content_type(request, request.query_params.get("_format"))
    cut = asked(request)
    id_, base = request.path_params["id"], server.fhir_base(request)
    if request.path_params["type"] == "OperationDefinition":
        body = operation_definition(id_, base, request.app.routes)
    else:
        body = search_parameter(id_)
    return told(request, cut(body) if cut else body, media_type)


def told(request: Request, body: bytes, media_type: str) -> ASGIApp:
    """An answer that is the same for everybody, or a 304 for a copy that is still good."""
    headers = {"ETag": f'W/"{blake2b(body, digest_size=8).hexdigest()}"', "Cache-Control": "no-cache", "Vary": "Accept"}
    if not_modified(request, headers["ETag"], None):
        return Response(status_code=304, headers=headers)
    return json_answer(body, media_type, headers=headers)


@lru_cache(maxsize=64)
def operation_definition(id_: str, base: str, rows: Sequence[Row]) -> bytes:
    """One of our OperationDefinitions; on which levels it can be asked for is read off the route table."""
    resource = msgspec.json.decode(
        files("fhirserver.data").joinpath(f"{id_}.json").read_bytes(), type=dict[str, object]
    )
    type_, _, name = id_.partition("-")
    levels = {row.level() for row in rows if row.interaction == f"${name}" and type_ in row.types()}
    return msgspec.json.encode(
        {"resourceType": "OperationDefinition", "id": id_, "url": f"{base}/OperationDefinition/{id_}"}
        | resource
        | {each: each in levels for each in ("system", "type", "instance")}
    )


@cache
def _parameters() -> dict[str, SearchParameter]:
    """The published search parameters that are answered, by the id they are served under. Those of the installation's
    own are stored resources."""
    found = {PREFIX + parameter.id: parameter for parameter in published() if parameter.code not in UNSUPPORTED}
    return dict(sorted(found.items()))


@lru_cache(maxsize=256)
def search_parameter(id_: str) -> bytes:
    """A published search parameter as a resource: what the tables of this server hold of it."""
    parameter = _parameters()[id_]
    targets = sorted(RESOURCE_TYPES - {"Parameters"}) if parameter.targets == _ANYTHING else parameter.targets
    optional: dict[str, object] = {
        "expression": parameter.expression,
        "target": targets,
        "component": [
            {"definition": f"{_OF_R4}{each.id}", "expression": each.expression} for each in parameter.components
        ],
    }
    return msgspec.json.encode(
        {
            "resourceType": "SearchParameter",
            "id": id_,
            "url": parameter.url,
            **({"version": "4.0.1"} if parameter.url.startswith(_OF_R4) else {}),
            "name": parameter.code,
            "status": "active",
            "description": f"The search parameter {parameter.code} as this server answers it.",
            "code": parameter.code,
            "base": parameter.base,
            "type": parameter.type,
            **{name: value for name, value in optional.items() if value},
        }
    )

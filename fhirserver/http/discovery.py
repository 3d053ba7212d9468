"""What a client needs to know before it can ask for a token: `smart-configuration`, and the keys that tokens are
verified with.

Source: SMART App Launch 2.2 "Conformance" (always application/json, whatever is accepted); RFC 7517.
"""

from __future__ import annotations

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fhirserver.http.oauth import INTROSPECT, REVOKE, TOKEN
from fhirserver.http.respond import SECURITY_HEADERS
from fhirserver.http.server import Server
from fhirserver.policy.assertion import ALGORITHMS
from fhirserver.policy.authorization import GRANT

SMART = "/.well-known/smart-configuration"
JWKS = "/.well-known/jwks.json"

CAPABILITIES = (
    "client-confidential-asymmetric",
    "permission-patient",
    "permission-user",
    "permission-v1",
    "permission-v2",
)

_KEPT = {**SECURITY_HEADERS, "Cache-Control": "public, max-age=60"}
"""Public, and to be asked for again soon: a key may be withdrawn."""


async def smart_configuration(request: Request, server: Server) -> ASGIApp:
    """Where tokens are had, and how (`GET /.well-known/smart-configuration`)."""
    root = server.root(request)
    methods = {"auth_methods_supported": ["private_key_jwt"], "auth_signing_alg_values_supported": list(ALGORITHMS)}
    told: dict[str, object] = {
        "jwks_uri": root + JWKS,
        "token_endpoint": root + TOKEN,
        "introspection_endpoint": root + INTROSPECT,
        "revocation_endpoint": root + REVOKE,
        "grant_types_supported": [GRANT],
        "scopes_supported": [
            f"{context}/*.{letters}" for context in ("system", "user", "patient") for letters in ("rs", "cruds")
        ],
        "capabilities": list(CAPABILITIES),
        "code_challenge_methods_supported": ["S256"],
    }
    for endpoint in ("token", "introspection", "revocation"):
        told |= {f"{endpoint}_endpoint_{name}": value for name, value in methods.items()}
    return _json(told, SECURITY_HEADERS)


async def jwks(request: Request, server: Server) -> ASGIApp:
    """The public halves of the keys that tokens are signed with (`GET /.well-known/jwks.json`)."""
    return _json({"keys": server.gate.public_keys()}, _KEPT)


def _json(told: object, headers: dict[str, str]) -> Response:
    return Response(msgspec.json.encode(told), 200, dict(headers), media_type="application/json")

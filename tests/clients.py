"""Clients of SMART Backend Services for tests: their keys, their key sets, and the assertions they sign."""

from __future__ import annotations

import json
import secrets
from functools import cache
from typing import Any

import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from fhirserver.policy.assertion import ASSERTION_TYPE
from fhirserver.policy.gate import CallerClass, Client
from tests.served import Served

ALGORITHMS = ("RS384", "ES384", "EdDSA")
Json = dict[str, Any]


@cache
def private(algorithm: str) -> Any:
    """A private key for this algorithm, the same one each time."""
    if algorithm.startswith("RS"):
        return rsa.generate_private_key(65537, 2048)
    if algorithm == "EdDSA":
        return ed25519.Ed25519PrivateKey.generate()
    return ec.generate_private_key(ec.SECP256R1() if algorithm == "ES256" else ec.SECP384R1())


def jwk(algorithm: str, kid: str | None = None, **more: Any) -> Json:
    """The public half of that key."""
    found: Json = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private(algorithm).public_key()))
    return {**found, "kid": kid or algorithm, **more}


def jwks(*algorithms: str) -> Json:
    return {"keys": [jwk(algorithm) for algorithm in algorithms or ALGORITHMS]}


def assertion(audience: str, now: int, algorithm: str = "ES384", *, id: str = "bulk", **changed: Any) -> str:
    """A good assertion at ``now`` (milliseconds), but for what is ``changed`` in its claims (None: left out) or, under
    ``header``, in its header."""
    header = {"kid": algorithm, **changed.pop("header", {})}
    key = changed.pop("key", None) or private(algorithm)
    claims = {"iss": id, "sub": id, "aud": audience, "exp": now // 1000 + 300, "jti": secrets.token_hex(8), **changed}
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, key, algorithm=algorithm, headers={n: v for n, v in header.items() if v is not None})


def form(assertion: str, **more: str) -> dict[str, str]:
    return {"client_assertion_type": ASSERTION_TYPE, "client_assertion": assertion, **more}


def registered(id: str = "bulk", **more: Any) -> Client:
    given: Json = {"organization": "reader", "caller": CallerClass.THIRD_PARTY, "scope": "system/*.rs", **more}
    return Client(id=id, **({"jwks": jwks()} | given if "jwks_url" not in given else given))


async def post(server: Served, path: str, fields: Any, **options: Any) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
        return await client.post(path, data=fields, **options)


async def ask(
    server: Served, algorithm: str = "ES384", *, scope: str = "system/*.rs", **changed: Any
) -> httpx.Response:
    """Ask for a token with an assertion that is good but for what is ``changed``."""
    signed = assertion(server.url + "/oauth/token", server.runtime.clock(), algorithm, **changed)
    return await post(server, "/oauth/token", form(signed, grant_type="client_credentials", scope=scope))


async def token(server: Served, **more: Any) -> str:
    answer = await ask(server, **more)
    assert answer.status_code == 200, answer.text
    return str(answer.json()["access_token"])

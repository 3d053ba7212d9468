"""`private_key_jwt`: which registered client a signed assertion proves.

Source: SMART App Launch 2.2 "Client authentication: asymmetric", RFC 7521 §4.2, RFC 7523 §3. Whatever is wrong ends as
one `NotProven`, whose reason is for the audit trail alone.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from hashlib import sha256

import jwt
import msgspec

from fhirserver.policy.clients import Client, Clients, is_client_id
from fhirserver.policy.jwks import Unverified, VerifyingKey, read_keys, verified
from fhirserver.policy.keysets import KeySets
from fhirserver.store.port import Store

ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
ALGORITHMS = ("RS384", "ES384", "EdDSA")
"""What an assertion may be signed by."""

USED = "assertion/"
"""Prefix of the ledger entries of assertions that were used; each goes when the assertion has expired."""

LONGEST_LIFE = 300_000
"""Milliseconds that an assertion may be good for yet."""

LEEWAY = 5_000
"""Milliseconds that clocks may differ by."""

_KEPT = 60_000
"""Milliseconds that a used assertion is remembered beyond its end, for servers whose clocks differ."""

_LONGEST = 16_384
_TYPES = frozenset({None, "JWT", "jwt", "client-authentication+jwt"})


class NotProven(Exception):
    """No client is proven. ``client``: the registered client that the assertion speaks of, if there is one."""

    def __init__(self, reason: str, client: Client | None = None) -> None:
        super().__init__(reason)
        self.reason = reason
        self.client = client


class _Claims(msgspec.Struct):
    iss: str
    sub: str
    aud: str | tuple[str]
    exp: int | float
    jti: str
    nbf: int | float = 0
    iat: int | float = 0


class Assertions:
    """Proves clients by their assertions, each of which counts once on all servers of the store."""

    def __init__(self, store: Store, clients: Clients, sets: KeySets, clock: Callable[[], int]) -> None:
        self._store = store
        self._clients = clients
        self._sets = sets
        self._clock = clock

    async def prove(self, assertion: str, audiences: Collection[str]) -> Client:
        """The client whose assertion this is; NotProven in every other case. ``audiences``: the URLs that it may be
        meant for."""
        client = await self._clients.get(claimed(assertion))
        if client is None:
            raise NotProven("client")
        header, payload = await self._verified(assertion, client)
        try:
            claims = msgspec.json.decode(payload, type=_Claims)
        except (msgspec.MsgspecError, ValueError):
            raise NotProven("claims", client) from None
        wrong = _wrong(header, claims, client, audiences, self._clock())
        if wrong or not client.enabled:
            raise NotProven(wrong or "disabled", client)
        name = f"{USED}{client.id}/{sha256(claims.jti.encode()).hexdigest()}"
        if not await self._store.ledger.put_if(name, b"1", stamp=None, expires=int(claims.exp * 1000) + _KEPT):
            raise NotProven("replayed", client)
        return client

    async def _verified(self, assertion: str, client: Client) -> tuple[dict[str, object], bytes]:
        """Header and payload, if one of the client's keys has signed them."""
        try:
            try:
                return verified(assertion, await self._keys(client), ALGORITHMS)
            except Unverified as refused:
                if client.jwks_url is None or not refused.unknown_kid:
                    raise
            return verified(assertion, await self._sets.keys(client.jwks_url, unknown=True), ALGORITHMS)
        except Unverified:
            raise NotProven("signature", client) from None

    async def _keys(self, client: Client) -> tuple[VerifyingKey, ...]:
        return read_keys(client.jwks) if client.jwks_url is None else await self._sets.keys(client.jwks_url)


def claimed(assertion: str) -> str:
    """The client that an assertion says it is of, unproven; NotProven where it does not say."""
    if len(assertion) > _LONGEST or not assertion.isascii():
        raise NotProven("assertion")
    try:
        claims = jwt.decode(assertion, options={"verify_signature": False})
    except (jwt.PyJWTError, ValueError, RecursionError):
        raise NotProven("assertion") from None
    id = claims.get("iss")
    if not isinstance(id, str) or not is_client_id(id):
        raise NotProven("assertion")
    return id


def _wrong(
    header: dict[str, object], claims: _Claims, client: Client, audiences: Collection[str], now: int
) -> str | None:
    """What is wrong with a signed assertion, in a word; None when nothing is."""
    if header.get("typ") not in _TYPES or header.get("jku", client.jwks_url) != client.jwks_url:
        return "header"
    if claims.iss != client.id or claims.sub != client.id:
        return "subject"
    # An array of one is that one; an assertion that is meant for others too could be played on by them.
    if (claims.aud if isinstance(claims.aud, str) else claims.aud[0]) not in audiences:
        return "audience"
    if not now / 1000 < claims.exp <= (now + LONGEST_LIFE + LEEWAY) / 1000:
        return "expiry"
    if max(claims.nbf, claims.iat) > (now + LEEWAY) / 1000:
        return "time"
    return None if 0 < len(claims.jti) <= 256 else "jti"

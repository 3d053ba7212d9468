"""Who is calling: this server's own signed tokens in, a Principal out.

A token is a JWT signed with ES256 by the installation's key. Algorithm, key id, type and the set of claims are
pinned; whatever is not exactly one of ours, and still good, ends in the same harmless refusal. The caller's class is
what the installation registered in the token, never something read from the scopes.
"""

from __future__ import annotations

import secrets
from collections import OrderedDict
from enum import Enum
from hashlib import sha256
from typing import Any

import jwt
import msgspec

from fhirserver.core.errors import Fault, Kind
from fhirserver.policy.keyring import Keyring
from fhirserver.policy.keys import Keys
from fhirserver.policy.scopes import Scopes

OPERATOR_ORGANIZATION = "operator"
"""The operator's own organisation: custodian of what is ingested without naming one."""

OPERATOR_MILLISECONDS = 3_600_000
"""Operator tokens live for at most an hour; one that was signed for longer is not accepted."""

BREAK_GLASS = "BTG"
"""The purpose of use of an emergency (v3-ActReason): for members, and for an hour at most. It opens nothing that its
member may not see anyway; it is told apart in the audit trail and in the log."""

LEEWAY_MILLISECONDS = 5_000
"""How far in the future `iat` may lie, for clocks that differ; `exp` is taken exactly."""

_ALGORITHM = "ES256"
_TYPE = "at+jwt"
LONGEST_TOKEN = 8192


class CallerClass(Enum):
    """What a caller is registered as; decides its reach."""

    OPERATOR = "operator"
    MEMBER = "member"
    THIRD_PARTY = "third-party"
    PATIENT = "patient"


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """An authenticated caller. ``until`` is in milliseconds since 1970; ``patient`` only for patient apps."""

    subject: str
    organization: str
    caller: CallerClass
    scopes: Scopes
    until: int
    patient: str | None = None
    purpose: str | None = None
    role: str | None = None
    token_id: str = ""
    client: str = ""
    """The registered client behind the token, and its epoch then; empty for tokens of the command line."""
    epoch: int = 0
    issuer: str = ""
    """The outside issuer of the token; empty: this installation."""


class _Claims(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    iss: str
    aud: str
    sub: str
    org: str
    caller: CallerClass = msgspec.field(name="class")
    scope: str
    jti: str
    iat: int
    exp: int
    patient: str | None = None
    purpose: str | None = None
    role: str | None = None
    client_id: str = ""
    epoch: int = 0


def issue_token(keys: Keys, principal: Principal, now: int) -> str:
    """A signed token for ``principal``, good from ``now`` until ``principal.until`` (milliseconds since 1970).

    A missing ``token_id`` is made. ValueError for a principal that could never be admitted.
    """
    if not principal.subject or not principal.organization:
        raise ValueError("A token needs a subject and an organisation.")
    if principal.until // 1000 <= now // 1000:
        raise ValueError("A token must expire after now.")
    if principal.caller is CallerClass.OPERATOR and principal.until - now > OPERATOR_MILLISECONDS:
        raise ValueError("An operator token lives for at most 3600 seconds.")
    if principal.purpose == BREAK_GLASS and principal.caller is not CallerClass.MEMBER:
        raise ValueError("The purpose BTG (break-glass) is for members alone.")
    if principal.purpose == BREAK_GLASS and principal.until - now > OPERATOR_MILLISECONDS:
        raise ValueError("A token for the purpose BTG lives for at most 3600 seconds.")
    if (principal.caller is CallerClass.PATIENT) != (principal.patient is not None):
        raise ValueError("A patient token names its patient, and only a patient token does.")
    claims = {
        "iss": keys.issuer,
        "aud": keys.issuer,
        "sub": principal.subject,
        "org": principal.organization,
        "class": principal.caller.value,
        "scope": principal.scopes.text,
        "patient": principal.patient,
        "purpose": principal.purpose,
        "role": principal.role,
        "client_id": principal.client or None,
        "epoch": principal.epoch or None,
        "jti": principal.token_id or secrets.token_urlsafe(16),
        "iat": now // 1000,
        "exp": principal.until // 1000,
    }
    given = {name: value for name, value in claims.items() if value is not None}
    return jwt.encode(given, keys.signing_key, algorithm=_ALGORITHM, headers={"kid": keys.kid, "typ": _TYPE})


def authenticate(keys: Keys, token: str | None, now: int) -> Principal:
    """The Principal behind a token; Fault UNAUTHENTICATED, always with the same words, when there is none.

    Revocation is not looked at here: it is read from the store with each request.
    """
    return Authenticator(keys, size=0).authenticate(token, now)


class Authenticator:
    """`authenticate` that remembers the signatures it has verified, by the hash of the whole token.

    Only the arithmetic is remembered, and only under the keys it was done with: expiry is checked each time, revocation
    by the gate.
    """

    def __init__(self, keys: Keyring | Keys, *, size: int = 4096) -> None:
        self._keys = keys if isinstance(keys, Keyring) else Keyring(keys)
        self._size = size
        self._verified: OrderedDict[bytes, _Claims] = OrderedDict()
        self._generation = self._keys.generation

    def authenticate(self, token: str | None, now: int) -> Principal:
        """As the function of the same name."""
        if not token or len(token) > LONGEST_TOKEN or not token.isascii():
            raise refusal()
        self._keys.current(now)
        if self._keys.generation != self._generation:
            self._verified.clear()
            self._generation = self._keys.generation
        name = sha256(token.encode()).digest()
        claims = self._verified.get(name)
        if claims is None:
            claims = _verify(self._keys, token, now)
            self._verified[name] = claims
            while len(self._verified) > self._size:
                self._verified.popitem(last=False)
        return _principal(claims, now)


def _verify(keys: Keyring, token: str, now: int) -> _Claims:
    try:
        header = jwt.get_unverified_header(token)
        kid = header.get("kid")
        key = keys.verifying(kid, now) if isinstance(kid, str) else None
        if key is None or header != {"alg": _ALGORITHM, "typ": _TYPE, "kid": kid}:
            raise refusal()
        issuer = keys.held.issuer
        claims: dict[str, Any] = jwt.decode(
            token,
            key,
            algorithms=[_ALGORITHM],
            audience=issuer,
            issuer=issuer,
            # The times are compared with the injected clock, in `_principal`.
            options={"require": ["exp", "iat"], "verify_exp": False, "verify_iat": False, "verify_nbf": False},
        )
        return msgspec.convert(claims, _Claims)
    except (jwt.PyJWTError, msgspec.ValidationError, ValueError, TypeError):
        raise refusal() from None


def _principal(claims: _Claims, now: int) -> Principal:
    issued, until = claims.iat * 1000, claims.exp * 1000
    good = now < until and issued <= now + LEEWAY_MILLISECONDS and claims.sub and claims.org and claims.jti
    if claims.caller is CallerClass.OPERATOR and until - issued > OPERATOR_MILLISECONDS:
        good = False
    if (claims.caller is CallerClass.PATIENT) != bool(claims.patient) or bool(claims.client_id) != bool(claims.epoch):
        good = False
    if not good:
        raise refusal()
    return Principal(
        subject=claims.sub,
        organization=claims.org,
        caller=claims.caller,
        scopes=Scopes(claims.scope),
        patient=claims.patient,
        purpose=claims.purpose,
        role=claims.role,
        until=until,
        token_id=claims.jti,
        client=claims.client_id,
        epoch=claims.epoch,
    )


def refusal() -> Fault:
    """The one answer to whatever is not a good token."""
    return Fault(Kind.UNAUTHENTICATED, "A valid bearer token is needed.")

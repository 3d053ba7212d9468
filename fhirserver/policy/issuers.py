"""Outside issuers: OpenID Connect providers whose tokens count here, as far as the configuration says.

A patient's token of such an issuer opens a chart of the one organisation that the issuer is set up for, a member's acts
for an organisation that the configuration names. Organisation, role and purpose are read from claims only where a table
says what each value means; whatever the table does not list is no good token (organisation) or not there (the others).

Source: OpenID Connect Discovery 1.0 §4; RFC 9068 (JWT access tokens); RFC 7519.
"""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from collections.abc import Callable, Collection
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import jwt
import msgspec

from fhirserver.core.lexical import is_id
from fhirserver.policy.jwks import Unverified, VerifyingKey, verified
from fhirserver.policy.keysets import PAUSE, KeySets, lifetime
from fhirserver.policy.outbound import Outbound, Unreachable, must_be_https
from fhirserver.policy.principal import (
    LEEWAY_MILLISECONDS,
    LONGEST_TOKEN,
    OPERATOR_ORGANIZATION,
    CallerClass,
    Principal,
    refusal,
)
from fhirserver.policy.scopes import Scopes
from fhirserver.policy.vocabulary import purposes

LONGEST_LIFE = 24 * 3_600_000
"""Milliseconds that a token of an outside issuer may be good for yet."""

REMEMBERED = 600_000
"""Milliseconds for which a verified signature is remembered: a key that its issuer withdraws ends by then."""

_MOST = 4096
_TYPES = frozenset({None, "JWT", "at+jwt", "application/at+jwt"})

_log = logging.getLogger("fhirserver.policy")


class Mapped(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A claim, and what its values mean here."""

    claim: str
    values: dict[str, str]

    def of(self, claims: dict[str, Any]) -> str | None:
        """The meaning of the first value that has one."""
        given = claims.get(self.claim)
        listed = given if isinstance(given, list) else [given]
        return next((self.values[each] for each in listed if isinstance(each, str) and each in self.values), None)


class Issuer(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One entry of the issuers' file. ``organization``: whose patients its tokens are about, and whom its members act
    for unless ``organizations`` is mapped; ``patient`` and ``scope``: the claims that hold these."""

    issuer: str
    audience: str
    organization: str
    caller: Literal["patient", "member"] = msgspec.field(name="class")
    patient: str = "patient"
    scope: str = "scope"
    algorithms: tuple[Literal["RS256", "RS384", "ES256", "ES384", "EdDSA"], ...] = ("RS256", "ES256", "RS384", "ES384")
    organizations: Mapped | None = None
    role: Mapped | None = None
    purpose: Mapped | None = None


class _Times(msgspec.Struct):
    """What must be so in each token, beside the claims that are mapped."""

    iss: str
    sub: str
    aud: str | list[str]
    exp: int | float
    iat: int | float = 0
    nbf: int | float = 0
    jti: str = ""


def load_issuers(path: Path) -> tuple[Issuer, ...]:
    """The issuers of a file: a JSON list of `Issuer`; ValueError, in one sentence, for what it cannot be."""
    try:
        found = msgspec.json.decode(path.read_bytes(), type=tuple[Issuer, ...])
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is no list of issuers: {error}.") from None
    for issuer in found:
        try:
            must_be_https(issuer.issuer)
        except ValueError as error:
            raise ValueError(f"{path}, issuer {issuer.issuer!r}: {error}") from None
        named = {issuer.organization, *(issuer.organizations.values.values() if issuer.organizations else ())}
        if not issuer.audience or "" in named or OPERATOR_ORGANIZATION in named:
            told = f"it needs an audience and an organisation other than {OPERATOR_ORGANIZATION!r}."
            raise ValueError(f"{path}, issuer {issuer.issuer!r}: {told}")
        if issuer.purpose and not all(map(purposes().known, issuer.purpose.values.values())):
            raise ValueError(f"{path}, issuer {issuer.issuer!r}: a purpose is none that is known here.")
    if len({issuer.issuer for issuer in found}) < len(found):
        raise ValueError(f"{path} lists an issuer twice.")
    return found


class Issuers:
    """Authenticates the tokens of outside issuers."""

    def __init__(
        self, issuers: Collection[Issuer], outbound: Outbound, sets: KeySets, clock: Callable[[], int]
    ) -> None:
        self._issuers = {issuer.issuer: issuer for issuer in issuers}
        self._outbound = outbound
        self._sets = sets
        self._clock = clock
        self._places: dict[str, tuple[str | None, int]] = {}
        self._locks = {name: asyncio.Lock() for name in self._issuers}
        self._verified: OrderedDict[bytes, tuple[dict[str, Any], _Times, int]] = OrderedDict()

    async def authenticate(self, token: str | None) -> Principal:
        """The Principal behind a token of one of them; Fault UNAUTHENTICATED, in the same words as ever, if none."""
        if not token or len(token) > LONGEST_TOKEN or not token.isascii():
            raise refusal()
        issuer = self._issuers.get(_named(token))
        if issuer is None:
            raise refusal()
        name, now = sha256(token.encode()).digest(), self._clock()
        held = self._verified.get(name)
        if held is None or not held[2] <= now < held[2] + REMEMBERED:
            held = (*await self._verify(token, issuer), now)
            self._verified[name] = held
            while len(self._verified) > _MOST:
                self._verified.popitem(last=False)
        return _principal(issuer, held[0], held[1], token, now)

    async def _verify(self, token: str, issuer: Issuer) -> tuple[dict[str, Any], _Times]:
        place = await self._place(issuer)
        if place is None:
            raise refusal()
        try:
            header, payload = await self._signed(token, issuer, place)
            claims = msgspec.json.decode(payload, type=dict[str, Any])
            times = msgspec.convert(claims, _Times)
        except (Unverified, msgspec.MsgspecError, ValueError, RecursionError):
            raise refusal() from None
        if header.get("typ") not in _TYPES:
            raise refusal()
        return claims, times

    async def _signed(self, token: str, issuer: Issuer, place: str) -> tuple[dict[str, Any], bytes]:
        keys: tuple[VerifyingKey, ...] = await self._sets.keys(place)
        try:
            return verified(token, keys, issuer.algorithms)
        except Unverified as refused:
            if not refused.unknown_kid:
                raise
        return verified(token, await self._sets.keys(place, unknown=True), issuer.algorithms)

    async def _place(self, issuer: Issuer) -> str | None:
        """Where the issuer has its keys, by its discovery document; None where that cannot be had."""
        async with self._locks[issuer.issuer]:
            place, until = self._places.get(issuer.issuer, (None, 0))
            if self._clock() >= until:
                place, keeps = await self._discover(issuer)
                self._places[issuer.issuer] = place, self._clock() + keeps
        return place

    async def _discover(self, issuer: Issuer) -> tuple[str | None, int]:
        try:
            answer = await self._outbound.get(issuer.issuer.rstrip("/") + "/.well-known/openid-configuration")
            told = msgspec.json.decode(answer.body, type=dict[str, Any]) if answer.status == 200 else {}
            # The document must be the issuer's own (§4.3), or one provider could speak for another.
            if told.get("issuer") != issuer.issuer or not isinstance(told.get("jwks_uri"), str):
                raise Unreachable("not the discovery document of this issuer")
            must_be_https(told["jwks_uri"])
        except (Unreachable, ValueError, RecursionError) as error:
            _log.warning("discovery of the issuer %s failed: %s", issuer.issuer, type(error).__name__)
            return None, PAUSE
        return told["jwks_uri"], lifetime(answer)


def _named(token: str) -> str:
    """The issuer that a token says it is of, unverified."""
    try:
        named = jwt.decode(token, options={"verify_signature": False}).get("iss")
    except (jwt.PyJWTError, ValueError, RecursionError):
        return ""
    return named if isinstance(named, str) else ""


def _principal(issuer: Issuer, claims: dict[str, Any], times: _Times, token: str, now: int) -> Principal:
    audiences = [times.aud] if isinstance(times.aud, str) else times.aud
    soonest, latest = now / 1000, (now + LONGEST_LIFE) / 1000
    if times.iss != issuer.issuer or issuer.audience not in audiences or not soonest < times.exp <= latest:
        raise refusal()
    if max(times.iat, times.nbf) > (now + LEEWAY_MILLISECONDS) / 1000 or not times.sub:
        raise refusal()
    organization = issuer.organizations.of(claims) if issuer.organizations else issuer.organization
    patient = _patient(claims.get(issuer.patient)) if issuer.caller == "patient" else None
    if organization is None or (issuer.caller == "patient" and patient is None):
        raise refusal()
    # Hashed: a `jti` of theirs must neither meet one of ours nor bring anything into the audit trail.
    name = sha256(f"{issuer.issuer}\n{times.jti or token}".encode()).hexdigest()[:32]
    scope = claims.get(issuer.scope)
    return Principal(
        subject=f"{issuer.issuer}#{times.sub}",
        organization=organization,
        caller=CallerClass(issuer.caller),
        scopes=Scopes(
            scope if isinstance(scope, str) else " ".join(map(str, scope)) if isinstance(scope, list) else ""
        ),
        until=int(times.exp * 1000),
        patient=patient,
        purpose=issuer.purpose.of(claims) if issuer.purpose else None,
        role=issuer.role.of(claims) if issuer.role else None,
        token_id=name,
        issuer=issuer.issuer,
    )


def _patient(value: object) -> str | None:
    """The id of a Patient, which some providers write as a reference."""
    id = value.removeprefix("Patient/") if isinstance(value, str) else ""
    return id if is_id(id) else None

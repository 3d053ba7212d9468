"""The authorization server: tokens for registered clients, what a token is, and its end.

Source: RFC 6749 §4.4, §5 (client credentials), RFC 7523 (assertions), RFC 7662 (introspection), RFC 7009 (revocation),
SMART Backend Services. Whatever is wrong with a client's credentials is told in the same words; the audit trail has the
reason, and never the assertion.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING

import msgspec

from fhirserver.core.errors import Fault, Kind
from fhirserver.policy.assertion import ASSERTION_TYPE, Assertions, NotProven, claimed
from fhirserver.policy.audit import Detail
from fhirserver.policy.clients import Client, Clients
from fhirserver.policy.principal import OPERATOR_ORGANIZATION, CallerClass, Principal
from fhirserver.policy.requested import granted
from fhirserver.policy.scopes import Scopes

if TYPE_CHECKING:
    from fhirserver.policy.gate import Gate

GRANT = "client_credentials"
SECONDS = 300
"""How long a client's token lives; there is no refresh token, the client asks again."""

DOOR = "oauth"
"""Where failures to prove a client are counted (`policy.throttle`)."""

Form = Mapping[str, str]


class Refusal(Exception):
    """An error of OAuth: its code (RFC 6749 §5.2, RFC 7009 §2.2.1), words for people, the HTTP status."""

    def __init__(self, code: str, description: str, status: int = 400) -> None:
        super().__init__(code)
        self.code = code
        self.description = description
        self.status = status


class Issued(msgspec.Struct, frozen=True):
    """The answer of the token endpoint (RFC 6749 §5.1)."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str


class Authorization:
    """The endpoints below ``/oauth``, over the gate that their tokens are for."""

    def __init__(self, gate: Gate, clients: Clients, assertions: Assertions) -> None:
        self._gate = gate
        self._clients = clients
        self._assertions = assertions

    async def token(self, form: Form, audiences: Collection[str], address: str) -> Issued:
        """A token for a client that proves itself; Refusal for whoever does not, or asks for nothing it may have, and
        Throttled for whoever fails too often. ``address``: where it asks from."""
        if form.get("grant_type") is None:
            raise Refusal("invalid_request", "grant_type is missing.")
        if form["grant_type"] != GRANT:
            raise Refusal("unsupported_grant_type", f"The grant_type must be {GRANT}.")
        client = await self._proven(form, audiences, "token", address)
        scope = granted(form.get("scope", ""), client.scope)
        if not scope:
            await self._deny(client, "token", "scope")
            raise Refusal("invalid_scope", "No scope that was asked for is registered for this client.")
        until = self._gate.clock() + SECONDS * 1000
        token = await self._gate.issue(_principal(client, scope, until))
        return Issued(token, "bearer", SECONDS, scope)

    async def introspect(
        self, form: Form, bearer: str | None, audiences: Collection[str], address: str
    ) -> dict[str, object]:
        """What the token in ``form`` is, told to its own organisation and to operators; to others it is inactive."""
        caller = await self._caller(form, bearer, audiences, "introspect", address)
        held = await self._held(form)
        known = held is not None and _may_ask(caller, held)
        trail = self._gate.trail(caller)
        detail: Detail = {"active": known, "asked": held.token_id if held is not None and known else ""}
        await trail.append(trail.row("introspect", "complete", detail=detail))
        if held is None or not known:
            return {"active": False}
        optional = {"client_id": held.client, "patient": held.patient, "jti": held.token_id if not held.issuer else ""}
        optional |= {"aud": self._gate.issuer() if not held.issuer else ""}
        return {
            "active": True,
            "scope": held.scopes.text,
            "token_type": "bearer",
            "exp": held.until // 1000,
            "iss": held.issuer or self._gate.issuer(),
            "sub": held.subject,
            "organization": held.organization,
            **{name: value for name, value in optional.items() if value},
        }

    async def revoke(self, form: Form, bearer: str | None, audiences: Collection[str], address: str) -> None:
        """End the token in ``form``, on every server at once. One that is none any more is no error (RFC 7009 §2.2);
        Refusal for somebody else's."""
        caller = await self._caller(form, bearer, audiences, "revoke", address)
        held = await self._held(form)
        if held is None:
            return
        trail = self._gate.trail(caller)
        if not _may_ask(caller, held):
            await trail.deny("revoke", {"reason": "organisation"})
            raise Refusal("unauthorized_client", "The token belongs to somebody else.")
        # The row comes first: what is not on record does not happen.
        await trail.append(trail.row("revoke", "complete", detail={"asked": held.token_id}))
        await self._gate.revoke(held.token_id, held.until)

    async def _held(self, form: Form) -> Principal | None:
        """Who the token in ``form`` stands for; None for what is no token, or no longer a good one."""
        if not form.get("token"):
            raise Refusal("invalid_request", "token is missing.")
        try:
            return await self._gate.known(form["token"])
        except Fault as fault:
            if fault.kind is Kind.UNAUTHENTICATED:
                return None
            raise

    async def _caller(
        self, form: Form, bearer: str | None, audiences: Collection[str], doing: str, address: str
    ) -> Principal:
        """Who asks: by a bearer token, or by a client's assertion."""
        if bearer is None:
            client = await self._proven(form, audiences, doing, address)
            return _principal(client, "", self._gate.clock() + SECONDS * 1000)
        try:
            return await self._gate.known(bearer)
        except Fault as fault:
            if fault.kind is not Kind.UNAUTHENTICATED:
                raise
        raise _not_proven() from None

    async def _proven(self, form: Form, audiences: Collection[str], doing: str, address: str) -> Client:
        """The client that proves itself. Nobody guesses a signature, so who has one never waits for what others did in
        its name or from its address; the throttle is for those who fail, and for what their failures cost."""
        assertion = form.get("client_assertion", "")
        try:
            if form.get("client_assertion_type") != ASSERTION_TYPE:
                raise NotProven("assertion")
            client = await self._assertions.prove(assertion, audiences)
            if form.get("client_id", client.id) != client.id:
                raise NotProven("subject", client)
        except NotProven as wrong:
            async with self._gate.throttle(DOOR).attempt(name=_name(assertion), address=address):
                await self._deny(wrong.client, doing, wrong.reason)
            raise _not_proven() from None
        return client

    async def _deny(self, client: Client | None, doing: str, reason: str) -> None:
        who = _NOBODY if client is None else _principal(client, "", 0)
        await self._gate.trail(who).deny(doing, {"reason": reason})


def _name(assertion: str) -> str:
    """The client whose name is used, unproven; empty where none is."""
    try:
        return claimed(assertion)
    except NotProven:
        return ""


def _principal(client: Client, scope: str, until: int) -> Principal:
    return Principal(
        subject=client.id,
        organization=client.organization,
        caller=client.caller,
        scopes=Scopes(scope),
        until=until,
        purpose=client.purpose,
        client=client.id,
        epoch=client.epoch,
    )


_NOBODY = Principal(
    subject="unknown",
    organization=OPERATOR_ORGANIZATION,
    caller=CallerClass.THIRD_PARTY,
    scopes=Scopes(),
    until=0,
)
"""In whose name a refusal is recorded that speaks of no registered client: the operator's to look at."""


def _may_ask(caller: Principal, held: Principal) -> bool:
    """Whether this caller may be told about that token, and end it."""
    if caller.caller is CallerClass.OPERATOR:
        return True
    if CallerClass.PATIENT in (caller.caller, held.caller):
        same = (caller.caller, caller.subject, caller.patient) == (held.caller, held.subject, held.patient)
        return same and caller.organization == held.organization
    return caller.organization == held.organization


def _not_proven() -> Refusal:
    return Refusal("invalid_client", "The client could not be authenticated.", 401)

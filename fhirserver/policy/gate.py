"""The gate: credentials in, a `Scoped` out. Nothing reaches the store by another way.

``visible = scopes ∩ reach(class)`` is decided in `policy.grant`; here it is decided *when*: with each request, again
with each page, and again every few seconds while an answer runs. What access depends on is read from the store each
time (revocation and the policy epoch), so a change bites on every server at once.
"""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable, Collection
from pathlib import Path

import msgspec

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.index import care_of
from fhirserver.core.model import MAX_TIME, Key, parse_facts
from fhirserver.policy.archive import Archive
from fhirserver.policy.assertion import Assertions
from fhirserver.policy.audit import Detail, Disclosure, Trail
from fhirserver.policy.authorization import Authorization
from fhirserver.policy.charts import Chart, owners_of
from fhirserver.policy.clients import CLIENT, Client, Clients, stands
from fhirserver.policy.discerning import discerning
from fhirserver.policy.dossier import POLICY_EPOCH, Dossiers, whole
from fhirserver.policy.explain import Explanation, Subject, by_consents, general
from fhirserver.policy.following import resume
from fhirserver.policy.grant import CONTEXTS, Grant, consented_grant, standing_grant
from fhirserver.policy.indexing import Indexed
from fhirserver.policy.integrity import Integrity
from fhirserver.policy.issuers import Issuer, Issuers
from fhirserver.policy.items import ANY, CHANGED, Condition, Erase, Loaded, Put, must_stand_at
from fhirserver.policy.journal import Journal
from fhirserver.policy.jwks import as_jwk
from fhirserver.policy.keyring import Keyring
from fhirserver.policy.keys import Keys
from fhirserver.policy.keysets import KeySets
from fhirserver.policy.labelled import Labelled
from fhirserver.policy.outbound import Outbound
from fhirserver.policy.persons import view_tag
from fhirserver.policy.principal import (
    BREAK_GLASS,
    OPERATOR_ORGANIZATION,
    Authenticator,
    CallerClass,
    Principal,
    issue_token,
    refusal,
)
from fhirserver.policy.purge import Purge
from fhirserver.policy.rates import Rates, Throttled, client_of
from fhirserver.policy.scoped import SYSTEM, Scoped
from fhirserver.policy.scopes import ALL, Types
from fhirserver.policy.throttle import Throttle
from fhirserver.policy.upkeep import Upkeep
from fhirserver.policy.wide import Wide
from fhirserver.store.port import Store

__all__ = [
    "ANY",
    "CHANGED",
    "OPERATOR_ORGANIZATION",
    "CallerClass",
    "Chart",
    "Client",
    "Condition",
    "Disclosure",
    "Erase",
    "Gate",
    "Grant",
    "Integrity",
    "Loaded",
    "Principal",
    "Put",
    "Scoped",
    "Throttled",
    "client_of",
    "must_stand_at",
    "view_tag",
]

_log = logging.getLogger("fhirserver.policy")
_REASON = re.compile(r"[A-Za-z0-9._-]{1,64}")

REVOKED = "revoked/jti/"
"""Prefix of the ledger entries of revoked tokens; each expires with its token."""

# interaction -> (scope letters it needs, scope letters for what it then may look at)
_NEEDS = {
    "read": ("r", "r"),
    "vread": ("r", "r"),
    "history-instance": ("r", "r"),
    "search-type": ("s", "s"),
    "search-system": ("s", "s"),
    "$docref": ("s", "s"),
    "history-type": ("s", "s"),
    "history-system": ("s", "s"),
    "create": ("c", "rs"),
    "update": ("u", "rs"),
    "patch": ("u", "rs"),
    "delete": ("d", "rs"),
    "transaction": ("", "rs"),
    "batch": ("", "rs"),
}
_OPERATION = ("", "rs")
"""Operations, and whatever is not listed: they enumerate and they show, so both letters are needed."""


class Gate:
    """Admits callers to the store."""

    def __init__(
        self,
        store: Store,
        keys: Keys,
        *,
        clock: Callable[[], int],
        operators: bool = True,
        integrity: Integrity | None = None,
        keys_path: Path | None = None,
        outbound: Outbound | None = None,
        issuers: Collection[Issuer] = (),
        per_minute: int = 0,
    ) -> None:
        """``clock`` gives milliseconds since 1970; ``operators``: whether operator tokens are accepted; ``keys_path``:
        the file that ``keys`` are from, looked at again for a rotation; ``issuers``: whose tokens count beside ours;
        ``per_minute``: requests of one client (0: as many as come)."""
        self._store = store
        self.clock = clock
        self.integrity = integrity or Integrity()
        self._operators = operators
        self._keys = Keyring(keys, keys_path)
        self._authenticator = Authenticator(self._keys)
        self.clients = Clients(store)
        outbound = outbound or Outbound()
        sets = KeySets(outbound, clock)
        self._issuers = Issuers(issuers, outbound, sets, clock) if issuers else None
        assertions = Assertions(store, self.clients, sets, clock)
        self.authorization = Authorization(self, self.clients, assertions)
        self._dossiers = Dossiers(store)
        self._journal = Journal(store)
        self._indexed = Indexed(store)
        self._labelled = Labelled(store)
        self._rates = Rates(lambda: store.ledger, per_minute=per_minute, pepper=keys.pepper, clock=clock)

    async def admit(
        self, bearer: str | None, *, interaction: str, type: str | None = None, again: bool = False
    ) -> Scoped:
        """The store as the bearer of this token may see it.

        ``interaction``: the FHIR interaction code, or the operation with its ``$``. Fault UNAUTHENTICATED without a
        good token; FORBIDDEN where the scopes allow the interaction on no type, or not on ``type``. An operation on
        one resource needs no scope for that resource's own type: what is shown is decided record by record.
        Throttled where the client has made its requests of this minute; ``again``: the same request asks once more.
        """
        principal = await self._principal(bearer)
        epoch = await self.check(principal)
        if not again:
            await self._count(principal, interaction)
            if principal.purpose == BREAK_GLASS:
                await self._break_glass(principal, interaction)
        contexts = CONTEXTS[principal.caller]
        needed, shown = _NEEDS.get(interaction, _OPERATION)
        types = principal.scopes.allowed(shown, contexts)
        usable = principal.scopes.allowed(needed, contexts).named if needed else types.named
        if interaction in ("transaction", "batch"):
            # Each entry is decided by itself; a scope for any of them will do here.
            usable = usable.union(*(principal.scopes.allowed(letter, contexts).named for letter in "cruds"))
        if not usable or (needed and type is not None and type not in usable):
            await self.trail(principal).deny(interaction, {"reason": "scope", "type": type or ""})
            raise Fault(Kind.FORBIDDEN, "The token's scopes do not allow this.")
        return await self.scoped(principal, interaction=interaction, types=types, epoch=epoch)

    async def _break_glass(self, principal: Principal, interaction: str) -> None:
        """An alarm in the log for each request of an emergency; the audit rows carry its purpose and token. Fault
        FORBIDDEN for whoever has no glass to break: labels hide nothing from a member, Consents decide for others."""
        if principal.caller is not CallerClass.MEMBER:
            await self.trail(principal).deny(interaction, {"reason": "break-glass"})
            raise Fault(Kind.FORBIDDEN, "The purpose BTG is for members alone.")
        told = (principal.organization, principal.token_id, interaction)
        _log.critical("break-glass: organisation %s, token %s, %s", *told)

    async def _count(self, principal: Principal, interaction: str) -> None:
        try:
            await self._rates.take(principal)
        except Throttled as early:
            if early.first:  # one row a minute: refusing must cost less than answering
                await self.trail(principal).deny(interaction, {"reason": "rate"})
            raise

    async def _principal(self, bearer: str | None) -> Principal:
        try:
            principal = self._authenticator.authenticate(bearer, self.clock())
        except Fault:
            if self._issuers is None:
                raise
            return await self._issuers.authenticate(bearer)
        if principal.caller is CallerClass.OPERATOR and not self._operators:
            raise refusal()
        return principal

    async def known(self, bearer: str | None) -> Principal:
        """Who the bearer of this token is, whatever its scopes allow; Fault UNAUTHENTICATED without a good token."""
        principal = await self._principal(bearer)
        await self.check(principal)
        return principal

    def system(self, *, subject: str, organization: str, purpose: str) -> Scoped:
        """The grant of system work: commands, ingest. It reads everything, writes as the custodian ``organization``,
        and is audited like any other."""
        principal = _system(subject, organization, purpose)
        types = ALL.allowed("rs", CONTEXTS[CallerClass.OPERATOR])
        grant = standing_grant(principal, types)
        return Scoped(self, self._store, principal, grant, interaction=SYSTEM, types=types, epoch=0)

    def upkeep(self, *, subject: str) -> Upkeep:
        """The store as a whole, for `check` and `reindex`."""
        return Upkeep(self._store, self.trail(_system(subject, OPERATOR_ORGANIZATION, "upkeep")), self.clock)

    def throttle(self, door: str) -> Throttle:
        """Who fails at this door (a name such as ``oauth``) waits, on every server."""
        return Throttle(lambda: self._store.ledger, door, pepper=self._keys.held.pepper, clock=self.clock)

    def purge(self, *, subject: str) -> Purge:
        """The store for removing from it for good."""
        return Purge(self._store, self.trail(_system(subject, OPERATOR_ORGANIZATION, "erasure")))

    def archive(self, *, subject: str) -> Archive:
        """The audit trail as a whole, to hand it on and to drop what is too old."""
        return Archive(self._store, self.trail(_system(subject, OPERATOR_ORGANIZATION, "upkeep")))

    async def issue(self, principal: Principal, *, reason: str = "") -> str:
        """A signed token for ``principal``; its issuance is in the audit trail before it is handed out.

        ``reason``: what an emergency (`BREAK_GLASS`) is known by, a number and never a text about somebody; it needs
        one. ValueError for a token that is not issued.
        """
        if (principal.purpose == BREAK_GLASS) != bool(reason) or (reason and not _REASON.fullmatch(reason)):
            told = "1 to 64 letters, digits, '.', '_' and '-', such as the number of an incident"
            raise ValueError(f"A token for the purpose BTG, and no other, needs a reason: {told}.")
        now = self.clock()
        token = issue_token(self._keys.current(now, at_once=True), principal, now)
        issued = self._authenticator.authenticate(token, self.clock())
        trail = self.trail(issued)
        detail: Detail = {"scope": issued.scopes.text, "expires": issued.until, "patient": issued.patient or ""}
        if reason:
            detail = {**detail, "reason": reason}
            _log.critical("break-glass: organisation %s gets token %s", issued.organization, issued.token_id)
        await trail.append(trail.row("token", "complete", detail=detail))
        return token

    def issuer(self) -> str:
        """The `iss` and `aud` of this installation's tokens."""
        return self._keys.held.issuer

    def public_keys(self) -> list[dict[str, str]]:
        """The keys that tokens may be signed with now, as JWKs (RFC 7517)."""
        now = self.clock()
        return [as_jwk(kid, key) for kid, key in self._keys.current(now, at_once=True).verifying(now).items()]

    async def record(self, subject: str, interaction: str, detail: Detail) -> None:
        """One row of the audit trail for what an operator did at the command line."""
        trail = self.trail(_system(subject, OPERATOR_ORGANIZATION, interaction))
        await trail.append(trail.row(interaction, "complete", detail=detail))

    async def revoke(self, token_id: str, until: int) -> None:
        """From the next request on, the token with this `jti` (which expires at ``until``) is refused everywhere."""
        name = REVOKED + token_id
        while await self._store.ledger.get(name) is None:
            await self._store.ledger.put_if(name, b"1", stamp=None, expires=until + 60_000)

    async def explain(self, key: Key, asker: Principal, operator: Scoped) -> Explanation:
        """Why ``asker`` is or is not shown the resource by reading it; recorded in the operator's name.

        Fault NOT_FOUND where there is none, FORBIDDEN for anyone but the operator."""
        if operator.principal.caller is not CallerClass.OPERATOR:
            raise Fault(Kind.FORBIDDEN, "Only the operator may do this.")
        record = await self._store.get(key)
        if record is None or record.deleted:
            raise Fault(Kind.NOT_FOUND, f"{key} was not found.")
        owners = sorted(owners_of(record))
        trail = self.trail(operator.principal)
        detail: Detail = {"resource": str(key), "for": asker.organization, "purpose": asker.purpose or ""}
        await trail.append(trail.row("explain", "complete", patients=owners, detail=detail))
        entry = await self._store.ledger.get(POLICY_EPOCH)
        epoch = int(entry.value) if entry is not None else 0
        types = asker.scopes.allowed("rs", CONTEXTS[asker.caller])
        scoped = await self.scoped(asker, interaction="explain", types=types, epoch=epoch, patients=frozenset(owners))
        care = care_of(msgspec.json.decode(await whole(self._store, record)))
        subject = Subject(key, parse_facts(record.facts), care)
        reasons = [*general(subject, asker, types)]
        if asker.caller is CallerClass.THIRD_PARTY:
            dossiers = await self._dossiers.about(owners, epoch)
            for patient in owners:
                reasons += by_consents(subject, patient, dossiers[patient].directives, asker, self.clock())
        return Explanation(await scoped.would_see(record), tuple(reasons))

    async def ready(self) -> None:
        """Nothing while the store answers; Unavailable when it does not."""
        await asyncio.gather(self._store.high_water(), self._store.get(Key("Patient", "-")))

    # -- for Scoped ----------------------------------------------------------------------------------------------

    async def start(self, *, upkeep: bool = False) -> None:
        """Before anybody is admitted: finish what a server that was killed has left undone, and put the store's search
        parameters in force. Unavailable where the index was made under others, but for ``upkeep``."""
        await resume(self._store, self.clock())
        await self._labelled.start(upkeep=upkeep)
        await self._indexed.start(upkeep=upkeep)

    async def labelled(self) -> bool:
        """Whether everything carries the labels that the server derives."""
        return await self._labelled.complete()

    async def must_be_indexed(self) -> None:
        """Unavailable while the search index is being made again."""
        await self._indexed.must_be_complete()

    def trail(self, principal: Principal) -> Trail:
        """The audit trail in this caller's name."""
        return Trail(self._journal, principal, pepper=self._keys.held.pepper, clock=self.clock)

    async def check(self, principal: Principal) -> int:
        """The policy epoch; Fault UNAUTHENTICATED for a token that has expired or was revoked, or whose client is not
        what it was then."""
        ledger = self._store.ledger
        if not principal.token_id:
            return 0
        names = (
            POLICY_EPOCH,
            REVOKED + principal.token_id,
            *((CLIENT + principal.client,) if principal.client else ()),
        )
        epoch, revoked, *registered = await ledger.several(names)
        if revoked is not None or self.clock() >= principal.until:
            raise refusal()
        if principal.client and not stands(registered[0], principal.epoch):
            raise refusal()
        if principal.issuer and principal.patient is not None:
            await self._must_be_of(principal.organization, principal.patient)
        now = int(epoch.value) if epoch is not None else 0
        await self._labelled.look(now)
        await self._indexed.look(now)
        return now

    async def _must_be_of(self, organization: str, patient: str) -> None:
        """Fault UNAUTHENTICATED unless the organisation is the custodian of this Patient: an outside issuer speaks for
        the patients of one custodian."""
        record = await self._store.get(Key("Patient", patient))
        if record is None or record.deleted or parse_facts(record.facts).custodian != organization:
            raise refusal()

    async def scoped(
        self,
        principal: Principal,
        *,
        interaction: str,
        types: Types,
        epoch: int,
        patients: frozenset[str] | None = frozenset(),
        listed: bool = False,
    ) -> Scoped:
        """The store under the grant for these patients (None: for everyone; see `Scoped.everyone`)."""
        kind: type[Scoped] = Scoped
        if patients is None and not listed and await self._dossiers.many(principal.organization, epoch):
            kind, patients = Wide, frozenset()
        grant = await self.grant(principal, types, patients, epoch)
        store = discerning(self._store, grant)
        return kind(self, store, principal, grant, interaction=interaction, types=types, epoch=epoch, patients=patients)

    async def consenting(self, principal: Principal, patients: frozenset[str]) -> frozenset[str]:
        """Those of these patients with a Consent that names the caller's organisation, whatever it says."""
        return await self._dossiers.consenting(principal.organization, patients) if patients else patients

    async def grant(self, principal: Principal, types: Types, patients: frozenset[str] | None, epoch: int) -> Grant:
        """The grant for these patients as of this epoch (None: for everyone whose Consents name the organisation)."""
        if principal.caller is not CallerClass.THIRD_PARTY or patients == frozenset():
            return standing_grant(principal, types)
        self._labelled.must_be_complete()
        if patients is None:
            patients = await self._dossiers.consenting(principal.organization)
        dossiers = await self._dossiers.about(patients, epoch)
        now = self.clock()
        openings = {
            patient: dossier.opening(principal.organization, principal.purpose, now)
            for patient, dossier in dossiers.items()
        }
        widened = {patient: dossier.widened(principal.organization) for patient, dossier in dossiers.items()}
        return consented_grant(principal, types, openings, widened)


def _system(subject: str, organization: str, purpose: str) -> Principal:
    return Principal(
        subject=subject,
        organization=organization,
        caller=CallerClass.OPERATOR,
        scopes=ALL,
        purpose=purpose,
        until=MAX_TIME,
    )

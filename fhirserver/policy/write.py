"""The one write path: whoever writes, by whichever door, custody is checked and every Patient gets its Person.

What is checked beforehand is held to inside the commit: new keys must still be new, and guards repeat what another
writer could have changed meanwhile. A writer that lost such a race plans again from what is there now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence

import msgspec

from fhirserver.core.errors import Conflict, Fault, Kind
from fhirserver.core.index import labels_of
from fhirserver.core.model import Draft, Facts, Guard, Index, Key, Query, Record, parse_facts
from fhirserver.policy.audit import Trail
from fhirserver.policy.committing import ATTEMPTS, Committing
from fhirserver.policy.custody import (
    BELONGS,
    Known,
    Problem,
    look_up,
    problem,
    survey,
)
from fhirserver.policy.derive import THROUGH
from fhirserver.policy.dossier import WIDENED, whole
from fhirserver.policy.following import unmoved
from fhirserver.policy.grant import CONTEXTS
from fhirserver.policy.integrity import Checks
from fhirserver.policy.items import ANY, CHANGED, Erase, Item, Put, must_stand_at, ready
from fhirserver.policy.labelling import named_by
from fhirserver.policy.plan import Plan, add_persons, decide_facts, supersede
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.policy.vocabulary import disclosure
from fhirserver.store.port import Store

WIDENED_MARGIN = 60_000
"""How far ahead (milliseconds) the deletion of a Consent is dated, so that no `_since` falls before its commit."""

_KINDS_OF_UPDATE = frozenset({"patch", "$meta-add", "$meta-delete"})
_TRIED = _KINDS_OF_UPDATE | {"create", "update", "delete"}
"""What the audit trail names as tried; in a transaction, and of system work, it is told by what would become of it."""


class Writer(Committing):
    """Writes in one caller's name, as the custodian ``principal.organization``."""

    def __init__(
        self, store: Store, trail: Trail, principal: Principal, interaction: str, checks: Checks | None = None
    ) -> None:
        """``interaction``: what was asked for. ``checks``: of the references of what is written; None leaves them
        alone."""
        super().__init__(store, trail, principal)
        self._interaction = interaction
        self._checks = checks
        self.fresh: frozenset[Key] = frozenset()
        """Keys of what the last write stored that nothing was under before, or a tombstone."""

    # -- all or nothing ------------------------------------------------------------------------------------------

    async def write(
        self, changes: Sequence[Put | Erase], *, conditions: Sequence[Guard] = (), persons: bool = True
    ) -> list[Record]:
        """Store all of ``changes`` or none; Records in their order. What is deleted already stays as it is.

        Fault FORBIDDEN (class or scopes, or another custodian's), CONFLICT (another custodian; another writer was
        first), PRECONDITION_FAILED (`if_version`), NOT_FOUND (nothing to delete), METHOD_NOT_ALLOWED (AuditEvent),
        BAD_REQUEST (a SUBSETTED view, one resource twice). Conflict with `CHANGED` when a condition no longer holds:
        whoever set it has to look again.
        """
        items: list[Item] = []
        for change in changes:
            if isinstance(change, Put):
                items.append(ready(change))
                await _let_others(len(items))
        erased = [change for change in changes if isinstance(change, Erase)]
        keys = [*(item.key for item in items), *(erase.key for erase in erased)]
        if len(set(keys)) < len(keys):
            raise Fault(Kind.BAD_REQUEST, "One resource is written twice.")
        if not keys:
            return []
        for attempt in range(ATTEMPTS):
            try:
                stored = await self._write(items, erased, conditions, persons=persons)
            except Conflict as conflict:
                if conflict.message == CHANGED:
                    raise
                if attempt == ATTEMPTS - 1:
                    if all(change.if_version in (None, ANY) for change in changes):
                        # The version that another writer superseded was ours; nobody asked for it.
                        raise Conflict("Other writers were first; try again.") from None
                    raise
            else:
                waiting = iter(items)
                order = [next(waiting).key if isinstance(change, Put) else change.key for change in changes]
                return [stored[key] for key in order]
        raise AssertionError("the last attempt returns or raises")

    async def rehearse(self, changes: Sequence[Put | Erase]) -> None:
        """The Fault that `write` would raise, as far as that can be known without writing."""
        items = [ready(change) for change in changes if isinstance(change, Put)]
        known = await survey(self._store, items, self._organization)
        for item in items:
            await self._check(item, known, {each.key for each in items})
        erased = [change for change in changes if isinstance(change, Erase)]
        for erase in erased:
            await self._deletable(erase)
        await self._weigh(items, [erase.key for erase in erased])

    async def _weigh(self, items: Sequence[Item], erased: Sequence[Key]) -> Sequence[Guard]:
        return await self._checks.weigh(items, erased) if self._checks else ()

    async def _write(
        self, items: Sequence[Item], erased: Sequence[Erase], conditions: Sequence[Guard], *, persons: bool
    ) -> dict[Key, Record]:
        since = (await self._store.high_water()).seq if any(item.key.type in THROUGH for item in items) else 0
        known = await survey(self._store, items, self._organization)
        together = {item.key for item in items}
        for number, item in enumerate(items):
            await self._check(item, known, together)
            await _let_others(number)
        gone = {erase.key: await self._deletable(erase) for erase in erased}
        conditions = [*conditions, *await self._weigh(items, [key for key in gone if not gone[key].deleted])]
        plan = Plan()
        plan.held += [*unmoved(items, known, since), *self._as_looked_at(items, known)]
        for item, facts in decide_facts(items, known, self._organization, counts=True):
            plan.add(item, facts, known)
            await _let_others(len(plan.drafts))
        if not self._operates:
            plan.note_unknown(items, known)
        await supersede(plan, self._store, items)
        known = await self._erase(plan, gone.values(), known)
        if persons:
            await add_persons(plan, self._store, plan.created | plan.left, known)
        if not plan.drafts:
            return gone
        for record in gone.values():
            if record.type == "Consent" and not record.deleted:
                await self._date_widening(parse_facts(record.facts))
        name = _name(self._interaction, items, erased, known)
        records = await self._commit(plan, name, conditions, guarded=not self._operates)
        self.fresh = frozenset(plan.fresh)
        return {**gone, **{record.key: record for record in records}}

    async def _erase(self, plan: Plan, records: Iterable[Record], known: Known) -> Known:
        """Tombstones for these, and the Patients that are left without a Person by them."""
        live = [record for record in records if not record.deleted]
        plan.drafts += [_tombstone(record.key, record) for record in live]
        plan.moved |= {record.key for record in live}
        for record in live:
            plan.moved |= named_by(record.type, record.supports.split())
        deleted = {record.id for record in live if record.type == "Patient"}
        owners = {
            owner for record in live if record.type == "Person" for owner in parse_facts(record.facts).owners
        } - deleted
        if owners:
            found = await look_up(self._store, [Key("Patient", owner) for owner in sorted(owners)])
            known = Known({**known.records, **found}, known.namers)
            plan.leave(owners, (), known)
        for patient in deleted:
            plan.left.pop(patient, None)
        return known

    async def _check(self, item: Item, known: Known, together: Collection[Key]) -> None:
        """Fault unless the caller may store the item; ``together``: all that is stored with it."""
        found = self._forbidden(item, known, together) or problem(
            item,
            known,
            self._custodian_for(known),
            imported=False,
            takes_over=self._operates,
            refers_freely=self._operates,
        )
        found = found or await self._unlabelling(item, known)
        if found is not None:
            await self._refuse(item.key, found, "update" if known.live(item.key) else "create")
        must_stand_at(item.put.if_version, item.key, known.live(item.key))

    def _forbidden(self, item: Item, known: Known, together: Collection[Key]) -> Problem | None:
        """Why the caller may not write such a resource at all, whoever holds it."""
        caller, type_ = self._principal.caller, item.key.type
        if type_ == "AuditEvent":
            return Kind.METHOD_NOT_ALLOWED, "is refused: AuditEvents are written by the server alone"
        if caller is CallerClass.THIRD_PARTY:
            return Kind.FORBIDDEN, "is refused: a third party may not write"
        letter = "u" if known.live(item.key) and self._is_own(item.key, known) else "c"
        if not self._may(letter, type_):
            return Kind.FORBIDDEN, "is refused: the token's scopes do not allow it"
        if caller is CallerClass.PATIENT:
            return self._patients_problem(item, known)
        if caller is CallerClass.MEMBER and type_ == "Person":
            return self._person_problem(item, known, together)
        return None

    def _is_own(self, key: Key, known: Known) -> bool:
        """Whether what is stored there is the caller's to change. What is not is to it as if it were not there, so
        that no narrow scope tells whether it is."""
        facts = known.facts(key)
        if self._operates or facts is None:
            return self._operates
        if self._principal.caller is CallerClass.PATIENT:
            return key.type == "Consent" and facts.owners == (self._principal.patient,)
        return facts.custodian == self._organization

    def _may(self, letter: str, type_: str) -> bool:
        return type_ in self._principal.scopes.types(letter, CONTEXTS[self._principal.caller])

    def _patients_problem(self, item: Item, known: Known) -> Problem | None:
        """A patient writes Consents about itself. It keeps the labels that they carry, and it names nothing that is
        read by being named: the custodian that keeps its Consents could name all of that."""
        patient = self._principal.patient or ""
        record, before = known.live(item.key), known.facts(item.key)
        own = item.key.type == "Consent" and item.index.owners == (patient,)
        if not own or known.live(Key("Patient", patient)) is None or (before and before.owners != (patient,)):
            return Kind.FORBIDDEN, "is refused: a patient may write consents about itself, and nothing else"
        named = set(item.index.supports).difference(record.supports.split() if record else ())
        if any(Key.parse(name).type in disclosure().through for name in named):
            return Kind.FORBIDDEN, "is refused: a patient's consent names no Binary and no Device"
        return None

    def _is_custodian(self, facts: Facts) -> bool:
        return self._principal.caller is not CallerClass.PATIENT and facts.custodian == self._organization

    async def _unlabelling(self, item: Item, known: Known) -> Problem | None:
        """A label that was given is taken away by the custodian alone, whoever else may write the resource, and not by
        way of its deletion either."""
        record, before = known.records.get(item.key), known.facts(item.key)
        if record is None or before is None or self._is_custodian(before):
            return None
        gone = set(before.labels).difference(item.index.labels)
        if not gone:
            return None
        # Most that are gone were derived, and come back; those that were given stand in the body.
        last = await self._store.get(item.key, record.version - 1) if record.deleted else record
        given = labels_of(msgspec.json.decode(await whole(self._store, last))) if last and not last.deleted else gone
        if not gone.isdisjoint(given):
            return Kind.FORBIDDEN, "is refused: labels are taken away by its custodian alone"
        return None

    def _as_looked_at(self, items: Iterable[Item], known: Known) -> list[Guard]:
        """What others hold is replaced as it was looked at: a label that was given meanwhile must not go unseen."""
        records = [known.live(item.key) for item in items]
        return [
            Guard(Query(keys=(record.key,), after=record.seq, bodies=False), 0, "Another writer was first.")
            for record in records
            if record is not None and not self._is_custodian(parse_facts(record.facts))
        ]

    def _person_problem(self, item: Item, known: Known, together: Collection[Key]) -> Problem | None:
        """A member links only Patients that are there, or come with it, and its own."""
        keys = {name: Key("Patient", name) for name in item.index.owners}
        unknown = [name for name, key in keys.items() if known.live(key) is None and key not in together]
        return (Kind.FORBIDDEN, f"links Patient/{unknown[0]}, which you may not see") if unknown else None

    def _custodian_for(self, known: Known) -> str:
        """In whose name custody is judged: a patient's Consent is kept by the custodian of its chart."""
        if self._principal.caller is CallerClass.PATIENT:
            return known.custodian(Key("Patient", self._principal.patient or "")) or self._organization
        return self._organization

    async def _refuse(self, key: Key, found: Problem, tried: str) -> None:
        kind, reason = found
        asked = self._interaction if self._interaction in _TRIED else tried
        await self._trail.deny(asked, {"resource": str(key), "reason": kind.value})
        # A plain Fault, not a Conflict: planning again would find the same.
        raise Fault(kind, f"{reason}." if reason.startswith(str(key)) else f"{key} {reason}.")

    # -- deleting ------------------------------------------------------------------------------------------------

    async def _deletable(self, erase: Erase) -> Record:
        key = erase.key
        record = await self._store.get(key)
        if record is None:
            raise Fault(Kind.NOT_FOUND, f"{key} was not found.")
        facts = parse_facts(record.facts)
        found: Problem | None = None
        if key.type == "AuditEvent":
            found = Kind.METHOD_NOT_ALLOWED, "is refused: the audit trail only grows"
        elif not self._may("d", key.type) or self._principal.caller is CallerClass.THIRD_PARTY:
            found = Kind.FORBIDDEN, "is refused: the token does not allow it"
        elif self._principal.caller is CallerClass.PATIENT:
            own = key.type == "Consent" and facts.owners == (self._principal.patient,)
            found = None if own else (Kind.FORBIDDEN, "is refused: a patient may delete its own consents only")
        elif not self._operates:
            patients = await look_up(self._store, [Key("Patient", owner) for owner in facts.owners])
            concerned = patients.values() if key.type == "Person" else ()
            holders = {facts.custodian, *(parse_facts(each.facts).custodian for each in concerned)}
            found = None if holders == {self._organization} else (Kind.FORBIDDEN, BELONGS)
        if found is not None:
            await self._refuse(key, found, "delete")
        must_stand_at(erase.if_version, key, record)
        return record

    async def _date_widening(self, facts: Facts) -> None:
        """A deleted Consent may have been a refusal: note, before it goes, that its patients' charts may widen."""
        moment = (await self._store.high_water()).time + WIDENED_MARGIN
        for owner in facts.owners:
            entry = await self._store.ledger.get(WIDENED + owner)
            stamp = entry.stamp if entry else None
            await self._store.ledger.put_if(WIDENED + owner, str(moment).encode(), stamp=stamp)


async def _let_others(number: int) -> None:
    """Of thousands of items, stop after every fourth: others wait. A single one is not held up."""
    if number % 4 == 3:
        await asyncio.sleep(0)


def _name(asked: str, items: Sequence[Item], erased: Sequence[Erase], known: Known) -> str:
    """The interaction that the audit trail names: what was asked for where that is a kind of update, else what
    became of it."""
    if asked in _KINDS_OF_UPDATE:
        return asked
    if len(items) + len(erased) > 1:
        return "transaction"
    if erased:
        return "delete"
    return "update" if known.live(items[0].key) else "create"


def _tombstone(key: Key, record: Record) -> Draft:
    return Draft(
        key=key,
        head=b"",
        tail=b"",
        facts=parse_facts(record.facts),
        index=Index(),
        if_version=record.version,
        deleted=True,
    )

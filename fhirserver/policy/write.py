"""The one write path: whoever writes, by whichever door, custody is checked and every Patient gets its Person.

What is checked beforehand is held to inside the commit: new keys must still be new, and guards repeat what another
writer could have changed meanwhile. A writer that lost such a race plans again from what is there now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Sequence
from typing import Literal

from fhirserver.core.errors import Conflict, Fault, Kind
from fhirserver.core.model import Draft, Facts, Guard, Index, Key, Record, parse_facts
from fhirserver.policy.audit import Trail
from fhirserver.policy.custody import (
    BELONGS,
    INTRUDED,
    Known,
    Problem,
    absent,
    guards,
    look_up,
    members_of_others,
    problem,
    survey,
)
from fhirserver.policy.derive import THROUGH
from fhirserver.policy.dossier import COUNTS, WIDENED
from fhirserver.policy.following import follow, unmoved
from fhirserver.policy.grant import CONTEXTS
from fhirserver.policy.integrity import Checks
from fhirserver.policy.items import ANY, CHANGED, Erase, Item, Loaded, Put, must_stand_at, ready, turns
from fhirserver.policy.plan import Plan, add_persons, decide_facts, supersede
from fhirserver.policy.principal import OPERATOR_ORGANIZATION, CallerClass, Principal
from fhirserver.policy.vocabulary import disclosure
from fhirserver.store.port import Store

__all__ = ["Erase", "Loaded", "Put", "Writer"]

ATTEMPTS = 5
"""How often a write is planned again after another writer was first."""

WIDENED_MARGIN = 60_000
"""How far ahead (milliseconds) the deletion of a Consent is dated, so that no `_since` falls before its commit."""

_MOST_NAMED = 100
_KINDS_OF_UPDATE = frozenset({"patch", "$meta-add", "$meta-delete"})
_Change = Literal["created", "updated", "unchanged"]


class Writer:
    """Writes in one caller's name, as the custodian ``principal.organization``."""

    def __init__(
        self, store: Store, trail: Trail, principal: Principal, interaction: str, checks: Checks | None = None
    ) -> None:
        """``interaction``: what was asked for. ``checks``: of the references of what is written; None leaves them
        alone."""
        self._interaction = interaction
        self._store = store
        self._checks = checks
        self._trail = trail
        self._principal = principal
        self._organization = principal.organization
        self._operates = principal.caller is CallerClass.OPERATOR
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
        known = await survey(self._store, items)
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
        known = await survey(self._store, items)
        together = {item.key for item in items}
        for number, item in enumerate(items):
            await self._check(item, known, together)
            await _let_others(number)
        gone = {erase.key: await self._deletable(erase) for erase in erased}
        conditions = [*conditions, *await self._weigh(items, [key for key in gone if not gone[key].deleted])]
        plan = Plan()
        plan.held += unmoved(items, known, since)
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
        deleted = {record.id for record in live if record.type == "Patient"}
        owners = {
            owner for record in live if record.type == "Person" for owner in parse_facts(record.facts).owners
        } - deleted
        if owners:
            found = await look_up(self._store, [Key("Patient", owner) for owner in sorted(owners)])
            known = Known({**known.records, **found})
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
        if found is not None:
            await self._refuse(item.key, found)
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
        if before and not set(before.labels) <= set(item.index.labels):
            return Kind.FORBIDDEN, "is refused: labels are taken away by its custodian alone"
        named = set(item.index.supports).difference(record.supports.split() if record else ())
        if any(Key.parse(name).type in disclosure().through for name in named):
            return Kind.FORBIDDEN, "is refused: a patient's consent names no Binary and no Device"
        return None

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

    async def _refuse(self, key: Key, found: Problem) -> None:
        kind, reason = found
        await self._trail.deny("write", {"resource": str(key), "reason": kind.value})
        # A plain Fault, not a Conflict: planning again would find the same.
        raise Fault(kind, f"{reason}." if reason.startswith(str(key)) else f"{key} {reason}.")

    # -- each for itself -----------------------------------------------------------------------------------------

    async def load(self, puts: Sequence[Put], *, persons: bool, trust_consents: bool) -> list[Loaded]:
        """Import ``puts``: what is permitted is stored, what has not changed is left alone, the rest is rejected with
        its reason; answers in the order of ``puts``.

        ``trust_consents``: imported Consents count. Without it they are data, and one that counts is not replaced.
        A key that comes twice is stored twice, in order.
        """
        items = [ready(put) for put in puts]
        answers: dict[int, Loaded] = {}
        for turn in turns(items):
            part = [items[at] for at in turn]
            answers.update(zip(turn, await self._load(part, persons, trust_consents), strict=True))
        return [answers[at] for at in range(len(items))]

    async def _load(self, items: Sequence[Item], persons: bool, trust: bool) -> list[Loaded]:
        for attempt in range(ATTEMPTS):
            answers, plan = await self._sort_out(items, persons, trust, careful=attempt > 0)
            try:
                if plan.drafts:
                    await self._commit(plan, "import", guarded=True)
            except Conflict as conflict:
                if len(items) == 1 and attempt == ATTEMPTS - 1:
                    return [Loaded(key=items[0].key, status="rejected", reason=conflict.message)]
                continue
            if plan.heal:
                await self._store.reindex(plan.heal)
            return answers
        # One of them keeps losing; the others shall not wait for it.
        return [answer for item in items for answer in await self._load([item], persons, trust)]

    async def _sort_out(
        self, items: Sequence[Item], persons: bool, trust: bool, *, careful: bool
    ) -> tuple[list[Loaded], Plan]:
        """What becomes of each item as the store stands. ``careful``: a guard has failed, so look for whom."""
        known = await survey(self._store, items)
        rejected: dict[Key, str] = {}
        for item in items:
            reason = self._import_problem(item, known, trust)
            if reason is None and careful and await self._intruded(item, known):
                reason = INTRUDED
            if reason is not None:
                rejected[item.key] = reason
        plan = Plan()
        status: dict[Key, _Change] = {}
        good = [item for item in items if item.key not in rejected]
        for item, facts in decide_facts(good, known, self._organization, counts=trust):
            status[item.key] = _settle(plan, item, facts, known)
        stored = [item for item in good if status[item.key] != "unchanged"]
        plan.note_unknown([item for item in stored if not self._links_freely(item)], known)
        if persons:
            await add_persons(plan, self._store, plan.created | plan.left, known)
        answers = [
            Loaded(key=item.key, status="rejected", reason=rejected[item.key])
            if item.key in rejected
            else Loaded(key=item.key, status=status[item.key])
            for item in items
        ]
        return answers, plan

    def _import_problem(self, item: Item, known: Known, trust: bool) -> str | None:
        found = problem(
            item,
            known,
            self._organization,
            imported=True,
            takes_over=False,
            refers_freely=self._links_freely(item),
        )
        if found is not None:
            return found[1]
        before, record = known.facts(item.key), known.live(item.key)
        if trust or item.key.type != "Consent" or before is None or record is None or record.digest == item.digest:
            return None
        return "decides access here and is not replaced by imported data" if COUNTS in before.parties else None

    def _links_freely(self, item: Item) -> bool:
        """Only the operator says that Patients of several custodians are one human."""
        return item.key.type == "Person" and self._organization == OPERATOR_ORGANIZATION

    async def _intruded(self, item: Item, known: Known) -> bool:
        return (
            item.key.type == "Patient"
            and known.live(item.key) is None
            and await self._store.count(members_of_others(item.key.id, self._organization)) > 0
        )

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
            await self._refuse(key, found)
        must_stand_at(erase.if_version, key, record)
        return record

    async def _date_widening(self, facts: Facts) -> None:
        """A deleted Consent may have been a refusal: note, before it goes, that its patients' charts may widen."""
        moment = (await self._store.high_water()).time + WIDENED_MARGIN
        for owner in facts.owners:
            entry = await self._store.ledger.get(WIDENED + owner)
            stamp = entry.stamp if entry else None
            await self._store.ledger.put_if(WIDENED + owner, str(moment).encode(), stamp=stamp)

    # -- committing ----------------------------------------------------------------------------------------------

    async def provide_persons(self, patients: Sequence[str]) -> None:
        """Make a Person for each of these Patients that no Person links."""
        keys = [Key(type_, patient) for patient in patients for type_ in ("Patient", "Person")]
        known = Known(await look_up(self._store, keys))
        custodians = {id: known.custodian(Key("Patient", id)) for id in patients}
        plan = Plan()
        await add_persons(plan, self._store, {id: held for id, held in custodians.items() if held}, known)
        if plan.drafts:
            await self._commit(plan, "update", guarded=False)

    async def _commit(
        self, plan: Plan, interaction: str, conditions: Sequence[Guard] = (), *, guarded: bool
    ) -> list[Record]:
        patients = {owner for draft in plan.drafts for owner in draft.facts.owners}
        names = [str(draft.key) for draft in plan.drafts[:_MOST_NAMED]]
        row = self._trail.row(
            interaction, "complete", patients=patients, detail={"count": len(plan.drafts), "resources": names}
        )
        held = guards(plan.unknown, plan.created, self._organization) if guarded else []
        held += [*absent(plan.absent), *plan.held, *conditions]
        records = await self._store.commit(plan.drafts, held, audit=(row,), epochs=plan.epochs)
        if plan.moved:
            await follow(self._store, plan.moved)
        return records


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


def _settle(plan: Plan, item: Item, facts: Facts, known: Known) -> _Change:
    """Put an imported item into the plan, unless the store has it already."""
    record, before = known.live(item.key), known.facts(item.key)
    if record is None or before is None:
        plan.add(item, facts, known)
        return "created"
    trusted = item.key.type == "Consent" and COUNTS in before.parties and COUNTS not in facts.parties
    if record.digest == item.digest and (facts == before or trusted):
        return "unchanged"
    if record.digest == item.digest and item.key.type in (*THROUGH, "Person"):
        # The same bytes, better understood now that what they refer to is here.
        plan.heal.append((record, facts, item.index))
        return "unchanged"
    if record.digest == item.digest and set(facts.parties) <= set(before.parties):
        return "unchanged"
    plan.add(item, facts, known)
    return "updated"


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

"""What all writes have in common: one commit in one caller's name, with its audit row and what must hold inside it."""

from __future__ import annotations

from collections.abc import Sequence

from fhirserver.core.model import Guard, Key, Record
from fhirserver.policy.audit import Trail
from fhirserver.policy.custody import Known, absent, add_custodians, guards, look_up
from fhirserver.policy.following import following
from fhirserver.policy.labelled import incomplete
from fhirserver.policy.labelling import no_programs, unrestricted
from fhirserver.policy.plan import Plan, add_persons
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.store.port import Store

ATTEMPTS = 5
"""How often a write is planned again after another writer was first."""

_MOST_NAMED = 100


class Committing:
    """Commits in one caller's name, as the custodian ``principal.organization``."""

    def __init__(self, store: Store, trail: Trail, principal: Principal) -> None:
        self._store = store
        self._trail = trail
        self._principal = principal
        self._organization = principal.organization
        self._operates = principal.caller is CallerClass.OPERATOR

    async def provide_persons(self, patients: Sequence[str]) -> None:
        """Make a Person for each of these Patients that no Person links."""
        keys = [Key(type_, patient) for patient in patients for type_ in ("Patient", "Person")]
        found = await look_up(self._store, keys)
        await add_custodians(self._store, found)
        known = Known(found)
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
        detail: dict[str, str | int | bool | list[str]] = {"count": len(plan.drafts), "resources": names}
        if plan.unlabelled:
            detail["unlabelled"] = plan.unlabelled[:_MOST_NAMED]
        row = self._trail.row(interaction, "complete", patients=patients, detail=detail)
        held = guards(plan.unknown, plan.created, self._organization) if guarded else []
        held += [*absent(plan.absent), *no_programs(plan.plain), *unrestricted(plan.clear), *plan.held, *conditions]
        async with following(self._store, plan.moved, row.at), incomplete(self._store, plan.programs):
            return await self._store.commit(plan.drafts, held, audit=(row,), epochs=plan.epochs)

"""Importing: each resource for itself. What is permitted is stored, what has not changed is left alone, the rest is
rejected with its reason."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from fhirserver.core.errors import Conflict
from fhirserver.core.model import Facts, Key
from fhirserver.policy.committing import ATTEMPTS, Committing
from fhirserver.policy.custody import INTRUDED, Known, members_of_others, problem, survey
from fhirserver.policy.derive import THROUGH
from fhirserver.policy.dossier import COUNTS
from fhirserver.policy.items import Item, Loaded, Put, ready, turns
from fhirserver.policy.labelling import inheriting
from fhirserver.policy.plan import Plan, add_persons, decide_facts
from fhirserver.policy.principal import OPERATOR_ORGANIZATION

_Change = Literal["created", "updated", "unchanged"]


class Loader(Committing):
    """Imports in one organisation's name."""

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
        known = await survey(self._store, items, self._organization)
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


def _settle(plan: Plan, item: Item, facts: Facts, known: Known) -> _Change:
    """Put an imported item into the plan, unless the store has it already."""
    record, before = known.live(item.key), known.facts(item.key)
    if record is None or before is None:
        plan.add(item, facts, known)
        return "created"
    trusted = item.key.type == "Consent" and COUNTS in before.parties and COUNTS not in facts.parties
    if record.digest == item.digest and (facts == before or trusted):
        return "unchanged"
    if record.digest == item.digest and item.key.type in (*THROUGH, *inheriting(), "Person"):
        # The same bytes, better understood now that what they refer to is here.
        plan.heal.append((record, facts, item.index))
        return "unchanged"
    if record.digest == item.digest and set(facts.parties) <= set(before.parties):
        return "unchanged"
    plan.add(item, facts, known)
    return "updated"

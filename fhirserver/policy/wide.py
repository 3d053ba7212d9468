"""Questions over everybody, asked for an organisation that very many patients have given consent to.

Its patients cannot all be looked at for each question. The store is asked for what Consents could open at most, and
each batch that it gives is decided by the Consents of those whom it is about: by the same `Grant` as ever, of fewer
patients. What is not admitted takes nobody's place on a page.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from fhirserver.core.model import HistoryQuery, Key, Query, Record, Tally, parse_facts
from fhirserver.policy.charts import owners_of
from fhirserver.policy.grant import reach
from fhirserver.policy.scoped import MOST_TOLD, Scoped

FIRST, MOST = 64, 256
"""Candidates of one batch: at first about as many as a page has, more where few of them are admitted."""


class _Shown(NamedTuple):
    """What was shown of a batch, as (type, facts), and the patients whose Consents opened it: as of which policy epoch,
    and until when."""

    pairs: frozenset[tuple[str, str]]
    patients: frozenset[str]
    epoch: int
    until: int


class Wide(Scoped):
    """`Scoped` over everybody, decided batch by batch.

    Its own grant holds only what needs no Consent, so that whatever is not overridden here is closed.
    """

    _so_far: tuple[_Shown, ...] = ()
    _basis: Mapping[str, tuple[str, ...]] = MappingProxyType({})

    async def scan(self, query: Query, batch: int = MOST, *, told: bool = True) -> AsyncIterator[list[Record]]:
        """As `Store.scan`, of what the Consents of each batch's patients admit."""
        if query.terms or query.criteria:
            await self._gate.must_be_indexed()
        visible = reach(self._types, self.principal.organization)
        left, size, most = query.limit, min(batch, FIRST), min(batch, MOST)
        query = await self._by_open_links(msgspec.structs.replace(query, visible=visible, limit=None))
        ended = left == 0
        while not ended:
            ended = True
            async for records in self._store.scan(query, size):
                shown = await self._decided(records, query, left)
                left = None if left is None else left - len(shown)
                if told and query.bodies:
                    self.tell(shown)
                if shown:
                    yield shown
                if left == 0:
                    return
                if size < most and 2 * len(shown) < len(records):
                    query, size, ended = msgspec.structs.replace(query, after=records[-1].seq), most, False
                    break

    async def _decided(self, records: list[Record], query: Query, left: int | None) -> list[Record]:
        """Of a batch, the first ``left`` that are admitted."""
        view = await self._view_of(records)
        admitted = [record for record in records if view.admits(record)]
        shown = (await view._shown(admitted, query))[:left] if admitted else []
        if query.bodies:
            self._keep(view, shown)
            self._handed.update((each.type, each.id, each.version) for each in shown if each.body is None)
        return shown

    async def _view_of(self, records: Sequence[Record]) -> Scoped:
        """The store under the grant of those whom these records are about, as they were and as they are now."""
        present = await self._present(records)
        return await self._of(frozenset().union(*map(owners_of, (*records, *present.values()))))

    async def _of(self, patients: frozenset[str]) -> Scoped:
        """The store under the grant of those of these patients who have consented to anything."""
        return await self.about(await self._gate.consenting(self.principal, patients), fresh=True)

    def _keep(self, view: Scoped, shown: Iterable[Record]) -> None:
        grant = view.grant
        pairs = frozenset((record.type, record.facts) for record in shown)
        patients = frozenset().union(*(parse_facts(facts).owners for _, facts in pairs)) & (grant.patients or set())
        if patients:
            self._so_far = (*self._so_far, _Shown(pairs, patients, view._epoch, grant.until))
            self._basis = {**self._basis, **{patient: grant.basis[patient] for patient in patients}}

    async def _openable(
        self, patients: Iterable[str], *, deleted: bool = False, as_of: int | None = None
    ) -> frozenset[str]:
        wanted = frozenset(patients)
        view = await self._of(wanted)
        return await view._openable(wanted, deleted=deleted, as_of=as_of)

    async def supporting(
        self,
        keys: Sequence[Key],
        *,
        custodians: frozenset[str],
        patients: frozenset[str] | None,
        as_of: int | None = None,
        bodies: bool = True,
    ) -> list[Record]:
        """As `Charts.supporting`, under the grant of those whom these are about and of those who have been shown."""
        found = await self._fetch(list(dict.fromkeys(keys)), as_of=as_of)
        view = await self._of(frozenset().union(self._patients_seen(), *map(owners_of, found)))
        given = await view.supporting(keys, custodians=custodians, patients=patients, as_of=as_of, bodies=bodies)
        self._handed |= view._handed
        if bodies:
            self._note([record.facts for record in given])
            self._keep(view, filter(owners_of, given))
        return given

    async def _versions(self, query: HistoryQuery, batch: int) -> AsyncIterator[list[Record]]:
        """As `Past._versions`; a superseded version is decided by what the resource is now."""
        left = query.limit
        visible = reach(self._types, self.principal.organization)
        query = msgspec.structs.replace(query, visible=visible, limit=None)
        async for records in self._store.history(query, batch):
            view = await self._view_of(records)
            admitted = [record for record in records if view.admits(record)]
            hidden = await view._hidden_now(admitted)
            shown = [record for record in admitted if record.key not in hidden][:left]
            left = None if left is None else left - len(shown)
            if query.bodies:
                self._keep(view, shown)
            if shown:
                yield await view._cut_versions(shown) if query.bodies else shown
            if left == 0:
                return

    async def count(self, query: Query) -> int:
        """As `Scoped.count`, one by one."""
        return sum([len(records) async for records in self.scan(msgspec.structs.replace(query, bodies=False))])

    async def tally(self, query: Query) -> list[Tally]:
        """As `Scoped.tally`, one by one."""
        counted: Counter[tuple[str, str, str]] = Counter()
        async for records in self.scan(msgspec.structs.replace(query, bodies=False)):
            counted.update((record.type, record.facts, record.supports) for record in records)
        return [Tally(*kind, count) for kind, count in counted.items()]

    async def count_history(self, query: HistoryQuery) -> int:
        """As `Past.count_history`, one by one."""
        return sum([len(records) async for records in self.history(msgspec.structs.replace(query, bodies=False))])

    def _stands(self, epoch: int) -> bool:
        return super()._stands(epoch) and not self._open_to_doubt(epoch)

    def _open_to_doubt(self, epoch: int) -> list[_Shown]:
        now = self._gate.clock()
        return [each for each in self._so_far if each.epoch != epoch or now >= each.until]

    async def _decide_again(self, epoch: int) -> None:
        """What has been shown so far must be open still; whatever else may open or close."""
        await super()._decide_again(epoch)
        again: dict[_Shown, _Shown] = {}
        for shown in self._open_to_doubt(epoch):
            grant = await self._gate.grant(self.principal, self._types, shown.patients, epoch)
            open_ = all(grant.visible.admits(type_, parse_facts(facts)) for type_, facts in shown.pairs)
            if not (open_ and shown.patients <= (grant.patients or set())):
                raise await self._changed()
            again[shown] = shown._replace(epoch=epoch, until=grant.until)
        self._so_far = tuple(again.get(each, each) for each in self._so_far)  # which may be more by now

    def _used(self) -> Sequence[str]:
        named = (name for patient in sorted(self._patients_seen()) for name in self._basis.get(patient, ()))
        return tuple(islice(dict.fromkeys(named), MOST_TOLD))

"""How a grant is applied to versions: what is hidden now is hidden in its past, too.

`Scoped` builds on this; nothing else does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import msgspec

from fhirserver.core.model import HistoryQuery, Key, Record, Visible
from fhirserver.policy.grant import Grant
from fhirserver.policy.principal import Principal
from fhirserver.policy.redisclosure import protected
from fhirserver.policy.view import View, alarm
from fhirserver.store.port import Store


class Past(View):
    """A store and a grant, looked at over time."""

    def __init__(self, store: Store, principal: Principal, grant: Grant) -> None:
        super().__init__(store, principal, grant)
        self._accompanied: Key | None = None
        """The one resource that is seen through an admitted resource which names it."""

    async def count_history(self, query: HistoryQuery) -> int:
        """As `Store.count_history`, of what the grant admits."""
        return await self._store.count_history(self._looked_back(query))

    async def _versions(self, query: HistoryQuery, batch: int) -> AsyncIterator[list[Record]]:
        """As `Store.history`, of what the grant admits: a version by its own facts and by those of its resource's
        current version, at the snapshot and now. Persons are cut to the links that may be followed now."""
        query = self._looked_back(query)
        while True:
            withheld, last = 0, 0
            async for records in self._store.history(query, batch):
                last = records[-1].seq
                self._must_admit(query, records)
                hidden = await self._hidden_now(records)
                shown = [record for record in records if record.key not in hidden]
                withheld += len(records) - len(shown)
                if shown:
                    yield await self._cut_versions(shown) if query.bodies else shown
            if not withheld or query.limit is None:
                return
            # What is withheld takes nobody's place: as many come from behind it.
            query = msgspec.structs.replace(query, before=last, limit=withheld)

    def _looked_back(self, query: HistoryQuery) -> HistoryQuery:
        """The query under the grant; whatever ``visible`` it had is gone."""
        visible = self.grant.visible
        if query.key is not None and query.key == self._accompanied:
            visible = Visible((*visible.clauses, *self.grant.accompanying.clauses))
        return msgspec.structs.replace(query, visible=visible)

    def _must_admit(self, query: HistoryQuery, records: list[Record]) -> None:
        if query.key is not None and query.key == self._accompanied:
            if not all(self.admits(record) or self._accompanies(record) for record in records):
                raise alarm()
        else:
            self._verify({(record.type, record.facts) for record in records})

    async def _cut_versions(self, records: list[Record]) -> list[Record]:
        """`_cut` of records in which one Person may come in several versions; a tombstone has nothing to cut. What is
        protected now is marked in every version."""
        views: dict[int, Record] = {}
        waiting = [record for record in records if record.type == "Person" and not record.deleted]
        while waiting:
            turn = list({record.key: record for record in waiting}.values())
            views.update((view.seq, view) for view in await self._cut(turn))
            waiting = [record for record in waiting if record.seq not in views]
        present = await self._present(records) if self._bound else {}
        also = {key for key, now in present.items() if protected(now.facts)}
        return await self._mark([views.get(record.seq, record) for record in records], also)

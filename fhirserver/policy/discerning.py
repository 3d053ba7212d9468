"""A store whose records tell what one grant asks of them beyond their facts (`policy.findings`).

The store behind it is asked for what may be visible at most. Of each record that it gives, the findings that hold join
the facts; then the same clauses decide as ever, before any limit, so no page, count or position tells what is hidden.
Care dates are read from the content: only grants that ask for them pay. What was deleted has those of its last version.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import AsyncIterator, Callable, Sequence

import msgspec

from fhirserver.core.index import care_of
from fhirserver.core.model import (
    FINDING,
    AuditRow,
    Draft,
    Facts,
    Guard,
    HighWater,
    HistoryQuery,
    Index,
    Key,
    Query,
    Record,
    Tally,
    Visible,
    parse_facts,
)
from fhirserver.core.plan import plan
from fhirserver.policy.dossier import whole
from fhirserver.policy.findings import Care, Finding, read, unasked
from fhirserver.policy.grant import Grant
from fhirserver.store.port import AuditLog, Ledger, Store

_REMEMBERED = 20_000
_replace = msgspec.structs.replace


def discerning(store: Store, grant: Grant) -> Store:
    """The store as this grant needs it: itself, unless the grant asks for findings."""
    return Discerning(store, grant.findings) if grant.findings else store


class Discerning(Store):
    """See the module. What it does not say itself is the store's."""

    def __init__(self, store: Store, asked: frozenset[str]) -> None:
        self._store = store
        self._findings: tuple[tuple[str, Finding], ...] = tuple((text, read(text)) for text in sorted(asked))
        self._dated = any(finding.care is not None for _, finding in self._findings)
        self._known: OrderedDict[int, Care] = OrderedDict()

    async def told(self, records: Sequence[Record]) -> list[Record]:
        """The records with the findings that hold among their kinds, and no others."""
        return [await self._tell(record) for record in records]

    async def _tell(self, record: Record) -> Record:
        care = await self._care(record) if self._dated else None
        facts = parse_facts(record.facts)
        found = [text for text, finding in self._findings if finding.holds(record.key, care)]
        given = [kind for kind in facts.kinds if not kind.startswith(FINDING)]
        return _replace(record, facts=_replace(facts, kinds=tuple(sorted([*given, *found]))).text)

    async def _care(self, record: Record) -> Care:
        if not plan(record.type).care:
            return None
        if record.seq not in self._known:
            content: Record | None = record
            if record.deleted:
                content = await self._store.get(record.key, record.version - 1)
            there = content is not None and not content.deleted
            body = await whole(self._store, content) if content is not None and there else b"{}"
            self._known[record.seq] = care_of(msgspec.json.decode(body))
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return self._known[record.seq]

    async def get(self, key: Key, version: int | None = None, *, as_of: int | None = None) -> Record | None:
        record = await self._store.get(key, version, as_of=as_of)
        return None if record is None else await self._tell(record)

    async def scan(self, query: Query, batch: int = 256) -> AsyncIterator[list[Record]]:
        at_most = unasked(query.visible)
        decided = at_most is not query.visible
        left = query.limit
        # Dates are in the content.
        asked = _replace(query, visible=at_most, bodies=query.bodies or self._dated)
        if left is not None and left <= 0:
            return
        async for records in self._store.scan(_replace(asked, limit=None) if decided else asked, batch):
            shown = await self.told(records)
            if decided:
                shown = [each for each in shown if query.visible.admits(each.type, parse_facts(each.facts))][:left]
                left = None if left is None else left - len(shown)
            if not query.bodies:
                shown = [_replace(each, body=None) for each in shown]
            if shown:
                yield shown
            if left == 0:
                return

    async def count(self, query: Query) -> int:
        if unasked(query.visible) is query.visible:
            return await self._store.count(query)
        return sum([len(records) async for records in self.scan(_replace(query, bodies=False))])

    async def tally(self, query: Query) -> list[Tally]:
        counted: Counter[tuple[str, str, str]] = Counter()
        async for records in self.scan(_replace(query, bodies=False)):
            counted.update((each.type, each.facts, each.supports) for each in records)
        return [Tally(*kind, count) for kind, count in counted.items()]

    async def explain(self, query: Query) -> list[str]:
        return await self._store.explain(_replace(query, visible=unasked(query.visible)))

    async def history(self, query: HistoryQuery, batch: int = 256) -> AsyncIterator[list[Record]]:
        left = query.limit
        at_most = unasked(query.visible)
        as_of = query.as_of if query.as_of is not None else (await self._store.high_water()).seq
        asked = _replace(query, visible=at_most, as_of=as_of, limit=None)
        if left is not None and left <= 0:
            return
        async for records in self._store.history(asked, batch):
            shown = []
            for each in await self.told(records):
                if _admits(query.visible, each) and await self._stands(query.visible, each, as_of):
                    shown.append(each)
            shown = shown[:left]
            left = None if left is None else left - len(shown)
            if shown:
                yield shown
            if left == 0:
                return

    async def _stands(self, visible: Visible, record: Record, as_of: int) -> bool:
        """Whether the version that was current right after ``as_of`` is admitted."""
        if record.ended > as_of:
            return True
        present = await self.get(record.key, as_of=as_of)
        return present is not None and _admits(visible, present)

    async def count_history(self, query: HistoryQuery) -> int:
        return sum([len(records) async for records in self.history(_replace(query, bodies=False))])

    # -- the store's own -----------------------------------------------------------------------------------------

    @property
    def ledger(self) -> Ledger:
        return self._store.ledger

    @property
    def audit(self) -> AuditLog:
        return self._store.audit

    async def start(self) -> None:
        await self._store.start()

    async def close(self) -> None:
        await self._store.close()

    async def commit(
        self,
        drafts: Sequence[Draft],
        guards: Sequence[Guard] = (),
        *,
        audit: Sequence[AuditRow] = (),
        epochs: Sequence[str] = (),
    ) -> list[Record]:
        if drafts:  # a guard is evaluated inside, where no findings are
            raise ValueError("nothing is written under a grant that asks for findings")
        return await self._store.commit(drafts, guards, audit=audit, epochs=epochs)

    async def high_water(self) -> HighWater:
        return await self._store.high_water()

    async def seq_at(self, time: int) -> int:
        return await self._store.seq_at(time)

    def changes(self, after: int) -> AsyncIterator[list[Record]]:
        return self._store.changes(after)

    def body(self, record: Record) -> AsyncIterator[bytes]:
        return self._store.body(record)

    async def reindex(self, items: Sequence[tuple[Record, Facts, Index]]) -> None:
        await self._store.reindex(items)

    async def rebuild(self) -> None:
        await self._store.rebuild()

    async def ever_within(self, patient: str) -> list[Key]:
        return await self._store.ever_within(patient)

    async def purge(self, keys: Sequence[Key], *, audit: Sequence[AuditRow] = (), epochs: Sequence[str] = ()) -> int:
        return await self._store.purge(keys, audit=audit, epochs=epochs)

    async def scrub(self) -> None:
        await self._store.scrub()

    def verify(self, derive: Callable[[Record, bytes], tuple[Facts, Index]]) -> AsyncIterator[str]:
        return self._store.verify(derive)


def _admits(visible: Visible, record: Record) -> bool:
    return visible.admits(record.type, parse_facts(record.facts))

"""`Scoped`: the store seen through one grant. Handlers and adapters get this and nothing else."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING

import msgspec

from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.model import (
    REFERENCE_TERM,
    Guard,
    HighWater,
    HistoryQuery,
    Key,
    Query,
    Record,
    Tally,
    parse_facts,
)
from fhirserver.policy.accounting import Accounting
from fhirserver.policy.audit import Detail, Disclosure, Trail
from fhirserver.policy.charts import CLOSED, Charts, owners_of
from fhirserver.policy.grant import Grant
from fhirserver.policy.integrity import Checks
from fhirserver.policy.items import CHANGED, Condition, Erase, Loaded, Put
from fhirserver.policy.load import Loader
from fhirserver.policy.principal import OPERATOR_ORGANIZATION, CallerClass, Principal
from fhirserver.policy.redisclosure import protected
from fhirserver.policy.scopes import Types
from fhirserver.policy.view import MEMO, alarm
from fhirserver.policy.vocabulary import disclosure
from fhirserver.policy.write import Writer

if TYPE_CHECKING:
    from fhirserver.policy.gate import Gate
    from fhirserver.store.port import Store


MOST_NAMERS = 2000
"""Resources looked at for one that names a Binary and is admitted; beyond them it is as if there were none."""

MOST_TOLD = 100
"""Consents that one row of the audit trail names."""

LONGEST_NAME = 128
"""Characters of a refused resource's name that the audit trail keeps: any real one fits."""

RENEWED_SECONDS = 0.4
"""How long what a request was admitted by stands unasked. The rest of a request may come as slowly as a sender likes,
and a token revoked, or a Consent withdrawn, meanwhile must not be of use any more."""

SYSTEM = "system"
"""The interaction of system work, which answers for itself what it refers to."""


class Scoped(Charts):
    """The store seen through one grant; made by the gate only."""

    def __init__(
        self,
        gate: Gate,
        store: Store,
        principal: Principal,
        grant: Grant,
        *,
        interaction: str,
        types: Types,
        epoch: int,
        patients: frozenset[str] | None = frozenset(),
    ) -> None:
        """``types``: what the scopes let see in this interaction. ``patients``: those whose Consents the grant of a
        third party holds (None: of everyone)."""
        super().__init__(store, principal, grant)
        self._gate = gate
        self._interaction = interaction
        self._types = types
        self._epoch = epoch
        self._admitted_at = time.monotonic()
        self._patients = patients
        self._trail: Trail = gate.trail(principal)
        weighed = gate.integrity.mode != "off" and interaction != SYSTEM
        self._checks = Checks(store, gate.integrity, sees=self._may_know) if weighed else None
        self._seen: set[str] = set()
        self._fresh: frozenset[Key] = frozenset()
        self._consents: dict[str, None] = {}
        """The Consents under which single resources were read."""

    # -- reading one ---------------------------------------------------------------------------------------------

    async def read(self, key: Key, version: int | None = None) -> Record:
        """The current version, or version ``version``; Fault as the Answers table of `$everything` has it.

        An old version needs to be admitted as it was *and* as the resource is now. A Person is cut to the links the
        caller may follow. Third parties and patients learn nothing from a refusal, and it costs the same.
        """
        current = await self._store.get(key)
        record = current if version is None else await self._store.get(key, version)
        scoped = await self.about(owners_of(current) | owners_of(record) or {key.id})
        named = await scoped._named(key, current) if key.type in disclosure().through else None
        versions = (current,) if version is None else (current, record)
        seen = all([await scoped._lets_see(each, named) for each in versions])
        if current is None or record is None or not seen:
            raise await self._refusal(key, Kind.NOT_FOUND)
        if record.deleted:
            raise await self._refusal(key, Kind.GONE)
        opened = named.grant if named and not scoped.admits(record) else scoped.grant
        self._consents |= dict.fromkeys(opened.used(opened.basis))
        if record.body is None:
            self._handed.add((record.type, record.id, record.version))
        if self._bound and (protected(current.facts) or protected(record.facts)):
            self._marked.add(key)
            record = (await scoped._mark(await scoped._cut([record]), {key}))[0]
        elif record.type == "Person":
            record = (await scoped._cut([record]))[0]
        self._note([record.facts])
        return record

    async def would_see(self, record: Record) -> bool:
        """Whether `read` would show this current record to the caller; nothing is recorded."""
        scoped = await self.about(owners_of(record) or {record.id})
        through = record.type in disclosure().through
        return await scoped._lets_see(record, await scoped._named(record.key, record) if through else None)

    async def past(self, key: Key) -> Scoped:
        """The Scoped whose `history` is that of this resource; what has been deleted still has one.

        Fault as the Answers table has it for what is not there and for what the caller may not see now.
        """
        current = await self._store.get(key)
        scoped = await self.about(owners_of(current) or {key.id})
        named = await scoped._named(key, current) if key.type in disclosure().through else None
        if not await scoped._lets_see(current, named):
            raise await self._refusal(key, Kind.NOT_FOUND)
        found = named or scoped
        if self.principal.caller is CallerClass.THIRD_PARTY:  # older versions may be about other patients
            async for records in self._store.history(HistoryQuery(key=key, bodies=False)):
                found = await found.about(frozenset().union(*map(owners_of, records)))
        found._accompanied = key if named else None
        return found

    async def history(self, query: HistoryQuery, batch: int = 256) -> AsyncIterator[list[Record]]:
        """As `Store.history`, of what the grant admits now; ask `past` for the Scoped of one resource's history."""
        async for records in self._versions(query, batch):
            if query.bodies:
                # A Person that is gone shows none of its links.
                gone = {record.seq for record in records if record.deleted and record.type == "Person"}
                self._note({record.facts for record in records if record.seq not in gone})
                self._handed.update((each.type, each.id, each.version) for each in records if each.body is None)
            yield records

    async def _lets_see(self, record: Record | None, named: Scoped | None) -> bool:
        """Whether this grant admits the record, or that under which something names it lets it come along."""
        if record is None:
            return False
        own = await self._told(record) if self.grant.findings else record
        return self.admits(own) or (named is not None and named._accompanies(await named._told(record)))

    async def _named(self, key: Key, record: Record | None) -> Scoped | None:
        """The grant under which an admitted resource names this one (a Binary, a Device without a patient): one of
        the same custodian, or any while it is the operator's. The store is asked also where there is no such record,
        so that a refusal costs the same."""
        custodian = parse_facts(record.facts).custodian if record else None
        shared = custodian == OPERATOR_ORGANIZATION
        query = Query(terms=((f"{REFERENCE_TERM}{key}",),), bodies=False, limit=MOST_NAMERS)
        namers: list[Record] = []
        async for batch in self._store.scan(query):
            namers += [each for each in batch if shared or parse_facts(each.facts).custodian == custodian]
        scoped = await self.about(frozenset().union(*map(owners_of, namers)) or {key.id})
        return scoped if any(scoped.admits(namer) for namer in await scoped._all_told(namers)) else None

    async def _refusal(self, key: Key, kind: Kind) -> Fault:
        """The Fault for what the caller does not get; a refusal is recorded."""
        caller = self.principal.caller
        if caller not in CLOSED and kind is Kind.GONE:
            return Fault(kind, f"{key} has been deleted.")
        if caller is not CallerClass.OPERATOR:
            await self._trail.deny(self._interaction, {"resource": str(key)[:LONGEST_NAME]})
        return forbidden() if caller in CLOSED else Fault(Kind.NOT_FOUND, f"{key} was not found.")

    async def refused(self, key: Key, message: str) -> Fault:
        """The Fault for what the caller sees and may not do; it is recorded."""
        await self._trail.deny(self._interaction, {"resource": str(key)[:LONGEST_NAME]})
        return Fault(Kind.FORBIDDEN, message)

    async def body(self, record: Record) -> AsyncIterator[bytes]:
        """The body of a record this Scoped has given, in pieces, wherever it is kept."""
        if record.body is not None:
            yield record.body
            return
        if not self.admits(record) and (record.type, record.id, record.version) not in self._handed:
            raise alarm()
        if record.type == "Person" and self._limited:
            for view in await self._cut([record]):
                yield view.body or b""
            return
        async for piece in self._store.body(record):
            yield piece

    async def whole(self, record: Record) -> bytes:
        """The body of a record this Scoped has given, in one piece."""
        return record.body if record.body is not None else b"".join([piece async for piece in self.body(record)])

    # -- for other patients --------------------------------------------------------------------------------------

    async def everyone(self, *, listed: bool = False) -> Scoped:
        """For questions about a whole type: the grant over all patients whose Consents open something.

        Of an organisation that very many Consents name, each batch is decided for itself (`policy.wide`); ``listed``:
        all patients are wanted in the grant nevertheless.
        """
        await self._renew()
        if self.principal.caller is not CallerClass.THIRD_PARTY:
            return self
        return await self._with(None, listed=listed)

    async def about(self, patients: Collection[str], *, fresh: bool = False) -> Scoped:
        """The Scoped whose grant holds the Consents of these patients; itself, unless Consents decide."""
        await self._renew()
        if self.principal.caller is not CallerClass.THIRD_PARTY:
            return self
        wanted = frozenset(patients)
        if not fresh and (self._patients is None or wanted <= self._patients):
            return self
        return await self._with(wanted if fresh or self._patients is None else wanted | self._patients)

    async def _with(self, patients: frozenset[str] | None, *, listed: bool = False) -> Scoped:
        return await self._gate.scoped(
            self.principal,
            interaction=self._interaction,
            types=self._types,
            epoch=self._epoch,
            patients=patients,
            listed=listed,
        )

    # -- reading many --------------------------------------------------------------------------------------------

    async def scan(self, query: Query, batch: int = 256, *, told: bool = True) -> AsyncIterator[list[Record]]:
        """As `Store.scan`, of what the grant admits; ``query.visible`` is the grant's, whatever it was. ``told``: what
        has a body is shown, and so the audit names whom it is about; else `tell` says what is."""
        query = await self._narrowed(query)
        while True:
            withheld, last = 0, query.after
            async for records in self._store.scan(query, batch):
                last = records[-1].seq
                shown = await self._shown(records, query)
                withheld += len(records) - len(shown)
                if told and query.bodies:
                    self.tell(shown)
                if shown:
                    yield shown
            if not withheld or query.limit is None:
                return
            # What is withheld takes nobody's place: as many come from behind it.
            query = msgspec.structs.replace(query, after=last, limit=withheld)

    def tell(self, records: Iterable[Record]) -> None:
        """These are shown: the audit's outcome names whom they are about."""
        self._note({record.facts for record in records})

    async def _narrowed(self, query: Query) -> Query:
        if query.terms or query.criteria:
            await self._gate.must_be_indexed()
        return await super()._narrowed(query)

    async def _shown(self, records: list[Record], query: Query) -> list[Record]:
        """Records of a narrowed query as the caller gets them: verified, without what is hidden now, Persons cut."""
        pairs = {(record.type, record.facts) for record in records}
        self._verify(pairs)
        # What has left a chart is told by name only, and has to be told though it is hidden now.
        if query.as_of is not None and query.departed_since is None:
            hidden = await self._hidden_now(records)
            if hidden:
                records = [record for record in records if record.key not in hidden]
                pairs = {(record.type, record.facts) for record in records}
        if query.bodies and any(type_ == "Person" or (self._bound and protected(facts)) for type_, facts in pairs):
            records = await self._cut(records)
        return records

    async def count(self, query: Query) -> int:
        """As `Store.count`, of what the grant admits."""
        return await self._store.count(await self._narrowed(query))

    async def tally(self, query: Query) -> list[Tally]:
        """As `Store.tally`, of what the grant admits."""
        tallies = await self._store.tally(await self._narrowed(query))
        self._verify({(tally.type, tally.facts) for tally in tallies})
        return tallies

    async def explain(self, query: Query) -> list[str]:
        """As `Store.explain`, of what the grant admits; for operators, since it tells of the store as a whole."""
        self._must_operate()
        return await self._store.explain(await self._narrowed(query))

    async def high_water(self) -> HighWater:
        """As `Store.high_water`."""
        return await self._store.high_water()

    async def seq_at(self, time: int) -> int:
        """As `Store.seq_at`."""
        return await self._store.seq_at(time)

    # -- staying admitted, and the audit trail -------------------------------------------------------------------

    async def still_admitted(self) -> None:
        """Nothing if the caller may go on; Fault if the token has ended or was revoked, or the grant has changed."""
        epoch = await self._gate.check(self.principal)
        self._admitted_at = time.monotonic()
        if not self._stands(epoch):
            await self._decide_again(epoch)
            self._epoch = epoch

    def _stands(self, epoch: int) -> bool:
        """Whether what has been decided is as of this epoch, and has not ended by itself."""
        return epoch == self._epoch and self._gate.clock() < self.grant.until

    async def _decide_again(self, epoch: int) -> None:
        """The grant as of this epoch; Fault where it opens anything else than before."""
        fresh = await self._gate.grant(self.principal, self._types, self._patients, epoch)
        if fresh.digest != self.grant.digest:
            raise await self._changed()
        self.grant = fresh

    async def _changed(self) -> Fault:
        await self._trail.deny(self._interaction, {"reason": "what the caller may see has changed"})
        return Fault(Kind.FORBIDDEN, "What you may see has changed.")

    async def _renew(self) -> None:
        if time.monotonic() - self._admitted_at > RENEWED_SECONDS:
            await self.still_admitted()

    def disclosure(
        self, *, interaction: str, patients: Collection[str] = (), detail: Detail | None = None
    ) -> Disclosure:
        """The audited context of one answer; ``patients`` empty: those whose data was read."""
        told: Mapping[str, str | int | bool | list[str]] = detail or {}
        consents = self._consents | dict.fromkeys(self.grant.used(self.grant.basis))
        if consents:
            told = {**told, "consents": list(islice(consents, MOST_TOLD))}
        return Disclosure(
            self._trail,
            interaction=interaction,
            patients=patients,
            detail=told,
            seen=self._patients_seen,
            used=self._used,
        )

    def _used(self) -> Sequence[str]:
        """The Consents that opened what was read, where that is known only then."""
        return ()

    def _note(self, facts: Iterable[str]) -> None:
        """Remember whose data is read, for the audit's outcome; bounded, however much is read."""
        if len(self._seen) < MEMO:
            self._seen.update(facts)

    def _patients_seen(self) -> frozenset[str]:
        return frozenset().union(*(parse_facts(text).owners for text in self._seen))

    def accounting(self) -> Accounting:
        """The audit trail as the caller may see it."""
        return Accounting(self._store, self.principal)

    # -- writing -------------------------------------------------------------------------------------------------

    async def find(self, query: Query, limit: int = 2) -> list[Record]:
        """At most ``limit`` matches under the caller's grant, without bodies: what a condition may know."""
        await self._renew()
        found: list[Record] = []
        async for batch in self.scan(msgspec.structs.replace(query, bodies=False, limit=limit)):
            found += batch
        return found[:limit]

    async def shown(self, record: Record) -> Record | None:
        """What the caller has just written as it may read it; None if it may not."""
        return (await self._cut([record]))[0] if self.admits(record) else None

    def is_new(self, record: Record) -> bool:
        """Whether there was nothing under the key of what has just been written, or a tombstone."""
        return record.key in self._fresh

    async def write(
        self, changes: Sequence[Put | Erase], *, conditions: Sequence[Condition] = (), persons: bool = True
    ) -> list[Record]:
        """Store all of ``changes`` or none, as the caller; Records in their order. See `Writer.write`.

        What the caller may not see is refused like what is not there, whatever it may write."""
        await self._must_see_what_goes(changes)
        guards = [
            Guard(await self._narrowed(msgspec.structs.replace(each.query, bodies=False)), each.count, CHANGED)
            for each in conditions
        ]
        writer = self._writer()
        records = await writer.write(changes, conditions=guards, persons=persons)
        self._fresh = writer.fresh
        return records

    async def rehearse(self, changes: Sequence[Put | Erase]) -> None:
        """The Fault that `write` would raise now, if any; nothing is written."""
        await self._must_see_what_goes(changes)
        await self._writer().rehearse(changes)

    async def _must_see_what_goes(self, changes: Iterable[Put | Erase]) -> None:
        await self._renew()
        for change in changes:
            if isinstance(change, Erase):
                record = await self._store.get(change.key)
                if record is None or not self.admits(record):
                    raise await self._refusal(change.key, Kind.NOT_FOUND)

    async def load(self, puts: Sequence[Put], *, persons: bool = True, trust_consents: bool = False) -> list[Loaded]:
        """Import ``puts``, each for itself; what has not changed is left alone. See `Loader.load`."""
        self._must_operate()
        return await self._loader().load(puts, persons=persons, trust_consents=trust_consents)

    async def delete(self, keys: Sequence[Key]) -> list[Record]:
        """Delete all of ``keys`` or none; the tombstones in their order. See `write`."""
        erased = [Erase(key=key) for key in dict.fromkeys(keys)]
        found = dict(zip((erase.key for erase in erased), await self.write(erased), strict=True))
        return [found[key] for key in keys]

    async def provide_persons(self, patients: Sequence[str]) -> None:
        """Make a Person for each of these Patients that no Person links."""
        self._must_operate()
        await self._loader().provide_persons(patients)

    def _must_operate(self) -> None:
        """Importing asks for no scopes, so it is for system work alone."""
        if self.principal.caller is not CallerClass.OPERATOR:
            raise Fault(Kind.FORBIDDEN, "Only the operator may do this.")

    def _loader(self) -> Loader:
        return Loader(self._store, self._trail, self.principal)

    def _writer(self) -> Writer:
        return Writer(self._store, self._trail, self.principal, self._interaction, self._checks)

    @property
    def warnings(self) -> tuple[Issue, ...]:
        """What the last write was warned of."""
        return self._checks.warnings if self._checks else ()

    def _may_know(self, record: Record) -> bool:
        # That a client acts for a patient, or under Consents, opens none of what its organisation holds.
        own = parse_facts(record.facts).custodian == self.principal.organization
        return self.admits(record) or (own and self.principal.caller not in CLOSED)


def forbidden() -> Fault:
    """The one refusal that third parties and patients get, whatever the reason."""
    return Fault(Kind.FORBIDDEN, "You may not see this.")

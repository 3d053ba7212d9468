"""Removing a chart, or one resource, for good: what the law calls erasure, and nothing that the FHIR API can do.

A chart is every resource of which some version stood in the Patient's compartment, and the Binaries that nothing else
names. What is also about somebody else stays, and so does what stands in another chart by now: the operator is told of
them, and decides one by one. It is audited with the ids and counts alone. A purge that was interrupted is finished by
doing it again: the Patient goes last, and the store's files are cleaned as long as the ledger says that they are due.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence

import msgspec

from fhirserver.core.model import REFERENCE_TERM, HistoryQuery, Key, Query, Record, parse_facts
from fhirserver.policy.audit import Trail
from fhirserver.policy.dossier import POLICY_EPOCH
from fhirserver.store.port import Store

AT_ONCE = 200
"""Resources removed in one transaction."""

DUE = "purge/due"
"""The ledger entry that stands from before the first removal until the files are clean."""

PURGED = "purge/patient/"
"""Ledger prefix: a Patient's id -> when (milliseconds since 1970) its chart was purged. Whoever gets the id afterwards
is somebody else, and what was done with the earlier one is not theirs to read."""

_PATIENT = "Patient"


class Purgeable(msgspec.Struct, frozen=True):
    """What a purge would remove, in order, and what it would leave: resources that are about others too or stand in
    another chart now (``kept``), and resources that refer to what goes (``referring``)."""

    patients: tuple[str, ...]
    keys: tuple[Key, ...]
    kept: tuple[Key, ...]
    referring: tuple[Key, ...]

    @property
    def types(self) -> dict[str, int]:
        """How many of each type go."""
        return dict(sorted(Counter(key.type for key in self.keys).items()))


class Purge:
    """A store and the trail of whoever purges it; made by the gate only."""

    def __init__(self, store: Store, trail: Trail) -> None:
        self._store = store
        self._trail = trail

    async def chart(self, patient: str) -> Purgeable:
        """What belongs to the chart of this Patient, whether or not the Patient itself is still there."""
        there, kept = dict[Key, None](), list[Key]()
        anchor = Key(_PATIENT, patient)
        for key in await self._store.ever_within(patient):
            record = await self._store.get(key)
            if record is None or key == anchor:
                continue
            if _is_alone(record, patient):
                there[key] = None
            else:
                kept.append(key)
        if await self._store.get(anchor) is not None:
            there[anchor] = None
        binaries, shared = await self._binaries(there)
        # A Binary goes before what names it, and the Patient last: what is left of an interrupted purge is found again.
        order = {key: (key == anchor, key) for key in there}
        keys = (*binaries, *sorted(there, key=order.__getitem__))
        referring = await self._referring(keys)
        return Purgeable((patient,), keys, tuple(sorted({*kept, *shared})), referring)

    async def resource(self, key: Key) -> Purgeable:
        """This resource alone."""
        record = await self._store.get(key)
        keys = () if record is None else (key,)
        patients = tuple(sorted(_owners(record))) if record else ()
        return Purgeable(patients, keys, (), await self._referring(keys))

    @property
    async def due(self) -> bool:
        """Whether an earlier purge has not been finished."""
        return await self._store.ledger.get(DUE) is not None

    async def run(self, found: Purgeable, progress: Callable[[int, int], None] = lambda *_: None) -> int:
        """Remove it, and clean the store's files; how many versions that were. ``progress`` hears (done, all)."""
        intent = self._trail.row("purge", "intent", patients=found.patients, detail=_told(found.types))
        await self._trail.append(intent)
        await self._store.ledger.put_if(DUE, b"1", stamp=None)
        for patient in (key.id for key in found.keys if key.type == _PATIENT):
            await self._remember(patient, intent.at)
        versions = 0
        for at in range(0, len(found.keys), AT_ONCE):
            part = found.keys[at : at + AT_ONCE]
            # Consents may be among them, and what is remembered of a patient must not outlive it.
            versions += await self._store.purge(part, epochs=(POLICY_EPOCH,))
            progress(at + len(part), len(found.keys))
        await self._store.scrub()
        due = await self._store.ledger.get(DUE)
        if due is not None:
            await self._store.ledger.put_if(DUE, None, stamp=due.stamp)
        detail = {"count": len(found.keys), "versions": versions}
        outcome = self._trail.row("purge", "complete", patients=found.patients, detail=detail, intent=intent.id)
        await self._trail.append(outcome)
        return versions

    async def _remember(self, patient: str, at: int) -> None:
        held, done = None, False
        while not done:
            held = await self._store.ledger.get(PURGED + patient)
            done = await self._store.ledger.put_if(PURGED + patient, b"%d" % at, stamp=held.stamp if held else None)

    async def _binaries(self, keys: Iterable[Key]) -> tuple[list[Key], list[Key]]:
        """The Binaries that versions of these name: those that nothing else names, and the others."""
        going = set(keys)
        named: set[Key] = set()
        for key in going:
            async for batch in self._store.history(HistoryQuery(key=key, bodies=False)):
                for record in batch:
                    named.update(map(Key.parse, record.supports.split()))
        alone, shared = list[Key](), list[Key]()
        for key in sorted(each for each in named if each.type == "Binary" and each not in going):
            if await self._store.get(key) is None:
                continue
            namers = {record.key for record in await self._namers([key])}
            (alone if namers <= going else shared).append(key)
        return alone, shared

    async def _referring(self, keys: Sequence[Key]) -> tuple[Key, ...]:
        """What refers to any of these and is none of them."""
        going, found = set(keys), set[Key]()
        for at in range(0, len(keys), AT_ONCE):
            found |= {record.key for record in await self._namers(keys[at : at + AT_ONCE])}
        return tuple(sorted(found - going))

    async def _namers(self, keys: Sequence[Key]) -> list[Record]:
        terms = (tuple(f"{REFERENCE_TERM}{key}" for key in keys),)
        return [record async for batch in self._store.scan(Query(terms=terms, bodies=False)) for record in batch]


def _owners(record: Record) -> set[str]:
    facts = parse_facts(record.facts)
    return {*facts.owners, *facts.compartments}


def _is_alone(record: Record, patient: str) -> bool:
    """Whether what is current, or was deleted, is about this patient and nobody else."""
    return _owners(record) <= {patient} if record.deleted else _owners(record) == {patient}


def _told(types: dict[str, int]) -> dict[str, str | int | bool | list[str]]:
    return {"resources": [f"{type_}: {count}" for type_, count in types.items()]}

"""The charts that a grant opens, and what accompanies them. `Scoped` builds on this; nothing else does."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from typing import TYPE_CHECKING

import msgspec

from fhirserver.core.definitions import SUPPORTING_TYPES
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.index import UNKNOWN_OWNER
from fhirserver.core.model import Key, Query, Record, Visible, parse_facts
from fhirserver.policy import persons
from fhirserver.policy.derive import local_target
from fhirserver.policy.dossier import whole
from fhirserver.policy.grant import Grant
from fhirserver.policy.past import Past
from fhirserver.policy.principal import OPERATOR_ORGANIZATION, CallerClass, Principal
from fhirserver.policy.vocabulary import disclosure
from fhirserver.store.port import Store

if TYPE_CHECKING:
    from fhirserver.policy.scoped import Scoped

CLOSED = frozenset({CallerClass.THIRD_PARTY, CallerClass.PATIENT})
"""Classes of callers that learn nothing from a refusal."""


class Chart(msgspec.Struct, frozen=True, kw_only=True):
    """Charts that may be opened. ``scoped``: the store under the grant for exactly these patients. ``anchor``: what
    they were asked for by: a Person (cut to the visible links), a Patient, a Group, an Encounter; ``shown``: whether
    the grant lets the anchor itself be seen (scopes or a Consent may open only other types). ``patients``: the visible
    ones, in link order."""

    scoped: Scoped
    anchor: Record
    patients: tuple[str, ...]
    shown: bool


class _Entity(msgspec.Struct):
    reference: str = ""


class _GroupMember(msgspec.Struct):
    entity: _Entity
    inactive: bool = False


class _Group(msgspec.Struct):
    member: list[_GroupMember] = []

    def patients(self) -> tuple[str, ...]:
        targets = (local_target(each.entity.reference) for each in self.member if not each.inactive)
        return tuple(dict.fromkeys(key.id for key in targets if key is not None and key.type == "Patient"))


class Charts(Past, ABC):
    """A store and a grant, looked at chart by chart."""

    def __init__(self, store: Store, principal: Principal, grant: Grant) -> None:
        super().__init__(store, principal, grant)
        self._handed: set[tuple[str, str, int]] = set()

    @abstractmethod
    async def about(self, patients: Collection[str], *, fresh: bool = False) -> Scoped:
        """`Scoped` says whose Consents a grant holds."""

    @abstractmethod
    async def read(self, key: Key, version: int | None = None) -> Record:
        """`Scoped` says who may read what."""

    @abstractmethod
    async def _refusal(self, key: Key, kind: Kind) -> Fault:
        """`Scoped` says what a refusal tells."""

    @abstractmethod
    def _note(self, facts: Iterable[str]) -> None:
        """`Scoped` remembers whose data is read."""

    async def chart(self, anchor: Key) -> Chart:
        """The chart of a Person (its linked Patients) or of a Patient, for the Patients the caller may see.

        It opens if one Patient does, whatever types the scopes or Consents leave; Fault as in the Answers table.
        """
        if anchor.type not in ("Person", "Patient"):
            raise Fault(Kind.BAD_REQUEST, "A chart is asked for by a Person or a Patient.")
        record = await self._store.get(anchor)
        there = record is not None and not record.deleted
        body = await whole(self._store, record) if record is not None and there else b""
        linked = _links(record, body) if record and there and anchor.type == "Person" else (anchor.id,)
        scoped = await self.about(linked or {anchor.id}, fresh=True)
        open_ = await scoped._openable(linked)
        patients = tuple(patient for patient in linked if patient in open_)
        shown = record is not None and there and scoped.admits(await scoped._told(record))
        if record is None or not there or not (patients or (shown and self.principal.caller not in CLOSED)):
            deleted = record is not None and record.deleted and scoped.admits(record)
            raise await self._refusal(anchor, Kind.GONE if deleted else Kind.NOT_FOUND)
        if anchor.type == "Person":
            record = persons.cut(record, body, open_) if self._limited else record
        (record,) = await scoped._mark([record])
        scoped._note([record.facts])
        scoped._opened.update(patients)
        return Chart(scoped=scoped, anchor=record, patients=patients, shown=shown)

    async def linked(self, person: Key, *, as_of: int | None = None) -> tuple[str, ...]:
        """The Patients that the Person linked right after ``as_of`` (None: links now) and whose charts the caller may
        open, in link order; Patients that have been deleted since are among them."""
        record = await self._store.get(person, as_of=as_of)
        if record is None or record.deleted:
            return ()
        linked = _links(record, await whole(self._store, record))
        open_ = await (await self.about(linked))._openable(linked, deleted=True)
        return tuple(patient for patient in linked if patient in open_)

    async def group(self, anchor: Key) -> Chart:
        """The charts of a Group's active members that are Patients and that the caller may see, in member order; Fault
        as in the Answers table where the Group itself may not be seen."""
        record = await self.read(anchor)
        named = msgspec.json.decode(await whole(self._store, record), type=_Group).patients()
        scoped = await self.about(named or {anchor.id}, fresh=True)
        open_ = await scoped._openable(named)
        patients = tuple(patient for patient in named if patient in open_)
        scoped._opened.update(patients)
        return Chart(scoped=scoped, anchor=record, patients=patients, shown=False)

    async def encounter(self, anchor: Key) -> Chart:
        """The Encounter and the Patient it is about; Fault as in the Answers table."""
        record = await self.read(anchor)
        about = tuple(owner for owner in parse_facts(record.facts).owners if owner != UNKNOWN_OWNER)
        return Chart(scoped=await self.about(about or {anchor.id}), anchor=record, patients=about, shown=True)

    @property
    def sees_persons_alone(self) -> bool:
        """Whether a Person without a Patient whose chart may be opened is shown: not to third parties and patients."""
        return self.principal.caller not in CLOSED

    async def openable(self, patients: Iterable[str], *, as_of: int | None = None) -> frozenset[str]:
        """Those Patients that were there right after ``as_of`` and whose charts the caller may open."""
        return await self._openable(patients, as_of=as_of)

    async def supporting(
        self,
        keys: Sequence[Key],
        *,
        custodians: frozenset[str],
        patients: frozenset[str] | None,
        as_of: int | None = None,
        bodies: bool = True,
    ) -> list[Record]:
        """Those of ``keys`` that may accompany a chart, in the order of ``keys``.

        The directory as the grant shows it; Binary and Device without a patient if their custodian is one of
        ``custodians`` (those of the resources that name them) or the operator; and what is about nobody but
        ``patients`` (None: whose charts may be opened), if the grant admits it. Never anything about somebody else.
        """
        wanted = [key for key in dict.fromkeys(keys) if key.type in SUPPORTING_TYPES]
        found = {record.key: record for record in await self._fetch(wanted, as_of=as_of, bodies=bodies)}
        if patients is None:
            about = frozenset().union(*map(owners_of, found.values()))
            patients = await self._openable(about, as_of=as_of) if about else about
        hidden = await self._hidden_now(found.values())
        given = [
            found[key]
            for key in wanted
            if key in found and key not in hidden and self._supports(found[key], custodians, patients)
        ]
        if bodies:
            given = await self._mark(given)
            self._note([record.facts for record in given])
            self._handed.update((each.type, each.id, each.version) for each in given if each.body is None)
        return given

    async def companions(self, query: Query) -> AsyncIterator[list[Record]]:
        """As `scan`, without bodies, of resources of supporting types, those included that are seen only through
        others: `supporting` decides about each."""
        clauses = (*self.grant.visible.clauses, *self.grant.accompanying.clauses)
        types = SUPPORTING_TYPES if query.types is None else query.types & SUPPORTING_TYPES
        async for batch in self._store.scan(
            msgspec.structs.replace(query, types=types, visible=Visible(clauses), bodies=False)
        ):
            yield batch

    def _supports(self, record: Record, custodians: frozenset[str], patients: frozenset[str]) -> bool:
        facts = parse_facts(record.facts)
        if not patients.issuperset(facts.owners):
            return False
        if facts.owners or record.type not in disclosure().through:
            return self.admits(record)
        return facts.custodian in custodians | {OPERATOR_ORGANIZATION} and self._accompanies(record)


def _links(record: Record, body: bytes) -> tuple[str, ...]:
    """The Patients whose links count, in link order."""
    counting = parse_facts(record.facts).owners
    return tuple(patient for patient in persons.linked_patients(body) if patient in counting)


def owners_of(record: Record | None) -> frozenset[str]:
    return frozenset() if record is None else frozenset(parse_facts(record.facts).owners)

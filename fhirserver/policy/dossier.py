"""What is known about a patient's Consents, read from the store and remembered for one policy epoch.

The epoch is a counter in the store that every write which decides access raises in the same commit. What is
remembered is named by the epoch it was read under, never by time, so a withdrawal bites on the next request of every
server; and it is a property of the patient alone, so one caller's answer is never another's.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator

import msgspec

from fhirserver.core.model import REFERENCE_TERM, Key, LedgerEntry, Query, Record, parse_facts
from fhirserver.policy.consent import Directive, Opening, evaluate, parse
from fhirserver.policy.principal import OPERATOR_ORGANIZATION
from fhirserver.store.port import Store

POLICY_EPOCH = "epoch/policy"
"""The ledger counter that every write of something that decides access raises."""

COUNTS = "+counts"
"""Among the parties of a Consent: it was written (or imported with the explicit flag) by one who may decide access.
No organisation's id can hold a plus sign. A Consent without it is data and opens or closes nothing."""

WIDENED = "widened/"
"""Prefix of the ledger entries that tell when a Consent about a patient was deleted (its end may widen a view)."""

AT_ONCE = 200
"""Patients whose Consents are asked for in one query."""

MOST_LISTED = 4_000
"""Consents naming an organisation up to which they are all read for a question over everybody. That takes some 40 µs
each; deciding batch by batch instead costs what is looked at in vain, the more the fewer patients have consented."""


class Dossier(msgspec.Struct, frozen=True, kw_only=True):
    """One patient's Consents. ``directives``: those that count. ``heard``: (organisations named, time of the last
    change) of every Consent, for `_since`."""

    directives: tuple[Directive, ...] = ()
    heard: tuple[tuple[frozenset[str], int], ...] = ()

    def opening(self, organization: str, purpose: str | None, now: int) -> Opening:
        """What is open to this organisation now."""
        return evaluate(self.directives, organization=organization, purpose=purpose, now=now)

    def widened(self, organization: str) -> int:
        """When a Consent that concerns the organisation last changed; 0: never."""
        return max((time for named, time in self.heard if not named or organization in named), default=0)


class Dossiers:
    """The dossiers of patients, at most ``size`` remembered."""

    def __init__(self, store: Store, *, size: int = 10_000) -> None:
        self._store = store
        self._size = size
        self._known: OrderedDict[tuple[int, str], Dossier] = OrderedDict()
        self._many: dict[str, tuple[int, bool]] = {}

    async def about(self, patients: Collection[str], epoch: int) -> dict[str, Dossier]:
        """A dossier for each of the patients, an empty one where there is nothing (or no such patient)."""
        found = {patient: known for patient in patients if (known := self._known.get((epoch, patient))) is not None}
        missing = [patient for patient in patients if patient not in found]
        for part in _parts(missing):
            read = await self._read(part)
            found |= read
            for patient, dossier in read.items():
                self._known[epoch, patient] = dossier
        while len(self._known) > self._size:
            self._known.popitem(last=False)
        return found

    async def many(self, organization: str, epoch: int) -> bool:
        """Whether more Consents name this organisation than are read one by one."""
        known = self._many.get(organization)
        if known is None or known[0] != epoch:
            count = await self._store.count(_naming(organization, limit=MOST_LISTED + 1))
            known = self._many[organization] = (epoch, count > MOST_LISTED)
        return known[1]

    async def consenting(self, organization: str, among: Collection[str] | None = None) -> frozenset[str]:
        """The patients (``among`` these, if given) with a Consent that names this organisation, whatever it says."""
        query = _naming(organization)
        if among is None:
            return await self._owners(query)
        names = sorted(f"{REFERENCE_TERM}Patient/{patient}" for patient in among)
        parts = [tuple(names[at : at + AT_ONCE]) for at in range(0, len(names), AT_ONCE)]
        replace = msgspec.structs.replace
        found = [await self._owners(replace(query, terms=(*query.terms, part))) for part in parts]
        return frozenset().union(*found).intersection(among)

    async def _owners(self, query: Query) -> frozenset[str]:
        patients: set[str] = set()
        async for batch in self._store.scan(query):
            for record in batch:
                patients.update(parse_facts(record.facts).owners)
        return frozenset(patients)

    async def _read(self, patients: list[str]) -> dict[str, Dossier]:
        custodians = {}
        keys = tuple(Key("Patient", patient) for patient in patients)
        async for batch in self._store.scan(Query(keys=keys, bodies=False)):
            custodians.update({record.id: parse_facts(record.facts).custodian for record in batch})
        consents: dict[str, list[Record]] = {patient: [] for patient in patients}
        terms = (tuple(f"{REFERENCE_TERM}Patient/{patient}" for patient in patients),)
        async for batch in self._store.scan(Query(types=frozenset({"Consent"}), terms=terms)):
            for record in batch:
                for owner in parse_facts(record.facts).owners:
                    if owner in consents:
                        consents[owner].append(record)
        ended = await self._store.ledger.several([WIDENED + patient for patient in patients])
        return {
            patient: await self._dossier(patient, custodians.get(patient), consents[patient], entry)
            for patient, entry in zip(patients, ended, strict=True)
        }

    async def _dossier(
        self, patient: str, custodian: str | None, consents: Iterable[Record], ended: LedgerEntry | None
    ) -> Dossier:
        directives: list[Directive] = []
        heard: list[tuple[frozenset[str], int]] = [] if ended is None else [(frozenset(), int(ended.value))]
        for record in consents:
            facts = parse_facts(record.facts)
            heard.append((frozenset(facts.parties) - {COUNTS}, record.updated))
            trusted = COUNTS in facts.parties and facts.custodian in (custodian, OPERATOR_ORGANIZATION)
            # A Consent about several patients is none that this server understands.
            if custodian is None or not trusted or facts.owners != (patient,):
                continue
            directive = parse(msgspec.json.decode(await whole(self._store, record)), str(record.key))
            if directive is not None:
                directives.append(directive)
        return Dossier(directives=tuple(directives), heard=tuple(heard))


def _naming(organization: str, limit: int | None = None) -> Query:
    terms = ((f"{REFERENCE_TERM}Organization/{organization}",),)
    return Query(types=frozenset({"Consent"}), terms=terms, bodies=False, limit=limit)


async def whole(store: Store, record: Record) -> bytes:
    """A record's body, wherever it is kept."""
    if record.body is not None:
        return record.body
    return b"".join([piece async for piece in store.body(record)])


def _parts(patients: list[str]) -> Iterator[list[str]]:
    for start in range(0, len(patients), AT_ONCE):
        yield patients[start : start + AT_ONCE]

"""One commit being put together: drafts, the facts the server decides about them, and what must hold inside it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec

from fhirserver.core import stamp
from fhirserver.core.index import extract
from fhirserver.core.model import REFERENCE_TERM, Draft, Facts, Guard, Index, Key, Query, Record, parse_facts
from fhirserver.policy import persons
from fhirserver.policy.consenting import is_active, superseded
from fhirserver.policy.custody import DELETIONS, Known
from fhirserver.policy.derive import THROUGH, facts_of, facts_through, targets_of
from fhirserver.policy.dossier import COUNTS, POLICY_EPOCH, whole
from fhirserver.policy.items import ANY, Item
from fhirserver.store.port import Store

_DECIDING = frozenset({"Consent", "Person", "Organization"})
"""Types whose every write moves the policy epoch; a Patient's creation and deletion do, too."""

PINNED = frozenset({"Consent", "Person"})
"""Types whose new version is made from the one that was looked at, and from no other."""

TERMS_AT_ONCE = 500


class Plan:
    """The drafts of one commit.

    ``fresh``: keys that nothing was under, or a tombstone. ``created``: Patients that it makes, with their custodians.
    ``left``: Patients that a Person no longer links, with theirs. ``unknown``: Patients it refers to that the store
    does not hold; ``absent``: those of them that a Person links: they must still be absent, since the link would count
    otherwise. ``heal``: current versions whose facts are understood better now, without a new version. ``held``: what
    else must hold inside the commit. ``moved``: keys that access is decided by otherwise from then on.
    """

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.fresh: set[Key] = set()
        self.created: dict[str, str] = {}
        self.left: dict[str, str] = {}
        self.unknown: set[str] = set()
        self.absent: set[str] = set()
        self.heal: list[tuple[Record, Facts, Index]] = []
        self.held: list[Guard] = []
        self.moved: set[Key] = set()

    @property
    def epochs(self) -> tuple[str, ...]:
        """The ledger counters that the commit raises."""
        patients = bool(self.created) or any(draft.deleted and draft.key.type == "Patient" for draft in self.drafts)
        moves = patients or any(draft.key.type in _DECIDING for draft in self.drafts)
        deletes = any(draft.deleted for draft in self.drafts)
        return ((POLICY_EPOCH,) if moves else ()) + ((DELETIONS,) if deletes else ())

    def add(self, item: Item, facts: Facts, known: Known) -> None:
        """A new version of the item; a key that was free must still be free when it is committed."""
        record = known.live(item.key)
        if_version = item.put.if_version
        if if_version is None or if_version == ANY:
            pinned = if_version == ANY or item.key.type in PINNED
            if_version = 0 if record is None else record.version if pinned else None
        self.drafts.append(
            Draft(key=item.key, head=item.head, tail=item.tail, facts=facts, index=item.index, if_version=if_version)
        )
        if record is not None and parse_facts(record.facts) != facts:
            self.moved.add(item.key)
        if record is None:
            self.fresh.add(item.key)
            if item.key.type == "Patient":
                self.created[item.key.id] = facts.custodian
        if item.key.type == "Person":
            self.absent.update(set(item.index.owners) - set(facts.owners))
            if record is not None:
                self.leave(parse_facts(record.facts).owners, facts.owners, known)

    def leave(self, before: Iterable[str], after: Iterable[str], known: Known) -> None:
        """Remember the Patients that a Person linked ``before`` and does not ``after``, as far as they are there."""
        for patient in set(before) - set(after):
            record = known.live(Key("Patient", patient))
            if record is not None:
                self.left[patient] = parse_facts(record.facts).custodian

    def note_unknown(self, items: Iterable[Item], known: Known) -> None:
        """Remember the Patients that these items refer to and that nobody holds yet."""
        keys = {Key("Patient", patient) for item in items for patient in item.patients}
        here = {draft.key for draft in self.drafts}
        self.unknown |= {key.id for key in keys - here if key not in known.records}


def decide_facts(
    items: Sequence[Item], known: Known, organization: str, *, counts: bool
) -> Iterator[tuple[Item, Facts]]:
    """Each item with its facts, in order. ``counts``: Consents are written by one who may decide access.

    The custodian of a resource stays; a new one's is ``organization``. Parties only grow, but those of a Consent and
    a Person say what these say now.
    """
    batch = {item.key: item for item in items}
    decided: dict[Key, Facts] = {}
    for item in items:
        if item.key.type not in THROUGH:
            decided[item.key] = _facts(item, known, batch, organization, counts=counts)
    for item in sorted((item for item in items if item.key.type in THROUGH), key=lambda item: item.key.type):
        facts = _facts(item, known, batch, organization, counts=counts)
        targets = targets_of(item.resource)
        found: dict[Key, Facts] = {}
        for target in targets:
            about = None if target is None else decided.get(target) or (known.live(target) and known.facts(target))
            if target is not None and about:
                found[target] = about
        decided[item.key] = facts_through(item.key.type, facts, targets, found)
    return ((item, decided[item.key]) for item in items)


def _facts(item: Item, known: Known, batch: Mapping[Key, Item], organization: str, *, counts: bool) -> Facts:
    before = known.facts(item.key)
    custodian = organization if before is None else before.custodian
    parties = set(item.put.parties) - {COUNTS}
    if item.key.type == "Consent":
        parties |= {COUNTS} if counts else set()
        if before is None and counts and len(item.index.owners) == 1:
            # Whoever gives a Consent that counts, the Patient's custodian keeps it.
            custodian = known.custodian(Key("Patient", item.index.owners[0])) or custodian
    elif item.key.type == "Person":
        held = {
            patient: known.custodian(key) or (organization if key in batch else None)
            for patient in item.index.owners
            if (key := Key("Patient", patient))
        }
        return person_facts(item.index, custodian, {name: by for name, by in held.items() if by is not None})
    elif before is not None:
        parties |= set(before.parties)
    return facts_of(item.index, custodian=custodian, parties=parties)


def person_facts(index: Index, custodian: str, held: Mapping[str, str]) -> Facts:
    """The facts of a Person: only links to Patients that are there (id -> custodian) count. One to an id that is free
    would else reach into the chart of whoever takes that id."""
    linked = tuple(patient for patient in index.owners if patient in held)
    facts = facts_of(index, custodian=custodian, parties=held.values())
    return msgspec.structs.replace(facts, owners=linked, compartments=linked)


async def add_persons(plan: Plan, store: Store, patients: Mapping[str, str], known: Known) -> None:
    """A Person for each of these Patients (id -> custodian) that has none, in the same commit (every Patient has one,
    whichever door it came by); one that links it already learns of its custodian."""
    if not patients:
        return
    drafted = {draft.key: draft for draft in plan.drafts}
    served = {
        patient: draft.key
        for draft in plan.drafts
        if draft.key.type == "Person" and not draft.deleted
        for patient in draft.facts.owners
        if patient in patients
    }
    for record in await _linking(store, patients):
        if record.key in drafted:
            continue
        facts = parse_facts(record.facts)
        linked = [name for name in persons.linked_patients(await whole(store, record)) if name in patients]
        served |= {name: record.key for name in linked if persons.serves(facts, patients[name])}
        news = {name: patients[name] for name in linked if served.get(name) == record.key and name not in facts.owners}
        if news:
            drafted[record.key] = draft = await _told(store, record, news)
            plan.drafts.append(draft)
    for patient, custodian in patients.items():
        if patient not in served:
            if patient not in plan.created:  # the survey looks for the key of a new Patient's Person, not for this one
                known = await _with(store, known, Key("Person", patient))
            taken = drafted.keys() | {
                key for key in known.records if key.type == "Person" and not _was_ours(known, key, patient, custodian)
            }
            key = persons.person_key(patient, taken)
            while key.id != patient and await store.get(key) is not None:
                taken |= {key}
                key = persons.person_key(patient, taken)
            draft = persons.person_draft(key, patient, custodian)
            drafted[key] = draft
            plan.drafts.append(draft)


async def _with(store: Store, known: Known, key: Key) -> Known:
    record = await store.get(key)
    return known if record is None else Known({**known.records, key: record})


def _was_ours(known: Known, key: Key, patient: str, custodian: str) -> bool:
    """A deleted Person of the same custodian that linked this Patient alone may come back under its key."""
    facts = known.facts(key)
    gone = known.live(key) is None and facts is not None
    return gone and facts is not None and facts.owners == (patient,) and facts.custodian == custodian


async def _linking(store: Store, patients: Iterable[str]) -> list[Record]:
    names = sorted(patients)
    found: dict[Key, Record] = {}
    for start in range(0, len(names), TERMS_AT_ONCE):
        group = tuple(f"{REFERENCE_TERM}Patient/{name}" for name in names[start : start + TERMS_AT_ONCE])
        async for batch in store.scan(Query(types=frozenset({"Person"}), terms=(group,), bodies=False)):
            found.update({record.key: record for record in batch})
    return list(found.values())


async def _told(store: Store, record: Record, news: Mapping[str, str]) -> Draft:
    """A new version of a Person with the same content, of which the links to these Patients count from now on."""
    body = await whole(store, record)
    head, tail = stamp.prepare(body, id=record.id)
    facts = parse_facts(record.facts)
    linked = tuple(sorted({*facts.owners, *news}))
    parties = tuple(sorted({*facts.parties, *news.values()}))
    facts = msgspec.structs.replace(facts, owners=linked, compartments=linked, parties=parties)
    index = extract(msgspec.json.decode(body))
    return Draft(key=record.key, head=head, tail=tail, facts=facts, index=index, if_version=record.version)


async def supersede(plan: Plan, store: Store, items: Iterable[Item]) -> None:
    """Make the active Consents inactive whose place these items take."""
    consents = [item for item in items if item.key.type == "Consent" and item.index.owners and is_active(item.resource)]
    if not consents:
        return
    looked_at = (await store.high_water()).seq
    names = sorted({owner for item in consents for owner in item.index.owners})
    existing: list[tuple[Record, bytes]] = []
    for start in range(0, len(names), TERMS_AT_ONCE):
        group = tuple(f"{REFERENCE_TERM}Patient/{name}" for name in names[start : start + TERMS_AT_ONCE])
        query = Query(types=frozenset({"Consent"}), terms=(group,))
        async for batch in store.scan(query):
            existing += [(record, await whole(store, record)) for record in batch]
        # Two that are given at once must not both stay active: only one could be taken back.
        since = msgspec.structs.replace(query, after=looked_at, bodies=False)
        plan.held.append(Guard(since, 0, "Another Consent of this Patient has just come."))
    drafted = {draft.key for draft in plan.drafts}
    for item in consents:
        for record, body in superseded(item.resource, existing):
            if record.key in drafted or COUNTS not in parse_facts(record.facts).parties:
                continue
            drafted.add(record.key)
            head, tail = stamp.prepare(body, id=record.id)
            index = extract(msgspec.json.decode(body))
            facts = parse_facts(record.facts)
            plan.drafts.append(
                Draft(key=record.key, head=head, tail=tail, facts=facts, index=index, if_version=record.version)
            )

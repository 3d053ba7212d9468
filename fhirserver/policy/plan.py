"""One commit being put together: drafts, the facts the server decides about them, and what must hold inside it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

import msgspec

from fhirserver.core import stamp
from fhirserver.core.definitions import ORGANIZATION
from fhirserver.core.index import extract
from fhirserver.core.model import REFERENCE_TERM, Draft, Facts, Guard, Index, Key, Query, Record, parse_facts
from fhirserver.policy import persons
from fhirserver.policy.consenting import is_active, superseded
from fhirserver.policy.custody import DELETIONS, Known
from fhirserver.policy.derive import THROUGH, facts_of, facts_through, targets_of
from fhirserver.policy.dossier import COUNTS, POLICY_EPOCH, whole
from fhirserver.policy.items import ANY, Item
from fhirserver.policy.labelling import (
    FLAG,
    inherited,
    inheriting,
    named_by,
    namers_of,
    restricted,
    sources_of,
    unnamed,
)
from fhirserver.policy.principal import OPERATOR_ORGANIZATION
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
    else must hold inside the commit. ``moved``: keys that access is decided by otherwise from then on,
    and those that may take labels over from them. ``plain``: custodians that were taken for no Part 2 programs;
    ``programs``: Organizations that become one; ``clear``: what labels would have been taken over from, and carries
    none. ``unlabelled``: which labels go, for the audit trail.
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
        self.plain: set[str] = set()
        self.programs: set[str] = set()
        self.clear: set[Key] = set()
        self.unlabelled: list[str] = []

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
        before = parse_facts(record.facts) if record is not None else None
        if before is not None and before != facts:
            self.moved.add(item.key)
        self._label(item, before, facts, known)
        if record is None:
            self.fresh.add(item.key)
            if item.key.type == "Patient":
                self.created[item.key.id] = facts.custodian
        if item.key.type == "Person":
            self.absent.update(set(item.index.owners) - set(facts.owners))
            if record is not None:
                self.leave(parse_facts(record.facts).owners, facts.owners, known)

    def _label(self, item: Item, before: Facts | None, facts: Facts, known: Known) -> None:
        """Note what its labels have to do with others."""
        record = known.live(item.key)
        if facts.custodian not in known.programs:
            self.plain.add(facts.custodian)
        flagged = item.key.type == ORGANIZATION and facts.custodian == OPERATOR_ORGANIZATION and FLAG in facts.labels
        if flagged and (before is None or FLAG not in before.labels):
            self.programs.add(item.key.id)
        gone = set(before.labels).difference(facts.labels) if before is not None else set()
        if gone:
            self.unlabelled.append(" ".join([str(item.key), *sorted(gone)]))
        if item.key.type in inheriting():
            for key in sources_of(item.resource):
                about = known.facts(key)
                if known.live(key) is None or about is None or not restricted(about):
                    self.clear.add(key)
        elif namers_of(item.key.type):
            name = str(item.key)
            namers = [each for each in known.namers if name in each.supports.split()]
            if not any(restricted(parse_facts(each.facts)) for each in namers):
                self.held.append(unnamed(item.key))
        labelled = restricted(facts)
        if labelled and before is None:
            self.moved.add(item.key)  # what refers to it may have come before it
        if labelled or (before is not None and restricted(before)):
            named = {*item.index.supports, *(record.supports.split() if record is not None else ())}
            self.moved |= named_by(item.key.type, named)

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
    order = {type_: at for at, type_ in enumerate((*inheriting(), *THROUGH), 1)}
    for item in sorted(items, key=lambda item: order.get(item.key.type, 0)):
        facts = _facts(item, known, batch, organization, counts=counts)
        if item.key.type in order:
            facts = _with_others(item, facts, known, batch, decided)
        decided[item.key] = facts
    return ((item, decided[item.key]) for item in items)


def _with_others(
    item: Item, facts: Facts, known: Known, batch: Mapping[Key, Item], decided: Mapping[Key, Facts]
) -> Facts:
    """The facts with what comes from others: what it speaks through, and what gives it labels."""

    def found(keys: Iterable[Key | None]) -> dict[Key, Facts]:
        about = {key: decided.get(key) or (known.live(key) and known.facts(key)) for key in keys if key is not None}
        return {key: each for key, each in about.items() if each}

    if item.key.type in THROUGH:
        targets = targets_of(item.resource)
        facts = facts_through(item.key.type, facts, targets, found(targets))
    sources = found(sources_of(item.resource))
    if namers_of(item.key.type):
        name = str(item.key)
        stored = {namer.key: parse_facts(namer.facts) for namer in known.namers if name in namer.supports.split()}
        sources |= {key: each for key, each in stored.items() if key not in batch}
        sources |= {
            key: decided[key] for key, each in batch.items() if item.key in named_by(key.type, each.index.supports)
        }
    return inherited(facts, sources)


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
        linked = {name: by for name, by in held.items() if by is not None}
        return person_facts(item.index, custodian, linked, known.programs)
    elif before is not None:
        parties |= set(before.parties)
    return facts_of(item.key.type, item.index, custodian=custodian, parties=parties, programs=known.programs)


def person_facts(index: Index, custodian: str, held: Mapping[str, str], programs: Collection[str]) -> Facts:
    """The facts of a Person: only links to Patients that are there (id -> custodian) count. One to an id that is free
    would else reach into the chart of whoever takes that id."""
    linked = tuple(patient for patient in index.owners if patient in held)
    facts = facts_of("Person", index, custodian=custodian, parties=held.values(), programs=programs)
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
            draft = persons.person_draft(key, patient, custodian, known.programs)
            if custodian not in known.programs:
                plan.plain.add(custodian)
            drafted[key] = draft
            plan.drafts.append(draft)


async def _with(store: Store, known: Known, key: Key) -> Known:
    record = await store.get(key)
    return known if record is None else Known({**known.records, key: record}, known.namers)


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

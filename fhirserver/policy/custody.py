"""Who answers for what: the rules that keep one organisation's resources and charts out of another's hands.

An existing key of another custodian is refused, never taken over, not even after its deletion. What refers to another
custodian's Patient is refused, too, because it would stand in that Patient's chart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping, Sequence

from fhirserver.core.definitions import ORGANIZATION
from fhirserver.core.errors import Kind
from fhirserver.core.model import REFERENCE_TERM, Facts, Guard, Key, Query, Record, parse_facts
from fhirserver.policy.derive import THROUGH, targets_of
from fhirserver.policy.items import Item
from fhirserver.policy.labelling import gives_to_named, is_program, namers_of, sources_of
from fhirserver.policy.persons import is_subsetted
from fhirserver.policy.principal import OPERATOR_ORGANIZATION
from fhirserver.store.port import Store

DELETIONS = "epoch/deletions"
"""The ledger counter that every deletion raises; while there is none, no tombstone needs to be looked for."""

KEYS_AT_ONCE = 500

Problem = tuple[Kind, str]
"""Why something is refused."""

BELONGS = "belongs to another organisation"
INTRUDED = "another organisation holds resources about this Patient"


class Known:
    """What the store holds of the keys that a batch concerns; tombstones are records, too. ``programs``: the Part 2
    programs among the custodians; ``namers``: what names the batch's Binaries."""

    def __init__(self, records: Mapping[Key, Record], namers: Sequence[Record] = ()) -> None:
        self.records = records
        self.namers = namers
        self.programs = frozenset(
            key.id for key, record in records.items() if key.type == ORGANIZATION and is_program(record)
        )

    def facts(self, key: Key) -> Facts | None:
        """The facts of the current version, a tombstone's included."""
        record = self.records.get(key)
        return None if record is None else parse_facts(record.facts)

    def live(self, key: Key) -> Record | None:
        """The current version unless it is a tombstone."""
        record = self.records.get(key)
        return None if record is None or record.deleted else record

    def custodian(self, key: Key) -> str | None:
        """Who answers for the key, if it is or was in use."""
        facts = self.facts(key)
        return None if facts is None else facts.custodian


async def survey(store: Store, items: Sequence[Item], organization: str) -> Known:
    """Look up everything that decides about these items: themselves, the Patients they concern, the Binaries they
    name, what a Provenance is about or a Binary stands for, what labels come from, the keys of the Persons that new
    Patients will get, and whether the custodians (``organization`` for what is new) are Part 2 programs."""
    telling: dict[Key, None] = {}
    others: dict[Key, None] = {Key(ORGANIZATION, organization): None}
    for item in items:
        telling[item.key] = None
        telling.update((Key("Patient", patient), None) for patient in item.patients)
        others.update((Key.parse(name), None) for name in item.index.supports if name.startswith("Binary/"))
        if item.key.type in THROUGH:
            others.update((target, None) for target in targets_of(item.resource) if target is not None)
        elif item.key.type == "Patient":
            telling[Key("Person", item.key.id)] = None
        others.update((source, None) for source in sources_of(item.resource))
    records = await look_up(store, [*telling, *(key for key in others if key not in telling)])
    people = [records[item.key] for item in items if item.key.type == "Person" and item.key in records]
    linked = {Key("Patient", owner) for person in people for owner in parse_facts(person.facts).owners}
    if linked - telling.keys():
        # Whom a Person links now is a matter of those Patients' custodians, too.
        records.update(await look_up(store, sorted(linked - telling.keys())))
    await add_custodians(store, records, asked=others)
    namers = await naming(store, [item.key for item in items])
    missing = [key for key in telling if key not in records]
    if missing and await store.ledger.get(DELETIONS) is not None:
        found = await asyncio.gather(*(store.get(key) for key in missing))
        records.update({record.key: record for record in found if record is not None})
    return Known(records, namers)


async def add_custodians(store: Store, records: dict[Key, Record], *, asked: Collection[Key] = ()) -> None:
    """Look up the Organizations that hold these records, too: what a program holds stays its own whoever writes it."""
    holders = {Key(ORGANIZATION, parse_facts(record.facts).custodian) for record in records.values()}
    missing = holders.difference(records, asked)
    if missing:
        records.update(await look_up(store, sorted(missing)))


async def naming(store: Store, keys: Sequence[Key]) -> list[Record]:
    """What gives its labels to those of these resources that it names, without bodies."""
    named = sorted(key for key in keys if namers_of(key.type))
    found: list[Record] = []
    for start in range(0, len(named), KEYS_AT_ONCE):
        terms = tuple(f"{REFERENCE_TERM}{key}" for key in named[start : start + KEYS_AT_ONCE])
        async for batch in store.scan(Query(types=gives_to_named(), terms=(terms,), bodies=False)):
            found += batch
    return found


async def look_up(store: Store, keys: Sequence[Key]) -> dict[Key, Record]:
    """The live records of these keys, without bodies."""
    records: dict[Key, Record] = {}
    for start in range(0, len(keys), KEYS_AT_ONCE):
        query = Query(keys=tuple(keys[start : start + KEYS_AT_ONCE]), bodies=False)
        async for batch in store.scan(query):
            records.update({record.key: record for record in batch})
    return records


def problem(
    item: Item, known: Known, organization: str, *, imported: bool, takes_over: bool, refers_freely: bool
) -> Problem | None:
    """Why this organisation may not store the resource, or None.

    ``takes_over``: it may write new versions of what others are custodian of (they stay custodian).
    ``refers_freely``: it may write about the Patients of others. Both are for operators.
    """
    if is_subsetted(item.resource) and (item.key.type == "Person" or not imported):
        return Kind.BAD_REQUEST, "is tagged SUBSETTED: a view that leaves something out cannot be stored"
    if item.key == Key("Organization", OPERATOR_ORGANIZATION) and organization != OPERATOR_ORGANIZATION:
        return Kind.CONFLICT, f"{item.key} {BELONGS}"
    holder = known.custodian(item.key)
    if holder is not None and holder != organization and not takes_over:
        return Kind.CONFLICT, f"{item.key} {BELONGS}"
    if refers_freely:
        return None
    before = known.facts(item.key) if item.key.type == "Person" else None
    if before is not None and any(_foreign(patient, known, organization) for patient in before.owners):
        # Whom it links besides is not told, whatever is sent.
        return Kind.CONFLICT, f"{item.key} links a Patient that {BELONGS}"
    for patient in sorted(item.patients):
        if _foreign(patient, known, organization):
            return Kind.CONFLICT, f"refers to {Key('Patient', patient)}, which {BELONGS}"
    for name in item.index.supports:
        # Naming a Binary is how one comes to read it, so only what one can read already may be named.
        facts = known.facts(Key.parse(name)) if name.startswith("Binary/") else None
        if facts is not None and facts.custodian != organization and organization not in facts.parties:
            return Kind.CONFLICT, f"refers to {name}, which {BELONGS}"
    return None


def _foreign(patient: str, known: Known, organization: str) -> bool:
    return known.custodian(Key("Patient", patient)) not in (None, organization)


def guards(unknown: Iterable[str], created: Mapping[str, str], organization: str) -> list[Guard]:
    """What must still hold inside the commit: ``unknown`` Patients have not become another organisation's meanwhile,
    and nobody else holds resources about a Patient that is ``created`` (id -> custodian)."""
    found = []
    keys = tuple(Key("Patient", patient) for patient in sorted(unknown))
    for start in range(0, len(keys), KEYS_AT_ONCE):
        query = Query(keys=keys[start : start + KEYS_AT_ONCE], other_than=organization, bodies=False)
        found.append(Guard(query, 0, f"A Patient it refers to {BELONGS}."))
    found += [
        Guard(members_of_others(patient, custodian), 0, f"Patient/{patient}: {INTRUDED}.")
        for patient, custodian in sorted(created.items())
    ]
    return found


def absent(patients: Iterable[str]) -> list[Guard]:
    """Patients that a Person links and that were not there when its links were weighed are still not there."""
    keys = tuple(Key("Patient", patient) for patient in sorted(patients))
    return [
        Guard(Query(keys=keys[start : start + KEYS_AT_ONCE], bodies=False), 0, "A Patient it links has just come.")
        for start in range(0, len(keys), KEYS_AT_ONCE)
    ]


def members_of_others(patient: str, custodian: str) -> Query:
    """What others than ``custodian`` hold in a Patient's chart; a Person's link alone opens nothing and is no claim."""
    return Query(within=patient, other_than=custodian, not_types=frozenset({"Person"}), limit=1, bodies=False)

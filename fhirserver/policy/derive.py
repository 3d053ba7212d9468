"""The facts that access is decided by, from a resource's index entries and from what its writer may set."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

import msgspec

from fhirserver.core.definitions import DIRECTORY_TYPES, PATIENT
from fhirserver.core.index import UNKNOWN_OWNER, extract
from fhirserver.core.model import Facts, Index, Key, Record, parse_facts
from fhirserver.core.values import local
from fhirserver.policy.labelling import PART2, inheriting, own_labels, restricted
from fhirserver.policy.principal import OPERATOR_ORGANIZATION
from fhirserver.policy.vocabulary import disclosure

THROUGH = ("Binary", "Provenance")
"""Types whose facts depend on those of other resources too, in the order in which they are decided."""


def facts_of(
    type_: str, index: Index, *, custodian: str, parties: Iterable[str], programs: Collection[str] = ()
) -> Facts:
    """The facts of a resource by itself (of `THROUGH` and of types that inherit labels that is not all). ``programs``:
    the Part 2 programs, as far as the custodian is concerned."""
    return Facts(
        custodian=custodian,
        parties=tuple(sorted({*index.parties, *parties})),
        owners=index.owners,
        labels=own_labels(type_, index, program=custodian in programs),
        compartments=index.compartments,
        kinds=index.kinds,
    )


def rederive(record: Record, body: bytes) -> tuple[Facts, Index]:
    """Facts and index of a stored version from its body; what only its writer could know is kept."""
    known = parse_facts(record.facts)
    index = extract(msgspec.json.decode(body))
    # What its custodian is, and what it refers to, is not at hand; `relabel` takes away what came from there.
    programs = {known.custodian} if PART2 in known.labels else set()
    facts = facts_of(record.type, index, custodian=known.custodian, parties=known.parties, programs=programs)
    if record.type in inheriting():
        taken = known.labels if restricted(known) else ()
        facts = msgspec.structs.replace(facts, labels=tuple(sorted({*facts.labels, *taken})))
    if record.type == "Person":
        counting = tuple(owner for owner in index.owners if owner in known.owners)
        facts = msgspec.structs.replace(facts, owners=counting, compartments=counting)
    if record.type in THROUGH:
        owners, labels = {*known.owners, *index.owners}, {*known.labels, *index.labels}
        facts = msgspec.structs.replace(facts, owners=tuple(sorted(owners)), labels=tuple(sorted(labels)))
    return facts, index


def local_target(reference: object) -> Key | None:
    """The resource of this server that a literal reference names, as the index has it; None for anything else."""
    target = local(reference) if isinstance(reference, str) else None
    return Key(target.type, target.id) if target else None


def targets_of(resource: Mapping[str, Any]) -> list[Key | None]:
    """What a Provenance is about, or the security context of a Binary; None for each that names no resource of this
    server."""
    given = resource.get("target", []) if resource.get("resourceType") == "Provenance" else [_context(resource)]
    return [local_target(target.get("reference")) for target in given if isinstance(target, Mapping)]


def _context(resource: Mapping[str, Any]) -> object:
    return resource.get("securityContext") if resource.get("resourceType") == "Binary" else None


def facts_through(type_: str, facts: Facts, targets: Iterable[Key | None], known: Mapping[Key, Facts]) -> Facts:
    """The facts of a Provenance or a Binary with what it takes from its targets. ``known``: those that were found.

    A Binary is treated as its security context (R4 binary): its parties may see it, too; one that another
    organisation holds opens nothing. That it is about a Patient is among its own facts. Nor does a Provenance come into
    view with what another organisation holds: anybody could then speak to that one's patients and readers.
    """
    if type_ == "Binary":
        targets = [target for target in targets if target is None or target.type != PATIENT]
        known = {key: found for key, found in known.items() if found.custodian == facts.custodian}
        parties = {*facts.parties}.union(*(found.parties for found in known.values()))
        facts = msgspec.structs.replace(facts, parties=tuple(sorted(parties)))
    elif facts.custodian != OPERATOR_ORGANIZATION:
        known = {key: found for key, found in known.items() if found.custodian == facts.custodian or not found.owners}
    return provenance_facts(facts, targets, known)


def provenance_facts(facts: Facts, targets: Iterable[Key | None], known: Mapping[Key, Facts]) -> Facts:
    """The facts of a Provenance, which is open only where all its targets are: about all their patients, with all
    their labels. ``known``: the targets that were found; for one that was not, `UNKNOWN_OWNER`."""
    owners, labels = set(facts.owners), set(facts.labels)
    for target in targets:
        found = None if target is None else known.get(target)
        if found is None:
            owners.add(UNKNOWN_OWNER)
            continue
        owners.update(found.owners)
        labels.update(found.labels)
        if not found.owners and target is not None and target.type not in DIRECTORY_TYPES | disclosure().through:
            owners.add(UNKNOWN_OWNER)  # a clinical resource about nobody is closed, and so is what tells of it
    return msgspec.structs.replace(facts, owners=tuple(sorted(owners)), labels=tuple(sorted(labels)))

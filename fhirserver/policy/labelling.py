"""The labels that the server derives: from codes, from the program that keeps a resource, from what it refers to.

They are kept in the facts, where access is decided, and never in the stored bytes: what a resource was given is what
its `meta.security` says, everything beyond that is derived, and is decided anew with each write. So nobody can leave a
derived label out, and one goes by itself when its reason does (docs/adr/0006-derived-labels.md).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fhirserver.core.definitions import DIRECTORY_TYPES, ORGANIZATION
from fhirserver.core.model import REFERENCE_TERM, Clause, Facts, Guard, Index, Key, Query, Record, Visible, parse_facts
from fhirserver.core.sensitive import PROGRAM, lists, references_at
from fhirserver.core.values import local
from fhirserver.policy.principal import OPERATOR_ORGANIZATION
from fhirserver.policy.vocabulary import labels

ACT_CODE = "http://terminology.hl7.org/CodeSystem/v3-ActCode"
PART2 = f"{ACT_CODE}|42CFRPart2"
"""The label of what a Part 2 program is custodian of (42 CFR 2.11)."""

FLAG = f"{PROGRAM['system']}|{PROGRAM['code']}"
"""Among the labels of an Organization: it is a program. Nothing is restricted by it."""

_PROGRAM_TERM = f"Organization|type={FLAG}"
_AT_ONCE = 500
_LABELLED = "What it has to do with has just been labelled."


def own_labels(type_: str, index: Index, *, program: bool) -> tuple[str, ...]:
    """The labels of a resource by itself: given, said by its codes, and of the program that is its custodian. The
    directory is about nobody; an Organization that is a program is marked as one."""
    found = set(index.labels)
    if index.topics:
        found |= {f"{labels().canonical[topic]}|{topic}" for topic in index.topics}
    if program and type_ not in DIRECTORY_TYPES:
        found.add(PART2)
    if type_ == ORGANIZATION and _PROGRAM_TERM in index.terms:
        found.add(FLAG)
    return tuple(sorted(found))


def is_program(record: Record) -> bool:
    """Whether this Organization is a Part 2 program of this installation."""
    facts = parse_facts(record.facts)
    return not record.deleted and FLAG in facts.labels and facts.custodian == OPERATOR_ORGANIZATION


def no_programs(organizations: Iterable[str]) -> list[Guard]:
    """These organisations, taken for no programs, must still be none inside the commit."""
    keys = tuple(Key(ORGANIZATION, each) for each in sorted(organizations))
    flagged = Visible((Clause(custodian=OPERATOR_ORGANIZATION, having=frozenset({FLAG})),))
    query = Query(keys=keys, visible=flagged, bodies=False)
    return [Guard(query, 0, "Its custodian has just become a Part 2 program.")] if keys else []


# -- inheritance


def inheriting() -> tuple[str, ...]:
    """The types that take labels over from what they refer to, in the order in which they are decided."""
    return lists().order


def namers_of(type_: str) -> frozenset[str]:
    """The types whose labels a resource of this type takes over where they name it."""
    return lists().named_by.get(type_, frozenset())


def gives_to_named() -> frozenset[str]:
    """The types that give their labels to what they name."""
    return lists().namers


def named_by(type_: str, supports: Iterable[str]) -> set[Key]:
    """Of what a resource of this type names, those that take its labels over."""
    found = {Key.parse(name) for name in supports} if type_ in gives_to_named() else set()
    return {key for key in found if type_ in namers_of(key.type)}


def sources_of(resource: Mapping[str, Any]) -> set[Key]:
    """What a resource takes labels over from. Whatever is decided with it or after it is left out: labels that went
    round in a circle would never go."""
    type_ = str(resource.get("resourceType"))
    paths = lists().inherits.get(type_)
    if paths is None:
        return set()
    later = lists().later[type_]
    found = {local(reference) for steps in paths for reference in references_at(resource, steps)}
    return {Key(target.type, target.id) for target in found if target is not None and target.type not in later}


def inherited(facts: Facts, sources: Mapping[Key, Facts]) -> Facts:
    """The facts with the restricted labels of ``sources``: those of the same custodian, and what everybody may read.
    From others it takes nothing over, or anybody could learn another's labels by referring to it."""
    found = {
        label
        for key, source in sources.items()
        if source.custodian == facts.custodian or (key.type in DIRECTORY_TYPES and not source.owners)
        for label in source.labels
        if label in labels().restricted
    }
    if found <= set(facts.labels):
        return facts
    return msgspec.structs.replace(facts, labels=tuple(sorted(found.union(facts.labels))))


def restricted(facts: Facts) -> bool:
    """Whether anything in these facts is hidden from third parties unless a Consent permits it."""
    return bool(facts.labels) and not labels().restricted.isdisjoint(facts.labels)


def unrestricted(keys: Iterable[Key]) -> list[Guard]:
    """What labels would have been taken over from must still carry none inside the commit."""
    names = sorted(keys)
    parts = [tuple(names[at : at + _AT_ONCE]) for at in range(0, len(names), _AT_ONCE)]
    return [Guard(Query(keys=part, visible=_carrying(), bodies=False), 0, _LABELLED) for part in parts]


def unnamed(key: Key) -> Guard:
    """Nothing that carries restricted labels must name this one inside the commit."""
    terms = ((f"{REFERENCE_TERM}{key}",),)
    return Guard(Query(types=gives_to_named(), terms=terms, visible=_carrying(), bodies=False), 0, _LABELLED)


def _carrying() -> Visible:
    return Visible((Clause(having=labels().restricted),))

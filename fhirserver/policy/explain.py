"""Why a resource is, or is not, shown to an organisation: for operators.

Nothing is decided here. What is told is what `consent.evaluate` and the grant answer when they are asked again with one
thing left out: a condition that, relaxed alone, would open the resource is a reason why it is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import msgspec

from fhirserver.core.model import FINDING, MAX_TIME, MIN_TIME, Facts, Key
from fhirserver.policy.box import Box
from fhirserver.policy.consent import Conditions, Directive, evaluate
from fhirserver.policy.findings import Care, read
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.policy.scopes import Types
from fhirserver.policy.vocabulary import disclosure, labels

_replace = msgspec.structs.replace


class Explanation(msgspec.Struct, frozen=True):
    """``shown``: what the gate decides. ``reasons``: sentences, the most general first."""

    shown: bool
    reasons: tuple[str, ...]


class Subject(msgspec.Struct, frozen=True):
    """One resource: what access to it depends on."""

    key: Key
    facts: Facts
    care: Care

    def within(self, boxes: Iterable[Box]) -> bool:
        """Whether any of the boxes holds it."""
        return any(box.holds(self.key.type, self.facts.labels, self._kinds(box)) for box in boxes)

    def _kinds(self, box: Box) -> set[str]:
        asked = {kind for one in box.kinds for kind in one if kind.startswith(FINDING)}
        return {*self.facts.kinds, *(kind for kind in asked if read(kind).holds(self.key, self.care))}


def general(subject: Subject, asker: Principal, types: Types) -> Iterator[str]:
    """What does not depend on any Consent."""
    key, facts = subject.key, subject.facts
    yield f"{key} is kept by {facts.custodian} and is about {_list(f'Patient/{each}' for each in facts.owners)}."
    if facts.labels:
        restricted = set(facts.labels) & labels().restricted
        yield f"It carries the labels {_list(facts.labels)}; restricted are {_list(sorted(restricted))}."
    parts = [part for part in types.parts if part.type == key.type]
    if key.type in types.whole:
        yield f"The scopes let see every {key.type}."
    elif any(all(not one.isdisjoint(facts.kinds) for one in part.kinds) for part in parts):
        yield f"The scopes let see {key.type} of this category."
    else:
        yield f"The scopes do not let see {'this category of ' if parts else ''}{key.type}."
    if asker.caller is CallerClass.MEMBER:
        role = "the custodian" if facts.custodian == asker.organization else "a party"
        held = asker.organization == facts.custodian or asker.organization in facts.parties
        yield f"{asker.organization} is {role if held else 'neither the custodian nor a party'}."
    if asker.caller is CallerClass.THIRD_PARTY:
        if key.type in disclosure().never:
            yield f"{key.type} is never shown to third parties."
        if key.type in disclosure().actors and asker.organization not in facts.parties:
            yield f"A {key.type} is shown to the organisations it names; {asker.organization} is none of them."
        if not facts.owners:
            yield "It is about nobody: Consents do not open it. What is named by something shown may come with that."


def by_consents(
    subject: Subject, patient: str, directives: Sequence[Directive], asker: Principal, now: int
) -> list[str]:
    """What the Consents of one patient make of it, each named."""

    def opens(*given: Directive) -> bool:
        opening = evaluate(given, organization=asker.organization, purpose=asker.purpose, now=now)
        return subject.within(opening.boxes)

    state, names = "open" if opens(*directives) else "closed", _list(each.name for each in directives)
    told = [f"Patient/{patient}: {state}; Consents that count: {names}."]
    for each in directives:
        if opens(each):
            closing = [other.name for other in directives if other is not each and not opens(each, other)]
            told.append(f"{each.name} opens it{f', but is closed by {_list(closing)}' if closing else ''}.")
            continue
        reasons = [name for name, relaxed in _relaxed(each, subject, asker.organization) if opens(relaxed)]
        if reasons:
            told.append(f"{each.name} does not open it because of its {' and its '.join(reasons)}.")
        else:
            told.append(f"{each.name} does not open it{'; it refuses' if each.refusal else ''}.")
    return told


def _relaxed(directive: Directive, subject: Subject, organization: str) -> Iterator[tuple[str, Directive]]:
    """The Directive with one thing left out, and what that was."""
    every = tuple(tuple(label.split("|", 1)) for label in sorted(labels().restricted | labels().normal))
    without: dict[str, dict[str, Any]] = {
        "actor": {"actors": frozenset({organization})},
        "purpose": {"purposes": None},
        "period": {"start": MIN_TIME, "end": MAX_TIME},
        "class": {"types": frozenset({subject.key.type})},
        "securityLabel": {"labels": every},
        "dataPeriod": {"care": None},
        "data": {"data": None},
    }
    for name, change in without.items():
        permits = tuple(tuple(_with(link, change) for link in chain) for chain in directive.permits)
        if permits != directive.permits:
            yield name, _replace(directive, permits=permits)
    for at in range(len(directive.denials)):
        denials = directive.denials[:at] + directive.denials[at + 1 :]
        yield f"nested deny {at + 1}", _replace(directive, denials=denials)


def _with(link: Conditions, change: dict[str, Any]) -> Conditions:
    return _replace(link, **change)


def _list(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"

"""What a caller may see, as one frozen value: ``scopes ∩ reach(class)``. The only place where that is decided.

Everything here is pure. Reach is a set of clauses (`core.model.Visible`) that a store evaluates before any limit and
`Visible.admits` re-checks after; the empty Grant admits nothing. For third parties, reach is what the Consents of a
given set of patients open: a resource about several patients is admitted only if every one of them opens it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from hashlib import blake2b
from types import MappingProxyType
from typing import Any

import msgspec

from fhirserver.core.definitions import DIRECTORY_TYPES, RESOURCE_TYPES
from fhirserver.core.model import EVERYTHING, Clause, Facts, Visible
from fhirserver.policy import findings
from fhirserver.policy.box import Box, both_kinds, meet
from fhirserver.policy.consent import Opening
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.policy.scopes import Types
from fhirserver.policy.vocabulary import disclosure

MOST_BOXES = 128
"""How many different permits, and meetings of them, one grant distinguishes. What would come after is left out, which
opens less: resources about several patients whose permits differ in yet another way."""

CONTEXTS: Mapping[CallerClass, frozenset[str]] = MappingProxyType(
    {
        CallerClass.OPERATOR: frozenset({"user", "system"}),
        CallerClass.MEMBER: frozenset({"user", "system"}),
        # The patients of a third party are those who consented, so `patient/` means them, too.
        CallerClass.THIRD_PARTY: frozenset({"patient", "user", "system"}),
        CallerClass.PATIENT: frozenset({"patient"}),
    }
)
"""The scope contexts that count for a class; scopes in another context contribute nothing."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What one caller may see, for one set of patients where Consents decide.

    ``visible`` decides; ``accompanying`` admits Binary and Device without a patient, but only where an admitted
    resource names them. ``patients``: whose chart may be opened (None: decided by each Patient's own facts).
    ``findings``: what it asks of a resource beyond its facts (`policy.findings`).
    ``basis``: patient -> the Consents used. ``until``: when it must be evaluated again at the latest (milliseconds
    since 1970). ``widened_at``: patient -> when the caller's view of that patient last may have widened. ``digest`` is
    equal for grants that allow the same.
    """

    visible: Visible = Visible()
    accompanying: Visible = Visible()
    patients: frozenset[str] | None = frozenset()
    findings: frozenset[str] = frozenset()
    basis: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    until: int = 0
    widened_at: Mapping[str, int] = MappingProxyType({})
    digest: str = ""
    organization: str | None = None

    def opens(self, patient: str, facts: Facts) -> bool:
        """Whether the chart of a Patient with these facts may be opened at all."""
        if self.patients is not None:
            return patient in self.patients
        return self.organization is None or self.organization == facts.custodian or self.organization in facts.parties

    def used(self, patients: Iterable[str]) -> Iterator[str]:
        """The Consents that open anything of these patients."""
        return (name for patient in sorted(self.basis.keys() & frozenset(patients)) for name in self.basis[patient])

    def few(self, type_: str, most: int) -> frozenset[str] | None:
        """The patients of whom one at least is an owner of whatever of this type is visible; None where there may be
        others, or more of them than ``most``."""
        owners: set[str] = set()
        for clause in self.visible.clauses:
            if (clause.types is None or type_ in clause.types) and type_ not in clause.not_types:
                if clause.owners is None or len(clause.owners) > most:
                    return None
                owners |= clause.owners
        return frozenset(owners) if len(owners) <= most else None


def standing_grant(principal: Principal, types: Types) -> Grant:
    """The Grant that needs no Consent: of operators, members and patients, and for third parties the directory.

    ``types``: what the scopes let see.
    """
    return _standing(principal.caller, principal.organization, principal.patient, types, principal.until)


def consented_grant(
    principal: Principal, types: Types, openings: Mapping[str, Opening], widened: Mapping[str, int]
) -> Grant:
    """The Grant of a third party for these patients: patient -> what that patient's Consents open."""
    opened = {patient: _within(opening.boxes, types) for patient, opening in openings.items()}
    opened = {patient: boxes for patient, boxes in opened.items() if boxes}
    by_box: dict[Box, set[str]] = {}
    for patient, boxes in opened.items():
        for box in boxes:
            by_box.setdefault(box, set()).add(patient)
    joint = _joint(by_box)
    actors = disclosure().actors
    clauses = [*_directory(types.whole)]
    for box, owners in joint.items():
        clauses += _clauses(box, frozenset(owners), actors, principal.organization)
    through = types.whole & disclosure().through
    accompanying = [
        Clause(types=through, unowned=True, without=box.without, having=box.having, kinds=findings.asked(box.kinds))
        for box, owners in joint.items()
        if through and owners >= opened.keys()
    ]
    visible = Visible(tuple(dict.fromkeys(clauses)))
    named = Visible(tuple(dict.fromkeys(accompanying)))
    return Grant(
        visible=visible,
        accompanying=named,
        patients=frozenset(opened),
        findings=findings.asked_of(box.kinds for box in joint),
        basis={patient: openings[patient].basis for patient in opened},
        until=min([principal.until, *(opening.boundary for opening in openings.values())]),
        widened_at={patient: max(widened.get(patient, 0), openings[patient].widened) for patient in opened},
        digest=_digest(principal.caller, visible, named),
        organization=principal.organization,
    )


@lru_cache(maxsize=1024)
def reach(types: Types, organization: str) -> Visible:
    """What the Consents of any patients could open to a third party at most: what a store may leave out unasked."""
    actors, never = disclosure().actors, disclosure().never
    plain, named = types.whole - actors - never, types.whole & actors
    clauses = [*_directory(types.whole), *_parts(types)]
    if plain:
        within, without = _shorter(plain)
        clauses.append(Clause(types=within, not_types=without))
    if named:
        clauses.append(Clause(types=named, party=organization))
    return Visible(tuple(clauses))


@lru_cache(maxsize=1024)
def _standing(caller: CallerClass, organization: str, patient: str | None, types: Types, until: int) -> Grant:
    whole = types.whole
    through = whole & disclosure().through
    accompanying = Visible((Clause(types=through, unowned=True),)) if through else Visible()
    patients: frozenset[str] | None = None
    if not types.named:
        visible = accompanying = Visible()
        patients = frozenset()
    elif caller is CallerClass.OPERATOR:
        visible = EVERYTHING if whole == RESOURCE_TYPES else Visible(_shares(types))
    elif caller is CallerClass.MEMBER:
        visible = Visible((*_shares(types, organization=organization), *_directory(whole)))
    elif caller is CallerClass.PATIENT and patient is not None:
        own = frozenset({patient})
        persons = whole & {"Person"}
        linked = (Clause(types=persons, any_owner=own),) if persons else ()
        visible = Visible((*_shares(types, owners=own), *linked, *_directory(whole)))
        patients = own
    else:
        # A third party, before its patients' Consents are looked at.
        visible, accompanying, patients = Visible(_directory(whole)), Visible(), frozenset()
    return Grant(
        visible=visible,
        accompanying=accompanying,
        patients=patients,
        until=until,
        digest=_digest(caller, visible, accompanying),
        organization=None if caller is CallerClass.OPERATOR else organization,
    )


def _shorter(types: frozenset[str]) -> tuple[frozenset[str] | None, frozenset[str]]:
    """``types`` and ``not_types`` of a clause, whichever says it in fewer names: each read carries them to the store,
    and 140 names were measured to cost a read of 192 records as much as the records themselves."""
    rest = RESOURCE_TYPES - types
    return (None, rest) if len(rest) < len(types) else (types, frozenset())


def _limit(types: frozenset[str]) -> frozenset[str] | None:
    return None if types == RESOURCE_TYPES else types


def _shares(types: Types, **conditions: Any) -> tuple[Clause, ...]:
    """What is of these types and meets the conditions."""
    whole = (Clause(types=_limit(types.whole), **conditions),) if types.whole else ()
    return (*whole, *_parts(types, **conditions))


def _parts(types: Types, **conditions: Any) -> tuple[Clause, ...]:
    return tuple(Clause(types=frozenset({part.type}), kinds=part.kinds, **conditions) for part in types.parts)


def _directory(types: frozenset[str]) -> tuple[Clause, ...]:
    """The directory, as far as it is about nobody."""
    shared = types & DIRECTORY_TYPES
    return (Clause(types=shared, unowned=True),) if shared else ()


def _within(boxes: Iterable[Box], types: Types) -> tuple[Box, ...]:
    boxes = tuple(boxes)
    limited = [Box(box.types & types.whole, box.without, box.having, box.kinds) for box in boxes]
    limited += [
        Box(box.types & {part.type}, box.without, box.having, both_kinds(box.kinds, part.kinds))
        for part in types.parts
        for box in boxes
    ]
    return tuple(dict.fromkeys(box for box in limited if box.types))


def _joint(by_box: Mapping[Box, set[str]]) -> dict[Box, set[str]]:
    """Every box and every meeting of boxes, with all the patients who open it.

    A resource about several patients is open if it is in a box of each of them, that is, in the meeting of one box
    per patient; so the meetings, each with every patient who has a box that covers it, are exactly what is open.
    """
    boxes = sorted(by_box, key=lambda box: (-len(by_box[box]), _text_of_box(box)))[:MOST_BOXES]
    if len({patient for owners in by_box.values() for patient in owners}) > 1:
        found = dict.fromkeys(boxes)
        waiting = list(boxes)
        while waiting and len(found) < MOST_BOXES:
            box = waiting.pop()
            for other in boxes:
                both = meet(box, other)
                if both is not None and both not in found and len(found) < MOST_BOXES:
                    found[both] = None
                    waiting.append(both)
        boxes = list(found)
    return {
        box: {patient for wide, owners in by_box.items() if wide.covers(box) for patient in owners} for box in boxes
    }


def _clauses(box: Box, owners: frozenset[str], actors: frozenset[str], organization: str) -> list[Clause]:
    """One box as clauses: types that must name the organisation, and Persons (open if any linked Patient is), apart."""
    found = []
    plain, named, persons = box.types - actors - {"Person"}, box.types & actors, box.types & {"Person"}
    of: dict[str, Any] = {"without": box.without, "having": box.having, "kinds": box.kinds}
    if plain:
        types, not_types = _shorter(plain)
        found.append(Clause(types=types, not_types=not_types, owners=owners, **of))
    if named:
        found.append(Clause(types=named, party=organization, owners=owners, **of))
    if persons:
        found.append(Clause(types=persons, any_owner=owners, **of))
    return found


def _digest(caller: CallerClass, visible: Visible, accompanying: Visible) -> str:
    lines = [caller.value]
    for name, clauses in (("see", visible.clauses), ("with", accompanying.clauses)):
        lines += sorted(f"{name} {_text_of_clause(clause)}" for clause in clauses)
    return blake2b("\n".join(lines).encode(), digest_size=16).hexdigest()


def _text_of_clause(clause: Clause) -> str:
    values = (getattr(clause, field) for field in clause.__struct_fields__)
    return " ".join(_text(value) for value in values)


def _text_of_box(box: Box) -> str:
    return " ".join(_text(value) for value in (box.types, box.without, box.having, box.kinds))


def _text(value: object) -> str:
    if isinstance(value, tuple):
        return "(" + " ".join(map(_text, value)) + ")"
    return ",".join(sorted(value)) + ";" if isinstance(value, frozenset) else repr(value)

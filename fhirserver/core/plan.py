"""Compiles the search parameters of one resource type into a trie that `core.index` walks once.

Evaluating some thirty expressions from the root for every Observation would cost more than validating it. Instead
every path that any parameter, compartment, owner or party uses is put into one trie of element names, so that a walk
looks only at elements that are present, and at each only once, whatever the number of parameters on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import NamedTuple

from fhirserver.core import definitions
from fhirserver.core.composites import Composite, Part
from fhirserver.core.definitions import Edition, Path, SearchParameter, Step, parse_path
from fhirserver.core.entries import Leaf, Take, Use, take_for
from fhirserver.core.presence import Mark

HELD_ELSEWHERE = frozenset({"_id", "_lastUpdated"})
"""Parameters that the store answers from a record's key and time; they have no index entries."""


class Branch:
    """What the plan knows of one element: what to take from it, and from the elements below it."""

    __slots__ = ("aimed", "below", "composites", "mark", "takes", "twins")

    def __init__(self) -> None:
        self.mark: Mark | None = None
        """What any value here says; ``aimed``: what one says that is of a type, or refers to one."""
        self.aimed: tuple[Mark, ...] = ()
        self.takes: tuple[tuple[Take, Leaf], ...] = ()
        self.composites: tuple[Composite, ...] = ()
        self.below: dict[str, Branch] = {}
        self.twins: dict[Step, Branch] = {}
        """What holds only for the items that pass a step's filter, or at any depth of a repeated element."""

    def extend(self, steps: tuple[Step, ...]) -> Branch:
        """The branch at the end of ``steps`` from here, made where it is not there yet."""
        branch = self
        for step in steps:
            branch = branch.below.setdefault(step.name, Branch())
            if step.field or step.repeated:
                branch = branch.twins.setdefault(step, Branch())
            if step.repeated:
                branch.below[step.name] = branch
        return branch


class Plan(NamedTuple):
    """All that is derived from a resource of one type."""

    type: str
    root: Branch
    absent: tuple[tuple[str, str], ...]
    """(``Type|code``, token) for parameters whose token is this one when nothing was found."""
    always: Mark
    """The same parameters: they always have a value."""
    care: str
    """``Type|code`` of the dates that make the care period, or empty."""
    owned_by_compartment: bool
    """The type has no owners of its own: every patient in whose compartment it stands is one."""


def plan(type_: str) -> Plan:
    """The plan for this type in the edition that is in force; an unknown type gets the common parameters only."""
    return _plan(type_, definitions.edition())


def plan_for(type_: str, code: str) -> Plan:
    """The plan for one parameter alone, which need not be one of this type's."""
    return _plan(type_, definitions.edition(), code)


@lru_cache(maxsize=512)
def _plan(type_: str, edition: Edition, only: str = "") -> Plan:
    root = Branch()
    parameters = definitions.search_parameters_of(type_, edition)
    if only:
        parameters = {only: parameters[only]} if only in parameters else {}
    uses: dict[tuple[Path, str], list[Use]] = {}
    for parameter in parameters.values():
        name = f"{type_}|{parameter.code}"
        for path in _paths(parameter, type_):
            target = path.target or _inline_target(path, parameter)
            uses.setdefault((path._replace(target=""), parameter.type), []).append(Use(name, target))
        for context, composite in _composites(parameter, type_, name):
            branch = root.extend(context.steps)
            branch.composites = (*branch.composites, composite)
    compartment, owner, party = (
        _named(() if only else table.get(type_, ()), type_, parameters)
        for table in (definitions.patient_compartment, definitions.owner_paths, definitions.party_paths)
    )
    flagged = compartment | owner | party
    for path, kind in [*uses, *sorted((path, "reference") for path in flagged if (path, "reference") not in uses)]:
        here = tuple(uses.get((path, kind), ()))
        names = tuple(use.name for use in here)
        take = take_for(kind, path.type)
        if take is not None:
            branch = root.extend(path.steps)
            leaf = Leaf(kind, path.type, here, names, path in compartment, path in owner, path in party)
            branch.takes = (*branch.takes, (take, leaf))
    for steps, marks in _marks(uses).items():
        branch = root.extend(steps)
        branch.mark = next((mark for mark in marks if not mark.target), None)
        branch.aimed = tuple(mark for mark in marks if mark.target)
    return Plan(
        type_,
        root,
        tuple((f"{type_}|{code}", each.absent) for code, each in parameters.items() if each.absent),
        Mark(tuple(code for code, each in parameters.items() if each.absent)),
        next(
            (
                f"{type_}|{code}"
                for code, each in parameters.items()
                if each.id == definitions.CARE_DATE and not each.canonical
            ),
            "",
        ),
        type_ not in definitions.owner_paths,
    )


def _paths(parameter: SearchParameter, type_: str) -> Iterator[Path]:
    if parameter.code not in HELD_ELSEWHERE:
        for base in (type_, "DomainResource", "Resource"):
            yield from map(parse_path, parameter.paths.get(base, ()))


def _marks(uses: dict[tuple[Path, str], list[Use]]) -> dict[tuple[Step, ...], tuple[Mark, ...]]:
    """Per path, what a value there says: for parameters that any value will do for, and by target for the others."""
    codes: dict[tuple[Step, ...], dict[str, set[str]]] = {}
    for (path, _), here in uses.items():
        for use in here:
            codes.setdefault(path.steps, {}).setdefault(use.target, set()).add(use.name.partition("|")[2])
    return {
        steps: tuple(Mark(tuple(sorted(by_target[target])), target) for target in sorted(by_target))
        for steps, by_target in codes.items()
    }


def _inline_target(path: Path, parameter: SearchParameter) -> str:
    """A resource that stands inside another (Bundle) counts as referred to only if it is of the target type."""
    return parameter.targets[0] if path.type == "Resource" else ""


def _named(names: tuple[str, ...], type_: str, known: Mapping[str, SearchParameter]) -> set[Path]:
    """The paths, without targets, of parameter codes and of paths written out (those have a colon)."""
    paths = (path for name in names for path in ([parse_path(name)] if ":" in name else _paths(known[name], type_)))
    return {path._replace(target="") for path in paths}


def _composites(parameter: SearchParameter, type_: str, name: str) -> Iterator[tuple[Path, Composite]]:
    for context in parameter.contexts.get(type_, ()):
        parts = tuple(
            tuple(Part(tuple(step.name for step in path.steps), path.type) for path in map(parse_path, alternatives))
            for alternatives in context.parts
        )
        first = [part.steps[0] if part.steps else "" for part in parts[-1]]
        yield parse_path(context.at), Composite(name, parts, tuple(dict.fromkeys(first)) if all(first) else ())

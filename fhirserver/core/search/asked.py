"""One parameter of one resource type as a search asks for it, and what all kinds of parameters share."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple, Protocol

from fhirserver.core.criteria import AnyOf, Criterion, Has
from fhirserver.core.definitions import Path, SearchParameter, parse_path
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.search.values import split


class ValueSets(Protocol):
    """The terminology that is known here; None for what is not."""

    def codes(self, url: str) -> Sequence[tuple[str, str]] | None:
        """(system, code) of everything in a value set."""

    def descendants(self, system: str, code: str) -> Sequence[str] | None:
        """The codes that a code subsumes, itself included."""

    def ancestors(self, system: str, code: str) -> Sequence[str] | None:
        """The codes that subsume it, itself included."""


class Asked(NamedTuple):
    """A parameter of one type as a search asks for it. ``label`` is its name in the request, for messages; ``now`` in
    milliseconds since 1970."""

    label: str
    type: str
    parameter: SearchParameter
    now: int
    values: ValueSets

    @property
    def name(self) -> str:
        return f"{self.type}|{self.parameter.code}"


def refused(label: str, told: str) -> Fault:
    """A Fault that names the parameter and says what is wrong with it, without repeating its value."""
    return Fault(Kind.BAD_REQUEST, f"{label[:64]} {told}.", expression=label[:64])


def alternatives(label: str, text: str) -> list[str]:
    """The values between commas, none of them empty; their escapes stay."""
    values = split(text, ",")
    if not all(value.strip() for value in values):
        raise refused(label, "is empty" if len(values) == 1 else "has an empty value")
    return values


def any_of(criteria: Iterable[Criterion]) -> Criterion:
    """Their disjunction: the terms in one group, nothing nested that need not be."""
    terms: dict[str, None] = {}
    others: dict[Criterion, None] = {}
    has = False
    for each in criteria:
        for part in each.of if isinstance(each, AnyOf) else (each,):
            if isinstance(part, Has):
                has = True
                terms.update(dict.fromkeys(part.terms))
            else:
                others[part] = None
    found = (*([Has(tuple(terms))] if terms or (has and not others) else []), *others)
    return found[0] if len(found) == 1 else AnyOf(found)


def paths(parameter: SearchParameter, type_: str) -> list[Path]:
    """The parameter's paths in resources of this type."""
    return [
        parse_path(each) for base in (type_, "DomainResource", "Resource") for each in parameter.paths.get(base, ())
    ]

"""The published invariants of R4, by the type or backbone element they stand on (`rule.Rule`).

``RULES`` holds those of severity error, save the few that `core.examine` decides because they span a resource and what
it contains (ele-1, ref-1, dom-2 to dom-5) and that `core.narrative` does (txt-1). What is left out, and why, is in
docs/validation.md; a test holds this table, that page and the published definitions to each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from types import MappingProxyType

import msgspec

from fhirserver.core.invariants import advice, clinical, conformance, datatypes, forms, structures, workflow
from fhirserver.core.invariants.rule import Make, Members, Rule, concerns, places

__all__ = [
    "ADVICE",
    "RULES",
    "Invariant",
    "Members",
    "Rule",
    "compile_rules",
    "concerns",
    "places",
    "published",
    "said",
]

RULES: dict[str, tuple[Make, ...]] = {
    **datatypes.RULES,
    **clinical.RULES,
    **workflow.RULES,
    **forms.RULES,
    **conformance.RULES,
    **structures.RULES,
}
"""type or backbone path -> its rules."""

ADVICE = advice.RULES
"""The same for what refuses nothing."""


class Invariant(msgspec.Struct, frozen=True, array_like=True):
    """An invariant as published: where it stands, and what it says in words and in FHIRPath."""

    severity: str
    path: str
    human: str
    expression: str


def compile_rules(
    type_: str, members: Members, table: Mapping[str, Sequence[Make]] = MappingProxyType(RULES)
) -> tuple[Rule, ...]:
    """The rules of one type, given the JSON members of each of its elements."""
    return tuple(make(members) for make in table.get(type_, ()))


@cache
def published() -> dict[str, dict[str, Invariant]]:
    """type -> key -> invariant, all severities, of `fhirserver.data.invariants`."""
    return msgspec.json.decode(
        files("fhirserver.data").joinpath("invariants.json").read_bytes(), type=dict[str, dict[str, Invariant]]
    )


def said(type_: str, rule: Rule) -> str:
    """The rule in words, for a report on an element of this type: its key and what it asks for."""
    known = published().get(type_.partition(".")[0], {}).get(rule.key)
    return f"{rule.key}: {known.human.strip() if known else rule.says}"

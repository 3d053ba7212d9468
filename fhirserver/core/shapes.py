"""The structure tables compiled per type into what both passes of validation read: the one truth of what is allowed.

A `Shape` is made when its type is first met. The quick pass (`core.screen`) builds closures from shapes, the
thorough one (`core.examine`) interprets them.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import msgspec

from fhirserver.core import definitions
from fhirserver.core.invariants import ADVICE, Rule, compile_rules
from fhirserver.core.lexical import PRIMITIVES, Primitive
from fhirserver.core.structure import Element, closed_systems, codes, elements, primitive_types, value_set

RESOURCE = "Resource"
"""The type of a member that holds any resource: `contained`, and those of Bundle entries and Parameters."""

PRIMITIVE_PARTS = "Element"
"""The type of a ``_sibling``: only `id` and `extension`."""

SIMPLE = "SimpleQuantity"
"""The type here of a Quantity that the definitions restrict to the profile of this name."""

ID = "id"
"""The member that names an element within its resource, or a resource within its container."""

MAX_DEPTH = 64
"""Elements nested in each other, the resource being the first."""


class Member(msgspec.Struct, frozen=True):
    """One JSON member of a type.

    ``name`` is the element's (``value``), ``json`` the member's (``valueQuantity``). ``primitive`` is None for
    complex types. ``codes`` are the allowed values of a code, ``concepts`` those of a CodeableConcept by system.
    ``closed``: its codings must not have codes that `closed_systems` do not know. ``many``: it is an array in JSON.
    ``bare``: it has no ``_sibling`` for an id and extensions.
    """

    name: str
    json: str
    type: str
    many: bool
    minimum: int
    maximum: int
    bare: bool
    primitive: Primitive | None
    targets: frozenset[str]
    binding: str
    codes: frozenset[str]
    concepts: dict[str, frozenset[str]]
    closed: bool


class Shape(msgspec.Struct, frozen=True):
    """What an object of one type may and must hold.

    ``required``: names of elements with a minimum, each with the JSON members that satisfy it. ``choices``: JSON
    member -> name of its choice group, the ``_sibling`` members included. ``rules`` refuse, ``advice`` is only told.
    """

    type: str
    resource: bool
    members: dict[str, Member]
    required: dict[str, frozenset[str]]
    choices: dict[str, str]
    rules: tuple[Rule, ...]
    advice: tuple[Rule, ...]

    @property
    def identified(self) -> bool:
        """Whether an `id` is unique among the elements of a resource (`Element.id`): not a resource's own, nor that of
        an ElementDefinition, which stands in the snapshot and in the differential."""
        return not self.resource and self.type != "ElementDefinition"


@cache
def shape(type_: str) -> Shape:
    """The shape of a resource, datatype or backbone element; KeyError when there is no such type."""
    members: dict[str, Member] = {}
    required: dict[str, frozenset[str]] = {}
    choices: dict[str, str] = {}
    present: dict[str, frozenset[str]] = {}
    for element in elements("Quantity" if type_ == SIMPLE else type_):
        own = _members(element)
        names = frozenset(name for each in own for name in _presence(each))
        present[element.name] = names
        members.update((each.json, each) for each in own)
        if element.minimum:
            required[element.name] = names
        if element.choice:
            choices.update((name, element.name) for name in names)
    return Shape(
        type=type_,
        resource=type_ in definitions.RESOURCE_TYPES,
        members=members,
        required=required,
        choices=choices,
        rules=compile_rules(type_, present),
        advice=compile_rules(type_, present, ADVICE),
    )


def _presence(member: Member) -> tuple[str, ...]:
    return (member.json,) if member.bare else (member.json, "_" + member.json)


def _members(element: Element) -> list[Member]:
    made = []
    for json, name in element.members():
        bound = element.binding if name in ("code", "CodeableConcept") else ""
        made.append(
            Member(
                name=element.name,
                json=json,
                type=SIMPLE if element.simple and name == "Quantity" else name,
                many=element.maximum != 1,
                minimum=element.minimum,
                maximum=element.maximum,
                bare=element.attribute or name == "xhtml" or name not in primitive_types(),
                primitive=PRIMITIVES[name] if name in primitive_types() else None,
                targets=frozenset(element.targets) if name == "Reference" else frozenset(),
                binding=bound,
                codes=codes(bound) if bound and name == "code" else frozenset(),
                concepts=value_set(bound) if bound and name == "CodeableConcept" else {},
                closed=element.closed and name in ("Coding", "CodeableConcept"),
            )
        )
    return made


def lacks_concept(concept: dict[str, Any], allowed: dict[str, frozenset[str]]) -> bool:
    """Whether a CodeableConcept under a required binding has none of the allowed concepts.

    One that says nothing but an extension (a reason why the data is absent) lacks none.
    """
    codings = concept.get("coding")
    if not isinstance(codings, list):
        return "text" in concept
    nothing: frozenset[str] = frozenset()
    return not any(
        isinstance(each, dict)
        and isinstance(system := each.get("system"), str)
        and isinstance(code := each.get("code"), str)
        and code in allowed.get(system, nothing)
        for each in codings
    )


def unknown_codes(value: dict[str, Any]) -> list[str]:
    """Where below a Coding or CodeableConcept a code is that its system, one of the `closed_systems`, does not have."""
    codings = value.get("coding")
    known = closed_systems()
    return [
        f"coding[{at}].code" if isinstance(codings, list) else "code"
        for at, each in enumerate(codings if isinstance(codings, list) else [value])
        if isinstance(each, dict)
        and isinstance(system := each.get("system"), str)
        and isinstance(code := each.get("code"), str)
        and code not in known.get(system, (code,))
    ]

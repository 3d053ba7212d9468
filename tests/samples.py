"""The least that each type must hold, made from the structure tables, and resources that carry an element of a type."""

from __future__ import annotations

from typing import Any

from fhirserver.core.shapes import RESOURCE, SIMPLE, Member, shape

DIV = '<div xmlns="http://www.w3.org/1999/xhtml"><p class="x">text</p></div>'

_VALUES: dict[str, Any] = {
    "base64Binary": "QUJD",
    "boolean": True,
    "date": "2020-02-03",
    "dateTime": "2020-02-03",
    "decimal": 1.5,
    "instant": "2020-02-03T00:00:00Z",
    "integer": 1,
    "oid": "urn:oid:1.2.3",
    "positiveInt": 1,
    "time": "10:00:00",
    "unsignedInt": 1,
    "uuid": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520",
    "xhtml": DIV,
}


def sample(member: Member) -> Any:
    """A value for one member with no more in it than has to be."""
    if member.primitive is not None:
        one = min(member.codes) if member.codes else _VALUES.get(member.type, "x")
    elif member.type == RESOURCE:
        one = {"resourceType": "Basic", "id": "b", "code": {"text": "x"}}
    elif member.concepts:
        system = min(member.concepts)
        one = {"coding": [{"system": system, "code": min(member.concepts[system])}]}
    else:
        one = minimal(member.type)
    return [one] * max(member.minimum, 1) if member.many else one


def minimal(type_: str) -> dict[str, Any]:
    """The elements that a type must have by its cardinalities; its invariants may ask for more."""
    this = shape(type_)
    made: dict[str, Any] = {"resourceType": type_} if this.resource else {}
    for name in this.required:
        member = next(each for each in this.members.values() if each.name == name)
        made[member.json] = sample(member)
    return made or {"extension": [{"url": "http://example.org/e", "valueBoolean": True}]}


def carried(type_: str, value: dict[str, Any]) -> list[tuple[dict[str, Any], str]]:
    """Resources that hold a value of this type, and its path there: itself, or the element that it can stand in."""
    if shape(type_).resource:
        return [(value, type_)]
    if type_ == "Extension":
        return [({"resourceType": "Basic", "code": {"text": "x"}, "extension": [value]}, "Basic.extension[0]")]
    if type_ == SIMPLE:
        delivery = {"resourceType": "SupplyDelivery", "suppliedItem": {"quantity": value}}
        return [(delivery, "SupplyDelivery.suppliedItem.quantity")]
    owner, _, name = type_.rpartition(".")
    if not owner:
        holder = f"value{type_[0].upper()}{type_[1:]}"
        if holder not in shape("Extension").members:
            owner, name = _ELSEWHERE.get(type_, ("", ""))
        else:
            inside = {"url": "http://example.org/e", holder: value}
            return [(each, f"{path}.{holder}") for each, path in carried("Extension", inside)]
    member = shape(owner).members.get(name) if owner else None
    if member is None:
        return []
    held = carried(owner, {**minimal(owner), name: [value] if member.many else value})
    return [(each, f"{path}.{name}[0]" if member.many else f"{path}.{name}") for each, path in held]


_ELSEWHERE = {
    "ElementDefinition": ("StructureDefinition.differential", "element"),
    "Narrative": ("Basic", "text"),
}
"""Datatypes that no extension can have -> an element of their type."""

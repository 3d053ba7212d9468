"""The grammar of what leads from one resource to others, and of the order of the answer.

Source: R4 search §3.1.1.4.13 (chains), §3.1.1.4.14 (`_has`), §3.1.1.5.2 (`_sort`), §3.1.1.5.6 (`_include`,
`_revinclude`).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES, search_parameters
from fhirserver.core.entries import PLAIN
from fhirserver.core.search.asked import paths, refused
from fhirserver.core.search.references import targets

MOST_KEYS = 20
"""Sort keys of one `_sort`: each is another look at every match."""
_ORDERED = frozenset({"date", "number", "quantity", "string", "uri", "token"})


class Order(msgspec.Struct, frozen=True):
    """One sort key: `_id`, `_lastUpdated` or the code of a parameter."""

    name: str
    descending: bool


class Include(msgspec.Struct, frozen=True):
    """Resources to go along: those that ``source`` resources refer to by ``code``, or with ``reverse`` the ``source``
    resources that refer so to what is there. ``source`` and ``code`` may be ``*`` for any type and for every reference
    parameter, ``target`` is empty for any type. ``iterate``: also from resources that were included themselves."""

    source: str
    code: str
    target: str
    iterate: bool
    reverse: bool


class Step(NamedTuple):
    """One link of a chain: ``code[:type].rest``, or with `_has` ``_has:type:code:rest``; ``rest`` empty at its end."""

    code: str
    type: str = ""
    rest: str = ""


# --- chains


def step_of(types: Sequence[str], name: str) -> Step:
    """The first step of a parameter's name. A code that has a point itself (a user's own) is no chain."""
    whole, _, modifier = name.partition(":")
    if "." in whole and any(whole in search_parameters(type_) for type_ in types):
        return Step(whole, modifier)
    first, _, rest = name.partition(".")
    code, _, type_ = first.partition(":")
    return Step(code, type_, rest)


def chained(label: str, types: Sequence[str], name: str) -> tuple[Step, list[str]]:
    """The step, and the types that it may lead to."""
    step = step_of(types, name)
    possible: set[str] = set()
    for type_ in types:
        parameter = search_parameters(type_)[step.code]
        if parameter.type != "reference":
            raise refused(label, "is no chain: its first parameter is not a reference")
        possible |= set(targets(parameter, type_))
    if step.type and step.type not in possible:
        raise refused(label, f"cannot lead to a {step.type[:64]}")
    return step, [step.type] if step.type else sorted(possible)


def reversed_(label: str, types: Sequence[str], name: str) -> Step:
    """The step of ``_has:Type:reference:parameter``."""
    parts = name.split(":", 3)
    if len(parts) < 4 or not parts[3] or parts[1] not in RESOURCE_TYPES:
        raise refused(label, "must be _has:Type:reference:parameter")
    _, type_, code, rest = parts
    parameter = search_parameters(type_).get(code)
    if parameter is None or parameter.type != "reference":
        raise refused(label, f"names {code[:64]}, which is no reference parameter of {type_}")
    if set(targets(parameter, type_)).isdisjoint(types):
        raise refused(label, f"names {code[:64]}, which does not refer to what is searched")
    return Step(code, type_, rest)


def knows(type_: str, name: str, known: dict[tuple[str, str], bool]) -> bool:
    """Whether a chain may go on, or end, with this parameter at a resource of this type. ``known``: what has been
    found out before, since untyped chains ask the same again and again."""
    found = known.get((type_, name))
    if found is None:
        found = known[type_, name] = _knows(type_, name, known)
    return found


def _knows(type_: str, name: str, known: dict[tuple[str, str], bool]) -> bool:
    if name.partition(":")[0] in ("_has", "_list"):
        return True
    step = step_of((type_,), name)
    parameter = search_parameters(type_).get(step.code)
    if parameter is None or not step.rest:
        return parameter is not None
    if parameter.type != "reference":
        return False
    possible = targets(parameter, type_)
    ends = [step.type] if step.type in possible else [] if step.type else possible
    return any(knows(end, step.rest, known) for end in ends)


# --- the order


def orders(types: Sequence[str], value: str) -> list[Order]:
    """The sort keys of ``-date,name``."""
    if value.count(",") >= MOST_KEYS:
        raise refused("_sort", f"has more than {MOST_KEYS} keys")
    found = []
    for each in value.split(","):
        name = each.removeprefix("-")
        if name not in ("_id", "_lastUpdated") and not all(is_sortable(type_, name) for type_ in types):
            raise refused(
                "_sort", f"names {name[:64]!r}, by which this cannot be sorted" if name else "has an empty name"
            )
        found.append(Order(name, each.startswith("-")))
    return found


def is_sortable(type_: str, code: str) -> bool:
    """Whether the entries of this parameter have a sort key (see `core.entries`)."""
    parameter = search_parameters(type_).get(code)
    if parameter is None or code.startswith("_") or parameter.type not in _ORDERED:
        return False
    found = {path.type for path in paths(parameter, type_)}
    if parameter.type == "token":
        return bool(found) and found <= PLAIN
    return parameter.type != "uri" or "canonical" not in found


# --- what goes along


def includes(name: str, value: str, *, iterate: bool) -> list[Include]:
    """The Include of ``Type:parameter[:Target]``, ``Type:*`` or ``*``."""
    reverse = name == "_revinclude"
    source, _, rest = value.partition(":")
    code, _, target = rest.partition(":")
    if value == "*":
        return [Include("*", "*", "", iterate, reverse)]
    if source not in RESOURCE_TYPES or not code:
        raise refused(name, "must be Type:parameter, Type:parameter:Target, Type:* or *")
    if target and target not in RESOURCE_TYPES:
        raise refused(name, f"names {target[:64]!r}, which is no R4 resource type")
    if code != "*":
        parameter = search_parameters(source).get(code)
        if parameter is None or parameter.type != "reference":
            raise refused(name, f"names {code[:64]!r}, which is no reference parameter of {source}")
        if target and target not in targets(parameter, source):
            raise refused(name, f"names {code[:64]!r}, which does not refer to a {target}")
    return [Include(source, code, target, iterate, reverse)]

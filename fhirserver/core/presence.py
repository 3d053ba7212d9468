"""Which search parameters a resource has a value for: what `:missing` asks (R4 search 3.1.1.4.5).

A parameter has a value when its expression selects at least one element that has one. An element with nothing but an
`id` or extensions has none: the resource says why the value is missing, or something about it, but not the value.
Whether the value makes an entry does not matter: a reference that is only a display is a value. A parameter whose
expression asks whether something is there (Patient `deceased`) is true or false for each resource and never missing.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from fhirserver.core.values import contained_type, named_type, text_of

_NO_VALUE = frozenset({"id", "extension"})


class Mark:
    """The codes of the parameters that have a value when an element at one path has one (`has_value`).

    With ``target`` it must besides be, or refer to, a resource of that type (`met`). Compared by identity: a walk
    collects the few that are met, and what they come to is worked out once for each combination.
    """

    __slots__ = ("codes", "target")

    def __init__(self, codes: tuple[str, ...], target: str = "") -> None:
        self.codes = codes
        self.target = target

    def met(self, item: Any, resource: Any) -> bool:
        """Whether ``item``, which stands at the mark's path in ``resource``, is of the target type or refers to it."""
        return _is_or_names(item, resource) == self.target


@lru_cache(maxsize=4096)
def codes(marks: frozenset[Mark]) -> tuple[str, ...]:
    """The codes of these marks, sorted."""
    return tuple(sorted({code for mark in marks for code in mark.codes}))


def has_value(item: dict[str, Any]) -> bool:
    """Whether an element that is no primitive has a child other than its `id` and extensions."""
    for name in item:  # noqa: SIM110  # the first member nearly always decides; a generator would cost twice that
        if name not in _NO_VALUE and name[:1] != "_":  # `_name` holds the id and the extensions of a primitive
            return True
    return False


def _is_or_names(item: Any, resource: Any) -> str:
    """The type of an inline resource, or the one that a Reference or canonical names; empty when none is named."""
    if type(item) is not dict:
        return named_type(item) if type(item) is str else ""
    if "resourceType" in item:
        return text_of(item, "resourceType")
    reference = item.get("reference")
    if type(reference) is str:
        named = named_type(reference)
        if named:
            return named
        if reference.startswith("#"):
            return contained_type(reference, resource)
    return text_of(item, "type")

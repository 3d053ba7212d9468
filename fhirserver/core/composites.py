"""Composite parameters: the entries of components that stand together in one context node.

The forms are stated in `core.entries`. Components of one context only are combined, so a systolic value is never found
under the code of the diastolic one beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import product
from typing import Any, NamedTuple

from fhirserver.core.entries import PLAIN, Found, forms, plain
from fhirserver.core.intervals import intervals
from fhirserver.core.values import items, local, text_of, unpunctuated

KEY_LIMIT = 64
"""A composite's component has at most so many entries per context: their product must not explode on odd data."""


Entry = tuple[str, str, float, float]
"""(kind, text, low, high), where kind is key, text or span."""


class Part(NamedTuple):
    """One alternative for a composite's component: steps below the context, and the type found there."""

    steps: tuple[str, ...]
    type: str


class Composite(NamedTuple):
    """A composite parameter at its context node; ``parts`` has the alternatives of each component.

    ``needs``: members of the node without any of which the last component, which is the seldom one, has no value.
    """

    name: str
    parts: tuple[tuple[Part, ...], ...]
    needs: tuple[str, ...] = ()


def take_composite(context: Any, composite: Composite, found: Found) -> None:
    """Add the entries of a composite parameter for one context node."""
    if composite.needs and context.keys().isdisjoint(composite.needs):
        return
    groups: list[list[Entry]] = []
    for alternatives in reversed(composite.parts):  # the first component is nearly always there, the last seldom
        group = [
            entry
            for part in alternatives
            for value in _values(context, part.steps, found.resource)
            for entry in _component(part.type, value)
        ]
        group = [entry for entry in group if entry[0] == group[0][0]]
        if not group:
            return
        groups.append(group)
    groups.reverse()
    keyed = [[text for _, text, _, _ in group][:KEY_LIMIT] for group in groups if group[0][0] == "key"]
    others = [(at, group) for at, group in enumerate(groups, 1) if group[0][0] != "key"]
    for keys in product(*keyed):
        name = f"{composite.name}={'$'.join(keys)}"
        if not others:
            found.terms.append(name)
        for at, group in others:
            place = f"{name}#{at}" if len(others) > 1 else name
            for kind, text, low, high in group[:KEY_LIMIT]:
                if kind == "text":
                    found.texts.append((place, text))
                else:
                    found.spans.append((place, low, high))


def _values(context: Any, steps: tuple[str, ...], resource: Any) -> Iterable[Any]:
    if len(steps) == 1 and steps[0] and type(context) is dict:  # as nearly all are; a generator would cost more
        value = context.get(steps[0])
        return value if type(value) is list else () if value is None else (value,)
    return _select(context, steps, resource)


def _select(context: Any, steps: tuple[str, ...], resource: Any) -> Iterator[Any]:
    if not steps:
        yield context
    elif not steps[0]:
        yield from _select(resource, steps[1:], resource)
    elif type(context) is dict:
        value = context.get(steps[0])
        if value is not None:
            for item in value if type(value) is list else (value,):
                yield from _select(item, steps[1:], resource)


@lru_cache(maxsize=8192)
def _keys(system: str, code: str) -> tuple[Entry, ...]:
    return tuple(("key", form, 0, 0) for form in forms(system, code))


def _component(type_: str, value: Any) -> Sequence[Entry]:
    """One component's entries."""
    if type_ == "CodeableConcept":
        found: list[Entry] = []
        for coding in items(value.get("coding")) if type(value) is dict else ():
            found += _component("Coding", coding)
        return found
    if type_ == "Coding":
        code = text_of(value, "code") if type(value) is dict else ""
        return _keys(text_of(value, "system"), code) if code else ()
    if type_ == "Reference":
        text = text_of(value, "reference") if type(value) is dict else ""
        target = local(text)
        return [("key", target.text if target else text, 0, 0)] if text and not text.startswith("#") else []
    if type_ in ("string", "markdown"):
        text = unpunctuated(value) if type(value) is str else ""
        return [("text", text, 0, 0)] if text else []
    if type_ in PLAIN:
        text = plain(value) or ""
        return [("key", text, 0, 0)] if text else []
    return [("span", "", low, high) for _, low, high in intervals(type_, value)]

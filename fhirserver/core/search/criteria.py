"""What one search parameter with its values asks of the index, for one resource type: parameter -> criterion.

Source: R4 search §3.1.1.4. The forms of the entries are those that `core.entries` states. `:below` and `:above` of a
uri go by path segments; a urn has none, and is found as it is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from fhirserver.core.criteria import Criterion, Has, Not, Present, Text
from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.search.asked import Asked, any_of, refused
from fhirserver.core.search.composites import composite
from fhirserver.core.search.ordered import dated, near, numbered, quantity
from fhirserver.core.search.references import reference
from fhirserver.core.search.tokens import tokens
from fhirserver.core.search.values import unescape
from fhirserver.core.values import TEXT_LIMIT, exact, unpunctuated

MODIFIERS: dict[str, frozenset[str]] = {
    "number": frozenset({"missing"}),
    "date": frozenset({"missing"}),
    "quantity": frozenset({"missing"}),
    "string": frozenset({"missing", "exact", "contains"}),
    "token": frozenset({"missing", "text", "not", "above", "below", "in", "not-in", "of-type"}),
    "reference": frozenset({"missing", "identifier", "text", "below"}),
    "uri": frozenset({"missing", "above", "below"}),
    "special": frozenset({"missing"}),
    "composite": frozenset(),
}
"""Search type -> its modifiers; a reference takes the name of a type as well."""

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://[^/]+", re.ASCII)


def criterion(asked: Asked, modifier: str, values: Sequence[str]) -> Criterion:
    """What the index must have: any of the values, which still have their escapes.

    Fault BAD_REQUEST naming the parameter, for a modifier that its type has not and a value that is not of its form.
    `:text`, ``system|`` and the exact distance of `near` are beyond the index; for them this gives what narrows.
    """
    kind = asked.parameter.type
    if modifier not in MODIFIERS[kind] | {""} and not (kind == "reference" and modifier in RESOURCE_TYPES):
        raise refused(asked.label, f"has a modifier that a {kind} parameter does not have: {modifier[:32]}")
    if modifier == "missing":
        return _missing(asked, values)
    if modifier == "text":
        return Present(asked.parameter.code)
    if kind == "token":
        return tokens(asked, modifier, values)
    return any_of(_ONE[kind](asked, modifier, value) for value in values)


def _missing(asked: Asked, values: Sequence[str]) -> Criterion:
    if len(values) != 1 or values[0] not in ("true", "false"):
        raise refused(asked.label, "must be true or false")
    present = Present(asked.parameter.code)
    return present if values[0] == "false" else Not(present)


# --- strings and uris


def _string(asked: Asked, modifier: str, value: str) -> Criterion:
    text = unescape(value)
    if modifier == "exact":
        return Has((f"{asked.name}:exact={exact(text)}",))
    normal = unpunctuated(text)
    if not normal:
        raise refused(asked.label, "has no letter or digit to look for")
    return Text(asked.name, normal, "contains" if modifier == "contains" else "starts")


def _uri(asked: Asked, modifier: str, value: str) -> Criterion:
    text = unescape(value)
    if not modifier:
        return Has((f"{asked.name}={text}",))
    root = _URL.match(text)
    if root is None:
        return Has((f"{asked.name}={text}",))
    if modifier == "below":
        return any_of([Has((f"{asked.name}={text}",)), Text(asked.name, f"{text.rstrip('/')}/"[:TEXT_LIMIT])])
    above = [text[: match.start()] for match in re.finditer("/", text) if match.start() >= root.end()]
    found = [text, *(form for each in reversed(above) for form in (f"{each}/", each))]
    return Has(tuple(dict.fromkeys(f"{asked.name}={each}" for each in found)))


_ONE: dict[str, Callable[[Asked, str, str], Criterion]] = {
    "string": _string,
    "uri": _uri,
    "reference": reference,
    "date": lambda asked, _, value: dated(asked, asked.name, value),
    "number": lambda asked, _, value: numbered(asked, asked.name, value),
    "quantity": lambda asked, _, value: quantity(asked, value),
    "special": lambda asked, _, value: near(asked, value),
    "composite": lambda asked, _, value: composite(asked, value),
}

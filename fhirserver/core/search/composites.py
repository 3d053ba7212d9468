"""What a composite parameter asks of the index: its components joined by ``$``, in the forms of `core.entries`.

Source: R4 search §3.1.1.4.15. What a component is comes from the elements it leads to, since the definition of
DocumentReference `relationship` names its two the wrong way round. A quantity stands in a composite whatever its unit;
where a search names one, the quantity parameter is asked for in that unit besides, and the number must be that of the
data: 5 mmol/L does not find 0.005 mol/L here. Of two numbers (MolecularSequence) each is found in some context that has
the codes, not necessarily in one and the same.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

from fhirserver.core.criteria import AllOf, Criterion, Has, Text
from fhirserver.core.definitions import Component, parse_path, search_parameters
from fhirserver.core.entries import PLAIN
from fhirserver.core.intervals import MOMENTS
from fhirserver.core.search.asked import Asked, any_of, refused
from fhirserver.core.search.ordered import dated, numbered, quantity, quantity_parts
from fhirserver.core.search.references import reference_forms, targets
from fhirserver.core.search.tokens import token_form, token_of
from fhirserver.core.search.values import split, unescape
from fhirserver.core.values import normalise

_QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "Range", "SampledData", "Money"})


class _Part(NamedTuple):
    """One component: its search type here, and whether its elements have a code system."""

    component: Component
    kind: str
    system: bool


def composite(asked: Asked, value: str) -> Criterion:
    """One value ``a$b``; the escapes within its components stay until each is read."""
    parts = _parts(asked)
    values = split(value, "$")
    if len(values) != len(parts) or not all(each.strip() for each in values):
        raise refused(asked.label, f"must be {len(parts)} values joined by $")
    keyed = [
        _keys(asked, part, text)
        for part, text in zip(parts, values, strict=True)
        if part.kind in ("token", "reference")
    ]
    others = [(at, part, text) for at, (part, text) in enumerate(zip(parts, values, strict=True), 1) if at > 0]
    others = [each for each in others if each[1].kind not in ("token", "reference")]
    names = [f"{asked.name}={'$'.join(keys)}" for keys in product(*keyed)]
    if not others:
        return Has(tuple(names))
    needed = [
        any_of(_on(asked, part, f"{name}#{at}" if len(others) > 1 else name, text) for name in names)
        for at, part, text in others
    ]
    needed += [each for _, part, text in others if part.kind == "quantity" for each in _in_unit(asked, part, text)]
    return needed[0] if len(needed) == 1 else AllOf(tuple(needed))


def _parts(asked: Asked) -> list[_Part]:
    contexts = asked.parameter.contexts.get(asked.type, ())
    found = []
    for at, component in enumerate(asked.parameter.components):
        types = {parse_path(path).type for context in contexts for path in context.parts[at]}
        kinds = {_kind(type_, component.type) for type_ in types}
        kind = component.type if component.type in kinds or not kinds else min(kinds)
        found.append(_Part(component, kind, not types <= PLAIN))
    return found


def _kind(type_: str, wanted: str) -> str:
    """The search type that suits a FHIR type."""
    if type_ in ("CodeableConcept", "Coding"):
        return "token"
    if type_ in ("string", "markdown"):
        return "string"
    if type_ in PLAIN:
        return "token"
    if type_ in _QUANTITIES:
        return "quantity" if wanted != "number" else "number"
    if type_ in MOMENTS | {"Period", "Timing"}:
        return "date"
    return "reference" if type_ == "Reference" else "number"


def _keys(asked: Asked, part: _Part, text: str) -> tuple[str, ...]:
    if part.kind == "reference":
        return reference_forms(asked.label, unescape(text), _possible(asked))
    system, code = token_of(asked, text)
    if code is None:
        raise refused(asked.label, "needs a code after the system")
    return (token_form(system, code) if part.system else code,)


def _possible(asked: Asked) -> tuple[str, ...]:
    """The types that the reference among the components may point at."""
    ids = {component.id for component in asked.parameter.components}
    for parameter in search_parameters(asked.type).values():
        if parameter.id in ids and parameter.type == "reference":
            return targets(parameter, asked.type)
    return (asked.type,)


def _on(asked: Asked, part: _Part, name: str, text: str) -> Criterion:
    if part.kind == "string":
        normal = normalise(unescape(text))
        if not normal:
            raise refused(asked.label, "has no letter or digit to look for")
        return Text(name, normal)
    if part.kind == "date":
        return dated(asked, name, text)
    return numbered(asked, name, quantity_parts(asked, text)[0] if part.kind == "quantity" else text)


def _in_unit(asked: Asked, part: _Part, text: str) -> Iterator[Criterion]:
    if not quantity_parts(asked, text)[2]:
        return
    for parameter in search_parameters(asked.type).values():
        if parameter.id == part.component.id:
            yield quantity(asked._replace(parameter=parameter), text)

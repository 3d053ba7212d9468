"""The context nodes of a composite parameter, each with entries of its own: what lets the content be judged exactly.

An entry of the nth component has the name ``Type|code.n`` and the form that `core.entries` gives such an element. What
a component is comes from the elements it leads to, since the definition of DocumentReference `relationship` names its
two the wrong way round.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from fhirserver.core.definitions import Component, SearchParameter, parse_path, search_parameters
from fhirserver.core.entries import PLAIN, Found, Leaf, Use, take_for
from fhirserver.core.intervals import MOMENTS
from fhirserver.core.model import Index
from fhirserver.core.search.content import select

_QUANTITIES = frozenset({"Quantity", "Age", "Count", "Distance", "Duration", "Range", "SampledData", "Money"})


class Part(NamedTuple):
    """One component: its search type here, and whether its elements have a code system."""

    component: Component
    kind: str
    system: bool


def parts(parameter: SearchParameter, type_: str) -> list[Part]:
    """The components of a composite parameter of this resource type."""
    contexts = parameter.contexts.get(type_, ())
    found = []
    for at, component in enumerate(parameter.components):
        types = {parse_path(path).type for context in contexts for path in context.parts[at]}
        kinds = {_kind(each, component.type) for each in types}
        kind = component.type if component.type in kinds or not kinds else min(kinds)
        found.append(Part(component, kind, not types <= PLAIN))
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


def nodes(resource: Mapping[str, Any], code: str) -> Iterator[Index]:
    """The entries of each context node of the composite parameter with this code."""
    type_ = str(resource.get("resourceType"))
    parameter = search_parameters(type_).get(code)
    if parameter is None or type_ not in parameter.contexts:
        return
    kinds = [part.kind for part in parts(parameter, type_)]
    for context in parameter.contexts[type_]:
        for node in select(resource, parse_path(context.at).steps):
            found = Found(resource)
            for at, (kind, alternatives) in enumerate(zip(kinds, context.parts, strict=True), 1):
                use = Use(f"{type_}|{code}.{at}")
                for path in map(parse_path, alternatives):
                    take = take_for(kind, path.type)
                    if take is not None:
                        leaf = Leaf(kind, path.type, (use,), (use.name,))
                        for item in select(node, path.steps, resource):
                            take(item, leaf, found)
            yield Index(terms=tuple(found.terms), texts=tuple(found.texts), spans=tuple(found.spans))

"""What a composite parameter asks: of the index its components joined by ``$``, in the forms of `core.entries`; of one
context node of the content (`core.search.contexts`) each component by itself.

Source: R4 search §3.1.1.4.15. The index alone answers but for three cases, where it narrows and the content decides
(`needs_content`): a quantity stands in the index's composites whatever its unit, so a search that names one asks for
the quantity parameter in that unit besides, which another node may meet; of two numbers (MolecularSequence) each may be
that of another node; and codes that have a ``$`` of their own may be joined to what others are joined to.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from decimal import Decimal
from itertools import product
from typing import NamedTuple

from fhirserver.core import ucum
from fhirserver.core.criteria import AllOf, Criterion, Has, Span, Text
from fhirserver.core.definitions import SearchParameter, parse_path, search_parameters
from fhirserver.core.search.asked import Asked, any_of, refused
from fhirserver.core.search.contexts import Part, parts
from fhirserver.core.search.ordered import dated, numbered, quantity, quantity_parts
from fhirserver.core.search.references import reference_forms, targets
from fhirserver.core.search.tokens import token_form, token_of
from fhirserver.core.search.values import split, unescape
from fhirserver.core.values import unpunctuated

_KEYED = ("token", "reference")


class _Value(NamedTuple):
    """One component as asked for, still escaped; ``at`` counts from 1."""

    at: int
    part: Part
    text: str


def composite(asked: Asked, value: str) -> Criterion:
    """What the index must have for one value ``a$b``; the escapes within its components stay until each is read."""
    values = _values(asked, value)
    keyed = [_keys(asked, each) for each in values if each.part.kind in _KEYED]
    others = [each for each in values if each.part.kind not in _KEYED]
    names = [f"{asked.name}={'$'.join(keys)}" for keys in product(*keyed)]
    if not others:
        return Has(tuple(names))
    needed = [
        any_of(_on(asked, each, f"{name}#{each.at}" if len(others) > 1 else name) for name in names) for each in others
    ]
    needed += [criterion for each in others if _unit(asked, each) for criterion in _in_unit(asked, each)]
    return needed[0] if len(needed) == 1 else AllOf(tuple(needed))


def within(asked: Asked, value: str) -> Criterion:
    """What one context node must have for the same value, on the entries that `core.search.contexts.nodes` makes."""
    return AllOf(tuple(_of_node(asked, each) for each in _values(asked, value)))


def needs_content(asked: Asked, values: Sequence[str]) -> bool:
    """Whether the index may have more matches than there are for any of these values."""
    return any(_is_wider(asked, _values(asked, value)) for value in values)


def _is_wider(asked: Asked, values: Sequence[_Value]) -> bool:
    if sum(each.part.kind not in _KEYED for each in values) > 1:
        return True
    if any("$" in key for each in values if each.part.kind in _KEYED for key in _keys(asked, each)):
        return True
    return not _is_single(asked) and any(_unit(asked, each) for each in values)


def _is_single(asked: Asked) -> bool:
    """Whether there is only the resource itself as a node, with one quantity: of R4's own, those of an Observation."""
    contexts = asked.parameter.contexts.get(asked.type, ())
    return not asked.parameter.canonical and not any(parse_path(context.at).steps for context in contexts)


def _values(asked: Asked, value: str) -> list[_Value]:
    known = parts(asked.parameter, asked.type)
    texts = split(value, "$")
    if len(texts) != len(known) or not all(each.strip() for each in texts):
        raise refused(asked.label, f"must be {len(known)} values joined by $")
    return [_Value(at, part, text) for at, (part, text) in enumerate(zip(known, texts, strict=True), 1)]


def _keys(asked: Asked, value: _Value) -> tuple[str, ...]:
    if value.part.kind == "reference":
        return reference_forms(asked.label, unescape(value.text), _possible(asked))
    system, code = token_of(asked, value.text)
    if code is None:
        raise refused(asked.label, "needs a code after the system")
    return (token_form(system, code) if value.part.system else code,)


def _possible(asked: Asked) -> tuple[str, ...]:
    """The types that the reference among the components may point at."""
    ids = {component.id for component in asked.parameter.components}
    for parameter in search_parameters(asked.type).values():
        if parameter.id in ids and parameter.type == "reference":
            return targets(parameter, asked.type)
    return (asked.type,)


def _on(asked: Asked, value: _Value, name: str) -> Criterion:
    """A component that is no token on the entries of ``name``; a quantity without its unit."""
    if value.part.kind == "string":
        normal = unpunctuated(unescape(value.text))
        if not normal:
            raise refused(asked.label, "has no letter or digit to look for")
        return Text(name, normal)
    if value.part.kind == "date":
        return dated(asked, name, value.text)
    if value.part.kind == "quantity":
        found = numbered(asked, name, quantity_parts(asked, value.text)[0])
        return Span(name) if _converts(asked, value) else found
    return numbered(asked, name, value.text)


def _unit(asked: Asked, value: _Value) -> bool:
    return value.part.kind == "quantity" and bool(quantity_parts(asked, value.text)[2])


def _converts(asked: Asked, value: _Value) -> bool:
    """Whether the number in the data may be another, in another unit: 5 mmol/L finds 0.005 mol/L."""
    _, system, code = quantity_parts(asked, value.text)
    return system == ucum.SYSTEM and ucum.canonical(Decimal(1), code) is not None


def _in_unit(asked: Asked, value: _Value) -> Iterator[Criterion]:
    for parameter in search_parameters(asked.type).values():
        if parameter.id == value.part.component.id:
            yield quantity(asked._replace(parameter=parameter), value.text)


def _of_node(asked: Asked, value: _Value) -> Criterion:
    code = f"{asked.parameter.code}.{value.at}"
    here = asked._replace(parameter=SearchParameter(id=code, code=code, type=value.part.kind, base=()))
    if value.part.kind in _KEYED:
        return Has(tuple(f"{here.name}={key}" for key in _keys(asked, value)))
    return quantity(here, value.text) if value.part.kind == "quantity" else _on(here, value, here.name)

"""What a search asks that no entry of the index answers, and whether a resource's content meets it.

* ``text`` (`:text` of tokens and references, R4 search §3.1.1.4.10): a word of CodeableConcept.text, Coding.display,
  Identifier.type.text or Reference.display begins with the text asked for, both normalised as strings are. The
  specification has it searched as a string, that is from its beginning; a display seldom begins with the word that is
  remembered ("Chronic headache"), so each of its words counts as a beginning.
* ``system`` (tokens ``system|``, any code of that system): all alternatives of the parameter are judged here, since an
  index that knows one of them cannot answer for the others.
* ``near``: the great-circle distance itself.
* ``composite`` (R4 search §3.1.1.4.15): that all components hold in one and the same context node, in the unit asked
  for. As with ``system`` all alternatives are judged here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Literal, NamedTuple

import msgspec

from fhirserver.core.criteria import Criterion, holds
from fhirserver.core.entries import PLAIN, plain
from fhirserver.core.search.content import elements
from fhirserver.core.search.contexts import nodes
from fhirserver.core.search.near import Place, kilometres
from fhirserver.core.values import items, normalise, number, text_of


class Token(NamedTuple):
    """A token asked for: ``system`` None for any, empty for none; ``code`` None for any."""

    system: str | None
    code: str | None


class Residual(msgspec.Struct, frozen=True):
    """One parameter that the content must meet: any of its values, or with ``negated`` none of them.

    ``code`` is the parameter's. ``texts`` are normalised; ``identifier``: the tokens are looked for in
    Reference.identifier. ``within``: by resource type, what one context node must meet.
    """

    kind: Literal["text", "system", "near", "composite"]
    code: str
    texts: tuple[str, ...] = ()
    tokens: tuple[Token, ...] = ()
    places: tuple[Place, ...] = ()
    negated: bool = False
    identifier: bool = False
    within: tuple[tuple[str, Criterion], ...] = ()


def meets(residual: Residual, resource: Mapping[str, Any]) -> bool:
    """Whether the resource's content meets it; a resource without the parameter has no value."""
    if residual.kind == "composite":
        wanted = [criterion for type_, criterion in residual.within if type_ == resource.get("resourceType")]
        return any(holds(each, index, 0) for each in wanted for index in nodes(resource, residual.code))
    found = list(elements(resource, residual.code))
    if residual.kind == "text":
        pattern = _words(residual.texts)
        met = any(pattern.search(normalise(text)) for type_, item in found for text in _displays(type_, item))
    elif residual.kind == "system":
        tokens = [token for type_, item in found for token in _tokens(type_, item, identifier=residual.identifier)]
        met = any(_matches(asked, token) for asked in residual.tokens for token in tokens)
    else:
        met = any(_is_near(place, item) for place in residual.places for _, item in found)
    return met is not residual.negated


# --- text


@lru_cache(maxsize=256)
def _words(texts: tuple[str, ...]) -> re.Pattern[str]:
    return re.compile(rf"(?<!\w)(?:{'|'.join(map(re.escape, texts))})")


def _displays(type_: str, item: Any) -> Iterator[str]:
    if type(item) is not dict:
        return
    if type_ == "Coding" or type_ == "Reference":
        yield text_of(item, "display")
    elif type_ == "CodeableConcept":
        yield text_of(item, "text")
        for coding in items(item.get("coding")):
            yield from _displays("Coding", coding)
    elif type_ == "Identifier" and type(item.get("type")) is dict:
        yield text_of(item["type"], "text")


# --- tokens


def _tokens(type_: str, item: Any, *, identifier: bool) -> Iterator[Token]:
    if identifier:
        type_, item = "Identifier", item.get("identifier") if type(item) is dict else None
    if type_ == "CodeableConcept" and type(item) is dict:
        for coding in items(item.get("coding")):
            yield from _tokens("Coding", coding, identifier=False)
    elif type_ in ("Coding", "Identifier") and type(item) is dict:
        code = item.get("code" if type_ == "Coding" else "value")
        yield Token(text_of(item, "system"), code if type(code) is str else None)
    elif type_ in PLAIN:
        yield Token("", plain(item))


def _matches(asked: Token, token: Token) -> bool:
    """A Coding without a code is of its system, too."""
    return (asked.system is None or asked.system == token.system) and (asked.code is None or asked.code == token.code)


# --- near


def _is_near(place: Place, item: Any) -> bool:
    if type(item) is not dict:
        return False
    latitude, longitude = number(item.get("latitude")), number(item.get("longitude"))
    if latitude is None or longitude is None:
        return False
    return kilometres((place.latitude, place.longitude), (latitude, longitude)) <= place.distance

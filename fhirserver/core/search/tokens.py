"""What a token parameter asks of the index.

Source: R4 search §3.1.1.4.10. The system of a `code` element is that of its required binding, which the data does not
repeat: ``system|code`` finds it if the binding has that system (or is not known), ``|code`` does not. Where no system
is applicable (boolean, id, string, uri, ContactPoint) a bar is refused, as the specification asks for. `:not` and
`:not-in` hold for a resource without the parameter; with several values none of them may be there.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

from fhirserver.core.criteria import Criterion, Has, Not, Present
from fhirserver.core.definitions import Edition, Path, edition, search_parameters_of
from fhirserver.core.search.asked import Asked, any_of, paths, refused
from fhirserver.core.search.values import split, unescape
from fhirserver.core.structure import elements, type_names, value_set

_UNBOUND = frozenset({"boolean", "id", "string", "markdown", "uri", "url", "oid", "uuid", "ContactPoint"})
"""Types of token elements to which no code system is applicable."""


def tokens(asked: Asked, modifier: str, values: Sequence[str]) -> Criterion:
    """Any of these tokens; with `:not` and `:not-in` none of them."""
    if modifier in ("not", "not-in"):
        return Not(any_of(_token(asked, modifier[4:], value) for value in values))
    return any_of(_token(asked, modifier, value) for value in values)


class Place(NamedTuple):
    """Where a token parameter looks: FHIR types at the ends of its paths, and the code systems of required bindings
    (None where one is not known)."""

    types: frozenset[str]
    systems: frozenset[str] | None


def _place(asked: Asked) -> Place:
    return _place_of(asked.type, asked.parameter.code, edition())


@lru_cache(maxsize=4096)
def _place_of(type_: str, code: str, edition: Edition) -> Place:
    found = paths(search_parameters_of(type_, edition)[code], type_)
    systems: set[str] | None = set()
    for path in found:
        if path.type == "code" and systems is not None:
            bound = _bound(type_, path)
            systems = None if bound is None else systems | bound
    return Place(frozenset(path.type for path in found), None if systems is None else frozenset(systems))


def _bound(type_: str, path: Path) -> set[str] | None:
    """The systems of the required binding of a code element; None when they are not known."""
    here, binding = type_, ""
    for step in path.steps:
        row = next((each for each in elements(here) if step.name in dict(each.members())), None)
        if row is None:
            return None
        here, binding = dict(row.members())[step.name], row.binding
        if here not in type_names():
            break
    try:
        return set(value_set(binding))
    except KeyError:
        return None


def token_of(asked: Asked, value: str) -> tuple[str | None, str | None]:
    """(system, code) of a token: system None for any and empty for none, code None for any of the system."""
    parts = [unescape(part) for part in split(value, "|")]
    if len(parts) > 2 or not any(parts):
        raise refused(asked.label, "must be code, system|code, |code or system|")
    if len(parts) == 1:
        return None, parts[0]
    return parts[0], parts[1] or None


def _token(asked: Asked, modifier: str, value: str) -> Criterion:
    if modifier == "in":
        return _members(asked, value)
    if modifier == "of-type":
        return _of_type(asked, value)
    place = _place(asked)
    parts = split(value, "|")
    if place.types and place.types <= _UNBOUND | {"dateTime"}:
        if len(parts) > 1:
            raise refused(asked.label, "has no system: it takes the value alone")
        if place.types <= {"boolean", "dateTime"} and value not in ("true", "false"):
            raise refused(asked.label, "must be true or false")
    system, code = token_of(asked, value)
    if modifier in ("above", "below"):
        return _subsumed(asked, modifier, system, code)
    if code is None:
        if place.types == {"code"}:
            return Present(asked.parameter.code) if _is_of(place, system) else Has(())
        return Present(asked.parameter.code)
    return Has(_token_terms(asked, system, code))


def _is_of(place: Place, system: str | None) -> bool:
    return system != "" and (system is None or place.systems is None or system in place.systems)


def _token_terms(asked: Asked, system: str | None, code: str) -> tuple[str, ...]:
    place = _place(asked)
    if place.types == {"code"}:
        return (f"{asked.name}={code}",) if _is_of(place, system) else ()
    return (f"{asked.name}={token_form(system, code)}",)


def token_form(system: str | None, code: str) -> str:
    """A token as the entries write it."""
    return code if system is None else f"{system}|{code}"


def needs_content(asked: Asked, modifier: str, values: Iterable[str]) -> bool:
    """Whether any of these tokens is a system alone where the data says the system: no entry has it by itself."""
    if modifier != "identifier" and _place(asked).types == {"code"}:
        return False
    return any(token_of(asked, value)[1] is None for value in values)


def _members(asked: Asked, value: str) -> Criterion:
    members = asked.values.codes(unescape(value))
    if members is None:
        raise refused(asked.label, "names a value set that is not known here, or not completely")
    terms = (term for system, code in members for term in _token_terms(asked, system or None, code))
    return Has(tuple(dict.fromkeys(terms)))


def _subsumed(asked: Asked, modifier: str, system: str | None, code: str | None) -> Criterion:
    if code is None:
        raise refused(asked.label, "must be system|code")
    known = asked.values.ancestors if modifier == "above" else asked.values.descendants
    codes = known(system or "", code)
    if codes is None:
        raise refused(asked.label, "names a code or code system that is not known here; give it as system|code")
    return Has(tuple(dict.fromkeys(term for each in (code, *codes) for term in _token_terms(asked, system, each))))


def _of_type(asked: Asked, value: str) -> Criterion:
    if "Identifier" not in _place(asked).types:
        raise refused(asked.label, "has the modifier of-type, which is for identifiers")
    parts = [unescape(part) for part in split(value, "|")]
    if len(parts) != 3 or not all(parts):
        raise refused(asked.label, "must be system|code|value")
    return Has((f"{asked.name}:of-type={'|'.join(parts)}",))

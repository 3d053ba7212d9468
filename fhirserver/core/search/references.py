"""What a reference parameter asks of the index.

Source: R4 search §3.1.1.4.12. An id alone may be of any type that the parameter can point at. The version of a local
reference is cut off, as in the entries. `:below` is for the versions of a canonical reference; the hierarchies of other
references (§3.1.1.4.12) are not supported.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from fhirserver.core.criteria import Criterion, Has, Present, Text
from fhirserver.core.definitions import RESOURCE_TYPES, SearchParameter
from fhirserver.core.search.asked import Asked, any_of, paths, refused
from fhirserver.core.search.tokens import token_form, token_of
from fhirserver.core.search.values import unescape
from fhirserver.core.values import local

_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:", re.ASCII)


def targets(parameter: SearchParameter, type_: str) -> tuple[str, ...]:
    """The types that a reference parameter may point at: those its paths name, else those of its definition."""
    named = [path.target for path in paths(parameter, type_)]
    if named and all(named):
        return tuple(sorted(set(named)))
    return tuple(sorted(RESOURCE_TYPES)) if parameter.targets in (("Resource",), ()) else parameter.targets


def is_canonical(parameter: SearchParameter, type_: str) -> bool:
    """Whether it points at definitions by their URL."""
    return {path.type for path in paths(parameter, type_)} <= {"canonical", "uri"}


def reference(asked: Asked, modifier: str, value: str) -> Criterion:
    """One reference; ``modifier`` may be the name of a type."""
    if modifier == "identifier":
        system, code = token_of(asked, value)
        if code is None:
            return Present(asked.parameter.code)
        return Has((f"{asked.name}:identifier={token_form(system, code)}",))
    url_only = is_canonical(asked.parameter, asked.type)
    if modifier == "below":
        return _versions(asked, unescape(value), url_only)
    possible = targets(asked.parameter, asked.type)
    if modifier:
        if modifier not in possible:
            raise refused(asked.label, f"cannot refer to a {modifier}")
        possible = (modifier,)
    if url_only:
        return Has((f"{asked.name}={unescape(value)}",))
    found = reference_forms(asked.label, unescape(value), possible)
    if modifier and local(found[0]) is not None and not found[0].startswith(f"{modifier}/"):
        raise refused(asked.label, f"must be a reference to a {modifier}")
    return Has(tuple(f"{asked.name}={form}" for form in found))


def reference_forms(label: str, text: str, possible: Sequence[str]) -> tuple[str, ...]:
    """The ways the entries may have it: one, or for an id alone one for each possible type."""
    target = local(text)
    if target is not None:
        return (target.text,)
    if _ID.fullmatch(text):
        return tuple(f"{type_}/{text}" for type_ in possible)
    if _SCHEME.match(text):
        return (text,)
    raise refused(label, "must be an id, Type/id or a URL")


def _versions(asked: Asked, text: str, url_only: bool) -> Criterion:
    """A canonical's version and those below it: ``|1`` has ``|1.2``. R4 leaves the hierarchies of other references to
    the server."""
    if not url_only:
        raise refused(asked.label, "has the modifier below, which is for canonical references here")
    exactly = Has((f"{asked.name}={text}",))
    return any_of([exactly, Text(asked.name, f"{text}.")]) if "|" in text else exactly

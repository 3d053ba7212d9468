"""The forms a `Reference.reference` may have, the type of resource each one points to, and those that can be looked up.

Source: https://hl7.org/fhir/R4/references.html#literal. Conditional references (``Patient?identifier=…``) are
among the forms because transactions, and files written for them, carry them until they are resolved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from fhirserver.core import definitions
from fhirserver.core.lexical import is_absolute, uri_problem
from fhirserver.core.model import Key
from fhirserver.core.structure import elements, primitive_types
from fhirserver.core.values import local

LOCAL = "#"
"""What `target` answers for a reference to a contained resource (or, as ``#`` alone, to the container)."""

_REST = re.compile(r"([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?(?:#\S*)?").fullmatch
_ABSOLUTE_REST = re.compile(
    r"https?://[^\s?#]+/([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?"
).fullmatch
_CONDITIONAL = re.compile(
    r"([A-Z][A-Za-z]+)\?[A-Za-z_][\w.:\-]*=[^\s&#]+(?:&[A-Za-z_][\w.:\-]*=[^\s&#]+)*", re.ASCII
).fullmatch


def target(reference: str) -> str:
    """The resource type a reference points to, `LOCAL`, or nothing when its form does not tell.

    Raises ValueError with a reason (that does not quote the reference) when it has none of the allowed forms.
    """
    if reference.startswith("#"):
        return LOCAL
    known = definitions.RESOURCE_TYPES
    match = _REST(reference) or _CONDITIONAL(reference)
    if match is not None:
        if match[1] not in known:
            raise ValueError("names a type that is no R4 resource")
        return match[1]
    if problem := uri_problem(reference):
        raise ValueError(problem)
    if not is_absolute(reference):
        raise ValueError("must be Type/id, an absolute URL, or #id of a contained resource")
    match = _ABSOLUTE_REST(reference)
    return match[1] if match is not None and match[1] in known else ""


def names_other(type_: str, targets: frozenset[str]) -> bool:
    """Whether a `Reference.type` names a resource type that is none of the allowed ones (none: any is)."""
    return bool(targets) and type_ not in targets and type_ in definitions.RESOURCE_TYPES


def targets(resource: Mapping[str, Any], base: str = "") -> Iterator[tuple[str, Key]]:
    """What referential integrity asks for: (path of the reference, the resource of this server that it names).

    Every Reference of a valid resource, those in extensions and contained resources too, in document order. Literal
    references are followed: ``Type/id``, with or without a version or fragment, and the same below ``base``, the
    server's own address. Not: other servers', contained, logical and conditional ones, urn:uuid, canonicals; nor what
    stands in the resources that a Bundle or Parameters carries, which are not part of it.
    """
    type_ = str(resource.get("resourceType"))
    prefix = base.rstrip("/") + "/" if base else ""
    pending: list[tuple[str, str, Any]] = [(type_, type_, resource)]
    while pending:
        path, kind, value = pending.pop()
        if isinstance(value, list):
            pending += [(f"{path}[{at}]", kind, each) for at, each in reversed(list(enumerate(value)))]
        elif isinstance(value, dict):
            if kind == "Reference" and isinstance(text := value.get("reference"), str):
                found = local(text.removeprefix(prefix) if prefix else text)
                if found is not None:
                    yield f"{path}.reference", Key(found.type, found.id)
            if kind == "Resource":
                kind = str(value.get("resourceType"))
            known = _complex(kind)
            names = [name for name in value if name in known]
            pending += [(f"{path}.{name.removeprefix('_')}", known[name], value[name]) for name in reversed(names)]


@cache
def _complex(type_: str) -> dict[str, str]:
    """The members of a type that can hold a Reference at some depth, and the type of each.

    The members of a primitive's ``_sibling`` are those of an Element; a resource inside is followed where it is
    contained only.
    """
    if type_ == "Element":
        return {"extension": "Extension"}
    found: dict[str, str] = {}
    try:
        rows = elements(type_)
    except KeyError:
        return found
    for element in rows:
        for name, kind in element.members():
            if kind in primitive_types():
                if not element.attribute and kind != "xhtml":
                    found[f"_{name}"] = "Element"
            elif kind != "Resource" or name == "contained":
                found[name] = kind
    return found

"""Indexes of small resources, and readers of what stands in them, for the tests of `core.index`."""

from __future__ import annotations

from typing import Any

from fhirserver.core.index import extract
from fhirserver.core.model import Index


def of(type_: str, /, **elements: Any) -> Index:
    """The index of a resource with id ``it``; a trailing underscore keeps an element clear of Python's keywords."""
    return extract({"resourceType": type_, "id": "it", **{name.rstrip("_"): value for name, value in elements.items()}})


def to(reference: str) -> dict[str, Any]:
    return {"reference": reference}


def terms(index: Index, name: str) -> set[str]:
    """The values of the terms of one parameter, modifiers included."""
    return {term.removeprefix(name) for term in index.terms if term.startswith((f"{name}=", f"{name}:"))}

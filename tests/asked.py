"""Searches of one resource without a store: what `core.search` makes of parameters, judged by `holds` and `meets`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from fhirserver.core.criteria import holds
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.index import extract
from fhirserver.core.search import Search, parse
from fhirserver.core.search.residuals import meets

NOW = 1_767_225_600_000
"""2026-01-01."""


class Known:
    """A terminology of one value set and one small tree: animal > dog > poodle."""

    _ABOVE = {"animal": ["animal"], "dog": ["animal", "dog"], "poodle": ["animal", "dog", "poodle"]}  # noqa: RUF012

    def codes(self, url: str) -> Sequence[tuple[str, str]] | None:
        return {"http://vs/pets": [("urn:zoo", "dog"), ("", "cat")], "http://vs/none": []}.get(url)

    def ancestors(self, system: str, code: str) -> Sequence[str] | None:
        return self._ABOVE.get(code) if system == "urn:zoo" else None

    def descendants(self, system: str, code: str) -> Sequence[str] | None:
        if system != "urn:zoo" or code not in self._ABOVE:
            return None
        return [each for each, above in self._ABOVE.items() if code in above]


def asked(types: str | Sequence[str], *pairs: tuple[str, str]) -> Search:
    """The Search of one type, or of several."""
    return parse((types,) if isinstance(types, str) else types, pairs, now=NOW, values=Known())


def found(resource: dict[str, Any], *pairs: tuple[str, str], updated: int = NOW) -> bool:
    """Whether a search without links finds this resource by its index and content."""
    search = asked(resource["resourceType"], *pairs)
    assert not search.links, "this asks more than one resource can tell"
    assert not search.unknown
    index = extract({"id": "it", **resource})
    return (
        (search.keys is None or any(key.id == resource.get("id", "it") for key in search.keys))
        and all(not set(group).isdisjoint(index.terms) for group in search.terms)
        and all(holds(each, index, updated) for each in search.criteria)
        and all(meets(each, resource) for each in search.residuals)
    )


def refusal(types: str | Sequence[str], *pairs: tuple[str, str]) -> Fault:
    """The Fault that these parameters meet; it says BAD_REQUEST and names a parameter."""
    with pytest.raises(Fault) as told:
        asked(types, *pairs)
    assert told.value.kind is Kind.BAD_REQUEST
    assert told.value.issues[0].expression
    return told.value

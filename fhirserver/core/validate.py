"""R4 validation of one resource's bytes: structure, cardinality, choices, primitives, required codes, invariants.

Most resources are clean, so a quick pass (`core.screen`) first asks only that; whatever it doubts goes through a
thorough one (`core.examine`) that lists every issue. Both are made from the same shapes (`core.shapes`), and a
property test holds them to each other.

Not checked: profiles, terminology beyond required bindings, whether references resolve outside the resource.
"""

from __future__ import annotations

from typing import Any

from fhirserver.core.errors import Invalid, Issue, Kind
from fhirserver.core.examine import examine
from fhirserver.core.jsontext import Malformed, decode, duplicates, is_json, is_single, without_mark
from fhirserver.core.screen import count_members

MAX_BYTES = 64 * 1024 * 1024
"""A resource may be no larger; a Bundle beyond it is to be sent in parts or ingested."""


def parse(raw: bytes) -> dict[str, Any]:
    """The decoded resource; raises Invalid with all issues, as a BAD_REQUEST for what is no JSON at all and TOO_LARGE
    for what is not read."""
    resource, found = issues(raw)
    if found or resource is None:
        raise Invalid(found, Kind.INVALID if resource is not None else _refusal(raw))
    return resource


def _refusal(raw: bytes) -> Kind:
    if len(raw) > MAX_BYTES:
        return Kind.TOO_LARGE
    return Kind.INVALID if is_json(raw) else Kind.BAD_REQUEST


def advice(resource: dict[str, Any]) -> list[Issue]:
    """What the specification warns of in a valid resource: issues of severity warning, which refuse nothing."""
    return [issue for issue in examine(resource, advise=True) if issue.severity == "warning"]


def issues(raw: bytes) -> tuple[dict[str, Any] | None, list[Issue]]:
    """The decoded resource, and every issue with its FHIRPath.

    The resource is None when the bytes are not a JSON object. Paths use the JSON names: an element of a choice is
    ``Observation.valueQuantity``, a missing or ambiguous choice ``Observation.value``; what stands in a Bundle is
    ``Bundle.entry[0].resource.birthDate``.
    """
    if len(raw) > MAX_BYTES:
        return None, [Issue("too-long", f"is larger than {MAX_BYTES // (1024 * 1024)} MiB")]
    try:
        resource = decode(raw)
    except Malformed as malformed:
        text = without_mark(raw)
        if len(text) == len(raw):
            return None, [malformed.issue]
        return None, [malformed.issue, *issues(text)[1]]
    members = count_members(resource)
    if members and is_single(raw, members):
        return resource, []
    try:
        found = duplicates(raw)
    except RecursionError:
        return None, [Issue("structure", "the JSON is nested too deeply")]
    if not members:
        found += examine(resource)
    return (resource if isinstance(resource, dict) else None), found

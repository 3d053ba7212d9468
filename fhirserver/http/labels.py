"""`Bundle.meta.security`: the high-water mark of what was sent (HL7 DS4P: the most restrictive confidentiality, and
every other label that occurs)."""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.core.model import parse_facts

CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
_RISING = ("U", "L", "M", "N", "R", "V")


def security(facts: Iterable[str]) -> list[dict[str, str]]:
    """Codings for `meta.security`, in a stable order; empty where nothing that was sent carries a label."""
    labels = {label for text in facts for label in parse_facts(text).labels}
    levels = [label for label in labels if label.startswith(CONFIDENTIALITY + "|")]
    kept = sorted(labels.difference(levels))
    if levels:
        kept.insert(0, max(levels, key=_rank))
    return [_coding(label) for label in kept]


def _rank(label: str) -> int:
    code = label.rpartition("|")[2]
    return _RISING.index(code) if code in _RISING else len(_RISING)


def _coding(label: str) -> dict[str, str]:
    system, _, code = label.rpartition("|")
    return {"system": system, "code": code} if system else {"code": code}

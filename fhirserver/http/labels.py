"""`Bundle.meta`: the high-water mark of what was sent (HL7 DS4P: the most restrictive confidentiality, and every other
label that occurs), and the notice that goes with Part 2 data.

A restricted topic is restricted information (Confidentiality R) whether or not somebody has said so.
"""

from __future__ import annotations

from collections.abc import Iterable

from fhirserver.core.model import Facts, parse_facts
from fhirserver.policy.labelling import FLAG
from fhirserver.policy.redisclosure import EXTENSION, RESTRAINTS, is_part2
from fhirserver.policy.vocabulary import labels

CONFIDENTIALITY = "http://terminology.hl7.org/CodeSystem/v3-Confidentiality"
NOTICE_HEADER = "X-Redisclosure-Notice"
NOTICE_URL = EXTENSION["url"].encode()
_RISING = ("U", "L", "M", "N", "R", "V")


def security(facts: Iterable[str]) -> list[dict[str, str]]:
    """Codings for `meta.security`, in a stable order; empty where nothing that was sent carries a label."""
    return _codings({label for text in facts for label in parse_facts(text).labels})


def labelled(facts: Iterable[str], *, bound: bool, notice: bool = False) -> dict[str, object]:
    """The `meta` member of an answer with resources of these facts; nothing where none carries a label. ``bound``: its
    reader is told what Part 2 prohibits; ``notice``: there is something of that kind in it for certain."""
    found = {label for text in facts for label in parse_facts(text).labels}
    notice = notice or (bound and is_part2(found))
    codings = _codings(found | RESTRAINTS if notice else found)
    return {"meta": {**({"extension": [EXTENSION]} if notice else {}), "security": codings}} if codings else {}


def labels_of(facts: Iterable[str]) -> set[str]:
    """What an answer's own labels are made of, without telling one chart from another: there may be many."""
    found = (parse_facts(text).labels for text in facts)
    return {Facts(custodian="", labels=labels).text for labels in found if labels}


def _codings(found: set[str]) -> list[dict[str, str]]:
    levels = {label for label in found if label.startswith(CONFIDENTIALITY + "|")}
    kept = sorted(found - levels - {FLAG})
    if not labels().restricted.isdisjoint(kept):
        levels.add(f"{CONFIDENTIALITY}|R")
    if levels:
        kept.insert(0, max(levels, key=_rank))
    return [_coding(label) for label in kept]


def _rank(label: str) -> int:
    code = label.rpartition("|")[2]
    return _RISING.index(code) if code in _RISING else len(_RISING)


def _coding(label: str) -> dict[str, str]:
    system, _, code = label.rpartition("|")
    return {"system": system, "code": code} if system else {"code": code}

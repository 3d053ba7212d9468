"""What goes with Part 2 data to third parties: a label on every such resource, and the notice of 42 CFR 2.32.

The stored bytes are never changed: what a third party gets is a view, with an entity tag of its own, like a Person that
is cut for its reader.
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from hashlib import blake2b

import msgspec

from fhirserver.core.model import Record, parse_facts
from fhirserver.core.tags import added
from fhirserver.policy.labelling import ACT_CODE
from fhirserver.policy.vocabulary import labels

NOTICE = "42 CFR part 2 prohibits unauthorized use or disclosure of these records."
"""The short form of the notice, 42 CFR 2.32(a)(2)."""

LABELS = ({"system": ACT_CODE, "code": "42CFRPart2"}, {"system": ACT_CODE, "code": "NORDSCLCD"})
"""Part 2, and "no redisclosure without consent directive" (v3-ActCode)."""

RESTRAINTS = frozenset(f"{label['system']}|{label['code']}" for label in LABELS)

EXTENSION = {"url": "urn:fhirserver:redisclosure-notice", "valueString": NOTICE}
"""How an answer as a whole says it, in its `meta`."""

_META = msgspec.json.encode({"security": LABELS})
_DIGEST_BYTES = 16


@lru_cache(maxsize=16384)
def protected(facts: str) -> bool:
    """Whether a resource with these facts is Part 2 data."""
    return is_part2(parse_facts(facts).labels)


def is_part2(carried: Collection[str]) -> bool:
    """Whether the label is among these, in any spelling."""
    return bool(carried) and not labels().by_code["42CFRPart2"].isdisjoint(carried)


def marked(record: Record, body: bytes) -> Record:
    """The record with the labels in its `meta.security`; all else in its bytes as it was."""
    view = added(body, _META)
    if view == body:
        return msgspec.structs.replace(record, body=body)
    digest = record.digest[:_DIGEST_BYTES] + blake2b(view, digest_size=4).digest()
    return msgspec.structs.replace(record, body=view, size=len(view), digest=digest)

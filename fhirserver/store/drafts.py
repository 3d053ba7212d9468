"""What every adapter asks of the drafts it is given."""

from __future__ import annotations

from collections.abc import Sequence

from fhirserver.core.errors import Conflict, Kind
from fhirserver.core.model import REFERENCE_TERM, Draft, Index


def refuse_repetition(drafts: Sequence[Draft]) -> None:
    """ValueError if two drafts of one commit have the same key."""
    if len({draft.key for draft in drafts}) != len(drafts):
        raise ValueError("Two drafts of one commit have the same key.")


def check_version(draft: Draft, there: int) -> None:
    """Conflict unless version ``there`` (0: none, or a tombstone) is the one that the draft wants to supersede."""
    if draft.if_version is None or draft.if_version == there:
        return
    state = f"is at version {there}" if there else "does not exist"
    wanted = f"version {draft.if_version}" if draft.if_version else "that it does not exist"
    raise Conflict(f"{draft.key} {state}; the request asked for {wanted}.", Kind.PRECONDITION_FAILED)


def all_terms(index: Index) -> list[str]:
    """A resource's terms, those of its references included; sorted, each once."""
    return sorted({*index.terms, *(REFERENCE_TERM + target for target in index.references)})

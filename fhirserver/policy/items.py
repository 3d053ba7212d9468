"""What is handed to the write path, and each resource made ready: everything that does not depend on the store."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from fhirserver.core import stamp
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.index import extract
from fhirserver.core.model import Index, Key, Query, Record

ANY = -1
"""As ``if_version``: there must be a current version, whichever it is."""


class Put(msgspec.Struct, frozen=True, kw_only=True):
    """One resource to be stored: ``resource`` parsed from ``raw`` and validated, ``id`` the logical id it gets.

    ``if_version``: the version that must be current (0: there must be none; `ANY`: there must be one); None: whatever
    is there is superseded.
    ``parties``: organisations that may see it without being custodian. ``prepared``: what `stamp.prepare` would make of
    ``raw``, which is not read then, so that many megabytes are not copied again.
    """

    resource: dict[str, Any]
    raw: bytes
    id: str
    if_version: int | None = None
    parties: tuple[str, ...] = ()
    prepared: stamp.Stampable | None = None


class Erase(msgspec.Struct, frozen=True, kw_only=True):
    """One resource to be deleted; ``if_version``: the version that must be current (`ANY`: there must be one)."""

    key: Key
    if_version: int | None = None


class Condition(msgspec.Struct, frozen=True):
    """What a conditional request found: ``count`` matches of ``query`` under its caller's grant. It is held to inside
    the commit; `CHANGED` is the message of the Conflict when it no longer holds."""

    query: Query
    count: int


CHANGED = "What the condition of the request found has changed meanwhile."


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one imported resource; ``reason`` says why one was rejected."""

    key: Key
    status: Literal["created", "updated", "unchanged", "rejected"]
    reason: str = ""


class Item(msgspec.Struct, frozen=True, kw_only=True):
    """A Put made ready."""

    put: Put
    key: Key
    resource: dict[str, Any]
    index: Index
    head: bytes
    tail: bytes
    digest: bytes

    @property
    def patients(self) -> frozenset[str]:
        """Whose chart it would stand in or be about."""
        return frozenset({*self.index.owners, *self.index.compartments})


def must_stand_at(version: int | None, key: Key, record: Record | None) -> None:
    """Fault PRECONDITION_FAILED unless what is stored under ``key`` now is at ``version``, an ``if_version``."""
    current = record.version if record is not None and not record.deleted else 0
    if version is None or version == current or (version == ANY and current):
        return
    if version == ANY:
        told = f"There is no {key}."
    elif version == 0:
        told = f"{key} exists."
    else:
        state = f"version {current} is current" if current else "it is deleted" if record else "it does not exist"
        told = f"{key} is not at version {version}: {state}."
    raise Fault(Kind.PRECONDITION_FAILED, told)


def ready(put: Put) -> Item:
    """The Item of a Put."""
    resource = put.resource
    if resource.get("id") != put.id:
        # A Patient stands in its own chart, so the id must be there before the index is derived.
        resource = {**resource, "id": put.id}
    head, tail = put.prepared or stamp.prepare(put.raw, id=put.id)
    return Item(
        put=put,
        key=Key(str(resource["resourceType"]), put.id),
        resource=resource,
        index=extract(resource),
        head=head,
        tail=tail,
        digest=stamp.digest(head, tail),
    )


def turns(items: list[Item]) -> list[list[int]]:
    """The positions of ``items`` in groups that hold no key twice, in order: usually one group."""
    groups: list[list[int]] = []
    times: dict[Key, int] = {}
    for at, item in enumerate(items):
        turn = times.get(item.key, 0)
        times[item.key] = turn + 1
        if turn == len(groups):
            groups.append([])
        groups[turn].append(at)
    return groups

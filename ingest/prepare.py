"""The second pass: entries and resources become cleaned, validated batches, or rejections with their reasons."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import Literal, NamedTuple

import msgspec

from fhirserver.core import rewrite, stamp
from fhirserver.core.errors import Issue
from fhirserver.core.lexical import is_id
from fhirserver.core.model import Key
from fhirserver.core.validate import issues
from fhirserver.policy.gate import Put
from ingest import clean
from ingest.identify import (
    SOURCE_ID,
    Named,
    Refused,
    condition_of,
    localise,
    name_entry,
    name_resource,
    refuse_entry,
    shape,
    skim,
)
from ingest.read import Broken, Entry, Event, Opened, Whole
from ingest.resolve import Resolver
from ingest.scratch import Ending, Late, Scratch, Target

BATCH = 500
"""Resources committed together, at most."""
BATCH_BYTES = 8 * 1024 * 1024
"""Bytes committed together, unless a single resource is larger."""
_PERSON = re.compile(rb'"resourceType"\s*:\s*"Person"')


class Place(NamedTuple):
    """Where in the input something stands; ``line`` 0: unknown, ``entry``: index in `Bundle.entry`."""

    source: str
    line: int
    entry: int | None = None


class Rejection(msgspec.Struct, frozen=True, omit_defaults=True):
    """One line of the rejects file; ``resource`` is ``Type/id`` as far as it is known."""

    source: str
    line: int
    entry: int | None
    resource: str
    reason: str
    issues: list[Issue] = []
    column: int = 0


class Batch:
    """What is committed together, and what was decided without the store."""

    def __init__(self) -> None:
        self.puts: dict[Key, Put] = {}
        self.places: dict[Key, Place] = {}
        self.rejections: list[Rejection] = []
        self.unchanged = 0
        self.quirks = 0
        self._bytes = 0

    @property
    def full(self) -> bool:
        return len(self.puts) >= BATCH or self._bytes >= BATCH_BYTES or len(self.rejections) >= BATCH

    def add(self, key: Key, put: Put, place: Place) -> None:
        self.puts[key] = put
        self.places[key] = place
        self._bytes += len(put.raw)


class _Unsound(Exception):
    """A resource is not valid R4."""

    def __init__(self, resource: str, found: Sequence[Issue]) -> None:
        super().__init__(resource)
        self.resource = resource
        self.issues = list(found)


class _Unchanged(Exception):
    """What a conditional create asks for is there already."""


Share = Literal["all", "persons", "others"]
"""Which resources to take. Where the input holds Persons, they go first: a Patient that follows then has one."""


class Preparer:
    """Hand it every event of every source, in the order of the first pass; `batches` gives what is to be stored."""

    def __init__(self, scratch: Scratch, resolver: Resolver, organization: str | None, *, share: Share = "all") -> None:
        """``organization``: ids become its own (``--namespace``); None: they stay."""
        self._share = share
        self._scratch = scratch
        self._resolver = resolver
        self._organization = organization
        self._bundle = 0
        self._ending = Ending("", "", b"")
        self._inside = False
        self._batch = Batch()

    def batches(self, source: str, events: Iterator[Event]) -> Iterator[Batch]:
        """The batches that become full within this source; `rest` has what remains."""
        for event in events:
            if isinstance(event, Entry):
                if not self._ending.problem:
                    yield from self._take(Place(source, event.line, event.number), event)
            elif isinstance(event, Whole):
                yield from self._take(Place(source, event.line), event)
            elif isinstance(event, Opened):
                self._open(Place(source, event.line))
            else:
                if isinstance(event, Broken) and self._share != "persons":
                    what = "Bundle" if self._inside else ""
                    self._reject(Place(source, event.line), what, event.reason, column=event.column)
                self._inside = False
                self._resolver.enter(0)

    def rest(self) -> Batch:
        """What has been prepared and not yet given out."""
        batch, self._batch = self._batch, Batch()
        return batch

    def _open(self, place: Place) -> None:
        """A Bundle begins; the first pass knows how it ends."""
        self._bundle += 1
        self._inside = True
        self._resolver.enter(self._bundle)
        self._ending = self._scratch.ending(self._bundle)
        # Where a Bundle is broken will be told there.
        if self._ending.problem and not self._ending.broken and self._share != "persons":
            self._reject(place, "Bundle", self._ending.problem)

    def _takes(self, event: Entry | Whole) -> bool:
        """Whether the resource belongs to this share (what does not say what it is belongs to the others)."""
        if self._share == "all":
            return True
        person = False
        if _PERSON.search(event.raw):
            with suppress(Refused):
                raw = bytes(shape(event.raw).resource) if isinstance(event, Entry) else event.raw
                person = skim(raw).resourceType == "Person"
        return person == (self._share == "persons")

    def _reject(
        self, place: Place, resource: str, reason: str, issues: Sequence[Issue] = (), *, column: int = 0
    ) -> None:
        self._batch.rejections.append(Rejection(*place, resource, reason, list(issues), column))

    def _take(self, place: Place, event: Entry | Whole) -> Iterator[Batch]:
        """Put one resource into the present batch, or its rejection; a batch that is full is given out."""
        if not self._takes(event):
            return
        try:
            put = self._entry(event, place) if isinstance(event, Entry) else self._whole(event, place)
        except _Unchanged:
            self._batch.unchanged += 1
        except Refused as refused:
            self._reject(place, refused.resource, str(refused))
        except RecursionError:
            self._reject(place, "", "nested too deeply")
        except _Unsound as unsound:
            first = unsound.issues[0]
            reason = f"{first.expression}: {first.diagnostics}" if first.expression else first.diagnostics
            self._reject(place, unsound.resource, reason, unsound.issues)
        else:
            if put is not None:
                key = Key(put.resource["resourceType"], put.id)
                if key in self._batch.puts:
                    yield self.rest()
                self._batch.add(key, put, place)
        if self._batch.full:
            yield self.rest()

    def _whole(self, event: Whole, place: Place) -> Put | None:
        found = skim(event.raw)
        named = name_resource(event.raw, found)
        return self._put(event.raw, named, named.id, place, source=found.id)

    def _entry(self, event: Entry, place: Place) -> Put | None:
        entry = shape(event.raw)
        if reason := refuse_entry(entry, self._ending.type or ""):
            raise Refused(reason)
        raw = bytes(entry.resource)
        found = skim(raw)
        try:
            named = localise(name_entry(entry, found), self._ending.fingerprint)
            condition = condition_of(entry, found)
        except Refused as refused:
            raise Refused(str(refused), _key(found.resourceType, found.id or "")) from None
        if condition is None:
            return self._put(raw, named, named.id, place, source=found.id)
        verdict = self._scratch.verdict(condition, self._bundle, event.number)
        if verdict.target.several:
            raise Refused("several stored resources meet its condition", _key(*named[:2]))
        if verdict.mine:
            return self._put(raw, named, named.id, place, source=found.id)
        if entry.request is not None and entry.request.method == "POST":
            raise _Unchanged
        return self._put(raw, named, verdict.target.id, place, source=found.id, stored=verdict.target.stored)

    def _put(
        self, raw: bytes, named: Named, id_: str, place: Place, *, source: str | None, stored: bool = False
    ) -> Put | None:
        """The resource cleaned and validated; None when it has been put off."""
        mended = clean.straighten(raw, named.type)
        self._batch.quirks += mended.quirks
        raw = mended.raw
        if named.type != "Bundle":
            raw = rewrite.refer(raw, self._resolver.reference)
            if self._resolver.relinks(raw):
                raw = rewrite.relink(raw, self._resolver.uri)
        final = self._resolver.final(Target(named.type, id_, stored))
        if final != source:
            kept = (SOURCE_ID + self._organization, source) if self._organization is not None and source else None
            raw = clean.rename(raw, final, source=kept)
        resource, found = issues(raw)
        if found or resource is None:
            raise _Unsound(_key(named.type, final), found)
        put = Put(resource=resource, raw=raw, id=final)
        if self._scratch.duplicates and self._scratch.times(named) > 1:
            digest = stamp.digest(*stamp.prepare(raw, id=final))
            self._scratch.put_off(Late(named.type, final, digest, raw, *place))
            return None
        return put


def _key(type_: str, id_: str) -> str:
    """``Type/id`` for the report, if it can be a key at all."""
    if not type_.isalpha():
        return ""
    return f"{type_}/{id_}" if is_id(id_) else type_

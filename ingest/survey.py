"""The first pass: learn what the input holds, so that references can be resolved whatever order it comes in.

Nothing is stored or reported yet. Bundles that turn out to be of the wrong type, or not JSON near their end, are
known after it, before any of their entries was loaded.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from hashlib import blake2b

from ingest.identify import (
    Named,
    Refused,
    Shape,
    Skim,
    condition_of,
    identifiers,
    name_entry,
    name_resource,
    other_name,
    parse_condition,
    refuse_bundle,
    refuse_entry,
    shape,
    skim,
)
from ingest.read import Closed, Entry, Event, Opened, Whole
from ingest.scratch import LOCAL, Ending, Scratch

_CONDITIONAL = re.compile(rb'"reference"\s*:\s*"([A-Za-z]+\?identifier=[^"\\]+)"').finditer


class Survey:
    """Hand it every event of every source, in order."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._bundle = 0
        self._inside = False
        self._hash = blake2b(digest_size=16)
        self._local = False

    def note(self, _: str, events: Iterator[Event]) -> Iterator[None]:
        """Record one source; yields after each event."""
        for event in events:
            if isinstance(event, Entry):
                self._hash.update(event.raw)
                self._entry(event)
            elif isinstance(event, Whole):
                self._whole(event)
            elif isinstance(event, Opened):
                self._bundle += 1
                self._inside = True
                self._hash = blake2b(digest_size=16)
            elif isinstance(event, Closed):
                self._close(event.type, refuse_bundle(event.type, event.problem))
            elif self._inside:
                self._close(None, event.reason)
            yield
        self._inside = False

    def _entry(self, event: Entry) -> None:
        try:
            entry = shape(event.raw)
            # The Bundle's type may come later; what only a transaction is refused for does no harm here.
            if refuse_entry(entry, ""):
                return
            found = skim(bytes(entry.resource))
            named = name_entry(entry, found)
            if named.local:
                self._local = True
                named = Named(named.type, LOCAL + named.id)
            self._record(entry, found, named, event.number)
        except (Refused, RecursionError):
            return  # the second pass says why

    def _record(self, entry: Shape, found: Skim, named: Named, index: int) -> None:
        condition = condition_of(entry, found)
        if condition is not None:
            self._scratch.add_claim(self._bundle, index, condition, named.id)
        if entry.fullUrl:
            self._scratch.add_name(self._bundle, entry.fullUrl, named)
            if other := other_name(entry, named):
                self._scratch.add_name(self._bundle, other, named)
        self._resource(bytes(entry.resource), found, named, self._bundle, claim=condition is not None)

    def _whole(self, event: Whole) -> None:
        try:
            found = skim(event.raw)
            self._resource(event.raw, found, name_resource(event.raw, found), 0, claim=False)
        except (Refused, RecursionError):
            return

    def _resource(self, raw: bytes, found: Skim, named: Named, bundle: int, *, claim: bool) -> None:
        if not named.id.startswith(LOCAL):  # equal ids of this kind mean equal content
            self._scratch.add_key(named)
        for identifier in identifiers(found):
            if identifier.value:
                self._scratch.add_identifier(bundle, named, identifier.system or "", identifier.value, claim=claim)
        if b"?identifier=" in raw:
            for match in _CONDITIONAL(raw):
                if condition := parse_condition(match[1].decode(errors="replace")):
                    self._scratch.add_wanted(condition)

    def _close(self, type_: str | None, problem: str) -> None:
        fingerprint = self._hash.digest()
        if self._local:
            self._scratch.localise(self._bundle, fingerprint)
            self._local = False
        self._scratch.close_bundle(self._bundle, Ending(type_, problem, fingerprint))
        self._inside = False

"""Referential integrity: whether what a resource refers to is there, and whether what goes is still referred to.

The rule asks what the writer may know. To whoever may not see it, a resource that is there and one that is not are the
same, so a refusal tells nothing; only the organisation's own resources count without being read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.model import REFERENCE_TERM, Guard, Key, Query, Record
from fhirserver.core.references import targets
from fhirserver.policy.custody import KEYS_AT_ONCE, look_up
from fhirserver.policy.items import Item
from fhirserver.store.port import Store

EXEMPT = frozenset({"AuditEvent", "Person", "Provenance"})
"""Types whose references are not weighed: they tell of what was, or are kept by the server itself."""


class Integrity(msgspec.Struct, frozen=True):
    """What comes of a reference to nothing; ``base`` is the server's own FHIR base URL."""

    mode: Literal["off", "warn", "enforce"] = "off"
    base: str = ""


class Checks:
    """The references of one write. ``warnings`` are those of the last `weigh`, where they refuse nothing."""

    def __init__(self, store: Store, integrity: Integrity, *, sees: Callable[[Record], bool]) -> None:
        """``sees``: whether the writer may know of a record."""
        self._store = store
        self._integrity = integrity
        self._sees = sees
        self.warnings: tuple[Issue, ...] = ()

    async def weigh(self, items: Sequence[Item], erased: Sequence[Key]) -> list[Guard]:
        """What must still hold inside the commit.

        Fault INVALID naming each reference of the first resource that refers to nothing, CONFLICT where something
        still refers to what is to go. Both are warnings unless the mode is ``enforce``.
        """
        self.warnings = ()
        if self._integrity.mode == "off":
            return []
        issues: list[Issue] = []
        written = {item.key for item in items}
        there = await self._there(items, written, erased)
        for item in items:
            found = [
                Issue("not-found", f"{item.key} refers to {key}, which is not there.", expression)
                for expression, key in self._targets(item)
                if key not in there and key not in written
            ]
            if found and self._integrity.mode == "enforce":
                raise Fault(Kind.INVALID, found[0].diagnostics, issues=found)
            issues += found
        guards = [
            Guard(Query(keys=part, bodies=False), len(part), "What is referred to has just gone.")
            for part in _parts(sorted(there))
        ]
        for key in erased:
            said, guard = await self._referrers(key, written.union(erased))
            if said and self._integrity.mode == "enforce":
                raise Fault(Kind.CONFLICT, said)
            issues += [Issue("conflict", said)] if said else []
            guards += [guard] if guard else []
        self.warnings = tuple(msgspec.structs.replace(issue, severity="warning") for issue in issues)
        return guards if self._integrity.mode == "enforce" else []

    def _targets(self, item: Item) -> Iterable[tuple[str, Key]]:
        return () if item.key.type in EXEMPT else targets(item.resource, self._integrity.base)

    async def _there(self, items: Iterable[Item], written: set[Key], erased: Sequence[Key]) -> set[Key]:
        """Those of what is referred to that are stored, stay, and may be known of."""
        wanted = {key for item in items for _, key in self._targets(item)} - written - {*erased}
        records = await look_up(self._store, sorted(wanted))
        return {key for key, record in records.items() if self._sees(record)}

    async def _referrers(self, key: Key, changing: set[Key]) -> tuple[str, Guard | None]:
        """Why the resource must stay (empty: it need not), and that nothing else has come to refer to it."""
        query = Query(terms=((f"{REFERENCE_TERM}{key}",),), not_types=EXEMPT, bodies=False)
        changed = 0
        async for batch in self._store.scan(query):
            others = [record for record in batch if record.key not in changing]
            if others:
                shown = next((record for record in others if self._sees(record)), None)
                return f"{key} is still referred to" + (f" by {shown.key}." if shown else "."), None
            changed += len(batch)
        return "", Guard(query, changed, f"{key} has just been referred to.")


def _parts(keys: list[Key]) -> list[tuple[Key, ...]]:
    return [tuple(keys[at : at + KEYS_AT_ONCE]) for at in range(0, len(keys), KEYS_AT_ONCE)]

"""How a grant is applied to queries and records: narrowed before any limit, checked again after, Persons cut.

`Scoped` builds on this; nothing else does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Sequence

import msgspec

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import CURRENT, EVERYTHING, REFERENCE_TERM, Key, Query, Record, parse_facts
from fhirserver.policy import persons
from fhirserver.policy.dossier import whole
from fhirserver.policy.grant import Grant
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.store.port import Store

KEYS_AT_ONCE = 500
"""Keys asked for in one scan."""

MEMO = 50_000
"""Decisions, and facts of what was read, that one view remembers at most."""

_log = logging.getLogger("fhirserver.policy")


class View:
    """A store and a grant."""

    def __init__(self, store: Store, principal: Principal, grant: Grant) -> None:
        self.principal = principal
        self.grant = grant
        self._store = store
        self._passed: set[tuple[str, str]] = set()
        self._opened: set[str] = set()
        self._limited = principal.caller is not CallerClass.OPERATOR

    @property
    def limited(self) -> bool:
        """Whether the caller may get a part of a resource: of a Person the links that it may follow."""
        return self._limited

    def admits(self, record: Record) -> bool:
        """Whether the grant lets this record be seen for itself."""
        pair = (record.type, record.facts)
        if pair in self._passed:
            return True
        if not self.grant.visible.admits(record.type, parse_facts(record.facts)):
            return False
        self._remember({pair})
        return True

    def _accompanies(self, record: Record) -> bool:
        return self.grant.accompanying.admits(record.type, parse_facts(record.facts))

    def _verify(self, pairs: set[tuple[str, str]]) -> None:
        """Alarm if the store gave anything that the grant does not admit. Each (type, facts) is decided once."""
        fresh = pairs - self._passed
        if not fresh:
            return
        visible = self.grant.visible
        if visible is not EVERYTHING and not all(visible.admits(type_, parse_facts(text)) for type_, text in fresh):
            raise alarm()
        self._remember(fresh)

    def _remember(self, pairs: set[tuple[str, str]]) -> None:
        if len(self._passed) > MEMO:
            self._passed.clear()
        self._passed |= pairs

    async def _fetch(self, keys: Sequence[Key], *, as_of: int | None = None, bodies: bool = False) -> list[Record]:
        """Live records by key, not narrowed: for callers that decide about each record themselves."""
        found: list[Record] = []
        for start in range(0, len(keys), KEYS_AT_ONCE):
            query = Query(keys=tuple(keys[start : start + KEYS_AT_ONCE]), as_of=as_of, bodies=bodies)
            async for batch in self._store.scan(query):
                found += batch
        return found

    async def _openable(
        self, patients: Iterable[str], *, deleted: bool = False, as_of: int | None = None
    ) -> frozenset[str]:
        """Those Patients that are there (right after ``as_of``, or, with ``deleted``, were) and whose charts the grant
        opens."""
        keys = [Key("Patient", patient) for patient in dict.fromkeys(patients)]
        found = {record.id: record for record in await self._fetch(keys, as_of=as_of)}
        if deleted:
            for key in keys:
                if key.id not in found and (record := await self._store.get(key)) is not None:
                    found[key.id] = record
        return frozenset(id for id, record in found.items() if self.grant.opens(id, parse_facts(record.facts)))

    async def _hidden_now(self, records: Iterable[Record]) -> frozenset[Key]:
        """Of records that a snapshot shows though they have been superseded, those whose present version the grant
        does not admit: an old version never shows what the current one hides."""
        stale = [record.key for record in records if record.ended != CURRENT] if self._limited else []
        if not stale:
            return frozenset()
        present = {now.key: now for now in await self._fetch(stale)}
        # A tombstone stands for what was deleted: its facts are those of the last version.
        deleted = await asyncio.gather(*(self._store.get(key) for key in stale if key not in present))
        present.update({now.key: now for now in deleted if now is not None})
        return frozenset(key for key, now in present.items() if not (self.admits(now) or self._accompanies(now)))

    async def _cut(self, records: list[Record]) -> list[Record]:
        """The records with every Person among them cut to the links the grant opens."""
        people = [record for record in records if record.type == "Person"]
        if not people or not self._limited:
            return records
        open_ = await self._openable({owner for record in people for owner in parse_facts(record.facts).owners})
        views = {record.key: persons.cut(record, await whole(self._store, record), open_) for record in people}
        return [views.get(record.key, record) for record in records]

    async def _narrowed(self, query: Query) -> Query:
        """The query under the grant; whatever ``visible`` it had is gone.

        A Person cannot be found by a link that the caller's view of it lacks: terms that name such a link match
        nothing, and where a search is not by a Person's own parameters, Persons are left out of it.
        """
        replace = msgspec.structs.replace
        query = replace(query, visible=self.grant.visible)
        if not self._limited or (query.types is not None and "Person" not in query.types):
            return query
        named = {name for group in query.terms for term in group if (name := _linked_by(term))}
        inside = {query.within} if query.within is not None else set()
        asked = (named | inside) - self._opened
        if not asked:
            return query
        shut = asked - await self._openable(asked, deleted=True)
        general = {_linked_by(term) for group in query.terms for term in group if term.startswith(REFERENCE_TERM)}
        if shut & (inside | general):
            query = replace(query, not_types=query.not_types | {"Person"})
        if shut & named:
            terms = (
                tuple(term for term in group if not (term.startswith("Person|") and _linked_by(term) in shut))
                for group in query.terms
            )
            query = replace(query, terms=tuple(terms))
        return query


def alarm() -> Fault:
    """The Fault for a disagreement between the store and the grant, which is logged without saying about whom."""
    _log.critical("the store gave what the grant does not admit; the answer was withheld")
    return Fault(Kind.INTERNAL, "The server failed; the failure has been logged.")


def _linked_by(term: str) -> str:
    """The Patient's id in a term that may name a Person's link; nothing for other terms."""
    if not term.startswith((REFERENCE_TERM, "Person|")):
        return ""
    type_, _, id = term.partition("=")[2].partition("/")
    return id if type_ == "Patient" else ""

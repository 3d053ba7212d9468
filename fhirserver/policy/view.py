"""How a grant is applied to queries and records: narrowed before any limit, checked again after, Persons cut.

`Scoped` builds on this; nothing else does.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterable, Sequence

import msgspec

from fhirserver.core.definitions import PATIENT, parse_path, search_parameters
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import CURRENT, EVERYTHING, REFERENCE_TERM, Key, Query, Record, parse_facts
from fhirserver.policy import persons, redisclosure
from fhirserver.policy.derive import THROUGH
from fhirserver.policy.discerning import Discerning
from fhirserver.policy.dossier import whole
from fhirserver.policy.grant import Grant
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.policy.redisclosure import NOTICE, protected
from fhirserver.store.port import Store

KEYS_AT_ONCE = 500
"""Keys asked for in one scan."""

MOST_LED = 64
"""Patients of a grant that are looked for by name; the store's ways in are quick up to so many terms."""

MEMO = 50_000
"""Decisions, and facts of what was read, that one view remembers at most."""

_OF_PERSON = "Person|"

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
        self._bound = principal.caller is CallerClass.THIRD_PARTY
        self._marked: set[Key] = set()

    @property
    def limited(self) -> bool:
        """Whether the caller may get a part of a resource: of a Person the links that it may follow."""
        return self._limited

    async def _told(self, record: Record) -> Record:
        """A record that another view has read, with what this grant asks of it beyond its facts."""
        return (await self._all_told([record]))[0]

    async def _all_told(self, records: list[Record]) -> list[Record]:
        return await self._store.told(records) if isinstance(self._store, Discerning) else records

    @property
    def bound(self) -> bool:
        """Whether what Part 2 protects goes to the caller with the prohibition of redisclosure: to third parties."""
        return self._bound

    def notice(self, record: Record) -> str:
        """The notice that goes with this record, which has been given; empty where none does."""
        return NOTICE if self._bound and (record.key in self._marked or protected(record.facts)) else ""

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

    async def _present(self, records: Iterable[Record]) -> dict[Key, Record]:
        """Of records that a snapshot shows though they have been superseded, the present versions. A tombstone stands
        for what was deleted: its facts are those of the last version."""
        stale = [record.key for record in records if record.ended != CURRENT]
        present = {now.key: now for now in await self._fetch(stale)} if stale else {}
        deleted = await asyncio.gather(*(self._store.get(key) for key in stale if key not in present))
        return present | {now.key: now for now in deleted if now is not None}

    async def _hidden_now(self, records: Iterable[Record]) -> frozenset[Key]:
        """Of records that a snapshot shows though they have been superseded, those whose present version the grant
        does not admit: an old version never shows what the current one hides."""
        present = await self._present(records) if self._limited else {}
        return frozenset(key for key, now in present.items() if not (self.admits(now) or self._accompanies(now)))

    async def _cut(self, records: list[Record]) -> list[Record]:
        """The records as the caller gets them: every Person among them cut to the links the grant opens, and with the
        prohibition of redisclosure on what Part 2 protects."""
        people = [record for record in records if record.type == "Person"]
        if not people or not self._limited:
            return await self._mark(records)
        open_ = await self._openable({owner for record in people for owner in parse_facts(record.facts).owners})
        views = {record.key: persons.cut(record, await whole(self._store, record), open_) for record in people}
        return await self._mark([views.get(record.key, record) for record in records])

    async def _mark(self, records: list[Record], also: Collection[Key] = ()) -> list[Record]:
        """The records, those marked that Part 2 protects, and ``also`` these: they are protected now."""
        if not self._bound:
            return records
        found: list[Record] = []
        for record in records:
            if not record.deleted and (record.key in also or protected(record.facts)):
                self._marked.add(record.key)
                record = redisclosure.marked(record, await whole(self._store, record))
            found.append(record)
        return found

    def _led(self, query: Query) -> Query:
        """The same query with what follows from a grant over few patients, so that a store that holds many others is
        not walked for theirs: a Patient that is admitted is one of them, and any other resource of a patient refers to
        one of them. Terms are added only where the query asks the index anyway: it may be in the making."""
        if query.types is None or len(query.types) != 1 or query.within is not None:
            return query
        (type_,) = query.types
        owners = self.grant.few(type_, MOST_LED)
        if owners is None or type_ in (*THROUGH, "Person"):
            return query
        if type_ == PATIENT:
            keys = {Key(PATIENT, owner) for owner in owners}
            led = keys if query.keys is None else keys.intersection(query.keys)
            return msgspec.structs.replace(query, keys=tuple(sorted(led)))
        if query.keys is not None or not (query.terms or query.criteria) or query.departed_since is not None:
            return query
        named = tuple(sorted(f"{REFERENCE_TERM}{PATIENT}/{owner}" for owner in owners))
        return msgspec.structs.replace(query, terms=(*query.terms, named))

    async def _narrowed(self, query: Query) -> Query:
        """The query under the grant; whatever ``visible`` it had is gone."""
        return await self._by_open_links(self._led(msgspec.structs.replace(query, visible=self.grant.visible)))

    async def _by_open_links(self, query: Query) -> Query:
        """A Person cannot be found by a link that the caller's view of it lacks: terms that name such a link match
        nothing, and where a search is not by a Person's own parameters, Persons are left out of it."""
        replace = msgspec.structs.replace
        if not self._limited or (query.types is not None and "Person" not in query.types):
            return query
        if any(term.startswith(_OF_PERSON) for group in query.terms for term in group):
            links = _link_parameters()
            kept = (tuple(term for term in group if not _leads_away(term, links)) for group in query.terms)
            query = replace(query, terms=tuple(kept))
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
                tuple(term for term in group if not (term.startswith(_OF_PERSON) and _linked_by(term) in shut))
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
    if not term.startswith((REFERENCE_TERM, _OF_PERSON)):
        return ""
    type_, _, id = term.partition("=")[2].partition("/")
    return id if type_ == "Patient" else ""


def _link_parameters() -> frozenset[str]:
    """The search parameters of a Person that look into its links."""
    return frozenset(
        code
        for code, parameter in search_parameters("Person").items()
        if any(parse_path(path).steps[0].name == "link" for path in parameter.paths.get("Person", ()))
    )


def _leads_away(term: str, links: Collection[str]) -> bool:
    """Whether a Person's term is of a link that is no reference to a Patient or a Practitioner: no view but the whole
    one has it for certain."""
    name, _, value = term.removeprefix(_OF_PERSON).partition("=")
    linking = term.startswith(_OF_PERSON) and name.partition(":")[0] in links
    return linking and (":" in name or not value.startswith(("Patient/", "Practitioner/")))

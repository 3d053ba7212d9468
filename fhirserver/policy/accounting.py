"""The audit trail as its readers may see it: AuditEvents for organisations, the accounting of disclosures for patients.

Who sees which events: the operator all; a member those of its own organisation, and those about patients whose
custodian it is; a patient what was disclosed of its own chart; a third party none. Of an event of somebody else's that
names several patients, a reader learns what concerns its own.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from fhirserver.core.auditevent import Event, Json, event, kind_of, render
from fhirserver.core.criteria import holds
from fhirserver.core.index import extract
from fhirserver.core.model import AuditRow, Index, Key, parse_facts
from fhirserver.core.search import Search, meets
from fhirserver.core.trail import Entry, TrailQuery, event_of
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.policy.purge import PURGED
from fhirserver.store.port import Store

AT_ONCE = 200
MOST_LOOKED_AT = 5000
"""Rows that one page looks at; a page that has not found enough by then ends there, with a next link."""

_FOREIGN = frozenset({"class", "purpose", "type", "count", "resource", "resources", "consents", "form"})
"""What a reader learns of an event of another organisation about its patients: no query, and nothing of its token."""
_OF_ALL = frozenset({"class", "purpose", "type"})
"""The same where the event concerns others, too."""
_NOBODY = frozenset[str]()


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """What is asked of the trail. ``search``: what must hold of an AuditEvent; the others narrow what is looked at.

    ``patient``, ``organization``: only events that name it; None: any. ``since`` <= recorded < ``until`` in
    milliseconds since 1970.
    """

    search: Search
    patient: str | None = None
    organization: str | None = None
    since: int | None = None
    until: int | None = None
    oldest_first: bool = False


class Told(msgspec.Struct, frozen=True):
    """A page of AuditEvents, and where the next begins (None: nowhere)."""

    events: list[Json]
    next: tuple[int, str] | None


class Accounting:
    """The trail for one caller; made by `Scoped.accounting`."""

    def __init__(self, store: Store, principal: Principal) -> None:
        self._store = store
        self._principal = principal
        self._held: dict[str, bool] = {}
        self._purged: dict[str, int] = {}

    async def read(self, id: str) -> Json | None:
        """The AuditEvent with this id; None where there is none that the caller may see."""
        if self._principal.caller is CallerClass.THIRD_PARTY:
            return None
        entries = await self._store.audit.events([id])
        if not entries or event_of(entries[0].row) != id:
            return None
        found = event([each.row for each in entries])
        return await self._shown(found, await self._concerned(found))

    async def page(self, asked: Asked, after: tuple[int, str] | None, count: int) -> Told:
        """At most ``count`` of them from behind ``after``, newest first unless asked otherwise."""
        narrowed = await self._narrowed(asked, after)
        told: list[Json] = []
        looked, before = 0, after
        while narrowed is not None:
            entries = await self._store.audit.find(narrowed)
            events = await self._ended(entries)
            for entry in entries:
                looked += 1
                after = entry.row.at, entry.place
                found = events.get(entry.place)
                if found is None:
                    continue
                resource = await self._shown(found, await self._concerned(found, asked.patient))
                if resource is None or not _matches(resource, asked.search, found.last.at):
                    continue
                if len(told) == count:
                    return Told(told, before)
                told.append(resource)
                before = after
            if len(entries) < AT_ONCE:
                return Told(told, None)
            if looked >= MOST_LOOKED_AT:
                return Told(told, after)
            narrowed = msgspec.structs.replace(narrowed, after=after)
            await asyncio.sleep(0)
        return Told(told, None)

    async def _narrowed(self, asked: Asked, after: tuple[int, str] | None) -> TrailQuery | None:
        """The rows to look at; None where the caller may see none of them."""
        who = self._principal
        patient, organization = asked.patient, asked.organization
        if who.caller is CallerClass.THIRD_PARTY:
            return None
        if who.caller is CallerClass.PATIENT:
            patient = who.patient or ""
        elif who.caller is CallerClass.MEMBER and not (patient and await self._holds(patient)):
            if organization not in (None, who.organization):
                return None
            organization = who.organization
        return TrailQuery(
            organization=organization,
            patient=patient,
            since=asked.since,
            until=asked.until,
            after=after,
            oldest_first=asked.oldest_first,
            limit=AT_ONCE,
        )

    async def _ended(self, entries: Sequence[Entry]) -> dict[str, Event]:
        """The events whose last row is among these, by its place; others come where theirs is."""
        rows: dict[str, list[Entry]] = {}
        for each in await self._store.audit.events([event_of(entry.row) for entry in entries]):
            rows.setdefault(event_of(each.row), []).append(each)
        return {found[-1].place: event([each.row for each in found]) for found in rows.values()}

    async def _concerned(self, found: Event, patient: str | None = None) -> frozenset[str] | None:
        """Those of its patients for whose sake the caller may see it; None: for its own sake."""
        who = self._principal
        if who.caller is CallerClass.OPERATOR:
            return None
        if who.caller is CallerClass.PATIENT:
            # An answer that held nothing, such as to HEAD, has disclosed nothing.
            held = found.last.outcome != "complete" or found.last.detail.get("count") != 0
            disclosed = held and kind_of(found.first.interaction).action in "RE" and found.last.outcome != "denied"
            return await self._since_purged({who.patient or ""} & set(found.patients), found) if disclosed else _NOBODY
        if found.first.organization == who.organization:
            return None
        wanted = [each for each in found.patients if patient in (None, each)]
        return await self._since_purged([each for each in wanted if await self._holds(each)], found)

    async def _since_purged(self, patients: Iterable[str], found: Event) -> frozenset[str]:
        """Those that the event is about, and not somebody who had the id before a purge."""
        for each in patients:
            if each not in self._purged:
                entry = await self._store.ledger.get(PURGED + each)
                self._purged[each] = int(entry.value) if entry is not None else -1
        return frozenset(each for each in patients if found.first.at > self._purged[each])

    async def _shown(self, found: Event, concerned: frozenset[str] | None) -> Json | None:
        if concerned is None:
            return render(found)
        if not concerned:
            return None
        alone = concerned.issuperset(found.patients)
        named = _FOREIGN if alone else _OF_ALL
        consents = await self._consents(found, concerned)
        rows = [_cut(row, concerned, named, consents) for row in (found.first, found.last)]
        return render(Event(rows[0], rows[0] if found.first is found.last else rows[1]))

    async def _consents(self, found: Event, concerned: frozenset[str]) -> list[str]:
        """The Consents of these patients alone; the caller's grant may have held others'."""
        names = found.detail.get("consents")
        if not isinstance(names, list):
            return []
        records = await asyncio.gather(*(self._store.get(Key.parse(str(name))) for name in names))
        return [
            str(record.key)
            for record in records
            if record is not None and concerned.issuperset(parse_facts(record.facts).owners)
        ]

    async def _holds(self, patient: str) -> bool:
        """Whether the caller's organisation is the custodian of this patient's chart."""
        if patient not in self._held:
            record = await self._store.get(Key("Patient", patient))
            self._held[patient] = (
                record is not None and parse_facts(record.facts).custodian == self._principal.organization
            )
        return self._held[patient]


def _cut(row: AuditRow, patients: frozenset[str], named: frozenset[str], consents: list[str]) -> AuditRow:
    detail: dict[str, Any] = {name: value for name, value in row.detail.items() if name in named}
    if consents and "consents" in row.detail:
        detail["consents"] = consents
    else:
        detail.pop("consents", None)
    kept = tuple(each for each in row.patients if each in patients)
    return msgspec.structs.replace(row, patients=kept, detail=detail)


def _matches(resource: Json, search: Search, recorded: int) -> bool:
    """Whether an AuditEvent is what is searched for, as it would be if it were stored."""
    if search.keys is not None and Key("AuditEvent", resource["id"]) not in search.keys:
        return False
    if not (search.terms or search.criteria or search.residuals):
        return True
    index: Index = extract(resource)
    terms = set(index.terms)
    return (
        all(not terms.isdisjoint(group) for group in search.terms)
        and all(holds(each, index, recorded) for each in search.criteria)
        and all(meets(each, resource) for each in search.residuals)
    )

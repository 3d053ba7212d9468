"""A transaction put together: which resource each entry writes, under which id, and what its references mean.

Source: R4 http §3.1.0.11.2. Identities are decided first (conditions under the caller's grant), then references to
entries and conditional references are replaced, then everything is stored by one commit that holds the conditions.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from uuid import uuid4

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.errors import Conflict, Fault, Kind
from fhirserver.core.model import Key, Record
from fhirserver.core.rewrite import refer, relink
from fhirserver.core.stamp import instant
from fhirserver.http.bundled import Entry, Outcome, fault_of, named
from fhirserver.http.conditions import criteria, holding, the_one
from fhirserver.http.definitions import must_be_free
from fhirserver.http.inner import local, sent_as
from fhirserver.http.patch import patch_of, revised
from fhirserver.http.respond import etag
from fhirserver.http.writing import Sent, decoded, if_match, validated
from fhirserver.policy.gate import ANY, CHANGED, Condition, Erase, Put, Scoped

_NAMED = re.compile(r".*/(?P<type>[A-Z][A-Za-z]+)/(?P<id>[A-Za-z0-9\-.]{1,64})")


class _Planned(msgspec.Struct, frozen=True, kw_only=True):
    """What one entry does to ``key``: stores ``raw``, deletes (no ``raw``), or finds it there already (``found``)."""

    entry: Entry
    key: Key
    raw: bytes | None = None
    if_version: int | None = None
    found: Record | None = None
    same_as: Entry | None = None


class Changes:
    """The changes of one transaction, taken entry by entry in the order of their processing."""

    def __init__(self, base: str, scoped: Scoped) -> None:
        """``base``: the absolute FHIR base URL."""
        self._base = base
        self._scoped = scoped
        self._planned: list[_Planned] = []
        self._by_key: dict[Key, Entry] = {}
        self._names: dict[str, Key] = {}
        self._created: dict[tuple[str, str], _Planned] = {}
        self.conditions: list[Condition] = []
        self.changes: list[Put | Erase] = []

    async def take(self, entry: Entry) -> None:
        """Decide which resource the entry, which has been validated, is about; reads are passed over, they run after
        the commit."""
        if entry.method in ("GET", "HEAD"):
            return
        path, _, query = local(self._base, entry.url).partition("?")
        type_, _, id_ = path.strip("/").partition("/")
        if type_ not in RESOURCE_TYPES or "/" in id_ or "$" in path:
            told = f"{entry.method} of this url cannot be part of a transaction."
            raise Fault(Kind.BAD_REQUEST, told, expression=f"{entry.place}.request.url")
        if entry.method == "POST":
            await self._post(entry, type_)
        elif entry.method == "PUT":
            await self._put(entry, type_, id_, query)
        elif entry.method == "DELETE":
            await self._delete(entry, type_, id_, query)
        else:
            await self._patch(entry, type_, id_, query)

    async def _post(self, entry: Entry, type_: str) -> None:
        raw = _content(entry)
        condition = entry.headers.get("if-none-exist")
        if condition is None:
            self._plan(_Planned(entry=entry, key=Key(type_, str(uuid4())), raw=raw, if_version=0))
            return
        first = self._created.get((type_, condition))
        if first is not None:  # two entries that ask for one resource mean one
            self._plan(_Planned(entry=entry, key=first.key, same_as=first.entry))
            return
        query = criteria(type_, condition)
        there = await the_one(self._scoped, query)
        if there is not None:
            self._plan(_Planned(entry=entry, key=there.key, found=there))
            return
        self.conditions += holding(query, None)
        planned = _Planned(entry=entry, key=Key(type_, str(uuid4())), raw=raw, if_version=0)
        self._created[type_, condition] = planned
        self._plan(planned)

    async def _put(self, entry: Entry, type_: str, id_: str, query: str) -> None:
        raw, version = _content(entry), if_match(entry.headers)
        given = decoded(raw, type_).resource.get("id")
        if not id_:
            condition = criteria(type_, query)
            there = await the_one(self._scoped, condition)
            self.conditions += holding(condition, there)
            id_ = there.id if there else given or str(uuid4())
            given = given or id_
        if given != id_:
            raise Fault(Kind.BAD_REQUEST, "The resource's id must be the one of the URL.", expression=f"{type_}.id")
        self._plan(_Planned(entry=entry, key=Key(type_, id_), raw=raw, if_version=version))

    async def _delete(self, entry: Entry, type_: str, id_: str, query: str) -> None:
        version = if_match(entry.headers)
        if not id_:
            condition = criteria(type_, query)
            there = await the_one(self._scoped, condition)
            self.conditions += holding(condition, there)
            if there is None:
                return
            id_ = there.id
        self._plan(_Planned(entry=entry, key=Key(type_, id_), if_version=version))

    async def _patch(self, entry: Entry, type_: str, id_: str, query: str) -> None:
        content_type, body = sent_as(entry)
        change = patch_of(content_type, body)
        version = if_match(entry.headers)
        if not id_:
            condition = criteria(type_, query)
            there = await the_one(self._scoped, condition)
            if there is None:
                raise Fault(Kind.NOT_FOUND, "The condition matches no resource.")
            self.conditions += holding(condition, there)
            id_ = there.id
        put = await revised(self._scoped, Key(type_, id_), change, version)
        self._plan(_Planned(entry=entry, key=Key(type_, id_), raw=put.raw, if_version=put.if_version))

    def _plan(self, planned: _Planned) -> None:
        entry, key = planned.entry, planned.key
        if planned.raw is not None:
            must_be_free(key)
        if planned.same_as is None:
            if key in self._by_key:
                other = self._by_key[key].place
                raise Fault(Kind.BAD_REQUEST, f"This entry and {other} are about the same resource.")
            self._by_key[key] = entry
        self._planned.append(planned)
        if entry.full_url:
            if self._names.get(entry.full_url, key) != key:
                raise Fault(Kind.BAD_REQUEST, "Two entries have this fullUrl.", expression=f"{entry.place}.fullUrl")
            self._names[entry.full_url] = key
            if entry.method == "POST" and (name := _NAMED.fullmatch(entry.full_url)):
                self._names[f"{name['type']}/{name['id']}"] = key

    async def finish(self) -> None:
        """Replace the references of all entries; from here on ``changes`` and ``conditions`` are what is stored."""
        found = await self._conditional_references()

        def reference(text: str) -> str | None:
            base, mark, rest = text.partition("#")
            key = found.get(text) or self._names.get(base)
            return f"{key}{mark}{rest}" if key else None

        def uri(text: str) -> str | None:
            key = self._names.get(text)
            return str(key) if key else None

        for planned in self._planned:
            if planned.raw is not None:
                await asyncio.sleep(0)  # there may be thousands, and others wait
                with fault_of(planned.entry):
                    raw = relink(refer(planned.raw, reference), uri)
                    read = decoded if raw == planned.raw else validated
                    self.changes.append(_put(planned, read(raw, planned.key.type)))
            elif planned.found is None and planned.same_as is None:
                self.changes.append(Erase(key=planned.key, if_version=planned.if_version))

    async def _conditional_references(self) -> Mapping[str, Key]:
        found: dict[str, Key] = {}
        for planned in self._planned:
            wanted: set[str] = set()

            def collect(text: str, into: set[str] = wanted) -> None:
                if "?" in text and text.partition("?")[0] in RESOURCE_TYPES:
                    into.add(text)

            if planned.raw is None or b"?" not in planned.raw:
                continue
            refer(planned.raw, collect)
            for text in sorted(wanted - found.keys()):
                with fault_of(planned.entry):
                    found[text] = await self._referred(text)
        return found

    async def _referred(self, text: str) -> Key:
        type_ = text.partition("?")[0]
        query = criteria(type_, text)
        there = await the_one(self._scoped, query)
        if there is None:
            raise Fault(Kind.PRECONDITION_FAILED, "A conditional reference finds nothing.")
        self.conditions += holding(query, there)
        return there.key

    @contextmanager
    def naming_entries(self) -> Iterator[None]:
        """A Fault inside that speaks of a resource is one of the entry that is about it."""
        try:
            yield
        except Conflict:
            raise
        except Fault as fault:
            for key, entry in self._by_key.items():
                if re.search(rf"{re.escape(str(key))}(?![A-Za-z0-9\-.]*[A-Za-z0-9\-])", fault.message):
                    if fault.kind is Kind.PRECONDITION_FAILED and _patches_whatever_is_there(entry):
                        raise Conflict(CHANGED) from None  # the version was ours, not the client's: look again
                    raise named(fault, entry) from fault
            raise

    async def outcomes(self, records: Sequence[Record], *, representation: bool) -> dict[int, Outcome]:
        """What became of each entry that is not a read; ``records`` as `Scoped.write` gave them for ``changes``."""
        stored = {record.key: record for record in records}
        outcomes: dict[int, Outcome] = {}
        for planned in self._planned:
            record = stored.get(planned.key) or planned.found
            assert record is not None  # noqa: S101 - each is stored, or was found
            outcomes[planned.entry.number] = await self._outcome(planned, record, representation=representation)
        return outcomes

    async def _outcome(self, planned: _Planned, record: Record, *, representation: bool) -> Outcome:
        if record.deleted:
            return Outcome(status=204, etag=etag(record))
        stored = planned.raw is not None
        shown = await self._scoped.shown(record) if representation and stored else None
        return Outcome(
            status=201 if stored and self._scoped.is_new(record) else 200,
            resource=shown.body if shown else None,
            location=f"{self._base}/{record.key}/_history/{record.version}",
            etag=etag(record),
            modified=instant(record.updated),
        )


def _patches_whatever_is_there(entry: Entry) -> bool:
    return entry.method == "PATCH" and if_match(entry.headers) in (None, ANY)


def _put(planned: _Planned, sent: Sent) -> Put:
    return Put(resource=sent.resource, raw=sent.raw, id=planned.key.id, if_version=planned.if_version)


def _content(entry: Entry) -> bytes:
    if entry.resource is None:
        raise Fault(Kind.BAD_REQUEST, "The resource is missing.", expression=f"{entry.place}.resource")
    return entry.resource

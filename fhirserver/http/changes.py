"""A transaction put together: which resource each entry writes, under which id, and what its references mean.

Source: R4 http §3.1.0.11.2. Identities are decided first (conditions under the caller's grant), then references to
entries and conditional references are replaced, then everything is stored by one commit that holds the conditions.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from urllib.parse import unquote
from uuid import uuid4

import msgspec

from fhirserver.core.criteria import Has, holds
from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.errors import Conflict, Fault, Kind
from fhirserver.core.index import extract
from fhirserver.core.model import Index, Key, Query, Record
from fhirserver.core.rewrite import refer, relative, relink
from fhirserver.core.stamp import instant
from fhirserver.http.bundled import Entry, Outcome, fault_of, named
from fhirserver.http.conditions import criteria, found, holding, the_one, the_one_for
from fhirserver.http.definitions import must_be_free
from fhirserver.http.inner import local, sent_as
from fhirserver.http.patch import patch_of, revised
from fhirserver.http.respond import etag
from fhirserver.http.writing import Sent, decoded, if_match, validated
from fhirserver.policy.gate import ANY, CHANGED, Condition, Erase, Put, Scoped

_BASE = re.compile(r"(https?://.+/)[A-Z][A-Za-z]+/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?")
"""The url of a resource; its group is the base that relative references in that resource start from."""


MOST_NAMED = 100
"""Resources that one audit row names."""


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

    def __init__(self, base: str, scoped: Scoped, *, most: int, now: int) -> None:
        """``base``: the absolute FHIR base URL; ``most``: bytes that a patch may make of a resource; ``now`` in
        milliseconds since 1970."""
        self._most = most
        self._now = now
        self._base = base
        self._scoped = scoped
        self._planned: list[_Planned] = []
        self._by_key: dict[Key, Entry] = {}
        self._names: dict[str, Key] = {}
        self._unmet: dict[Query, _Planned] = {}
        self._found: dict[Key, _Planned] = {}
        self.conditions: list[Condition] = []
        self.changes: list[Put | Erase] = []

    async def take(self, entry: Entry) -> None:
        """Decide which resource the entry, which has been validated, is about; reads are passed over, they run after
        the commit."""
        if entry.method in ("GET", "HEAD"):
            return
        path, _, query = local(self._base, entry.url).partition("?")
        type_, _, id_ = unquote(path).strip("/").partition("/")
        if type_ not in RESOURCE_TYPES or "/" in id_ or "$" in id_ or (id_ and entry.method == "POST"):
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
        query = _criteria(entry, type_, condition, "request.ifNoneExist", self._now)
        first = self._unmet.get(query)
        if first is not None:  # two entries that ask for one resource mean one
            self._plan(_Planned(entry=entry, key=first.key, same_as=first.entry))
            return
        there = await the_one(self._scoped, query)
        if there is not None:
            first = self._found.get(there.key)
            planned = _Planned(entry=entry, key=there.key, found=there, same_as=first.entry if first else None)
            self._found.setdefault(there.key, planned)
            self._plan(planned)
            return
        self.conditions += holding(query, None)
        planned = _Planned(entry=entry, key=Key(type_, str(uuid4())), raw=raw, if_version=0)
        self._unmet[query] = planned
        self._plan(planned)

    async def _put(self, entry: Entry, type_: str, id_: str, query: str) -> None:
        raw, version = _content(entry), if_match(entry.headers)
        given = decoded(raw, type_).resource.get("id")
        condition = there = None
        if not id_:
            condition = _criteria(entry, type_, query, "request.url", self._now)
            if condition in self._unmet:
                raise _same(self._unmet[condition].entry)
            there = await the_one_for(self._scoped, condition, Key(type_, given) if given else None)
            self.conditions += holding(condition, there)
            if there is None and version is None:
                version = 0  # nothing is overwritten but what the condition finds
            id_ = there.id if there else given or str(uuid4())
            given = given or id_
        if given != id_:
            raise Fault(Kind.BAD_REQUEST, "The resource's id must be the one of the URL.", expression=f"{type_}.id")
        planned = _Planned(entry=entry, key=Key(type_, id_), raw=raw, if_version=version)
        if condition is not None and there is None:
            self._unmet[condition] = planned
        self._plan(planned)

    async def _delete(self, entry: Entry, type_: str, id_: str, query: str) -> None:
        version = if_match(entry.headers)
        if not id_:
            condition = _criteria(entry, type_, query, "request.url", self._now)
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
            condition = _criteria(entry, type_, query, "request.url", self._now)
            there = await the_one(self._scoped, condition)
            if there is None:
                raise Fault(Kind.NOT_FOUND, "The condition matches no resource.")
            self.conditions += holding(condition, there)
            id_ = there.id
        put = await revised(self._scoped, Key(type_, id_), change, version, base=self._base, most=self._most)
        self._plan(_Planned(entry=entry, key=Key(type_, id_), raw=put.raw, if_version=put.if_version))

    def _plan(self, planned: _Planned) -> None:
        entry, key = planned.entry, planned.key
        if planned.raw is not None:
            must_be_free(key)
        if planned.same_as is None:
            if key in self._by_key:
                raise _same(self._by_key[key])
            self._by_key[key] = entry
        self._planned.append(planned)
        if entry.full_url:
            if self._names.get(entry.full_url, key) != key:
                raise Fault(Kind.BAD_REQUEST, "Two entries have this fullUrl.", expression=f"{entry.place}.fullUrl")
            self._names[entry.full_url] = key

    async def finish(self) -> None:
        """Replace the references of all entries; from here on ``changes`` and ``conditions`` are what is stored."""
        linked = {planned.key: await self._linked(planned) for planned in self._planned if planned.raw is not None}
        found = await self._conditional_references(linked)

        def reference(text: str) -> str | None:
            return str(found[text]) if text in found else None

        for planned in self._planned:
            if planned.raw is not None:
                await asyncio.sleep(0)  # there may be thousands, and others wait
                with fault_of(planned.entry):
                    raw = linked[planned.key]
                    if found and b"?" in raw and planned.key.type != "Bundle":
                        raw = refer(raw, reference)
                    read = decoded if raw == planned.raw else validated
                    self.changes.append(_put(planned, read(raw, planned.key.type)))
            elif planned.found is None and planned.same_as is None:
                self.changes.append(Erase(key=planned.key, if_version=planned.if_version))
        await self._tell()

    async def _linked(self, planned: _Planned) -> bytes:
        """What the entry stores, with the places of other entries in it instead of their names.

        A relative reference is one below the base of the entry's own fullUrl (R4 bundle §2.36.4.1), so that
        ``Patient/1`` of two hospitals is two patients; without such a base, and in what a patch left as it was, it is
        to this server's resource. A Bundle stays as it is: its references are to its own entries.
        """
        await asyncio.sleep(0)
        raw = planned.raw or b""
        if planned.key.type == "Bundle":
            return raw
        own = _BASE.fullmatch(planned.entry.full_url)
        base = own[1] if own and planned.entry.method != "PATCH" else ""

        def uri(text: str) -> str | None:
            key = self._names.get(text) or (self._names.get(base + text) if base else None)
            return str(key) if key else None

        def reference(text: str) -> str | None:
            name, mark, rest = text.partition("#")
            key = uri(name)
            return f"{key}{mark}{rest}" if key else None

        return relative(relink(refer(raw, reference), uri), self._base)

    async def _conditional_references(self, linked: Mapping[Key, bytes]) -> Mapping[str, Key]:
        """What each conditional reference of ``linked``, what is stored under each key, finds when all of it is."""
        wanted: dict[str, Entry] = {}
        for planned in self._planned:
            if planned.raw is None or planned.key.type == "Bundle" or b"?" not in linked[planned.key]:
                continue
            texts: set[str] = set()

            def collect(text: str, into: set[str] = texts) -> None:
                if "?" in text and text.partition("?")[0] in RESOURCE_TYPES:
                    into.add(text)

            refer(linked[planned.key], collect)
            for text in sorted(texts):
                wanted.setdefault(text, planned.entry)
        found: dict[str, Key] = {}
        indexes: dict[str, dict[Key, Index]] = {}
        for text, entry in wanted.items():
            type_ = text.partition("?")[0]
            with fault_of(entry):
                if type_ not in indexes:
                    indexes[type_] = await _indexes(type_, linked)
                found[text] = await self._referred(_criteria(entry, type_, text, "resource", self._now), indexes[type_])
        return found

    async def _referred(self, query: Query, written: Mapping[Key, Index]) -> Key:
        """The one match: of what is there and stays as it is, and of what is ``written`` here."""
        there = await self._scoped.find(query, limit=2 + len(self._by_key))
        keys = [record.key for record in there if record.key in self._found or record.key not in self._by_key]
        keys += [key for key, index in written.items() if _meets(key, index, query, self._now)]
        if not keys:
            raise Fault(Kind.PRECONDITION_FAILED, "A conditional reference finds nothing.")
        if len(keys) > 1:
            raise Fault(Kind.PRECONDITION_FAILED, "The condition matches several resources.")
        self.conditions.append(Condition(query, len(there)))
        if there:
            same = msgspec.structs.replace(query, keys=tuple(record.key for record in there))
            self.conditions.append(Condition(same, len(there)))
        return keys[0]

    async def _tell(self) -> None:
        """Audit as a read of nothing what conditional creates found: that it is there is told, what it holds is not."""
        keys = list(dict.fromkeys(planned.found.key for planned in self._planned if planned.found is not None))
        if not keys:
            return
        for key in keys:
            with found():
                await self._scoped.read(key)
        names = [str(key) for key in keys[:MOST_NAMED]]
        async with self._scoped.disclosure(interaction="transaction", detail={"resources": names}) as note:
            note.complete()

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
                    if fault.kind is Kind.PRECONDITION_FAILED and _names_no_version(entry):
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


async def _indexes(type_: str, linked: Mapping[Key, bytes]) -> dict[Key, Index]:
    """What each resource of this type that is to be stored can be found by."""
    found: dict[Key, Index] = {}
    for key, raw in linked.items():
        if key.type == type_:
            await asyncio.sleep(0)
            found[key] = extract({**decoded(raw, type_).resource, "id": key.id})
    return found


def _meets(key: Key, index: Index, query: Query, now: int) -> bool:
    asked = (*map(Has, query.terms), *query.criteria)
    return (query.keys is None or key in query.keys) and all(holds(each, index, now) for each in asked)


def _criteria(entry: Entry, type_: str, text: str, where: str, now: int) -> Query:
    try:
        return criteria(type_, text, now)
    except Fault as fault:
        raise Fault(fault.kind, fault.message, expression=f"{entry.place}.{where}") from None


def _same(other: Entry) -> Fault:
    return Fault(Kind.BAD_REQUEST, f"This entry and {other.place} are about the same resource.")


def _names_no_version(entry: Entry) -> bool:
    """Whether the version that is held to is not the client's: a patch's, or that of what a condition found."""
    given = if_match(entry.headers)
    return (entry.method == "PATCH" and given in (None, ANY)) or (entry.method == "PUT" and given is None)


def _put(planned: _Planned, sent: Sent) -> Put:
    return Put(resource=sent.resource, raw=sent.raw, id=planned.key.id, if_version=planned.if_version)


def _content(entry: Entry) -> bytes:
    if entry.resource is None:
        raise Fault(Kind.BAD_REQUEST, "The resource is missing.", expression=f"{entry.place}.resource")
    return entry.resource

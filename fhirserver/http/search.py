"""search: the resources of a type, of a chart or of the whole store that the parameters select.

``GET [base]/{type}?…``, ``GET [base]/Patient/{id}/{type}?…``, ``GET [base]?_type=…``, and each by ``POST …/_search``.
Source: R4 search §3.1.1. `core.search` reads the parameters, `policy.search` finds the matches under the caller's
grant, `http.asking` says how the answer is wanted.

A page goes out while it is being read, so its links stand behind its entries. In default order a page token holds the
snapshot and the seq before the page, so pages put together are the matches at the snapshot whatever is written
meanwhile, and a deep page costs what the first one costs.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core import bundle
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import CURRENT, Key, Query, Record
from fhirserver.core.page import Page, Position
from fhirserver.core.search import Search
from fhirserver.core.stamp import instant
from fhirserver.http.asking import Asked, asked_of
from fhirserver.http.explain import explained
from fhirserver.http.included import Included
from fhirserver.http.labels import labelled, labels_of
from fhirserver.http.paging import Paging
from fhirserver.http.respond import streamed_headers
from fhirserver.http.searchset import Entries, shape
from fhirserver.http.server import Server, bearer
from fhirserver.http.sorted import in_order
from fhirserver.http.stream import Streaming
from fhirserver.policy.gate import CallerClass, Scoped
from fhirserver.policy.search import Matches, matches_of

MOST_LOOKED_AT = 20_000
"""Candidates that one page asks one by one; a page that has not found enough by then ends there, with a next link."""

AT_ONCE = 200


async def search_type(request: Request, server: Server) -> ASGIApp:
    """A searchset of the resources of one type that the caller may see and the parameters select."""
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction="search-type", type=type_)
    asked = await asked_of(request, server, scoped, (type_,), path=type_)
    return await answer(server, await scoped.everyone(), asked, "search-type")


async def search_compartment(request: Request, server: Server) -> ASGIApp:
    """The same in the chart of one Patient; refused as reading the chart is."""
    patient, type_ = request.path_params["id"], request.path_params["member"]
    scoped = await server.gate.admit(bearer(request), interaction="search-type", type=type_)
    chart = await scoped.chart(Key("Patient", patient))
    asked = await asked_of(request, server, chart.scoped, (type_,), path=f"Patient/{patient}/{type_}")
    return await answer(server, chart.scoped, asked, "search-type", within=patient)


async def search_system(request: Request, server: Server) -> ASGIApp:
    """The same over several types, which `_type` names; only parameters that all of them have."""
    scoped = await server.gate.admit(bearer(request), interaction="search-system")
    asked = await asked_of(request, server, scoped, None, path="")
    return await answer(server, await scoped.everyone(), asked, "search-system")


async def answer(
    server: Server,
    scoped: Scoped,
    asked: Asked,
    interaction: str,
    *,
    within: str | None = None,
    narrowed: Callable[[int], Awaitable[Search]] | None = None,
) -> ASGIApp:
    """The searchset. ``within``: of the chart of this Patient only. ``narrowed``: what is searched for at a snapshot,
    where that depends on what there is."""
    paging = Paging(server, scoped, asked.request, scoped.grant.digest)
    here = await paging.here(asked.page)
    page = _Page(scoped, asked, here)

    async def find() -> Matches:
        search = asked.search if narrowed is None else await narrowed(here.as_of)
        return await matches_of(scoped, search, as_of=here.as_of, within=within)

    if asked.explain:
        return await explained(scoped, await find(), asked)

    async def chunks() -> AsyncGenerator[bytes, None]:
        # What may take its time is done in here, where a reader who leaves ends it.
        matches, first = await find(), here
        if asked.page is None:
            total = await _total(scoped, asked, matches, type_level=within is None)
            first = msgspec.structs.replace(here, total=total, query=asked.hidden)

        def tail() -> bytes:
            this = (
                paging.seal(first, offset=first.offset, at=first.at or Position(0, 0)) if asked.hidden else asked.page
            )
            links = [{"relation": "self", "url": asked.url(this)}]
            if page.next is not None:
                sealed = paging.seal(first, offset=first.offset + asked.count, at=page.next)
                links.append({"relation": "next", "url": asked.url(sealed)})
            meta = labelled(page.facts, bound=scoped.bound)
            return b"," + msgspec.json.encode({"link": links, **meta})[1:-1]

        counted = {} if first.total is None else {"total": first.total}
        head = {"resourceType": "Bundle", "type": "searchset", "timestamp": instant(first.time), **counted}
        shaped = shape(asked.base, msgspec.json.encode(head)[:-1], page.entries, tail)
        written = bundle.write(shaped, page.batches(matches), body=scoped.body, project=asked.project)
        async with aclosing(written):
            async for chunk in written:
                yield chunk

    return Streaming(
        chunks=chunks(),
        headers=streamed_headers(asked.media_type),
        disclosure=scoped.disclosure(interaction=interaction, patients=(within,) if within else (), detail=asked.told),
        still_admitted=scoped.still_admitted,
        sent=lambda: page.entries.sent,
        stall_seconds=server.stall_seconds,
        place=server.streams.place(scoped.principal),
    )


async def _total(scoped: Scoped, asked: Asked, matches: Matches, *, type_level: bool) -> int | None:
    """How many match, where that was asked for. To a third party a search over everybody never says."""
    if asked.total == "none" and asked.count:
        return None
    if type_level and scoped.principal.caller is CallerClass.THIRD_PARTY:
        return None
    return await matches.count()


class _Page:
    """The entries of one page, read as they go out: its matches, then what is included. ``next``: where the following
    page begins, known when the last match is out."""

    def __init__(self, scoped: Scoped, asked: Asked, here: Page) -> None:
        self.next: Position | None = None
        self.facts: set[str] = set()
        self._included = Included(scoped, asked.search.includes, as_of=here.as_of)
        self.entries = Entries(self._included)
        self._scoped, self._asked, self._here = scoped, asked, here

    async def batches(self, matches: Matches) -> AsyncIterator[list[Record]]:
        if not self._asked.count:
            return
        read = self._in_order(matches) if self._asked.search.order else self._as_written(matches)
        async for records in read:
            self._scoped.tell(records)
            await self._included.meet(records)
            self.facts |= labels_of({record.facts for record in records})
            self.entries.sent += len(records)
            yield records
        async for records in self._included.batches():
            self.facts |= labels_of({record.facts for record in records})
            self.entries.sent += len(records)
            yield records

    async def _as_written(self, matches: Matches) -> AsyncIterator[list[Record]]:
        left, looked, upto = self._asked.count, 0, 0
        after = self._here.at.after if self._here.at else 0
        limit = None if not matches.indexed else left + 1
        async for look in matches.looks(after=after, limit=limit):
            if len(look.records) > left:
                more = look.records[:left]
                self.next = Position(0, more[-1].seq if more else upto)
                if more:
                    yield more
                return
            if look.records:
                yield look.records
            left, looked, upto = left - len(look.records), looked + look.looked_at, look.upto
            if looked >= MOST_LOOKED_AT and upto < CURRENT:
                self.next = Position(0, upto)
                return

    async def _in_order(self, matches: Matches) -> AsyncIterator[list[Record]]:
        asked = self._asked
        found = await in_order(matches, asked.search.types, asked.search.order)
        start = self._here.offset
        last = self._here.at.after if self._here.at else 0
        if last:  # what has been hidden since is not counted, so the place is behind the last match given
            start = next((at for at, record in enumerate(found, 1) if record.seq == last), -1)
        if start < 0:
            raise Fault(Kind.EXPIRED, "What you may see of this has changed; start again.")
        wanted = [record.key for record in found[start : start + asked.count]]
        if len(found) > start + asked.count:
            self.next = Position(0, found[start + asked.count - 1].seq)
        for at in range(0, len(wanted), AT_ONCE):
            keys = wanted[at : at + AT_ONCE]
            read: dict[Key, Record] = {}
            async for records in self._scoped.scan(Query(keys=tuple(keys), as_of=self._here.as_of)):
                read.update((record.key, record) for record in records)
            yield [read[key] for key in keys if key in read]

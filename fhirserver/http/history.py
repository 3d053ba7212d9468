"""history: every version of a resource, of a type or of the whole store, newest first, page by page.

``GET [base]/{type}/{id}/_history``, ``[base]/{type}/_history`` and ``[base]/_history``. Source: R4 http, history;
bundle (bdl-3, bdl-4, bdl-7, bdl-8). A page token holds the snapshot and the seq before which the page begins, so pages
put together are the versions at the snapshot, whatever is written meanwhile.

The Bundle has no `timestamp`: a commit that is under way while a page is read carries an earlier time than the page.
The newest entry's `lastModified` is the `_since` that misses nothing, because no later commit gets an earlier one.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core import bundle
from fhirserver.core.bundle import Shape
from fhirserver.core.model import HistoryQuery, Key, Record
from fhirserver.core.page import Page, Position
from fhirserver.core.stamp import instant
from fhirserver.http.labels import labelled
from fhirserver.http.negotiation import GENERAL
from fhirserver.http.paging import DEFAULT_COUNT, Paging, page_size
from fhirserver.http.respond import content_type, etag, streamed_headers
from fhirserver.http.selection import bad, moment, plus
from fhirserver.http.server import Server, bearer, strict
from fhirserver.http.stream import Counted, Streaming, nothing
from fhirserver.http.subset import Cut, elements_of, projection_of, summary_of
from fhirserver.policy.gate import CallerClass, Scoped, view_tag

MOST_COUNTED = 10_000
"""Versions of a type or of the whole store up to which a page tells the total unasked; a resource's own are always
counted, and `_summary=count` counts all there are."""

_ONCE = frozenset({"_since", "_at", "_count", "_page", "_sort", "_summary"})
_NEWEST_FIRST = "-_lastUpdated"


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters. ``since`` and ``at`` (first and last) in milliseconds since 1970; ``count`` 0: the total only;
    ``applied``: what selects the versions and how they are shown, in the order of the links."""

    since: int | None = None
    at: tuple[int, int] | None = None
    count: int = DEFAULT_COUNT
    page: str | None = None
    project: Cut | None = None
    applied: tuple[tuple[str, str], ...] = ()

    def url(self, path: str, sealed: str | None) -> str:
        pairs = [*self.applied, ("_count", str(self.count)), *([("_page", sealed)] if sealed else [])]
        return f"{path}?" + "&".join(f"{name}={quote(value, safe=',:')}" for name, value in pairs)


async def history_instance(request: Request, server: Server) -> ASGIApp:
    """The versions of one resource; deleted or not, as long as the caller may see what it is now."""
    key = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction="history-instance", type=key.type)
    answer = _Answer(request, server, "history-instance", f"{key.type}/{quote(key.id)}", resource=str(key))
    return await answer.response(await scoped.past(key), HistoryQuery(key=key))


async def history_type(request: Request, server: Server) -> ASGIApp:
    """The versions of all resources of one type that the caller may see."""
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction="history-type", type=type_)
    answer = _Answer(request, server, "history-type", type_, type=type_)
    return await answer.response(await scoped.everyone(), HistoryQuery(types=frozenset({type_})))


async def history_system(request: Request, server: Server) -> ASGIApp:
    """The versions of everything that the caller may see."""
    scoped = await server.gate.admit(bearer(request), interaction="history-system")
    answer = _Answer(request, server, "history-system", "")
    return await answer.response(await scoped.everyone(), HistoryQuery())


class _Answer:
    """One page of one history: of the ``path`` below the FHIR base; ``about`` is for the audit trail."""

    def __init__(self, request: Request, server: Server, interaction: str, path: str, **about: str) -> None:
        self.server = server
        self.interaction = interaction
        self.about = about
        self.path = f"{path}/_history".lstrip("/")
        self.base = server.fhir_base(request) + "/"
        self.asked = parse(request.query_params.multi_items(), strict=strict(request))
        self.media_type = content_type(request, request.query_params.get("_format"))

    async def response(self, scoped: Scoped, query: HistoryQuery) -> ASGIApp:
        """The page of these versions."""
        asked = self.asked
        paging = Paging(self.server, scoped, f"{self.path}?{urlencode(asked.applied)}", scoped.grant.digest)
        here = await paging.here(asked.page)
        query = await _within(scoped, query, asked, here)
        sent = 0

        async def chunks() -> AsyncGenerator[bytes, None]:
            # What may take its time is done in here, where a reader who leaves ends it.
            nonlocal sent
            head, page = await self._begun(scoped, query, paging, here)
            shape = _shape(self.base.encode(), msgspec.json.encode(head)[:-1], bound=scoped.bound)
            batches = Counted(scoped.history(page) if asked.count else nothing())
            project = asked.project and _living(asked.project)
            async with aclosing(bundle.write(shape, batches, body=scoped.body, project=project)) as written:
                async for chunk in written:
                    sent = batches.sent
                    yield chunk

        return Streaming(
            chunks=chunks(),
            headers=streamed_headers(self.media_type),
            disclosure=scoped.disclosure(
                interaction=self.interaction,
                detail={**self.about, "query": f"?{urlencode(asked.applied)}", "offset": here.offset},
            ),
            still_admitted=scoped.still_admitted,
            sent=lambda: sent,
            stall_seconds=self.server.stall_seconds,
            place=self.server.streams.place(scoped.principal),
        )

    async def _begun(
        self, scoped: Scoped, query: HistoryQuery, paging: Paging, here: Page
    ) -> tuple[dict[str, object], HistoryQuery]:
        """The Bundle's members before its entries, and the query of the page."""
        asked = self.asked
        if asked.page is None:
            here = msgspec.structs.replace(here, total=await self._total(scoped, query))
        place = here.at.after if here.at else 0
        page, following = await _page(scoped, msgspec.structs.replace(query, before=place or query.before), asked.count)
        links = [{"relation": "self", "url": self._url(asked.page)}]
        if asked.count:
            links.append({"relation": "first", "url": self._url(paging.seal(here, offset=0, at=Position(0, 0)))})
        if following is not None:
            sealed = paging.seal(here, offset=here.offset + asked.count, at=Position(0, following))
            links.append({"relation": "next", "url": self._url(sealed)})
        total = {} if here.total is None else {"total": here.total}
        return {"resourceType": "Bundle", "type": "history", **total, "link": links}, page

    def _url(self, sealed: str | None) -> str:
        return self.asked.url(self.base + self.path, sealed)

    async def _total(self, scoped: Scoped, query: HistoryQuery) -> int | None:
        """How many versions the pages hold together; None where that is not told."""
        if query.key is not None:
            return await scoped.count_history(query)
        if scoped.principal.caller is CallerClass.THIRD_PARTY:
            return None
        if self.asked.count == 0:
            return await scoped.count_history(query)
        found = await scoped.count_history(msgspec.structs.replace(query, limit=MOST_COUNTED + 1))
        return found if found <= MOST_COUNTED else None


async def _within(scoped: Scoped, query: HistoryQuery, asked: Asked, here: Page) -> HistoryQuery:
    """The query at the snapshot of ``here``, with the times that were asked for as seqs."""
    as_of = here.as_of
    after, before, standing_after = 0, None, None
    if asked.since is not None:
        after = min(await scoped.seq_at(asked.since), as_of)
    if asked.at is not None:
        # A version is current from its own commit to its successor's; times are told to the millisecond.
        first, last = asked.at
        standing_after = min(await scoped.seq_at(first), as_of)
        before = min(await scoped.seq_at(last + 1), as_of) + 1
    return msgspec.structs.replace(query, as_of=as_of, after=after, before=before, standing_after=standing_after)


async def _page(scoped: Scoped, query: HistoryQuery, count: int) -> tuple[HistoryQuery, int | None]:
    """The query of the page that ``query`` begins with, and where the next one begins (None: there is none)."""
    seqs: list[int] = []
    if count:
        async for batch in scoped.history(msgspec.structs.replace(query, limit=count + 1, bodies=False)):
            seqs += [record.seq for record in batch]
    if len(seqs) <= count:
        return msgspec.structs.replace(query, limit=count), None
    # Bounded by its last version, not by their number: what is hidden from now on must not pull in the next page's.
    return msgspec.structs.replace(query, after=seqs[count - 1] - 1, limit=count), seqs[count - 1]


def _shape(base: bytes, head: bytes, *, bound: bool) -> Shape:
    """A history Bundle; its entries say which request led to each version, and a deletion has no resource."""
    facts: set[str] = set()

    def before(record: Record) -> bytes:
        facts.add(record.facts)
        url = f"{record.type}/{record.id}"
        if record.deleted:
            method, status = "DELETE", "204 No Content"
        elif record.version == 1:
            method, url, status = "POST", record.type, "201 Created"
        else:
            method, status = "PUT", "200 OK"
        modified = instant(record.updated)
        entry = {
            "fullUrl": f"{base.decode()}{record.type}/{record.id}",
            "request": {"method": method, "url": url},
            "response": {"status": status, "etag": etag(record, view_tag(record)), "lastModified": modified},
        }
        return msgspec.json.encode(entry)[:-1] + (b"" if record.deleted else b',"resource":')

    def closing(empty: bool) -> bytes:
        meta = labelled(facts, bound=bound)
        tail = b"," + msgspec.json.encode(meta)[1:] if meta else b"}"
        return (head if empty else b"]") + tail  # R4 forbids an empty array

    return Shape(opening=head + b',"entry":[', before=before, after=b"}", between=b",", closing=closing)


def _living(cut: Cut) -> Cut:
    """A tombstone has nothing to cut."""
    return lambda content: cut(content) if content else content


def parse(pairs: list[tuple[str, str]], *, strict: bool) -> Asked:
    """The parameters; a value that cannot be understood is a 400 naming it, an unknown parameter under ``strict``."""
    given: dict[str, str] = {}
    names: list[str] = []
    applied: list[tuple[str, str]] = []
    for name, value in pairs:
        if name == "_list":
            raise bad(name, "is not supported")  # R4 defines it: ignored, it would give more than was asked for
        if name not in _ONCE and name not in GENERAL:
            if strict:
                raise bad(name[:64], "is no parameter of a history (Prefer: handling=strict)")
            continue
        if not value.strip():
            raise bad(name, "is empty")
        if name in _ONCE and name in given:
            raise bad(name, "is given more than once")
        given[name] = value
        if name == "_elements":
            names.append(value)
        elif name == "_sort" and value != _NEWEST_FIRST:  # R4 has no order but this one, and no parameter for it
            if strict:
                raise bad(name, f"can only be {_NEWEST_FIRST}")
            continue
        if name not in ("_count", "_page"):
            applied.append((name, plus(value) if name in ("_since", "_at") else value))
    summary = summary_of(given.get("_summary"))
    counts = summary == "count"
    count = page_size(given.get("_count"))
    return Asked(
        since=moment("_since", given["_since"])[0] if "_since" in given else None,
        at=moment("_at", given["_at"]) if "_at" in given else None,
        count=0 if counts else count,
        page=given.get("_page"),
        project=None if counts else projection_of(elements_of(names), summary),
        applied=tuple(applied),
    )

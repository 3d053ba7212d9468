"""`$everything`: a whole chart in one streamed Bundle, or page by page over one snapshot.

``GET|POST [base]/Person/{id}/$everything`` and ``[base]/Patient/{id}/$everything``. Source: R4
operation-patient-everything; the Person form is this server's OperationDefinition, in the shape of the HealthEx API.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from hashlib import blake2b
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core import bundle
from fhirserver.core.model import Key, Record
from fhirserver.core.page import Page, Position
from fhirserver.core.stamp import instant
from fhirserver.http.departures import departures, linked_since
from fhirserver.http.labels import security
from fhirserver.http.paging import Paging
from fhirserver.http.respond import NDJSON, SECURITY_HEADERS, content_type
from fhirserver.http.selection import Selection, pairs_of, parse
from fhirserver.http.server import Server, bearer, strict
from fhirserver.http.stream import Counted, Streaming, chosen_encoding, compressed
from fhirserver.http.subset import projection_of
from fhirserver.http.walk import OVERLAP_MILLISECONDS, Walk
from fhirserver.policy.gate import Chart, Scoped

INTERACTION = "$everything"
START = Position(0, 0)


async def everything(request: Request, server: Server) -> ASGIApp:
    """The Person or Patient of the path, everything in its chart that the caller may see, and what that refers to."""
    anchor = Key(request.path_params["type"], request.path_params["id"])
    scoped = await server.gate.admit(bearer(request), interaction=INTERACTION, type=anchor.type)
    selection = parse(await pairs_of(request), strict=strict(request))
    media_type = content_type(request, selection.format, ndjson=not selection.departed)
    chart = await scoped.chart(anchor)
    base = server.fhir_base(request) + "/"
    path = f"{base}{anchor.type}/{quote(anchor.id)}/$everything"
    if selection.departed:
        return await departures(server, chart, selection, base=base, path=path, media_type=media_type)
    answer = Answer(server, chart, selection, base=base, path=path, ndjson=media_type == NDJSON)
    return await answer.response(request, media_type)


class Answer:
    """One answer: which entries of which walk, and how they are written."""

    def __init__(
        self, server: Server, chart: Chart, selection: Selection, *, base: str, path: str, ndjson: bool
    ) -> None:
        self.server = server
        self.scoped: Scoped = chart.scoped
        self.chart = chart
        self.selection = selection
        self.base = base
        self.path = path
        self.ndjson = ndjson

    async def response(self, request: Request, media_type: str) -> ASGIApp:
        widened = await self._widened()
        paging = self._paging(widened)
        here = await paging.here(self.selection.page, offset=self.selection.offset)
        walk = Walk(self.chart, self.selection, as_of=here.as_of, closures=self.server.closures, widened=widened)
        at, entries = await self._cut(walk, here)
        if here.total is None and (self.selection.paged or at is None):
            here = msgspec.structs.replace(here, total=await walk.count())
        links = await self._links(walk, paging, here, at)
        batches = Counted(walk.batches(at, entries) if at else _nothing())
        chunks = self._chunks(walk, batches, here, self._head(here, links))
        headers = {
            "Content-Type": media_type if self.ndjson else f"{media_type}; charset=utf-8",
            "Vary": "Accept, Accept-Encoding, Authorization",
            **SECURITY_HEADERS,
        }
        if self.ndjson:
            # Lines have no place for links, so they stand where RFC 8288 puts them.
            headers["Link"] = ", ".join(f'<{link["url"]}>; rel="{link["relation"]}"' for link in links)
        encoding = chosen_encoding(request.headers.get("accept-encoding", ""))
        if encoding:
            headers["Content-Encoding"] = encoding
            chunks = compressed(chunks, encoding)
        return Streaming(
            chunks=chunks,
            headers=headers,
            disclosure=self.scoped.disclosure(
                interaction=INTERACTION,
                patients=self.chart.patients,
                detail={"anchor": str(self.chart.anchor.key), "query": self.selection.url(""), "offset": here.offset},
            ),
            still_admitted=self.scoped.still_admitted,
            sent=lambda: batches.sent,
            stall_seconds=self.server.stall_seconds,
        )

    def _paging(self, widened: frozenset[str]) -> Paging:
        anchor = self.chart.anchor
        # What decides which entries there are, beside the snapshot and the fixed parameters.
        lines = [self.scoped.grant.digest, *self.chart.patients, "", *sorted(widened)]
        view = blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
        return Paging(self.server, self.scoped, self.selection.url(f"{anchor.type}/{anchor.id}"), view)

    async def _widened(self) -> frozenset[str]:
        """The patients whose chart is sent whole, because the caller came to see them (or more of them) only later."""
        since = self.selection.since
        if since is None:
            return frozenset()
        since -= OVERLAP_MILLISECONDS
        by_consent = {name for name, time in self.scoped.grant.widened_at.items() if time >= since}
        return frozenset(self.chart.patients) & (by_consent | await linked_since(self.chart, since))

    async def _cut(self, walk: Walk, here: Page) -> tuple[Position | None, int | None]:
        """Where the answer begins (None: past the end) and how many entries it has (None: all the rest)."""
        if self.selection.count == 0:
            return None, 0
        at = here.at or await walk.locate(START, here.offset)
        return at, self.selection.count

    def _head(self, here: Page, links: list[dict[str, str]]) -> dict[str, object]:
        """The Bundle's members before its entries."""
        head: dict[str, object] = {"resourceType": "Bundle", "type": "searchset", "timestamp": instant(here.time)}
        if self.selection.paged:
            head["total"] = here.total
        return {**head, "link": links}

    def _departed_link(self) -> list[dict[str, str]]:
        if self.selection.since is None:
            return []
        applied = (*self.selection.applied, ("_deleted", "only"))
        only = msgspec.structs.replace(self.selection, applied=applied)
        return [_link("deleted", only.url(self.path))]

    async def _links(self, walk: Walk, paging: Paging, here: Page, at: Position | None) -> list[dict[str, str]]:
        """self, first, previous, next, last in the seed's form, only those that lead somewhere; with `_since` also
        the way to what left the chart."""
        total, count, offset = here.total or 0, self.selection.count, here.offset
        if not count:
            place = [("_count", "0")] if count == 0 else [("_offset", str(offset))] if offset else []
            return [_link("self", self.selection.url(self.path, place)), *self._departed_link()]

        def link(relation: str, to: int, place: Position | None) -> dict[str, str]:
            sealed = ("_page", paging.seal(here, offset=to, at=place))
            return _link(
                relation, self.selection.url(self.path, [("_count", str(count)), ("_offset", str(to)), sealed])
            )

        links = [link("self", offset, at), link("first", 0, START)]
        if offset > 0:
            links.append(link("previous", max(0, offset - count), None))
        if at is not None and offset + count < total:
            following = await walk.locate(at, count)
            if following is not None:
                links.append(link("next", offset + count, following))
        links.append(link("last", max(0, (total - 1) // count * count), None))
        return links + self._departed_link()

    def _chunks(self, walk: Walk, batches: Counted, here: Page, head: dict[str, object]) -> AsyncGenerator[bytes, None]:
        def tail() -> bytes:
            after: dict[str, object] = {}
            if not self.selection.paged:
                after["total"] = here.offset + batches.sent if here.total is None else here.total
            after |= _labelled(walk.facts)
            return b"," + msgspec.json.encode(after)[1:-1] if after else b""

        def last() -> bytes:
            text = f"complete: {batches.sent} resources, snapshot {instant(here.time)}"
            issue = {"severity": "information", "code": "informational", "diagnostics": text}
            return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue], **_labelled(walk.facts)})

        if self.ndjson:
            shape = bundle.ndjson(last=last)
        else:
            shape = bundle.searchset(base=self.base.encode(), head=msgspec.json.encode(head)[:-1], tail=tail)
        project = projection_of(self.selection.elements, self.selection.summary)
        return bundle.write(shape, batches, body=self.scoped.body, project=project)


def _labelled(facts: set[str]) -> dict[str, object]:
    """`meta` with the high-water mark of what was sent; nothing where it carries no label."""
    labels = security(facts)
    return {"meta": {"security": labels}} if labels else {}


def _link(relation: str, url: str) -> dict[str, str]:
    return {"relation": relation, "url": url}


async def _nothing() -> AsyncIterator[list[Record]]:
    return
    yield

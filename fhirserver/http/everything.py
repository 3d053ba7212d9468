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

from fhirserver.core import bundle, page
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key, Record
from fhirserver.core.page import Page, Position
from fhirserver.core.stamp import instant
from fhirserver.http.departures import departures, linked_since
from fhirserver.http.labels import security
from fhirserver.http.respond import NDJSON, SECURITY_HEADERS, content_type
from fhirserver.http.selection import Selection, pairs_of, parse
from fhirserver.http.server import Server, bearer, strict
from fhirserver.http.stream import Streaming, chosen_encoding, compressed
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
    path = f"{server.fhir_base(request)}/{anchor.type}/{quote(anchor.id)}/$everything"
    if selection.departed:
        return await departures(server, chart, selection, path=path, media_type=media_type)
    answer = Answer(server, chart, selection, path=path, ndjson=media_type == NDJSON)
    return await answer.response(request, media_type)


class Answer:
    """One answer: which entries of which walk, and how they are written."""

    def __init__(self, server: Server, chart: Chart, selection: Selection, *, path: str, ndjson: bool) -> None:
        self.server = server
        self.scoped: Scoped = chart.scoped
        self.chart = chart
        self.selection = selection
        self.path = path
        self.ndjson = ndjson
        self.sent = 0
        self.facts: set[str] = set()
        self.bound = page.binding(
            f"{chart.scoped.principal.organization}/{chart.scoped.principal.subject}", self._fixed()
        )

    def _fixed(self) -> str:
        # The host may differ between pages (several names, a proxy); the path and the fixed parameters may not.
        return self.selection.url(f"{self.chart.anchor.type}/{self.chart.anchor.id}")

    async def response(self, request: Request, media_type: str) -> ASGIApp:
        widened = await self._widened()
        here = await self._here(self._view(widened))
        walk = Walk(self.chart, self.selection, as_of=here.as_of, closures=self.server.closures, widened=widened)
        self.facts = walk.facts
        at, entries = await self._cut(walk, here)
        if here.total is None and (self.selection.paged or at is None):
            here = msgspec.structs.replace(here, total=await walk.count())
        links = await self._links(walk, here, at)
        head = self._head(here, links)
        chunks = self._chunks(self._counted(walk.batches(at, entries) if at else _nothing()), here, head)
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
            sent=lambda: self.sent,
            stall_seconds=self.server.stall_seconds,
        )

    def _view(self, widened: frozenset[str]) -> str:
        """The digest of what decides which entries there are, beside the snapshot and the fixed parameters."""
        lines = [self.scoped.grant.digest, *self.chart.patients, "", *sorted(widened)]
        return blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()

    async def _here(self, view: str) -> Page:
        """The page this request asks for: the sealed one, or a fresh snapshot."""
        now = self.server.clock()
        if self.selection.page is not None:
            here = page.open_sealed(self.selection.page, key=self.server.page_key, bound=self.bound, now=now)
            if here.view != view:
                raise Fault(Kind.EXPIRED, "What you may see of this chart has changed; start the walk again.")
            return here
        high = await self.scoped.high_water()
        return Page(
            as_of=high.seq,
            time=high.time,
            total=None,
            offset=self.selection.offset,
            at=START if self.selection.offset == 0 else None,
            view=view,
            expires=now + self.server.page_minutes * 60_000,
        )

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

    async def _links(self, walk: Walk, here: Page, at: Position | None) -> list[dict[str, str]]:
        """self, first, previous, next, last in the seed's form, only those that lead somewhere; with `_since` also
        the way to what left the chart."""
        total, count, offset = here.total or 0, self.selection.count, here.offset
        if not count:
            place = [("_count", "0")] if count == 0 else [("_offset", str(offset))] if offset else []
            return [_link("self", self.selection.url(self.path, place)), *self._departed_link()]
        links = [self._page_link("self", here, offset, at), self._page_link("first", here, 0, START)]
        if offset > 0:
            links.append(self._page_link("previous", here, max(0, offset - count), None))
        if at is not None and offset + count < total:
            following = await walk.locate(at, count)
            if following is not None:
                links.append(self._page_link("next", here, offset + count, following))
        links.append(self._page_link("last", here, max(0, (total - 1) // count * count), None))
        return links + self._departed_link()

    def _page_link(self, relation: str, here: Page, offset: int, at: Position | None) -> dict[str, str]:
        sealed = page.seal(
            msgspec.structs.replace(here, offset=offset, at=at),
            key=self.server.page_key,
            nonce=self.server.nonce(),
            bound=self.bound,
        )
        count = str(self.selection.count)
        return _link(
            relation, self.selection.url(self.path, [("_count", count), ("_offset", str(offset)), ("_page", sealed)])
        )

    async def _counted(self, batches: AsyncIterator[list[Record]]) -> AsyncIterator[list[Record]]:
        async for batch in batches:
            self.sent += len(batch)
            yield batch

    def _chunks(
        self, batches: AsyncIterator[list[Record]], here: Page, head: dict[str, object]
    ) -> AsyncGenerator[bytes, None]:
        project = projection_of(self.selection.elements, self.selection.summary)
        if self.ndjson:
            shape = bundle.ndjson(last=lambda: self._last_line(here))
        else:
            base = self.path[: -len(f"{self.chart.anchor.type}/{quote(self.chart.anchor.id)}/$everything")]
            shape = bundle.searchset(
                base=base.encode(), head=msgspec.json.encode(head)[:-1], tail=lambda: self._tail(here)
            )
        return bundle.write(shape, batches, body=self.scoped.body, project=project)

    def _tail(self, here: Page) -> bytes:
        total = (
            b""
            if self.selection.paged
            else b',"total":%d' % (here.offset + self.sent if here.total is None else here.total)
        )
        labels = security(self.facts)
        meta = b',"meta":' + msgspec.json.encode({"security": labels}) if labels else b""
        return total + meta

    def _last_line(self, here: Page) -> bytes:
        text = f"complete: {self.sent} resources, snapshot {instant(here.time)}"
        issue: dict[str, object] = {"severity": "information", "code": "informational", "diagnostics": text}
        line: dict[str, object] = {"resourceType": "OperationOutcome", "issue": [issue]}
        labels = security(self.facts)
        if labels:
            line["meta"] = {"security": labels}
        return msgspec.json.encode(line)


def _link(relation: str, url: str) -> dict[str, str]:
    return {"relation": relation, "url": url}


async def _nothing() -> AsyncIterator[list[Record]]:
    return
    yield

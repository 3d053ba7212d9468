"""`$everything`: whole charts in one streamed Bundle, or page by page over one snapshot.

``GET|POST [base]/Person/{id}/$everything``, ``Patient/{id}``, ``Group/{id}`` and ``Encounter/{id}``, and of all that a
caller may see ``[base]/Person/$everything`` and ``[base]/Patient/$everything``. Source: R4
operation-patient-everything, -group-everything and -encounter-everything; the Person form is this server's
OperationDefinition, in the shape of the HealthEx API.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from hashlib import blake2b
from urllib.parse import quote

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core import bundle
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from fhirserver.core.page import Page, Position
from fhirserver.core.stamp import instant
from fhirserver.http.departures import departures, linked_since
from fhirserver.http.feed import Feed, widened_since
from fhirserver.http.journey import Journey
from fhirserver.http.labels import labelled
from fhirserver.http.paging import Paging
from fhirserver.http.respond import NDJSON, content_type, streamed_headers
from fhirserver.http.selection import Selection, pairs_of, parse
from fhirserver.http.server import Server, bearer, strict
from fhirserver.http.stream import Counted, Streaming, nothing
from fhirserver.http.subset import projection_of
from fhirserver.http.visit import Visit
from fhirserver.http.walk import OVERLAP_MILLISECONDS, Walk
from fhirserver.policy.gate import Chart, Scoped

INTERACTION = "$everything"
START = Position(0, 0)


class Subject(msgspec.Struct, frozen=True, kw_only=True):
    """Whose charts an answer holds.

    ``place``: the path below the base before ``/$everything``. ``patients``: those whose charts are opened, for the
    audit trail (empty: those whose data is read). ``view``: lines that tell one view of the entries from another.
    ``way``: the way through them at a snapshot. ``counted``: whether a page tells how many there are in all.
    ``departures``: whether `_deleted=only` can be asked.
    """

    scoped: Scoped
    place: str
    patients: tuple[str, ...] = ()
    view: tuple[str, ...] = ()
    way: Callable[[int], Journey]
    counted: bool = True
    departures: bool = False


async def everything(request: Request, server: Server) -> ASGIApp:
    """The Person or Patient of the path, everything in its chart that the caller may see, and what that refers to."""
    anchor = _anchor(request)
    scoped, selection, media_type = await _begin(request, server, anchor.type)
    chart = await scoped.chart(anchor)
    if selection.departed:
        base = server.fhir_base(request) + "/"
        path = f"{base}{_path(anchor)}/$everything"
        return await departures(server, chart, selection, base=base, path=path, media_type=media_type)
    since = None if selection.since is None else selection.since - OVERLAP_MILLISECONDS
    widened = widened_since(chart.scoped, since) & set(chart.patients)
    if since is not None:
        widened |= await linked_since(chart, since)
    subject = _charts(server, chart, selection, widened, departures=True)
    return await Answer(server, subject, selection, request).response(media_type)


async def everything_group(request: Request, server: Server) -> ASGIApp:
    """The charts of the Group's active members that are Patients and that the caller may see."""
    anchor = _anchor(request)
    scoped, selection, media_type = await _begin(request, server, anchor.type)
    _no_departures(selection)
    chart = await scoped.group(anchor)
    since = None if selection.since is None else selection.since - OVERLAP_MILLISECONDS
    subject = _charts(server, chart, selection, widened_since(chart.scoped, since) & set(chart.patients))
    return await Answer(server, subject, selection, request).response(media_type)


async def everything_encounter(request: Request, server: Server) -> ASGIApp:
    """The Encounter, what refers to it in its Patient's chart, and what those refer to."""
    anchor = _anchor(request)
    scoped, selection, media_type = await _begin(request, server, anchor.type)
    _no_departures(selection)
    chart = await scoped.encounter(anchor)
    subject = Subject(
        scoped=chart.scoped,
        place=_path(anchor),
        patients=chart.patients,
        view=chart.patients,
        way=lambda as_of: Visit(chart, selection, as_of=as_of, closures=server.closures),
    )
    return await Answer(server, subject, selection, request).response(media_type)


async def everything_type(request: Request, server: Server) -> ASGIApp:
    """The charts of all Patients that the caller may see, in one sweep; with `_since` a feed of what changed."""
    type_ = request.path_params["type"]
    scoped, selection, media_type = await _begin(request, server, type_)
    _no_departures(selection)
    scoped = await scoped.everyone(listed=True)
    since = None if selection.since is None else selection.since - OVERLAP_MILLISECONDS
    subject = Subject(
        scoped=scoped,
        place=type_,
        view=tuple(sorted(widened_since(scoped, since))),
        way=lambda as_of: Feed(scoped, selection, persons=type_ == "Person", as_of=as_of, closures=server.closures),
        counted=False,
    )
    return await Answer(server, subject, selection, request).response(media_type)


async def _begin(request: Request, server: Server, type_: str) -> tuple[Scoped, Selection, str]:
    """The caller, what it asks for, and the media type of the answer."""
    scoped = await server.gate.admit(bearer(request), interaction=INTERACTION, type=type_)
    selection = parse(await pairs_of(request), strict=strict(request))
    return scoped, selection, content_type(request, selection.format, ndjson=not selection.departed)


def _charts(
    server: Server, chart: Chart, selection: Selection, widened: frozenset[str], *, departures: bool = False
) -> Subject:
    return Subject(
        scoped=chart.scoped,
        place=_path(chart.anchor.key),
        patients=chart.patients,
        view=(*chart.patients, "", *sorted(widened)),
        way=lambda as_of: Walk(chart, selection, as_of=as_of, closures=server.closures, widened=widened),
        departures=departures,
    )


def _anchor(request: Request) -> Key:
    return Key(request.path_params["type"], request.path_params["id"])


def _path(anchor: Key) -> str:
    return f"{anchor.type}/{quote(anchor.id)}"


def _no_departures(selection: Selection) -> None:
    if selection.departed:
        told = "_deleted is for one Person or Patient; the history of a type (_history?_since=) tells deletions."
        raise Fault(Kind.BAD_REQUEST, told, expression="_deleted")


class Answer:
    """One answer: which entries of which journey, and how they are written."""

    def __init__(self, server: Server, subject: Subject, selection: Selection, request: Request) -> None:
        self.server = server
        self.subject = subject
        self.scoped = subject.scoped
        self.selection = selection
        self.base = server.fhir_base(request) + "/"
        self.path = f"{self.base}{subject.place}/$everything"

    async def response(self, media_type: str) -> ASGIApp:
        ndjson = media_type == NDJSON
        paging = self._paging()
        here = await paging.here(self.selection.page, offset=self.selection.offset)
        way = self.subject.way(here.as_of)
        at, entries = await self._cut(way, here)
        if here.total is None and (self._counted or at is None):
            here = msgspec.structs.replace(here, total=await way.count())
        links = await self._links(way, paging, here, at)
        batches = Counted(way.batches(at, entries) if at else nothing())
        headers = streamed_headers(media_type)
        if ndjson:
            headers["Content-Type"] = media_type  # NDJSON is UTF-8 by itself
            # Lines have no place for links, so they stand where RFC 8288 puts them.
            headers["Link"] = ", ".join(f'<{link["url"]}>; rel="{link["relation"]}"' for link in links)
        return Streaming(
            chunks=self._chunks(way, batches, here, self._head(here, links), ndjson=ndjson),
            headers=headers,
            disclosure=self.scoped.disclosure(
                interaction=INTERACTION,
                patients=self.subject.patients,
                detail={"anchor": self.subject.place, "query": self.selection.url(""), "offset": here.offset},
            ),
            still_admitted=self.scoped.still_admitted,
            sent=lambda: batches.sent,
            stall_seconds=self.server.stall_seconds,
            place=self.server.streams.place(self.scoped.principal),
        )

    @property
    def _counted(self) -> bool:
        return self.selection.paged and self.subject.counted

    def _paging(self) -> Paging:
        # What decides which entries there are, beside the snapshot and the fixed parameters.
        lines = [self.scoped.grant.digest, *self.subject.view]
        view = blake2b("\n".join(lines).encode(), digest_size=8).hexdigest()
        return Paging(self.server, self.scoped, self.selection.url(self.subject.place), view)

    async def _cut(self, way: Journey, here: Page) -> tuple[Position | None, int | None]:
        """Where the answer begins (None: past the end) and how many entries it has (None: all the rest)."""
        if self.selection.count == 0:
            return None, 0
        at = here.at or await way.locate(START, here.offset)
        return at, self.selection.count

    def _head(self, here: Page, links: list[dict[str, str]]) -> dict[str, object]:
        """The Bundle's members before its entries."""
        head: dict[str, object] = {"resourceType": "Bundle", "type": "searchset", "timestamp": instant(here.time)}
        if self.selection.paged and here.total is not None:
            head["total"] = here.total
        return {**head, "link": links}

    def _departed_link(self) -> list[dict[str, str]]:
        if self.selection.since is None or not self.subject.departures:
            return []
        applied = (*self.selection.applied, ("_deleted", "only"))
        only = msgspec.structs.replace(self.selection, applied=applied)
        return [_link("deleted", only.url(self.path))]

    async def _links(self, way: Journey, paging: Paging, here: Page, at: Position | None) -> list[dict[str, str]]:
        """self, first, previous, next, last in the seed's form, only those that lead somewhere; with `_since` also
        the way to what left the chart. Where nobody counts, the last page is not known."""
        total, count, offset = here.total, self.selection.count, here.offset
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
        if at is not None and (total is None or offset + count < total):
            following = await way.locate(at, count)
            if following is not None:
                links.append(link("next", offset + count, following))
        if total is not None:
            links.append(link("last", max(0, (total - 1) // count * count), None))
        return links + self._departed_link()

    def _chunks(
        self, way: Journey, batches: Counted, here: Page, head: dict[str, object], *, ndjson: bool
    ) -> AsyncGenerator[bytes, None]:
        def tail() -> bytes:
            after: dict[str, object] = {}
            if not self.selection.paged:
                after["total"] = here.offset + batches.sent if here.total is None else here.total
            after |= labelled(way.facts, bound=self.scoped.bound)
            return b"," + msgspec.json.encode(after)[1:-1] if after else b""

        def last() -> bytes:
            text = f"complete: {batches.sent} resources, snapshot {instant(here.time)}"
            issue = {"severity": "information", "code": "informational", "diagnostics": text}
            meta = labelled(way.facts, bound=self.scoped.bound)
            return msgspec.json.encode({"resourceType": "OperationOutcome", "issue": [issue], **meta})

        if ndjson:
            shape = bundle.ndjson(last=last)
        else:
            shape = bundle.searchset(base=self.base.encode(), head=msgspec.json.encode(head)[:-1], tail=tail)
        project = projection_of(self.selection.elements, self.selection.summary)
        return bundle.write(shape, batches, body=self.scoped.body, project=project)


def _link(relation: str, url: str) -> dict[str, str]:
    return {"relation": relation, "url": url}

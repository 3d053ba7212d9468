"""read and search of AuditEvents: the audit trail, rendered when it is asked for.

``GET [base]/AuditEvent/{id}``, ``GET [base]/AuditEvent?…`` and ``POST [base]/AuditEvent/_search``. Source: R4
AuditEvent, search §3.1.1. Newest first unless `_sort=date`. An AuditEvent that was imported from another system is a
resource like any other: it is read by its id, and is not searched here. Reading the trail is itself in the trail.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.dates import interval
from fhirserver.core.errors import Fault
from fhirserver.core.search import Search
from fhirserver.core.stamp import instant
from fhirserver.http.asking import Asked, asked_of
from fhirserver.http.negotiation import HEAD_ONLY, content_type
from fhirserver.http.paging import Paging
from fhirserver.http.read import read
from fhirserver.http.respond import json_answer
from fhirserver.http.selection import bad, plus
from fhirserver.http.server import Server, bearer
from fhirserver.http.stream import Disclosed
from fhirserver.http.subset import asked as projection_of
from fhirserver.policy import accounting
from fhirserver.policy.gate import CallerClass

TYPE = "AuditEvent"

_ORDERS = frozenset({"date", "_lastUpdated"})


async def read_event(request: Request, server: Server) -> ASGIApp:
    """One event; what is not in the trail, or not the caller's to see there, is read as any resource is."""
    scoped = await server.gate.admit(bearer(request), interaction="read", type=TYPE)
    id = request.path_params["id"]
    found = await scoped.accounting().read(id)
    if found is None:
        return await read(request, server)
    media_type = content_type(request, request.query_params.get("_format"))
    cut = projection_of(request)
    body = msgspec.json.encode(found)
    answer = json_answer(cut(body) if cut else body, media_type, headers={"Vary": "Accept, Authorization"})
    disclosure = scoped.disclosure(interaction="read", detail={"resource": f"{TYPE}/{id}"})
    return Disclosed(answer, disclosure, count=0 if request.scope.get(HEAD_ONLY) else 1)


async def search_events(request: Request, server: Server) -> ASGIApp:
    """A page of the events that the caller may see and the parameters select."""
    scoped = await server.gate.admit(bearer(request), interaction="search-type", type=TYPE)
    asked = await asked_of(request, server, scoped, (TYPE,), path=TYPE)
    wanted = _wanted(asked)
    paging = Paging(server, scoped, asked.request, scoped.grant.digest)
    here = await paging.here(asked.page)
    told = await scoped.accounting().page(wanted, here.place, asked.count)
    here = msgspec.structs.replace(here, query=asked.hidden)
    sealed = paging.seal(here, offset=here.offset, at=here.at) if asked.hidden else asked.page
    links = [{"relation": "self", "url": asked.url(sealed)}]
    if told.next is not None and asked.count:
        following = msgspec.structs.replace(here, place=told.next)
        page = paging.seal(following, offset=here.offset + len(told.events), at=here.at)
        links.append({"relation": "next", "url": asked.url(page)})
    entries = [_entry(asked, event) for event in told.events]
    bundle = {
        "resourceType": "Bundle",
        "type": "searchset",
        "timestamp": instant(here.time),
        "link": links,
        **({"entry": entries} if entries else {}),
    }
    own = scoped.principal.patient if scoped.principal.caller is CallerClass.PATIENT else wanted.patient
    disclosure = scoped.disclosure(interaction="search-type", patients=(own,) if own else (), detail=asked.told)
    answer = json_answer(msgspec.json.encode(bundle), asked.media_type, headers={"Vary": "Accept, Authorization"})
    return Disclosed(answer, disclosure, count=0 if request.scope.get(HEAD_ONLY) else len(entries))


def _entry(asked: Asked, event: dict[str, object]) -> dict[str, object]:
    body = msgspec.json.encode(event)
    resource = msgspec.Raw(asked.project(body) if asked.project else body)
    return {"fullUrl": f"{asked.base}{TYPE}/{event['id']}", "search": {"mode": "match"}, "resource": resource}


def _wanted(asked: Asked) -> accounting.Asked:
    """What the parameters ask of the trail; Fault BAD_REQUEST for what it cannot be asked."""
    search = asked.search
    if search.links:
        raise bad(search.links[0].parameter, "is not supported: events are not searched by chains")
    if search.lists:
        raise bad("_list", "is not supported for AuditEvent")
    if search.includes:
        raise bad("_include", "is not supported for AuditEvent")
    if len(search.order) > 1 or any(each.name not in _ORDERS for each in search.order):
        raise bad("_sort", "of AuditEvents is date or -date")
    if asked.total != "none" or not asked.count:
        raise bad("_total" if asked.total != "none" else "_summary", "is not supported: events are not counted")
    since, until = _times(search)
    return accounting.Asked(
        search=search,
        patient=_one(search, "patient", "Patient"),
        organization=_one(search, "agent", "Organization"),
        since=since,
        until=until,
        oldest_first=bool(search.order) and not search.order[0].descending,
    )


def _one(search: Search, name: str, type_: str) -> str | None:
    """The id of the one resource of this type that a parameter names, if it is only one: where the trail is entered."""
    for given, value in search.applied:
        code, _, modifier = given.partition(":")
        kind, _, id = value.rpartition("/")
        named = kind == type_ or (not kind and (modifier or name == "patient"))
        if code == name and modifier in ("", type_) and named and "," not in value and "|" not in value:
            return id
    return None


def _times(search: Search) -> tuple[int | None, int | None]:
    """Bounds of the time of whatever the parameters select; the parameters themselves are asked of each event."""
    bounds = list(_bounds(search))
    lows = [low for low, _ in bounds if low is not None]
    highs = [high for _, high in bounds if high is not None]
    return (max(lows) if lows else None), (min(highs) if highs else None)


def _bounds(search: Search) -> Iterator[tuple[int | None, int | None]]:
    read: dict[str, Callable[[int, int], tuple[int | None, int | None]]] = {
        "eq": lambda first, last: (first, last + 1),
        "ge": lambda first, _: (first, None),
        "gt": lambda first, _: (first, None),
        "sa": lambda first, _: (first, None),
        "le": lambda _, last: (None, last + 1),
        "lt": lambda _, last: (None, last + 1),
        "eb": lambda _, last: (None, last + 1),
    }
    for name, value in search.applied:
        prefix, text = (value[:2], value[2:]) if value[:2] in read else ("eq", value)
        if name in ("date", "_lastUpdated") and "," not in value:
            try:
                first, last = interval(plus(text))
            except (ValueError, Fault):  # another prefix
                continue
            yield read[prefix](first, last)

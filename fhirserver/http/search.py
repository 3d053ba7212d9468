"""search-type, the part that needs no search engine: all of a type, `_id`, `identifier`, and who links a Patient.

``GET [base]/{type}``. Source: R4 search §3.1.1. Other search parameters of the type are refused by name rather than
ignored, since an ignored filter would return what was not asked for; the full search is a later step on this index.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Mapping, Sequence
from urllib.parse import quote, urlencode

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core import bundle
from fhirserver.core.definitions import SearchParameter, search_parameters
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key, Query, Record
from fhirserver.core.page import Position
from fhirserver.core.stamp import instant
from fhirserver.http.negotiation import GENERAL
from fhirserver.http.paging import Paging
from fhirserver.http.respond import SECURITY_HEADERS, content_type
from fhirserver.http.selection import TOLERATED
from fhirserver.http.server import Server, bearer, strict
from fhirserver.http.stream import Counted, Streaming
from fhirserver.http.subset import Cut, elements_of, projection_of, summary_of
from fhirserver.policy.gate import Scoped

INTERACTION = "search-type"
DEFAULT_COUNT = 50
MAX_COUNT = 1000
MAX_GROUPS = 20
MAX_VALUES = 500
_COMMA = re.compile(r"(?<!\\),")
_LINK_TARGETS = ("Patient", "Practitioner", "RelatedPerson", "Person")


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What was asked: the store query without snapshot and place, page size (0: the total only), how each resource is
    cut, and the parameters as applied."""

    query: Query
    count: int = DEFAULT_COUNT
    page: str | None = None
    project: Cut | None = None
    applied: tuple[tuple[str, str], ...] = ()


async def search_type(request: Request, server: Server) -> ASGIApp:
    """A searchset of the resources of one type that the caller may see and the parameters select."""
    type_ = request.path_params["type"]
    scoped = await server.gate.admit(bearer(request), interaction=INTERACTION, type=type_)
    pairs = request.query_params.multi_items()
    search = parse(type_, pairs, strict=strict(request))
    media_type = content_type(request, request.query_params.get("_format"))
    scoped = await scoped.everyone()
    base = server.fhir_base(request) + "/"
    paging = Paging(server, scoped, f"{type_}?{urlencode(search.applied)}", scoped.grant.digest)
    here = await paging.here(search.page)
    query = msgspec.structs.replace(search.query, as_of=here.as_of, after=here.at.after if here.at else 0)
    links = [{"relation": "self", "url": _url(base + type_, search, search.page)}]
    total: dict[str, object] = {}
    if search.count == 0:
        total = {"total": await scoped.count(search.query)}
    elif (following := await _following(scoped, query, search.count)) is not None:
        sealed = paging.seal(here, offset=here.offset + search.count, at=Position(0, following))
        links.append({"relation": "next", "url": _url(base + type_, search, sealed)})
    head = {"resourceType": "Bundle", "type": "searchset", "timestamp": instant(here.time), **total, "link": links}
    shape = bundle.searchset(base=base.encode(), head=msgspec.json.encode(head)[:-1], tail=lambda: b"")
    batches = Counted(scoped.scan(msgspec.structs.replace(query, limit=search.count)) if search.count else _nothing())
    return Streaming(
        chunks=bundle.write(shape, batches, body=scoped.body, project=search.project),
        headers={"Content-Type": f"{media_type}; charset=utf-8", "Vary": "Accept, Authorization", **SECURITY_HEADERS},
        disclosure=scoped.disclosure(
            interaction=INTERACTION, patients=(), detail={"type": type_, "query": f"?{urlencode(search.applied)}"}
        ),
        still_admitted=scoped.still_admitted,
        sent=lambda: batches.sent,
        stall_seconds=server.stall_seconds,
    )


def parse(type_: str, pairs: list[tuple[str, str]], *, strict: bool) -> Search:
    """The Search; a parameter of this type that is not supported yet is a 400 naming it."""
    known = search_parameters(type_)
    keys: tuple[Key, ...] | None = None
    terms: list[tuple[str, ...]] = []
    count, sealed = DEFAULT_COUNT, None
    applied: list[tuple[str, str]] = []
    names: list[str] = []
    summary: str | None = None
    for name, value in pairs:
        if name in TOLERATED and name not in GENERAL:
            continue
        if not value.strip():
            raise Fault(Kind.BAD_REQUEST, f"{name[:64]} is empty.", expression=name[:64])
        if name in GENERAL:
            applied.append((name, value))
            if name == "_elements":
                names.append(value)
            elif name == "_summary":
                summary = summary_of(value)
        elif name == "_count":
            count = _count(value)
        elif name == "_page":
            sealed = value
        elif name == "_id":
            named = tuple(Key(type_, part) for part in value.split(","))
            keys = named if keys is None else tuple(key for key in keys if key in named)
            applied.append((name, value))
        elif name == "identifier" and name in answered(type_):
            terms.append(tuple(_token(type_, part) for part in _COMMA.split(value)))
            _bounded(name, terms)
            applied.append((name, value))
        elif name in ("link", "patient") and name in answered(type_):
            terms.append(tuple(term for part in value.split(",") for term in _person_terms(name, part)))
            _bounded(name, terms)
            applied.append((name, value))
        elif name.partition(":")[0].partition(".")[0] in known or name.startswith("_"):
            raise Fault(Kind.BAD_REQUEST, f"The parameter {name[:64]} is not supported yet.", expression=name[:64])
        elif strict:
            raise Fault(Kind.BAD_REQUEST, f"Unknown parameter {name[:64]!r} (Prefer: handling=strict).")
    query = Query(types=frozenset({type_}), keys=keys, terms=tuple(terms))
    total_only = summary == "count"
    return Search(
        query=query,
        count=0 if total_only else count,
        page=sealed,
        project=None if total_only else projection_of(elements_of(names), summary),
        applied=tuple(applied),
    )


def answered(type_: str) -> Mapping[str, SearchParameter]:
    """The search parameters that a search of this type takes, by name: what the CapabilityStatement names."""
    names = ("_id", "identifier", "link", "patient") if type_ == "Person" else ("_id", "identifier")
    known = search_parameters(type_)
    return {name: known[name] for name in names if name in known}


def _bounded(name: str, terms: Sequence[tuple[str, ...]]) -> None:
    """A store compares so many values in one question, and no more."""
    if len(terms) > MAX_GROUPS or sum(map(len, terms)) > MAX_VALUES:
        raise Fault(Kind.BAD_REQUEST, f"{name} asks for too many values at once.", expression=name)


def _count(value: str) -> int:
    if not (value.isascii() and value.isdigit()):
        raise Fault(Kind.BAD_REQUEST, "_count must be a whole number, 0 or greater.", expression="_count")
    return min(int(value[:10]), MAX_COUNT)


def _token(type_: str, value: str) -> str:
    if value.endswith("|"):
        raise Fault(Kind.BAD_REQUEST, "identifier needs a value after the system.", expression="identifier")
    return f"{type_}|identifier={value.replace(chr(92) + ',', ',')}"


def _person_terms(name: str, value: str) -> list[str]:
    targets = ("Patient",) if name == "patient" else _LINK_TARGETS
    references = [value] if "/" in value else [f"{target}/{value}" for target in targets]
    return [f"Person|{name}={reference}" for reference in references]


async def _following(scoped: Scoped, query: Query, count: int) -> int | None:
    """The seq of this page's last record if another record follows it."""
    seqs: list[int] = []
    async for batch in scoped.scan(msgspec.structs.replace(query, limit=count + 1, bodies=False)):
        seqs += [record.seq for record in batch]
    return seqs[count - 1] if len(seqs) > count else None


async def _nothing() -> AsyncIterator[list[Record]]:
    return
    yield


def _url(path: str, search: Search, sealed: str | None) -> str:
    pairs = [*search.applied, ("_count", str(search.count)), *([("_page", sealed)] if sealed else [])]
    return f"{path}?" + "&".join(f"{name}={quote(value, safe=',:|/')}" for name, value in pairs)

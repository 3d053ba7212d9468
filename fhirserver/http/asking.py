"""What a search request asks for: its parameters from the URL, a form or a sealed link, and how the answer is wanted.

Source: R4 search §3.1.1.2 (GET and POST), §3.1.1.3 (unknown parameters), §3.1.1.5 (result parameters). The links of a
search by POST carry the sealed page alone, so that what was posted to stay out of URLs does.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Sequence
from typing import Literal
from urllib.parse import parse_qsl, quote, urlencode

import msgspec
from starlette.requests import Request

from fhirserver.core.definitions import RESOURCE_TYPES, search_parameters
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.search import Search, parse
from fhirserver.http.limits import body_of
from fhirserver.http.negotiation import GENERAL, content_type, sent_type
from fhirserver.http.paging import DEFAULT_COUNT, Paging, page_size
from fhirserver.http.selection import TOLERATED, bad, plus
from fhirserver.http.server import Server, strict
from fhirserver.http.subset import Cut, elements_of, projection_of, summary_of
from fhirserver.http.valuesets import value_sets
from fhirserver.policy.gate import CallerClass, Scoped

MOST_BODY = 1 << 20
"""Bytes of a form."""

MOST_PAIRS = 1000
"""Its parameters."""
LONGEST = 8192
"""Characters of a parameter of the answer, such as `_elements`."""

FORM = "application/x-www-form-urlencoded"
_ONCE = frozenset({"_count", "_page", "_total", "_summary", "_contained", "_containedType", "__explain"})
"""Parameters of the answer that may stand once; `_elements` may be repeated."""

_UNENCODED = re.compile(r"(\d-\d\dT[\d:.]+) (?=\d\d:\d\d)", re.ASCII)
"""The zone of a time whose plus came as it is, and so arrives as a blank."""

_WANTED = _ONCE | GENERAL
_REPEATED = GENERAL | {"_total"}
"""Of these, those that the links repeat."""
_IDLE = TOLERATED - GENERAL

Pairs = list[tuple[str, str]]


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """One search request. ``path`` is its path below the ``base``; ``count`` 0: the total only; ``hidden``: its
    parameters if links must not show them; ``request`` is what its pages are bound to; ``told`` for the audit trail."""

    search: Search
    base: str
    path: str
    media_type: str
    request: str
    count: int = DEFAULT_COUNT
    total: Literal["none", "estimate", "accurate"] = "none"
    page: str | None = None
    hidden: str = ""
    project: Cut | None = None
    explain: bool = False
    applied: tuple[tuple[str, str], ...] = ()
    told: dict[str, str] = {}

    def url(self, sealed: str | None) -> str:
        """The link to a page."""
        pairs = [] if self.hidden else [*self.applied, ("_count", str(self.count))]
        pairs += [("_page", sealed)] if sealed else []
        return f"{self.base}{self.path}?" + "&".join(f"{name}={quote(value, safe=',:|/')}" for name, value in pairs)


async def asked_of(
    request: Request, server: Server, scoped: Scoped, types: Sequence[str] | None, *, path: str
) -> Asked:
    """The request's search; ``types`` None: those that `_type` names, or all.

    Fault BAD_REQUEST naming the parameter; UNSUPPORTED_MEDIA for a body that is no form.
    """
    posted = f"{path}/_search"
    pairs, hidden = await given(request, server, scoped, posted, lambda: _form(request, server))
    wanted, rest = sorted_out(pairs, strict=strict(request))
    over: tuple[tuple[str, str], ...] = ()
    if types is None:
        over = tuple(pair for pair in rest if pair[0] == "_type")
        types, rest = _types(rest)
    base = server.fhir_base(request) + "/"
    rest = [(name, _own(types, name, value, base)) for name, value in rest]
    search = parse(types, rest, now=server.clock(), values=await value_sets(scoped, rest))
    must_be_known(request, search.unknown)
    applied = (*over, *search.applied)
    asked = answer_of(request, search, applied, wanted, base=base, path=path, posted=posted, hidden=hidden)
    explain = ("__explain", "true") in wanted and scoped.principal.caller is CallerClass.OPERATOR
    return msgspec.structs.replace(asked, explain=explain)


async def given(
    request: Request, server: Server, scoped: Scoped, posted: str, body: Callable[[], Awaitable[Pairs]]
) -> tuple[Pairs, str]:
    """The parameters of a request, and the same as one text where links must not show them: in a POST and its pages.
    ``posted`` is what such pages are bound to; ``body`` gives the parameters in the body of a POST."""
    pairs = list(request.query_params.multi_items())
    posting = request.method == "POST"
    if posting:
        pairs += await body()
    names = {name for name, _ in pairs} - GENERAL - TOLERATED
    if posting and "_page" in names and len(names) > 1:
        raise bad("_page", "is a page of the search that was posted, and takes no other parameters")
    if "_page" not in names and posting:
        return pairs, urlencode(pairs) or "_count=50"
    if names != {"_page"}:
        return pairs, ""
    hidden = Paging(server, scoped, posted, "").opened(dict(pairs)["_page"]).query
    return pairs + parse_qsl(hidden, keep_blank_values=True), hidden


def answer_of(
    request: Request,
    search: Search,
    applied: tuple[tuple[str, str], ...],
    wanted: Pairs,
    *,
    base: str,
    path: str,
    posted: str,
    hidden: str,
) -> Asked:
    """A search with how its answer is ``wanted``; ``applied`` are the parameters that its links repeat."""
    one = {name: value for name, value in wanted if name != "_elements"}
    summary = summary_of(one.get("_summary"))
    names = elements_of([value for name, value in wanted if name == "_elements"])
    applied += tuple((name, value) for name, value in wanted if name in _REPEATED)
    text = urlencode(applied)
    count = 0 if summary == "count" else page_size(one.get("_count"))
    types = search.types
    return Asked(
        search=search,
        base=base,
        path=path,
        media_type=content_type(request, one.get("_format")),
        request=posted if hidden else f"{path}?{text}",
        count=count,
        total=_total(one.get("_total", "none")),
        page=one.get("_page"),
        hidden=hidden,
        project=None if count == 0 else projection_of(names, summary),
        applied=applied,
        told={"type": ",".join(types) if len(types) < 20 else "all", "query": f"?{text}"},
    )


def must_be_known(request: Request, unknown: Sequence[str]) -> None:
    """Fault BAD_REQUEST for unknown parameters where the caller asked for strictness."""
    if unknown and strict(request):
        raise bad(unknown[0][:64], "is not known here (Prefer: handling=strict)")


async def _form(request: Request, server: Server) -> Pairs:
    raw = await body_of(request, server, limit=MOST_BODY)
    if not raw.strip():
        return []
    if sent_type(request) != FORM:
        raise Fault(Kind.UNSUPPORTED_MEDIA, f"A search is posted as {FORM}.")
    if raw.count(b"&") >= MOST_PAIRS:
        raise Fault(Kind.BAD_REQUEST, f"The form has more than {MOST_PAIRS} parameters.")
    try:
        return parse_qsl(raw.decode(), keep_blank_values=True, errors="strict")
    except ValueError:
        raise Fault(Kind.BAD_REQUEST, "The form is not UTF-8.") from None


def sorted_out(pairs: Pairs, *, strict: bool) -> tuple[Pairs, Pairs]:
    """(how the answer is wanted, what is looked for). A parameter that is empty is as if it were not there (R4 search
    §3.1.1.3), but for who is ``strict``."""
    general: Pairs = []
    rest: Pairs = []
    for name, given in pairs:
        value = plus(given) if name == "_format" else _UNENCODED.sub(r"\1+", given)
        if name in _IDLE or not (strict or value.strip()):
            continue
        if name == "_offset" and value.strip("0 "):
            raise bad(name, "is not supported: the next link leads on")
        if name not in _WANTED:
            rest.append((name, value))
            continue
        if not value.strip():
            raise bad(name, "is empty")
        if len(value) > LONGEST and name != "_page":
            raise bad(name, "is too long")
        if name in _ONCE and any(name == other and value != said for other, said in general):
            raise bad(name, "is given more than once")
        if name in ("_contained", "_containedType") and value != "false":
            raise bad(name, "is not supported: contained resources are not searched by themselves")
        general.append((name, value))
    return general, rest


def _types(pairs: Pairs) -> tuple[tuple[str, ...], Pairs]:
    given = [name for key, value in pairs if key == "_type" for name in value.split(",")]
    for name in given:
        if name not in RESOURCE_TYPES:
            raise bad("_type", f"names {name[:64]!r}, which is no R4 resource type")
    rest = [pair for pair in pairs if pair[0] != "_type"]
    return tuple(sorted(set(given) or RESOURCE_TYPES)), rest


def _own(types: Sequence[str], name: str, value: str, base: str) -> str:
    """A reference by an absolute URL of this server is one to a resource of its own."""
    parameter = search_parameters(types[0]).get(name.partition(":")[0])
    return value.replace(base, "") if parameter is not None and parameter.type == "reference" else value


def _total(value: str) -> Literal["none", "estimate", "accurate"]:
    match value:
        case "none" | "estimate" | "accurate":
            return value
    raise bad("_total", "must be none, estimate or accurate")

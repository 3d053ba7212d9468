"""`DocumentReference/$docref`: the documents of one patient.

``GET|POST [base]/DocumentReference/$docref?patient=…``. Source: US Core 7, OperationDefinition docref. It is a search
by other names, so it goes the way of one: the same scope, grant, pages and audit. What is its own:

* `start` and `end` are care dates: the period of the DocumentReference overlaps what they name. One that states no
  period is given, too, as `$everything` gives what is undated.
* Without both, what is asked for is the most recent document that is current: of each `type` that is named, and of the
  C-CDA CCD where none is.
* No documents are made here, so who asks for `on-demand` ones alone gets none, which is how the operation has a server
  say that it cannot make one.
"""

from __future__ import annotations

import re
from math import inf

import msgspec
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.criteria import AnyOf, Not, Present, Span
from fhirserver.core.model import Key, Record
from fhirserver.core.search import Search, parse
from fhirserver.core.search.values import split
from fhirserver.http.asking import Pairs, answer_of, given, must_be_known, sorted_out
from fhirserver.http.search import answer
from fhirserver.http.selection import bad, care, parameters_of, plus
from fhirserver.http.server import Server, bearer, strict
from fhirserver.http.valuesets import NOTHING_KNOWN
from fhirserver.policy.gate import Scoped
from fhirserver.policy.search import matches_of

INTERACTION = "$docref"
DOCUMENTS = "DocumentReference"
CCD = "http://loinc.org|34133-9"
"""The type of a C-CDA CCD, as a search has it: Summary of episode note."""
MOST_TYPES = 50
"""Types of which the most recent document is looked for."""

_REPEATED = frozenset({"type", "profile"})
_KNOWN = frozenset({"patient", "start", "end", "on-demand", *_REPEATED})
_PERIOD = f"{DOCUMENTS}|period"
_DATES = (_PERIOD, f"{DOCUMENTS}|date")
_PATIENT = re.compile(r"(?:Patient/)?([A-Za-z0-9\-.]{1,64})", re.ASCII)


class _Asked(msgspec.Struct, frozen=True, kw_only=True):
    """The parameters of the operation: ``care`` in milliseconds, ``types`` and ``profiles`` as a search has them,
    ``applied`` as they came."""

    patient: str
    care: tuple[int, int] | None
    types: tuple[str, ...]
    profiles: tuple[str, ...]
    on_demand: bool
    applied: tuple[tuple[str, str], ...]

    @property
    def most_recent(self) -> bool:
        """Whether only the most recent documents are asked for."""
        return self.care is None and not self.on_demand


async def docref(request: Request, server: Server) -> ASGIApp:
    """A searchset of the patient's DocumentReferences that are asked for and that the caller may see; of a patient who
    is not there, or not for the caller, there are none.

    Fault BAD_REQUEST naming the parameter.
    """
    scoped = await server.gate.admit(bearer(request), interaction=INTERACTION, type=DOCUMENTS)
    path = f"{DOCUMENTS}/{INTERACTION}"
    pairs, hidden = await given(request, server, scoped, path, lambda: parameters_of(request, codings={"type"}))
    wanted, rest = sorted_out(pairs, strict=strict(request))
    must_be_known(request, [name for name, _ in rest if name not in _KNOWN])
    base = server.fhir_base(request) + "/"
    asked = _asked(rest, base)
    search = _search(asked, asked.types, now=server.clock())
    scoped = await scoped.everyone()

    async def narrowed(as_of: int) -> Search:
        return await _most_recent(scoped, asked, as_of, now=server.clock()) if asked.most_recent else search

    answered = answer_of(request, search, asked.applied, wanted, base=base, path=path, posted=path, hidden=hidden)
    return await answer(server, scoped, answered, INTERACTION, narrowed=narrowed)


def _asked(pairs: Pairs, base: str) -> _Asked:
    found: dict[str, list[str]] = {}
    for name, value in pairs:
        if name in found and name not in _REPEATED:
            raise bad(name, "is given more than once")
        if name in _KNOWN:
            found.setdefault(name, []).append(value)
    one = {name: values[0] for name, values in found.items()}
    if "patient" not in one:
        raise bad("patient", "is missing: whose documents?")
    patient = _PATIENT.fullmatch(one["patient"].strip().removeprefix(base))
    if patient is None:
        raise bad("patient", "must be the id of a Patient")
    on_demand = one.get("on-demand", "false").lower()
    if on_demand not in ("true", "false"):
        raise bad("on-demand", "must be true or false")
    types = tuple(dict.fromkeys(each for value in found.get("type", []) for each in split(value, ",")))
    if len(types) > MOST_TYPES:
        raise bad("type", f"names more than {MOST_TYPES} types")
    return _Asked(
        patient=patient[1],
        care=care(one.get("start"), one.get("end")),
        types=types,
        profiles=tuple(found.get("profile", [])),
        on_demand=on_demand == "true",
        applied=tuple(
            (name, plus(value) if name in ("start", "end") else value) for name, value in pairs if name in _KNOWN
        ),
    )


def _search(asked: _Asked, types: tuple[str, ...], *, now: int, current: bool = False) -> Search:
    """The search for documents of any of these types (none: of whatever type)."""
    pairs = [("patient", asked.patient)]
    pairs += [("type", ",".join(types))] if types else []
    pairs += [("_profile", ",".join(asked.profiles))] if asked.profiles else []
    pairs += [("status", "current")] if current else []
    search = parse((DOCUMENTS,), pairs, now=now, values=NOTHING_KNOWN)
    if asked.on_demand:
        return msgspec.structs.replace(search, keys=())
    if asked.care is None:
        return search
    first, last = asked.care
    within = Span(_PERIOD, low=(-inf, last), high=(first, inf))
    dated = AnyOf((within, Not(Present("period"))))
    return msgspec.structs.replace(search, criteria=(*search.criteria, dated))


async def _most_recent(scoped: Scoped, asked: _Asked, as_of: int, *, now: int) -> Search:
    """The search for the most recent current document of each type."""
    keys: dict[Key, None] = {}
    for type_ in asked.types or (CCD,):
        matches = await matches_of(scoped, _search(asked, (type_,), now=now, current=True), as_of=as_of)
        newest: Record | None = None
        async for look in matches.looks(bodies=False, sorts=_DATES):
            newest = max([*look.records, *([newest] if newest else [])], key=_recency, default=None)
        if newest is not None:
            keys[newest.key] = None
    return Search(types=(DOCUMENTS,), keys=tuple(sorted(keys)))


def _recency(record: Record) -> tuple[float, int]:
    """The care date, else the date of the reference itself; what was written last comes last."""
    dates = [date for date in record.sorts if isinstance(date, float | int)]
    return (dates[0] if dates else -inf), record.seq

"""The criteria of conditional interactions, and trying again when another writer was first.

Source: R4 http §3.1.0.5.2, §3.1.0.8.2. A condition sees what its caller may see and nothing else, and what it found is
held to inside the commit, so a conditional create of one identifier by two hundred clients makes one resource.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from fhirserver.core.errors import Conflict, Fault, Kind
from fhirserver.core.model import Key, Query, Record
from fhirserver.core.search import Search, parse
from fhirserver.http.negotiation import GENERAL
from fhirserver.http.selection import TOLERATED
from fhirserver.http.valuesets import NOTHING_KNOWN
from fhirserver.policy.gate import ANY, CHANGED, Condition, Scoped

T = TypeVar("T")

ATTEMPTS = 5


def criteria(type_: str, text: str, now: int) -> Query:
    """The Query of a condition such as ``identifier=urn:a|1``; with or without ``Type?`` before it.

    Every search parameter that the index alone answers: a condition is held to inside the commit, where no chain is
    followed and nothing read. ``now`` in milliseconds since 1970. Fault BAD_REQUEST, naming the parameter, for one
    that is unknown or cannot be held to, and where there is none at all: an empty condition would match everything.
    """
    before, _, behind = text.partition("?")
    named_type = "?" in text and "=" not in before  # a value may have a "?" of its own
    if named_type and before.rpartition("/")[2] not in ("", type_):
        raise _bad(f"A condition on {type_} cannot ask for another type.", "")
    pairs = parse_qsl(behind if named_type else text, keep_blank_values=True)
    asked = [(name, value) for name, value in pairs if name not in TOLERATED and name not in GENERAL]
    search = parse((type_,), asked, now=now, values=NOTHING_KNOWN)
    for name in search.unknown:
        raise _bad(f"The parameter {name[:64]} is not known here.", name)
    if not search.applied:
        raise _bad("A condition needs at least one search parameter.", "")
    if _is_beyond_the_index(search):
        name = next(
            name
            for name, value in search.applied
            if _is_beyond_the_index(parse((type_,), [(name, value)], now=now, values=NOTHING_KNOWN))
        )
        raise _bad(f"The parameter {name[:64]} cannot be used in a condition this way.", name)
    if type_ == "Person" and search.criteria:  # a caller's view of a Person may lack what the index has
        raise _bad("Persons are found in a condition by exact values alone.", search.applied[0][0])
    return Query(types=frozenset({type_}), keys=search.keys, terms=search.terms, criteria=search.criteria, bodies=False)


def _is_beyond_the_index(search: Search) -> bool:
    return bool(search.links or search.residuals or search.lists or search.order or search.includes)


def _bad(message: str, name: str) -> Fault:
    return Fault(Kind.BAD_REQUEST, message, expression=name[:64])


async def the_one(scoped: Scoped, query: Query) -> Record | None:
    """The match of a condition, if there is one; Fault PRECONDITION_FAILED for several (R4: 412)."""
    found = await scoped.find(query)
    if len(found) > 1:
        raise Fault(Kind.PRECONDITION_FAILED, "The condition matches several resources.")
    return found[0] if found else None


async def the_one_for(scoped: Scoped, query: Query, key: Key | None) -> Record | None:
    """`the_one`, for a resource that is stored under ``key`` (None: an id of the server's) if there is none.

    Fault CONFLICT where another resource, which the condition does not find, stands there: it is not to be overwritten.
    """
    taken = [] if key is None else await scoped.find(msgspec.structs.replace(query, keys=(key,), terms=(), criteria=()))
    there = await the_one(scoped, query)  # asked last: what was there before and matches is found
    if there is None and key is not None and taken:
        raise Fault(Kind.CONFLICT, f"{key} is there, and the condition does not find it.", expression=f"{key.type}.id")
    return there


def holding(query: Query, there: Record | None) -> tuple[Condition, ...]:
    """What the commit has to hold to after `the_one`: that there is still no match, or that one and no other."""
    if there is None:
        return (Condition(query, 0),)
    return (Condition(query, 1), Condition(msgspec.structs.replace(query, keys=(there.key,)), 1))


@contextmanager
def pinned(version: int | None) -> Iterator[None]:
    """A write inside is made from the version that was looked at; unless the client named one itself (`if_match`),
    that another is current by now is no failure: `repeated` looks again."""
    try:
        yield
    except Fault as fault:
        if fault.kind is Kind.PRECONDITION_FAILED and version in (None, ANY):
            raise Conflict(CHANGED) from None
        raise


@contextmanager
def found() -> Iterator[None]:
    """What a condition has found is read inside; where it has gone since, `repeated` looks again."""
    try:
        yield
    except Fault as fault:
        if fault.kind in (Kind.GONE, Kind.NOT_FOUND):
            raise Conflict(CHANGED) from None
        raise


async def repeated(attempt: Callable[[], Awaitable[T]]) -> T:
    """What ``attempt`` gives, which looks at the store anew each time another writer has changed what it found."""
    for _ in range(ATTEMPTS - 1):
        try:
            return await attempt()
        except Conflict as conflict:
            if conflict.message != CHANGED:
                raise
    return await attempt()

"""The criteria of conditional interactions, and trying again when another writer was first.

Source: R4 http §3.1.0.5.2, §3.1.0.8.2. A condition sees what its caller may see and nothing else, and what it found is
held to inside the commit, so a conditional create of one identifier by two hundred clients makes one resource.
"""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar
from urllib.parse import parse_qsl

import msgspec

from fhirserver.core.definitions import SearchParameter, search_parameters
from fhirserver.core.errors import Conflict, Fault, Kind
from fhirserver.core.model import Key, Query, Record
from fhirserver.core.values import local
from fhirserver.http.negotiation import GENERAL
from fhirserver.http.selection import TOLERATED
from fhirserver.policy.gate import ANY, CHANGED, Condition, Scoped

T = TypeVar("T")

ATTEMPTS = 5
_MOST_VALUES = 100
_COMMA = re.compile(r"(?<!\\),")
_ESCAPED = re.compile(r"\\([,|$])")
_EXACT = frozenset({"token", "reference", "uri"})
"""Types of search parameters whose values are found exactly, which is what an identity can be asked for by."""


def criteria(type_: str, text: str) -> Query:
    """The Query of a condition such as ``identifier=urn:a|1``; with or without ``Type?`` before it.

    Fault BAD_REQUEST, naming the parameter, for one that is unknown or cannot be asked for exactly, and where there is
    none at all: an empty condition would match everything. So, too, for a value that could find nothing: a conditional
    create would create each time.
    """
    before, _, behind = text.partition("?")
    named_type = "?" in text and "=" not in before  # a value may have a "?" of its own
    if named_type and before.rpartition("/")[2] not in ("", type_):
        raise _bad(f"A condition on {type_} cannot ask for another type.", "")
    query = behind if named_type else text
    known = search_parameters(type_)
    keys: tuple[Key, ...] | None = None
    terms: list[tuple[str, ...]] = []
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in TOLERATED or name in GENERAL:
            continue
        if not value.strip():
            raise _bad(f"{name[:64]} is empty.", name)
        if name == "_id":
            named = tuple(Key(type_, part) for part in value.split(","))
            if not all(key.id for key in named):
                raise _bad("_id has an empty value.", name)
            keys = named if keys is None else tuple(key for key in keys if key in named)
        elif name in known and known[name].type in _EXACT:
            terms.append(tuple(term for part in _values(name, value) for term in _terms(type_, known[name], part)))
        else:
            raise _bad(f"The parameter {name[:64]} cannot be used in a condition.", name)
    if keys is None and not terms:
        raise _bad("A condition needs at least one search parameter.", "")
    return Query(types=frozenset({type_}), keys=keys, terms=tuple(terms), bodies=False)


def _values(name: str, value: str) -> list[str]:
    """What is asked for by a value, in parts between commas and without escapes (R4 search §3.1.1.4.3)."""
    # No value holds a U+0000: it stands for an escaped backslash, which escapes nothing.
    parts = _COMMA.split(value.replace("\\\\", "\0"))
    values = [_ESCAPED.sub(r"\1", part).replace("\0", "\\") for part in parts]
    if len(values) > _MOST_VALUES:
        raise _bad(f"{name} asks for too many values at once.", name)
    if not all(part.strip() for part in values):
        raise _bad(f"{name} has an empty value.", name)
    return values


def _terms(type_: str, parameter: SearchParameter, value: str) -> list[str]:
    if parameter.type == "token" and value.endswith("|"):
        raise _bad(f"{parameter.code} needs a value after the system.", parameter.code)
    if parameter.type != "reference" or "/" in value or ":" in value:
        target = local(value) if parameter.type == "reference" else None  # a version is cut off, as in the index
        return [f"{type_}|{parameter.code}={target.text if target else value}"]
    return [f"{type_}|{parameter.code}={target}/{value}" for target in parameter.targets]


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
    taken = [] if key is None else await scoped.find(msgspec.structs.replace(query, keys=(key,), terms=()))
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

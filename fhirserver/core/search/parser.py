"""The parameters of one search as what the stores and their callers answer: `parse` makes a `Search`.

Source: R4 search §3.1.1. Pure: the time and the terminology come as arguments. A parameter that no type searched has
is named in ``unknown`` and otherwise left out; whatever is known and cannot be understood is a Fault BAD_REQUEST that
names it, since a filter that is ignored gives what was not asked for. Several types at once may be asked only for what
all of them have (§3.1.1.1.2).

The work is divided: `core.search.links` has the grammar of chains, `_has`, `_sort` and includes, `core.search.criteria`
and its neighbours say what one parameter asks of the index, `core.search.residuals` what only the content can tell.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import msgspec

from fhirserver.core.criteria import AllOf, AnyOf, Criterion, Has, Not
from fhirserver.core.definitions import SearchParameter, search_parameters
from fhirserver.core.model import Key
from fhirserver.core.search import composites
from fhirserver.core.search.asked import Asked, ValueSets, alternatives, any_of, refused
from fhirserver.core.search.criteria import criterion
from fhirserver.core.search.links import Include, Order, chained, includes, knows, orders, reversed_, step_of
from fhirserver.core.search.ordered import date_asked, place_asked
from fhirserver.core.search.residuals import Residual, Token
from fhirserver.core.search.tokens import needs_content, token_of
from fhirserver.core.search.values import prefixed, split, unescape, written
from fhirserver.core.values import normalise

MAX_GROUPS = 20
"""Parameters of one search that choose resources, and as many that order and include."""
MAX_VALUES = 500
"""Their values, those within chains included."""
MAX_TEXT = 1 << 17
"""Characters of one parameter's values: as many values as may be, each a long URL."""
MAX_WORK = 10_000
"""Values of one parameter times the types searched: what is worked out between two turns of the event loop."""
MAX_DEPTH = 5
"""Steps of a chain."""
MOST_POINTS = 2 * MAX_DEPTH
"""Points in a parameter's name: a chain has one at each step, and a code may have one itself."""
MAX_ENDS = 300
"""Searches at the ends of all chains: an untyped one has an end for each type that it can lead to."""

UNSUPPORTED = frozenset({"_content", "_text", "_filter", "_query"})
"""Parameters of R4 that are refused by name: there is no index of whole texts, and no grammar for expressions."""

_ORDERING = frozenset({"_sort", "_include", "_revinclude"})
_ID = re.compile(r"[A-Za-z0-9\-.]{1,64}", re.ASCII)


def answered(type_: str) -> dict[str, SearchParameter]:
    """The parameters that a search of this type takes, by code: what a CapabilityStatement names."""
    return {code: each for code, each in search_parameters(type_).items() if code not in UNSUPPORTED}


class Link(msgspec.Struct, frozen=True):
    """A condition on another resource. ``parameter`` as asked, for messages.

    A chain (R4 §3.1.1.4.13): the resource refers by its reference parameter ``code`` to one that any of ``of`` finds.
    With ``reverse`` (`_has`, §3.1.1.4.14): one that any of ``of`` finds refers to it by *its* parameter ``code``. Each
    of ``of`` is of exactly one type.
    """

    parameter: str
    code: str
    reverse: bool
    of: tuple[Search, ...]


class Search(msgspec.Struct, frozen=True, kw_only=True):
    """What one search asks. Every condition given must hold.

    * ``keys`` (`_id`), ``terms`` and ``criteria`` are as in `Query`; a parameter that is nothing but terms is in
      ``terms``.
    * ``links`` and ``lists`` (`_list`: of each group of ids, one of the Lists must name the resource) lead to other
      resources, and ``residuals`` to the content (`core.search.residuals.meets`): the caller resolves them under the
      caller's grant.
    * ``order`` and ``includes`` are for the answer.
    * ``applied``: the parameters that count, as they came. ``unknown``: the names of those that do not.
    """

    types: tuple[str, ...]
    keys: tuple[Key, ...] | None = None
    terms: tuple[tuple[str, ...], ...] = ()
    criteria: tuple[Criterion, ...] = ()
    links: tuple[Link, ...] = ()
    residuals: tuple[Residual, ...] = ()
    lists: tuple[tuple[str, ...], ...] = ()
    order: tuple[Order, ...] = ()
    includes: tuple[Include, ...] = ()
    applied: tuple[tuple[str, str], ...] = ()
    unknown: tuple[str, ...] = ()


def parse(types: Sequence[str], pairs: Sequence[tuple[str, str]], *, now: int, values: ValueSets) -> Search:
    """The Search of these types; ``now`` in milliseconds since 1970.

    ``pairs`` are the decoded parameters without those of the answer (`_count`, `_summary` …). Fault BAD_REQUEST.
    """
    parser = _Parser(now, values)
    found = _Found(tuple(types))
    for name, value in pairs:
        if not value.strip():
            raise refused(name, "is empty")
        if parser.is_known(found.types, name):
            parser.take(found, name, value)
            found.applied.append((name, value))
        else:
            found.unknown.append(name)
    return found.search()


class _Found:
    """What has been read so far of one search."""

    def __init__(self, types: tuple[str, ...]) -> None:
        self.types = types
        self.keys: tuple[Key, ...] | None = None
        self.criteria: list[Criterion] = []
        self.links: list[Link] = []
        self.residuals: list[Residual] = []
        self.lists: list[tuple[str, ...]] = []
        self.order: list[Order] = []
        self.includes: list[Include] = []
        self.applied: list[tuple[str, str]] = []
        self.unknown: list[str] = []

    def narrow(self, keys: Sequence[Key]) -> None:
        self.keys = tuple(keys) if self.keys is None else tuple(key for key in self.keys if key in set(keys))

    def search(self) -> Search:
        return Search(
            types=self.types,
            keys=self.keys,
            terms=tuple(each.terms for each in self.criteria if isinstance(each, Has)),
            criteria=tuple(each for each in self.criteria if not isinstance(each, Has)),
            links=tuple(self.links),
            residuals=tuple(self.residuals),
            lists=tuple(self.lists),
            order=tuple(self.order),
            includes=tuple(self.includes),
            applied=tuple(self.applied),
            unknown=tuple(self.unknown),
        )


class _Parser:
    """The rules with their arguments, and how much may still be asked."""

    def __init__(self, now: int, values: ValueSets) -> None:
        self.now = now
        self.sets = values
        self.groups = MAX_GROUPS
        self.ordering = MAX_GROUPS
        self.values = MAX_VALUES
        self.ends = MAX_ENDS
        self.known: dict[tuple[str, str], bool] = {}

    def is_known(self, types: Sequence[str], name: str) -> bool:
        """Whether it is a parameter of these types: of all, of none, or else a Fault."""
        bare = name.partition(":")[0]
        if bare in _ORDERING | UNSUPPORTED | {"_has", "_list"}:
            return True
        code = step_of(types, name).code
        having = sum(code in search_parameters(type_) for type_ in types)
        if 0 < having < len(types):
            raise refused(name, "is not a parameter of every type that is searched")
        return having > 0

    def take(self, found: _Found, name: str, value: str, *, label: str = "", depth: int = 0) -> None:
        """Add one known parameter; ``label`` is what messages call it, where it stands within a chain."""
        label = label or name
        bare, _, modifier = name.partition(":")
        if name.count(".") > MOST_POINTS:
            raise refused(label, f"is a chain of more than {MAX_DEPTH} steps")
        if len(value) > MAX_TEXT:
            raise refused(label, "is too long")
        if name.endswith((":", ".")):
            raise refused(label, "ends where a modifier or parameter should follow")
        if bare in UNSUPPORTED:
            raise refused(label, "is not supported here")
        if not depth:
            self._spend(label, ordering=bare in _ORDERING)
        if bare in _ORDERING:
            self._answer(found, bare, modifier, value)
            return
        step = step_of(found.types, name)
        if bare == "_has":
            found.links.append(self._reverse(found.types, name, value, label, depth))
        elif bare == "_list":
            self._list(found, label, modifier, value)
        elif step.rest:
            found.links.append(self._chain(found.types, name, value, label, depth))
        elif bare == "_id":
            self._ids(found, label, modifier, value)
        elif bare == "_lastUpdated":
            found.criteria.append(self._written(label, modifier, value))
        else:
            self._filter(found, label, bare, modifier, value)

    def _spend(self, label: str, *, values: int = 0, ends: int = 0, ordering: bool = False) -> None:
        """A store compares so much in one question, and no more."""
        self.values -= values
        self.ends -= ends
        if not values and not ends:
            self.groups -= not ordering
            self.ordering -= ordering
        if min(self.values, self.groups, self.ordering) < 0:
            raise refused(label, "asks for too many values at once")
        if self.ends < 0:
            raise refused(label, "leads to too many types: name them, as in subject:Patient.name")

    def _alternatives(self, label: str, value: str) -> list[str]:
        values = alternatives(label, value)
        self._spend(label, values=len(values))
        return values

    # --- what is asked of the resource itself

    def _filter(self, found: _Found, label: str, code: str, modifier: str, value: str) -> None:
        values = self._alternatives(label, value)
        if len(values) * len(found.types) > MAX_WORK:
            raise refused(label, "asks for too many values at once")
        each = [Asked(label, type_, search_parameters(type_)[code], self.now, self.sets) for type_ in found.types]
        asked = criterion(each[0], modifier, values) if len(each) == 1 else _of_all(each, modifier, values)
        if isinstance(asked, AnyOf) and len(asked.of) > MAX_VALUES:
            raise refused(label, "asks for too many values at once")
        residual = _residual(each, modifier, values)
        if residual is not None:
            found.residuals.append(residual)
        if residual is None or not residual.negated:
            found.criteria.append(asked)

    def _ids(self, found: _Found, label: str, modifier: str, value: str) -> None:
        if modifier == "missing" and value in ("true", "false"):
            found.criteria.append(AnyOf(()) if value == "true" else AllOf(()))
            return
        if modifier not in ("", "not"):
            raise refused(label, f"has a modifier that _id does not have: {modifier[:32]}")
        tokens = [split(each, "|") for each in self._alternatives(label, value)]
        if not all(len(parts) <= 2 and any(parts) for parts in tokens):
            raise refused(label, "must be ids")
        ids = dict.fromkeys(unescape("|".join(parts)) for parts in tokens)
        if modifier:
            found.residuals.append(
                Residual("system", "_id", tokens=tuple(Token(None, each) for each in ids), negated=True)
            )
            return
        if len(ids) * len(found.types) > MAX_WORK:
            raise refused(label, "asks for too many values at once")
        # what cannot be an id, such as a token with a system, is none that there is
        found.narrow([Key(type_, each) for type_ in found.types for each in ids if _ID.fullmatch(each)])

    def _list(self, found: _Found, label: str, modifier: str, value: str) -> None:
        ids = [unescape(each).removeprefix("List/") for each in self._alternatives(label, value)]
        if modifier or not all(map(_ID.fullmatch, ids)):
            raise refused(label, "must be the ids of Lists; functional lists are not supported here")
        if len(ids) > MAX_GROUPS:
            raise refused(label, "asks for too many values at once")
        found.lists.append(tuple(dict.fromkeys(ids)))

    def _written(self, label: str, modifier: str, value: str) -> Criterion:
        if modifier == "missing" and value in ("true", "false"):
            return AnyOf(()) if value == "true" else AllOf(())
        if modifier:
            raise refused(label, f"has a modifier that a date parameter does not have: {modifier[:32]}")
        dates = map(prefixed, self._alternatives(label, value))
        return any_of(written(prefix, date_asked(label, text), self.now) for prefix, text in dates)

    # --- what is asked of others

    def _chain(self, types: Sequence[str], name: str, value: str, label: str, depth: int) -> Link:
        step, ends = chained(label, types, name)
        return Link(label, step.code, False, self._ends(ends, step.rest, value, label, depth))

    def _reverse(self, types: Sequence[str], name: str, value: str, label: str, depth: int) -> Link:
        step = reversed_(label, types, name)
        return Link(label, step.code, True, self._ends([step.type], step.rest, value, label, depth))

    def _ends(self, types: Sequence[str], rest: str, value: str, label: str, depth: int) -> tuple[Search, ...]:
        if depth == MAX_DEPTH:
            raise refused(label, f"is a chain of more than {MAX_DEPTH} steps")
        having = [type_ for type_ in types if knows(type_, rest, self.known)]
        if not having:
            raise refused(label, "ends in a parameter that no resource there has")
        self._spend(label, ends=len(having))
        ends: list[Search] = []
        for type_ in having:
            end = _Found((type_,))
            self.take(end, rest, value, label=label, depth=depth + 1)
            ends.append(end.search())
        return tuple(ends)

    # --- what is asked of the answer

    def _answer(self, found: _Found, bare: str, modifier: str, value: str) -> None:
        if bare == "_sort":
            if modifier:
                raise refused(bare, f"has a modifier that it does not have: {modifier[:32]}")
            found.order += orders(found.types, value)
        else:
            if modifier not in ("", "iterate"):
                raise refused(bare, f"has a modifier that it does not have: {modifier[:32]}")
            found.includes += includes(bare, value, iterate=bool(modifier))


def _of_all(each: Sequence[Asked], modifier: str, values: Sequence[str]) -> Criterion:
    """The same of several types; a negation must hold for whichever it is of."""
    criteria = [criterion(asked, modifier, values) for asked in each]
    negated = [one.of for one in criteria if isinstance(one, Not)]
    return Not(any_of(negated)) if len(negated) == len(criteria) else any_of(criteria)


def _residual(each: Sequence[Asked], modifier: str, values: Sequence[str]) -> Residual | None:
    """What of it only the content can tell. R4 gives a code that several types have one meaning."""
    first = each[0]
    parameter: SearchParameter = first.parameter
    code = parameter.code
    if modifier == "text":
        texts = tuple(normalise(unescape(value)) for value in values)
        if not all(texts):
            raise refused(first.label, "has no letter or digit to look for")
        return Residual("text", code, texts=texts)
    if parameter.type == "special" and not modifier:
        return Residual("near", code, places=tuple(place_asked(first, value) for value in values))
    if parameter.type == "composite":
        if not any(composites.needs_content(asked, values) for asked in each):
            return None
        within = [(asked.type, any_of(composites.within(asked, value) for value in values)) for asked in each]
        return Residual("composite", code, within=tuple(within))
    identifier = modifier == "identifier"
    by_code = identifier or (parameter.type == "token" and modifier in ("", "not"))
    if by_code and any(needs_content(asked, modifier, values) for asked in each):
        tokens = tuple(Token(*token_of(first, value)) for value in values)
        return Residual("system", code, tokens=tokens, negated=modifier == "not", identifier=identifier)
    return None

"""The quick pass of validation: says whether a decoded resource is clean, and nothing else.

One dictionary lookup per member leads to a closure or to a memory of values found good before; nothing is
allocated for what is fine. Whatever it does not know to be clean goes to `core.examine`, which decides: the
screen may doubt a good resource, it must never pass a bad one (a property test compares the two).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, NamedTuple

from fhirserver.core.invariants import Rule, concerns, places
from fhirserver.core.lexical import PRIMITIVES, Problem, any_value, uri_problem
from fhirserver.core.references import LOCAL, names_other, target
from fhirserver.core.shapes import (
    ID,
    MAX_DEPTH,
    PRIMITIVE_PARTS,
    RESOURCE,
    Member,
    lacks_concept,
    shape,
    unknown_codes,
)

Locals = list[tuple[str, frozenset[str]]]
"""References to contained resources met so far, with the types they may point to; and ids of elements (`_ELEMENT`)."""

_ELEMENT = frozenset({"the id of an element"})

Check = Callable[[Any, int, Locals], int]
"""(value, depth, locals) -> how many JSON members it holds in all; raises Doubt."""


class Doubt(Exception):
    """Not known to be clean."""


class _Known(dict[str, None]):
    """Good values of one primitive type, judged once; bounded, since values come from outside."""

    LIMIT = 4096
    LONGEST = 96

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.problem = problem

    def __missing__(self, value: Any) -> None:
        if value.__class__ is not str or self.problem(value):
            raise Doubt
        if len(value) <= self.LONGEST:
            if len(self) >= self.LIMIT:
                self.clear()
            self[value] = None


class _Targets(dict[str, str]):
    """reference -> what `references.target` says; bounded."""

    LIMIT = 8192

    def __missing__(self, value: Any) -> str:
        if value.__class__ is not str:
            raise Doubt
        try:
            found = target(value)
        except ValueError:
            raise Doubt from None
        if len(value) <= _Known.LONGEST:
            if len(self) >= self.LIMIT:
                self.clear()
            self[value] = found
        return found


_TARGETS = _Targets()


class _Members(dict[str, Any]):
    """Member name -> `_Known` or `Check` for one type, each made when first met; an unknown name is a Doubt."""

    def __init__(self, type_: str, special: Mapping[str, Any]) -> None:
        super().__init__()
        self.shape = shape(type_)
        self.special = special

    def __missing__(self, name: str) -> Any:
        made = self._make(name)
        self[name] = made
        return made

    def _make(self, name: str) -> Any:
        member = self.shape.members.get(name)
        if name in self.special:
            return self.special[name]
        if member is not None:
            check = _member_check(member)
            return _identifying(check) if name == ID and self.shape.identified else check
        if name == "resourceType" and self.shape.resource:
            return _only(frozenset((self.shape.type,)))
        sibling = self.shape.members.get(name[1:]) if name.startswith("_") else None
        if sibling is None or sibling.bare or sibling.many:
            raise Doubt
        return _object_check(PRIMITIVE_PARTS)


def _only(values: frozenset[str]) -> _Known:
    known = _Known(lambda value: "" if value in values else "is not one of the allowed values")
    known.update(dict.fromkeys(values))
    return known


@cache
def _value_check(type_: str, codes: frozenset[str]) -> Any:
    """What judges one value of a primitive type: a memory, or a closure where values hardly repeat."""
    if codes:
        return _only(codes)
    primitive = PRIMITIVES[type_]
    if primitive.repeats:
        return _Known(primitive.problem)
    kinds, problem = frozenset(primitive.kinds), primitive.problem

    def check_kind(value: Any, _depth: int, _locals: Locals) -> int:
        if value.__class__ not in kinds:
            raise Doubt
        return 0

    def check(value: Any, _depth: int, _locals: Locals) -> int:
        if value.__class__ not in kinds or problem(value):
            raise Doubt
        return 0

    return check_kind if problem is any_value else check


def _member_check(member: Member) -> Any:
    if member.primitive is not None:
        one = _value_check(member.type, member.codes)
    elif member.type == RESOURCE:
        one = _contained if member.name == "contained" else _resource
    elif member.type == "Reference":
        one = _reference_check(member.targets)
    elif member.concepts or member.closed:
        one = _coded_check(member)
    else:
        one = _object_check(member.type)
    return _many_check(one, member.minimum, member.maximum) if member.many else one


def _many_check(one: Any, minimum: int, maximum: int) -> Check:
    fewest, most = max(minimum, 1), maximum or 1 << 62

    def check_values(values: Any, _depth: int, _locals: Locals) -> int:
        if values.__class__ is not list or not fewest <= len(values) <= most:
            raise Doubt
        for value in values:
            one[value]
        return 0

    def check_objects(values: Any, depth: int, locals_: Locals) -> int:
        if values.__class__ is not list or not fewest <= len(values) <= most:
            raise Doubt
        if len(values) == 1:
            return one(values[0], depth, locals_)  # type: ignore[no-any-return]  # a Check: the other kind is below
        count = 0
        for value in values:
            count += one(value, depth, locals_)
        return count

    return check_values if one.__class__ is _Known else check_objects


@cache
def _reference_check(targets: frozenset[str]) -> Check:
    def check(value: Any, _depth: int, locals_: Locals) -> int:
        found = _TARGETS[value]
        if found and found not in targets:
            if found != LOCAL:
                if targets:
                    raise Doubt
            else:
                locals_.append((value, targets))
        return 0

    def problem(type_: str) -> str:
        return uri_problem(type_) or ("is not allowed here" if names_other(type_, targets) else "")

    return _checked("Reference", {"reference": check, "type": _Known(problem)})


def _identifying(known: _Known) -> Check:
    def check(value: Any, _depth: int, locals_: Locals) -> int:
        known[value]
        locals_.append((value, _ELEMENT))
        return 0

    return check


def _coded_check(member: Member) -> Check:
    value_check = _object_check(member.type)

    def check(value: Any, depth: int, locals_: Locals) -> int:
        count = value_check(value, depth, locals_)
        if (member.concepts and lacks_concept(value, member.concepts)) or (member.closed and unknown_codes(value)):
            raise Doubt
        return count

    return check


class _Plan(NamedTuple):
    """What is left to ask of an object whose members have names that may stand together.

    ``checks``: one per member, in order. ``rules``: those over values that these members bring into play. ``simple``:
    all members are texts that repeat and there is no rule, as in a Coding or a Reference.
    """

    checks: tuple[Any, ...]
    rules: tuple[Rule, ...]
    simple: bool


class _Seen(dict[tuple[str, ...], tuple[Any, ...]]):
    """The values of simple objects found good that name nothing contained -> the checks they passed; bounded."""

    LIMIT = 16_384
    LONGEST = 192

    def add(self, values: tuple[str, ...], checks: tuple[Any, ...]) -> None:
        if sum(map(len, values)) <= self.LONGEST:
            if len(self) >= self.LIMIT:
                self.clear()
            self[values] = checks


_SEEN = _Seen()


class _Plans(dict[tuple[str, ...], _Plan]):
    """The names of an object's members, in order, -> its plan; only for names that break nothing.

    Objects of one type come in few such forms, so what the names alone decide (which members there are, what is
    required, which choice is taken, most invariants) is decided once per form. Bounded.
    """

    LIMIT = 1024

    def __init__(self, type_: str, special: Mapping[str, Any]) -> None:
        super().__init__()
        self.members = _Members(type_, special)

    def __missing__(self, names: tuple[str, ...]) -> _Plan:
        this = self.members.shape
        there = dict.fromkeys(names)
        if not names or (names == ("id",) and not this.resource):
            raise Doubt
        if any(members.isdisjoint(there) for members in this.required.values()):
            raise Doubt
        taken = [this.choices[name] for name in names if name in this.choices]
        if len(taken) != len(set(taken)):
            raise Doubt
        if any(places(rule, there) for rule in this.rules if rule.by_names):
            raise Doubt
        rules = [each for each in this.rules if not each.by_names and concerns(each, there)]
        checks = tuple(self.members[name] for name in names)
        special = self.members.special.get("reference")
        simple = not rules and all(each.__class__ is _Known or each is special for each in checks)
        plan = _Plan(checks, tuple(rules), simple)
        if len(self) >= self.LIMIT:
            self.clear()
        self[names] = plan
        return plan


@cache
def _object_check(type_: str) -> Check:
    return _checked(type_, {})


def _checked(type_: str, special: Mapping[str, Any]) -> Check:
    """The check of an object; ``special`` holds those of its members that depend on where it stands."""
    plans = _Plans(type_, special)
    passed = _SEEN.get

    def check(value: Any, depth: int, locals_: Locals) -> int:
        if value.__class__ is not dict or depth > MAX_DEPTH:
            raise Doubt
        depth += 1
        checks, rules, simple = plans[tuple(value)]
        count = len(checks)
        values: Any = value.values()
        if simple:
            values = tuple(values)
            if passed(values) is checks:
                return count
        met = len(locals_)
        for known, inner in zip(checks, values):  # noqa: B905  # of equal length, and asking costs
            if known.__class__ is _Known:
                known[inner]
            else:
                count += known(inner, depth, locals_)
        for rule in rules:
            if rule.broken(value):
                raise Doubt
        if simple and len(locals_) == met:
            _SEEN.add(values, checks)
        return count

    return check


def _contained(value: Any, depth: int, locals_: Locals) -> int:
    if value.__class__ is not dict or "contained" in value or "id" not in value:
        raise Doubt
    meta = value.get("meta")
    if meta is not None and ("versionId" in meta or "lastUpdated" in meta or "security" in meta):
        raise Doubt
    return _checker(value)(value, depth, locals_)


def _resource(value: Any, depth: int, _locals: Locals) -> int:
    if value.__class__ is not dict:
        raise Doubt
    inside: Locals = []
    count = _checker(value)(value, depth, inside)
    if inside or "contained" in value:
        _resolve(value, inside)
    return count


def _checker(resource: dict[str, Any]) -> Check:
    try:
        return _resource_check(resource["resourceType"])
    except (KeyError, TypeError):
        raise Doubt from None


@cache
def _resource_check(type_: str) -> Check:
    if not shape(type_).resource:
        raise KeyError(type_)
    return _object_check(type_)


def _resolve(resource: dict[str, Any], inside: Locals) -> None:
    """ref-1 and dom-3: every local reference has its resource, and every contained resource its reference; and no two
    elements have one id."""
    contained = resource.get("contained", ())
    types = {each["id"]: each["resourceType"] for each in contained}
    if len(types) != len(contained):
        raise Doubt
    named, ids = set(), set()
    for reference, targets in inside:
        if targets is _ELEMENT:
            if reference in ids:
                raise Doubt
            ids.add(reference)
        elif reference != LOCAL:
            found = types.get(reference[1:])
            if found is None or (targets and found not in targets):
                raise Doubt
            named.add(reference[1:])
    if len(named) != len(types):
        raise Doubt


def count_members(resource: Any) -> int:
    """How many JSON members a clean resource has in all its objects; 0 when it is not known to be clean."""
    try:
        return _resource(resource, 1, [])
    except (Doubt, TypeError, RecursionError):
        return 0

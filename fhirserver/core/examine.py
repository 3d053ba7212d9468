"""The thorough pass of validation: every issue of a decoded resource, with its path.

It interprets the same shapes, primitive rules and invariants that the quick pass (`core.screen`) is made of.
Messages name paths and codes, never the values of text, names, dates or references.
"""

from __future__ import annotations

import re
from typing import Any

from fhirserver.core import definitions
from fhirserver.core.errors import Issue
from fhirserver.core.invariants import places, said
from fhirserver.core.references import LOCAL, names_other, target
from fhirserver.core.shapes import (
    ID,
    MAX_DEPTH,
    PRIMITIVE_PARTS,
    RESOURCE,
    Member,
    Shape,
    lacks_concept,
    shape,
    unknown_codes,
)

MAX_ISSUES = 1000
"""After so many a last issue says that there are more: a hostile input must not make an answer of gigabytes."""

Json = dict[str, Any]

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,39}").fullmatch
_CODE_LIKE = re.compile(r"[A-Za-z\-]{1,40}").fullmatch
"""Letters only: a record number or a date that strayed into a code is not repeated."""
_ABSENT = object()


class _Enough(Exception):
    """`MAX_ISSUES` are found."""


class _Scope:
    """One resource with its contained ones: where local references resolve."""

    def __init__(self) -> None:
        self.references: list[tuple[str, frozenset[str], str]] = []


def examine(resource: Any, *, advise: bool = False) -> list[Issue]:
    """All issues of a decoded JSON value that should be a resource; empty when it is valid.

    With ``advise`` also what the specification only warns of, as issues of severity warning.
    """
    examiner = _Examiner(advise)
    try:
        examiner.resource(resource, "", 1)
    except _Enough:
        examiner.issues.append(Issue("too-costly", f"there are more than {MAX_ISSUES} issues; the rest is not listed"))
    return examiner.issues


class _Examiner:
    def __init__(self, advise: bool) -> None:
        self.issues: list[Issue] = []
        self.advise = advise
        self.ids: set[str] = set()
        """Those of the elements met so far in the resource at hand."""

    def report(self, code: str, path: str, text: str, severity: str = "error") -> None:
        if len(self.issues) >= MAX_ISSUES:
            raise _Enough
        self.issues.append(Issue(code, text, path, severity))

    # -- resources

    def resource(self, value: Any, path: str, depth: int, scope: _Scope | None = None) -> None:
        """``path`` is empty for the outermost resource, ``scope`` the container's for a contained one."""
        if not isinstance(value, dict):
            self.report("structure", path, "must be a JSON object with a resourceType")
            return
        type_ = value.get("resourceType")
        if not isinstance(type_, str) or type_ not in definitions.RESOURCE_TYPES:
            code, what = ("required", "is required") if type_ is None else ("value", "is not an R4 resource type")
            if "resourceType" in value and type_ is None:
                code, what = "structure", "must be a string"
            self.report(code, f"{path}.resourceType" if path else "", f"resourceType{_quoted(type_)} {what}")
            return
        own = _Scope() if scope is None else scope
        around, self.ids = self.ids, set()
        self.object(shape(type_), value, path or type_, depth, own)
        self.ids = around
        if scope is None and (own.references or "contained" in value):
            self._containment(value, path or type_, own)
        if (
            self.advise
            and scope is None
            and "text" not in value
            and {"text", "contained"} <= shape(type_).members.keys()
        ):
            self.report("invariant", path or type_, "dom-6: it should have a narrative", "warning")

    def _contained(self, value: Any, path: str, depth: int, scope: _Scope) -> None:
        if isinstance(value, dict):
            if "contained" in value:
                self.report("invariant", f"{path}.contained", "dom-2: a contained resource must not contain another")
            meta = value.get("meta")
            for name in ("versionId", "lastUpdated", "security"):
                if isinstance(meta, dict) and name in meta:
                    key = "dom-5" if name == "security" else "dom-4"
                    self.report("invariant", f"{path}.meta.{name}", f"{key}: a contained resource must not have it")
        self.resource(value, path, depth, scope)

    def _containment(self, resource: Json, path: str, scope: _Scope) -> None:
        contained = resource.get("contained")
        contained = contained if isinstance(contained, list) else []
        types: dict[str, str] = {}
        named = _local_names(resource)
        for at, each in enumerate(contained):
            if not isinstance(each, dict):
                continue
            place, id_ = f"{path}.contained[{at}]", each.get("id")
            if isinstance(id_, str):
                if id_ in types:
                    self.report("invariant", f"{place}.id", "another contained resource has the same id")
                type_ = each.get("resourceType")
                types[id_] = type_ if isinstance(type_, str) and type_ in definitions.RESOURCE_TYPES else ""
            if f"{LOCAL}{id_}" not in named and LOCAL not in _local_names(each):
                self.report("invariant", place, "dom-3: nothing refers to this contained resource")
        for text, targets, place in scope.references:
            if text == LOCAL:
                continue
            if text[1:] not in types:
                self.report("invariant", place, "ref-1: no contained resource has this id")
            elif targets and (found := types[text[1:]]) and found not in targets:
                self.report("structure", place, f"must refer to {_listed(targets)}, not to {found}")

    # -- objects

    def object(self, this: Shape, value: Any, path: str, depth: int, scope: _Scope) -> None:
        if not isinstance(value, dict):
            self.report("structure", path, f"must be a JSON object, not {_kind(value)}")
            return
        if depth > MAX_DEPTH:
            self.report("structure", path, f"is nested more than {MAX_DEPTH} elements deep")
            return
        if not value:
            self.report("structure", path, "must not be empty")
            return
        if not this.resource and this.type != PRIMITIVE_PARTS and set(value) == {"id"}:
            self.report("invariant", path, "ele-1: has nothing but an id")
        if ID in value and this.identified:
            self._identified(value[ID], path)
        for name in value:
            self._member(this, value, name, path, depth, scope)
        for name, members in this.required.items():
            if members.isdisjoint(value):
                self.report("required", f"{path}.{name}", "is required")
        if this.choices:
            self._choices(this, value, path)
        for rule in this.rules:
            for place in places(rule, value):
                self.report("invariant", f"{path}.{place}" if place else path, said(this.type, rule))
        for rule in this.advice if self.advise else ():
            for place in places(rule, value):
                self.report("invariant", f"{path}.{place}" if place else path, said(this.type, rule), "warning")

    def _identified(self, id_: Any, path: str) -> None:
        if isinstance(id_, str):
            if id_ in self.ids:
                self.report("invariant", f"{path}.id", "element-id: another element of the resource has the same id")
            self.ids.add(id_)

    def _choices(self, this: Shape, value: Json, path: str) -> None:
        found: dict[str, list[str]] = {}
        for name in value:
            group = this.choices.get(name)
            if group is not None and name.removeprefix("_") not in found.setdefault(group, []):
                found[group].append(name.removeprefix("_"))
        for group, names in found.items():
            if len(names) > 1:
                self.report("structure", f"{path}.{group}", f"only one of {', '.join(names)} may be present")

    def _member(self, this: Shape, owner: Json, name: str, path: str, depth: int, scope: _Scope) -> None:
        value = owner[name]
        member = this.members.get(name)
        if member is not None:
            place = f"{path}.{name}"
            if member.primitive is not None:
                sibling = _ABSENT if member.bare else owner.get("_" + name, _ABSENT)
                self._primitive(member, value, sibling, place, depth, scope)
            elif member.many:
                self._many(member, value, place, depth, scope)
            elif isinstance(value, list):
                self.report("structure", place, "must be a single value, not an array")
            else:
                self._one(member, value, place, depth, scope)
        elif name == "resourceType" and this.resource:
            return
        else:
            sibling_of = this.members.get(name[1:]) if name.startswith("_") else None
            if sibling_of is None or sibling_of.bare:
                self._unknown(this, name, path)
            elif sibling_of.json not in owner:
                self._primitive(sibling_of, _ABSENT, value, f"{path}.{sibling_of.json}", depth, scope)

    def _unknown(self, this: Shape, name: str, path: str) -> None:
        if not _NAME(name):
            self.report("structure", path, f"has an unknown member{_quoted(name)}")
            return
        typed = [each.json for each in this.members.values() if each.name == name.removeprefix("_")]
        if typed and typed != [name.removeprefix("_")]:
            hint = f"; write it with its type, such as {typed[0]}"
        elif name == "fhir_comments":
            hint = "; R4 has no comments in JSON"
        else:
            hint = ""
        self.report("structure", f"{path}.{name.removeprefix('_')}", f"{this.type} has no member {name}{hint}")

    def _many(self, member: Member, value: Any, path: str, depth: int, scope: _Scope) -> None:
        if self._is_array(member, value, path):
            for at, each in enumerate(value):
                self._one(member, each, f"{path}[{at}]", depth, scope)

    def _is_array(self, member: Member, value: Any, path: str) -> bool:
        if not isinstance(value, list):
            self.report("structure", path, f"must be a JSON array, not {_kind(value)}")
            return False
        if not value:
            self.report("structure", path, "must not be an empty array; leave the member out")
            return False
        if member.maximum and len(value) > member.maximum:
            self.report("structure", path, f"may have at most {member.maximum} entries")
        if len(value) < member.minimum:
            self.report("required", path, f"must have at least {member.minimum} entries")
        return True

    def _one(self, member: Member, value: Any, path: str, depth: int, scope: _Scope) -> None:
        if value is None:
            self.report("structure", path, "must not be null; leave it out")
            return
        if member.type == RESOURCE:
            if member.name == "contained":
                self._contained(value, path, depth + 1, scope)
                return
            self.resource(value, path, depth + 1)
            return
        self.object(shape(member.type), value, path, depth + 1, scope)
        if not isinstance(value, dict):
            return
        if member.type == "Reference":
            self._reference(member, value, path, scope)
        elif member.concepts and lacks_concept(value, member.concepts):
            self.report("code-invalid", path, f"needs a code of {member.binding}")
        elif member.closed:
            for place in unknown_codes(value):
                self.report("code-invalid", f"{path}.{place}", "the code system, which is FHIR's own, has no such code")

    def _reference(self, member: Member, value: Json, path: str, scope: _Scope) -> None:
        type_ = value.get("type")
        if isinstance(type_, str) and names_other(type_, member.targets):
            self.report("structure", f"{path}.type", f"must be {_listed(member.targets)}, not {type_}")
        text = value.get("reference")
        if not isinstance(text, str) or not text:
            return
        place = f"{path}.reference"
        try:
            found = target(text)
        except ValueError as error:
            self.report("value", place, str(error))
            return
        if found == LOCAL:
            scope.references.append((text, member.targets, place))
        elif found and member.targets and found not in member.targets:
            self.report("structure", place, f"must refer to {_listed(member.targets)}, not to {found}")

    # -- primitives

    def _primitive(self, member: Member, value: Any, sibling: Any, path: str, depth: int, scope: _Scope) -> None:
        if not member.many:
            if isinstance(value, list) or isinstance(sibling, list):
                self.report("structure", path, "must be a single value, not an array")
                return
            self._pair(member, value, sibling, path, depth, scope)
            return
        if value is not _ABSENT and not self._is_array(member, value, path):
            return
        if sibling is not _ABSENT and not self._is_array(member, sibling, path):
            return
        if value is not _ABSENT and sibling is not _ABSENT and len(value) != len(sibling):
            self.report("structure", path, f"{member.json} and _{member.json} must have the same number of entries")
        values = value if isinstance(value, list) else []
        siblings = sibling if isinstance(sibling, list) else []
        for at in range(max(len(values), len(siblings))):
            own = values[at] if at < len(values) and values[at] is not None else _ABSENT
            more = siblings[at] if at < len(siblings) and siblings[at] is not None else _ABSENT
            if own is _ABSENT and more is _ABSENT:
                self.report("structure", f"{path}[{at}]", "must not be null without an extension")
            else:
                self._pair(member, own, more, f"{path}[{at}]", depth, scope)

    def _pair(self, member: Member, value: Any, sibling: Any, path: str, depth: int, scope: _Scope) -> None:
        if value is not _ABSENT:
            self._value(member, value, path)
        if sibling is _ABSENT:
            return
        if sibling is None:
            self.report("structure", path, f"_{member.json} must not be null; leave it out")
            return
        if value is _ABSENT and isinstance(sibling, dict) and set(sibling) == {"id"}:
            self.report("invariant", path, "ele-1: has neither a value nor an extension")
        self.object(shape(PRIMITIVE_PARTS), sibling, path, depth + 1, scope)

    def _value(self, member: Member, value: Any, path: str) -> None:
        primitive = member.primitive
        if primitive is None:
            return
        if value is None:
            self.report("structure", path, "must not be null; leave it out")
            return
        if type(value) not in primitive.kinds:
            self.report("structure", path, f"must be {primitive.said}, not {_kind(value)}")
            return
        if problem := primitive.problem(value):
            self.report("value", path, f"{problem} ({member.type})")
            return
        if member.codes and value not in member.codes:
            self.report("code-invalid", path, f"the code{_quoted(value)} is not in {member.binding}")


def _local_names(value: Any) -> set[str]:
    """Every string in a JSON tree that begins with ``#``: what dom-3 accepts as naming a contained resource."""
    found: set[str] = set()
    pending = [value]
    while pending:
        each = pending.pop()
        if isinstance(each, dict):
            pending.extend(each.values())
        elif isinstance(each, list):
            pending.extend(each)
        elif isinstance(each, str) and each.startswith(LOCAL):
            found.add(each)
    return found


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true or false"
    names: dict[type, str] = {
        dict: "an object",
        list: "an array",
        str: "a string",
        int: "a number",
        float: "a number with a fraction, an exponent or very many digits",
    }
    return names[type(value)]


def _quoted(value: Any) -> str:
    return f" '{value}'" if isinstance(value, str) and _CODE_LIKE(value) else ""


def _listed(targets: frozenset[str]) -> str:
    return " or ".join(sorted(targets))

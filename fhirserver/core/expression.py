"""Compiles the search parameters' FHIRPath into JSON paths with the type found at the end of each.

The R4 search expressions use a small part of FHIRPath: member names, unions, ``as``/``as()``/``ofType()``,
``where(x = 'y')``, ``where(resolve() is T)``, ``extension('url')``, an index, ``%resource`` and, once, ``x.exists() and
x != false``. All of it is compiled here, when the tables are made and, for parameters that users define, when the
server starts; anything else raises ValueError, so that no parameter is ever left out silently. A choice element becomes
one path per type, by the ``[x]`` of the StructureDefinition (`valueQuantity`), so at run time nothing guesses a type
from a name or from the JSON.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

_TOKEN = re.compile(r"\s*(?:(?P<name>%?[A-Za-z_]\w*)|'(?P<text>[^']*)'|(?P<number>\d+)|(?P<sign>!=|[.()|=\[\]]))")
_NOT_FALSE = re.compile(r"(?P<path>[\w.]+)\.exists\(\) and (?P=path) != false")
_DEPTH = 30
_MOST = 2000
"""So many nodes at most while an expression is followed: an extension's value has fifty types, and they extensions."""

Fields = Mapping[str, Mapping[str, tuple[str, ...]]]
"""type -> element name (with ``[x]``) -> types; the type of a backbone element is its path."""
Step = str | tuple[str, str, str]


class Found(NamedTuple):
    """Nodes that an expression selects: JSON path, FHIR type, and the type a reference must have to count.

    A step is a JSON name, or (name, field, text) for those items whose ``field`` has that text, or
    (name, "#", n) for the nth item.
    """

    steps: tuple[Step, ...]
    type: str
    target: str = ""

    @property
    def path(self) -> str:
        """``steps:type`` with ``(target)`` for references that count only when they point at that type.

        A step is a JSON name, ``name[field=text]``, or ``name[n]`` for the nth item; an empty first step is the
        resource.
        """
        steps = ".".join(step if isinstance(step, str) else _filter(step) for step in self.steps)
        return f"{steps}:{self.type}" + (f"({self.target})" if self.target else "")


def _filter(step: tuple[str, str, str]) -> str:
    name, field, text = step
    return f"{name}[{text}]" if field == "#" else f"{name}[{field}={text}]"


def is_existence(expression: str) -> bool:
    """Whether it is of the form ``x.exists() and x != false`` (Patient `deceased`): true or false, never absent."""
    return _NOT_FALSE.fullmatch(expression) is not None


def compile_expression(expression: str, fields: Fields, *, root: str, context: Found | None = None) -> list[Found]:
    """What ``expression`` selects in a resource of type ``root``, in the expression's order.

    Alternatives that begin with another resource type select nothing. With ``context`` (components of a composite),
    names are relative to that node, and a path from ``%resource`` has the empty name as its first step.
    """
    existence = _NOT_FALSE.fullmatch(expression)
    parser = _Parser(existence["path"] if existence else expression, fields, root, context)
    return list(dict.fromkeys(parser.whole()))


def compile_paths(expression: str, base: str, fields: Fields) -> tuple[str, ...]:
    """The compiled paths, as written, that ``expression`` selects in resources of type ``base``."""
    return tuple(found.path for found in _select(expression, base, fields))


def compile_contexts(
    expression: str, components: Iterable[str], base: str, fields: Fields
) -> tuple[tuple[str, tuple[tuple[str, ...], ...]], ...]:
    """Of a composite: each node in which its components are looked for, with each component's paths below it."""
    expressions = tuple(components)
    return tuple(
        (
            context.path,
            tuple(
                tuple(found.path for found in compile_expression(each, fields, root=base, context=context))
                for each in expressions
            ),
        )
        for context in _select(expression, base, fields)
    )


def _select(expression: str, base: str, fields: Fields) -> list[Found]:
    found = compile_expression(expression, fields, root=base)
    if not found:
        raise ValueError(f"{expression!r} selects nothing in {base}")
    return found


class _Parser:
    def __init__(self, expression: str, fields: Fields, root: str, context: Found | None) -> None:
        self.expression = expression
        self.fields = fields
        self.root = root
        self.context = context
        self.tokens = list(self._scan())
        self.at = 0
        self.depth = 0

    def _scan(self) -> Iterator[str]:
        at, end = 0, len(self.expression.rstrip())
        while at < end:
            match = _TOKEN.match(self.expression, at)
            if match is None:
                raise self._error()
            at = match.end()
            yield f"'{match['text']}" if match["text"] is not None else match[0].strip()

    def _error(self) -> ValueError:
        return ValueError(f"not understood: {self.expression!r} of {self.root}")

    def _peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def _next(self, expected: str = "") -> str:
        token = self._peek()
        if not token or (expected and token != expected):
            raise self._error()
        self.at += 1
        return token

    def whole(self) -> list[Found]:
        found = self._union()
        if self._peek():
            raise self._error()
        return found

    def _union(self) -> list[Found]:
        found = self._typed()
        while self._peek() == "|":
            self._next()
            found += self._typed()
        return found

    def _typed(self) -> list[Found]:
        found = self._path()
        if self._peek() == "as":
            self._next()
            found = self._of_type(found, self._next())
        return found

    def _path(self) -> list[Found]:
        if self._peek() == "(":
            self._next()
            self.depth += 1
            if self.depth > _DEPTH:
                raise self._error()
            found = self._union()
            self.depth -= 1
            self._next(")")
        else:
            found = self._first(self._next())
        while self._peek() in (".", "["):
            if self._next() == ".":
                found = self._invocation(found, self._next())
            else:
                number = self._next()
                self._next("]")
                found = [self._filtered(node, "#", number) for node in found]
        return found

    def _first(self, name: str) -> list[Found]:
        if self.context is not None:
            if name == "%resource":
                return [Found(("",), self.root)]
            return self._member([Found((), self.context.type)], name)
        if name in (self.root, "Resource", "DomainResource"):
            return [Found((), self.root)]
        if name[:1].isupper():
            return []
        return self._member([Found((), self.root)], name)  # one official expression begins below the root

    def _invocation(self, found: list[Found], name: str) -> list[Found]:
        if self._peek() != "(":
            return self._member(found, name)
        self._next("(")
        if name in ("as", "ofType"):
            found = self._of_type(found, self._next())
        elif name == "where":
            found = self._where(found)
        elif name == "extension":
            url = self._text()
            found = [self._filtered(node, "url", url) for node in self._member(found, name)]
        else:
            raise self._error()
        self._next(")")
        return found

    def _where(self, found: list[Found]) -> list[Found]:
        name = self._next()
        if name == "resolve":
            self._next("(")
            self._next(")")
            self._next("is")
            target = self._next()
            return [node._replace(target=target) for node in found if node.type in ("Reference", "canonical")]
        self._next("=")
        text = self._text()
        for node in found:
            if name not in self.fields.get(node.type, {}):
                raise self._error()
        return [self._filtered(node, name, text) for node in found]

    def _text(self) -> str:
        """A string literal; without a bracket, because a compiled path could not hold it."""
        text = self._next()
        if not text.startswith("'") or "]" in text:
            raise self._error()
        return text[1:]

    def _filtered(self, node: Found, field: str, text: str) -> Found:
        if not node.steps or not isinstance(node.steps[-1], str):
            raise self._error()
        return node._replace(steps=(*node.steps[:-1], (node.steps[-1], field, text)))

    def _of_type(self, found: list[Found], type_: str) -> list[Found]:
        """Type names are compared without case: one official expression writes ``as(DateTime)``."""
        return [node for node in found if node.type.lower() == type_.lower()]

    def _member(self, found: list[Found], name: str) -> list[Found]:
        selected = []
        for node in found:
            members = self.fields.get(node.type, {})
            if name in members:
                selected += [Found((*node.steps, name), type_) for type_ in members[name]]
            elif f"{name}[x]" in members:
                selected += [
                    Found((*node.steps, name + type_[0].upper() + type_[1:]), type_) for type_ in members[f"{name}[x]"]
                ]
        if (found and not selected) or len(selected) > _MOST:
            raise self._error()
        return selected

"""The part of FHIRPath that names elements: paths, indices, filters, types; text into an expression.

Source: http://hl7.org/fhirpath/N1 (the normative release that R4 names) and R4 fhirpath.html. Left out is what makes
values rather than finds elements (arithmetic, conversion, unions, regular expressions) and the variables, so the work
for a path stays in proportion to the resource. `core.locate` evaluates it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from decimal import Decimal
from typing import NamedTuple, TypeAlias

MAX_LENGTH = 4_096
"""Characters of a path."""

_MAX_DEPTH = 40


class PathError(ValueError):
    """The text is no path that this server understands; the message quotes no literals."""


class Moment(NamedTuple):
    """A date, dateTime, instant or time (led by ``T``), as its text."""

    text: str


Scalar: TypeAlias = bool | str | int | Decimal | Moment


class Literal(NamedTuple):
    """A value written in the path; None for ``{}``."""

    value: Scalar | None


class Child(NamedTuple):
    """The elements of this name, or a type's name at the beginning of a path."""

    name: str


class Index(NamedTuple):
    """``[n]``: the nth item."""

    at: int


class Call(NamedTuple):
    """A function; ``type`` is the argument of `ofType`, `is` and `as`."""

    name: str
    arguments: tuple[Expression, ...] = ()
    type: str = ""


class Chain(NamedTuple):
    """Steps, each from what the one before gave; ``start`` None: from the context."""

    start: Expression | None
    steps: tuple[Child | Index | Call, ...]


class Operator(NamedTuple):
    """Two expressions joined by a sign or word."""

    sign: str
    left: Expression
    right: Expression


Expression: TypeAlias = Literal | Chain | Operator

FUNCTIONS: dict[str, tuple[int, int]] = {
    "where": (1, 1),
    "exists": (0, 1),
    "all": (1, 1),
    "empty": (0, 0),
    "not": (0, 0),
    "count": (0, 0),
    "hasValue": (0, 0),
    "first": (0, 0),
    "last": (0, 0),
    "tail": (0, 0),
    "single": (0, 0),
    "skip": (1, 1),
    "take": (1, 1),
    "extension": (1, 1),
    "resolve": (0, 0),
    "startsWith": (1, 1),
    "endsWith": (1, 1),
    "contains": (1, 1),
}
"""name -> fewest and most arguments."""
TYPED = frozenset({"ofType", "is", "as"})
"""Functions of one type."""

_LEVELS: tuple[tuple[str, ...], ...] = (
    ("implies",),
    ("or", "xor"),
    ("and",),
    ("in", "contains"),
    ("=", "!=", "~", "!~"),
    ("<=", "<", ">=", ">"),
)
"""What joins expressions, the loosest first."""

_TOKEN = re.compile(
    r"""\s*(?:
      (?P<string>'(?:[^'\\]|\\.)*')
    | (?P<quoted>`(?:[^`\\]|\\.)*`)
    | (?P<moment>@(?:T[0-9:.]+|[0-9]{4}[0-9-]*(?:T[0-9:.]*(?:Z|[+-][0-9]{2}:[0-9]{2})?)?))
    | (?P<number>[0-9]+(?:\.[0-9]+)?)
    | (?P<word>[$%]?[A-Za-z_][A-Za-z0-9_]*)
    | (?P<sign><=|>=|!=|!~|[=~<>.,()\[\]{}+-])
    )""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(u[0-9A-Fa-f]{4}|.)", re.DOTALL)
_PLAIN = {"'": "'", '"': '"', "`": "`", "r": "\r", "n": "\n", "t": "\t", "f": "\f", "\\": "\\", "/": "/"}
_END = ("end", "")


def parse(text: str) -> Expression:
    """The expression that ``text`` writes; PathError where it is none, or uses what is left out."""
    if len(text) > MAX_LENGTH:
        raise PathError(f"is longer than {MAX_LENGTH} characters")
    parser = _Parser(_tokens(text))
    found = parser.expression()
    if parser.kind != "end":
        raise PathError(f"cannot be read from its part {parser.at + 1} on")
    return found


def _tokens(text: str) -> list[tuple[str, str]]:
    tokens: list[tuple[str, str]] = []
    at, end = 0, len(text.rstrip())
    while at < end:
        match = _TOKEN.match(text, at)
        if match is None or match.lastgroup is None:
            raise PathError(f"cannot be read from character {at + 1} on")
        at = match.end()
        tokens.append((match.lastgroup, match[match.lastgroup]))
    return [*tokens, _END]


class _Parser:
    def __init__(self, tokens: list[tuple[str, str]]) -> None:
        self._tokens = tokens
        self.at = 0
        self._depth = 0

    @property
    def kind(self) -> str:
        return self._tokens[self.at][0]

    def _is(self, *texts: str) -> bool:
        kind, text = self._tokens[self.at]
        return kind in ("sign", "word") and text in texts

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self.at]
        self.at += token is not _END
        return token

    def _expect(self, sign: str) -> None:
        if not self._is(sign):
            raise PathError(f"lacks {sign} after its part {self.at}")
        self.at += 1

    def expression(self, level: int = 0) -> Expression:
        if level == len(_LEVELS):
            return self._typed()
        self._depth += level == 0
        if self._depth > _MAX_DEPTH:
            raise PathError("is nested too deeply")
        left = self.expression(level + 1)
        while self._is(*_LEVELS[level]):
            sign = self._next()[1]
            left = Operator(sign, left, self.expression(level + 1))
        self._depth -= level == 0
        return left

    def _typed(self) -> Expression:
        """An operand with what may follow it: ``is Type``, ``as Type``."""
        left = self._operand()
        while self._is("is", "as"):
            name = self._next()[1]
            left = Chain(left, (Call(name, type=self._type()),))
        return left

    def _operand(self) -> Expression:
        start: Expression | None = None
        steps: list[Child | Index | Call] = []
        kind, text = self._next()
        if kind == "sign" and text == "(":
            start = self.expression()
            self._expect(")")
        elif kind == "sign" and text in "+-" and self.kind == "number":
            start = Literal(_number(self._next()[1]) * (-1 if text == "-" else 1))
        elif kind == "sign" and text == "{":
            self._expect("}")
            start = Literal(None)
        elif kind in _LITERALS:
            start = Literal(_LITERALS[kind](text))
        elif kind == "word" and text in ("true", "false"):
            start = Literal(text == "true")
        elif kind == "word" and text[0] in "$%":
            if text != "$this":
                raise PathError(f"uses {text}, which this server does not know in a path")
        elif kind in ("word", "quoted"):
            steps.append(self._step(kind, text))
        else:
            raise PathError("ends too early" if kind == "end" else f"cannot be read at its part {self.at}")
        while self._is(".", "["):
            if self._next()[1] == ".":
                steps.append(self._step(*self._next()))
            else:
                steps.append(self._index())
        return start if start is not None and not steps else Chain(start, tuple(steps))

    def _step(self, kind: str, text: str) -> Child | Call:
        if kind not in ("word", "quoted") or text[0] in "$%":
            raise PathError(f"lacks a name at its part {self.at}")
        if kind == "quoted":
            return Child(_unescaped(text))
        if not self._is("("):
            return Child(text)
        self.at += 1
        if text in TYPED:
            type_ = self._type()
            self._expect(")")
            return Call(text, type=type_)
        if text not in FUNCTIONS:
            raise PathError(f"uses {text[:40]}(), which this server does not know in a path")
        arguments: list[Expression] = []
        while not self._is(")"):
            if arguments:
                self._expect(",")
            arguments.append(self.expression())
        self.at += 1
        fewest, most = FUNCTIONS[text]
        if not fewest <= len(arguments) <= most:
            raise PathError(f"gives {text}() {len(arguments)} arguments")
        return Call(text, tuple(arguments))

    def _index(self) -> Index:
        kind, text = self._next()
        if kind != "number" or "." in text or len(text) > 9:
            raise PathError("has an index that is not a whole number")
        self._expect("]")
        return Index(int(text))

    def _type(self) -> str:
        """``Quantity``, ``FHIR.Quantity`` or ``System.String``."""
        kind, text = self._next()
        if kind not in ("word", "quoted"):
            raise PathError(f"lacks a type at its part {self.at}")
        name = _unescaped(text) if kind == "quoted" else text
        if self._is(".") and name in ("FHIR", "System"):
            self.at += 1
            return f"{name}.{self._next()[1].strip('`')}"
        return name


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        code = match[1]
        if len(code) == 5:
            return chr(int(code[1:], 16))
        if code not in _PLAIN:
            raise PathError("has an escape in a string that FHIRPath does not have")
        return _PLAIN[code]

    return _ESCAPE.sub(character, text[1:-1])


def _number(text: str) -> int | Decimal:
    if len(text) > 100:
        raise PathError("has a number of more than 100 digits")
    return Decimal(text) if "." in text else int(text)


_LITERALS: dict[str, Callable[[str], Scalar]] = {
    "string": _unescaped,
    "number": _number,
    "moment": lambda text: Moment(text[1:].removesuffix("T")),
}

"""What the operators and functions of `core.fhirpath` make of the items they are given.

Source: http://hl7.org/fhirpath/N1, sections 4 (singleton evaluation), 5 and 6. An answer of None is FHIRPath's empty
collection: not known.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

from fhirserver.core import dates
from fhirserver.core.element import Element, Item, is_a, system
from fhirserver.core.fhirpath import Moment, PathError
from fhirserver.core.jsontree import equal


def _scalar(item: Item) -> Item:
    value = system(item) if isinstance(item, Element) else item
    return item if value is None else value


def is_of(item: Item, name: str) -> bool:
    if isinstance(item, Element):
        return not name.startswith("System.") and is_a(item.type, name)
    return type(item).__name__ == _SYSTEM.get(name.removeprefix("System."))


_SYSTEM = {"Boolean": "bool", "String": "str", "Integer": "int", "Decimal": "Decimal", "DateTime": "Moment"}


def one(items: list[Item], what: str) -> list[Item]:
    if len(items) > 1:
        raise PathError(f"asks {what} of several items")
    return items


def truth(items: list[Item]) -> bool | None:
    """A collection as true, false or unknown (FHIRPath, singleton evaluation)."""
    if not items:
        return None
    value = _scalar(one(items, "whether it is true")[0])
    return value if isinstance(value, bool) else True


def _same(left: Item, right: Item) -> bool | None:
    """Whether two items are equal; None where two dates are too coarse to tell."""
    left, right = _scalar(left), _scalar(right)
    if isinstance(left, Element) or isinstance(right, Element):
        raise PathError("compares what has no value of its own")
    if isinstance(left, Moment) and isinstance(right, Moment):
        if left == right:
            return True
        order = _order(left, right)
        return False if order else None if order is None else True
    if isinstance(left, Moment) or isinstance(right, Moment):
        texts = [item.text if isinstance(item, Moment) else item for item in (left, right)]
        return texts[0] == texts[1]
    return equal(left, right)


def _order(left: Item, right: Item) -> int | None:
    """Negative, 0 or positive as the left one comes before the right; None where that is not known."""
    if isinstance(left, Moment) and isinstance(right, Moment):
        if left.text.startswith("T") and right.text.startswith("T"):
            return (left.text > right.text) - (left.text < right.text)
        try:
            first, last = dates.interval(left.text)
            from_, to = dates.interval(right.text)
        except ValueError:
            return None
        if (first, last) == (from_, to):
            return 0
        return -1 if last < from_ else 1 if to < first else None
    for kind in (str, (int, Decimal)):
        if isinstance(left, kind) and isinstance(right, kind) and not isinstance(left, bool):
            return (left > right) - (left < right)  # type: ignore[operator]
    return None


def _equality(left: list[Item], right: list[Item]) -> bool | None:
    if not left or not right:
        return None
    if len(left) != len(right):
        return False
    answers = [_same(one, other) for one, other in zip(left, right, strict=True)]
    return False if False in answers else None if None in answers else True


def _alike(left: list[Item], right: list[Item]) -> bool:
    """``~``: text without regard to case and blanks, and nothing is like nothing."""

    def plain(item: Item) -> Item:
        value = _scalar(item)
        return " ".join(value.casefold().split()) if isinstance(value, str) else value

    if not left or not right:
        return left == right
    return _equality([plain(item) for item in left], [plain(item) for item in right]) is True


def _compared(test: Callable[[int], bool]) -> Callable[[list[Item], list[Item]], bool | None]:
    def compare(left: list[Item], right: list[Item]) -> bool | None:
        if not left or not right:
            return None
        order = _order(_scalar(one(left, "its order")[0]), _scalar(one(right, "its order")[0]))
        return None if order is None else test(order)

    return compare


def _among(items: list[Item], group: list[Item]) -> bool | None:
    if not items:
        return None
    item = one(items, "membership")[0]
    return any(_same(item, each) is True for each in group)


def _negated(answer: bool | None) -> bool | None:
    return None if answer is None else not answer


def _or(left: bool | None, right: bool | None) -> bool | None:
    return True if left or right else None if left is None or right is None else False


def _xor(left: bool | None, right: bool | None) -> bool | None:
    return None if left is None or right is None else left is not right


OPERATORS: dict[str, Callable[[list[Item], list[Item]], bool | None]] = {
    "=": _equality,
    "!=": lambda left, right: _negated(_equality(left, right)),
    "~": _alike,
    "!~": lambda left, right: not _alike(left, right),
    "<": _compared(lambda order: order < 0),
    "<=": _compared(lambda order: order <= 0),
    ">": _compared(lambda order: order > 0),
    ">=": _compared(lambda order: order >= 0),
    "in": _among,
    "contains": lambda left, right: _among(right, left),
    "and": lambda left, right: _negated(_or(_negated(truth(left)), _negated(truth(right)))),
    "or": lambda left, right: _or(truth(left), truth(right)),
    "xor": lambda left, right: _xor(truth(left), truth(right)),
    "implies": lambda left, right: _or(_negated(truth(left)), truth(right)),
}


def _texts(test: Callable[[str, str], bool]) -> Callable[..., list[Item]]:
    def answer(items: list[Item], argument: list[Item]) -> list[Item]:
        values = [_scalar(item) for item in (*one(items, "its text"), *one(argument, "a text"))]
        if len(values) < 2:
            return []
        if not all(isinstance(value, str) for value in values):
            raise PathError("asks for the text of what is no string")
        return [test(str(values[0]), str(values[1]))]

    return answer


def _number(argument: list[Item]) -> int:
    value = _scalar(argument[0]) if len(argument) == 1 else None
    if not isinstance(value, int) or isinstance(value, bool):
        raise PathError("skips or takes what is no number of items")
    return max(value, 0)


def _single(items: list[Item]) -> list[Item]:
    return one(items, "single()")


FUNCTIONS: dict[str, Callable[..., list[Item]]] = {
    "exists": lambda items: [bool(items)],
    "empty": lambda items: [not items],
    "not": lambda items: [] if (known := truth(items)) is None else [not known],
    "count": lambda items: [len(items)],
    "hasValue": lambda items: [len(items) == 1 and not isinstance(_scalar(items[0]), Element)],
    "first": lambda items: items[:1],
    "last": lambda items: items[-1:],
    "tail": lambda items: items[1:],
    "single": _single,
    "skip": lambda items, number: items[_number(number) :],
    "take": lambda items, number: items[: _number(number)],
    "startsWith": _texts(str.startswith),
    "endsWith": _texts(str.endswith),
    "contains": _texts(lambda text, part: part in text),
}

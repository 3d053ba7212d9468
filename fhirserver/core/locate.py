"""Where in a resource the elements stand that a FHIRPath names."""

from __future__ import annotations

from fhirserver.core.element import Element, Item, children, rows, system
from fhirserver.core.fhirpath import Call, Child, Expression, Index, Literal, Operator, PathError
from fhirserver.core.pathvalues import FUNCTIONS, OPERATORS, is_of, one, truth

MAX_STEPS = 300_000
"""Elements that all the paths of one patch may touch."""


class Locator:
    """Evaluates paths over one resource, within the steps that a patch may take."""

    def __init__(self) -> None:
        self._left = MAX_STEPS
        self._root: list[Item] = []

    def elements(self, path: Expression, root: Element) -> list[Element]:
        """The elements that the path leads to; PathError where it leads to values instead."""
        self._root = [root]
        try:
            found = self._evaluate(path, self._root)
        except RecursionError:
            raise PathError("is nested too deeply") from None
        elements = [item for item in found if isinstance(item, Element)]
        if len(elements) < len(found):
            raise PathError("leads to a value, not to an element")
        return elements

    def children(self, element: Element, name: str) -> list[Element]:
        """The children of this name, in order."""
        found = children(element, name)
        # A long text is read as often as it is met, so it counts for more than one.
        texts = sum(each.node.size for each in found if each.node is not None and each.primitive)
        self._spend(1 + len(found) + texts // 128)
        return found

    def _spend(self, steps: int) -> None:
        self._left -= steps
        if self._left < 0:
            raise PathError("goes over too many elements")

    # -- expressions ---------------------------------------------------------------------------------------------

    def _evaluate(self, path: Expression, context: list[Item]) -> list[Item]:
        if isinstance(path, Literal):
            return [] if path.value is None else [path.value]
        if isinstance(path, Operator):
            return self._operate(path, context)
        self._spend(len(path.steps))
        found = context if path.start is None else self._evaluate(path.start, context)
        for at, step in enumerate(path.steps):
            if isinstance(step, Index):
                found = found[step.at : step.at + 1]
            elif isinstance(step, Call):
                found = self._call(step, found, context)
            elif path.start is None and not at and step.name[:1].isupper():
                found = [item for item in found if is_of(item, step.name)]
            else:
                found = self._children_of(found, step)
        return found

    def _children_of(self, items: list[Item], step: Child) -> list[Item]:
        elements = [item for item in items if isinstance(item, Element)]
        known = [each for each in elements if step.name in rows(each.type)]
        if elements and not known and not any(each.open for each in elements):
            raise PathError(_unknown(elements[0].type, step.name))
        return [child for each in known for child in self.children(each, step.name)]

    def _operate(self, path: Operator, context: list[Item]) -> list[Item]:
        left, right = self._evaluate(path.left, context), self._evaluate(path.right, context)
        self._spend(len(left) + len(right))
        answer = OPERATORS[path.sign](left, right)
        return [] if answer is None else [answer]

    def _call(self, step: Call, items: list[Item], context: list[Item]) -> list[Item]:
        if step.name in ("ofType", "as"):
            return [item for item in items if is_of(item, step.type)]
        if step.name == "is":
            return [is_of(item, step.type) for item in one(items, "is")]
        if step.name in ("where", "all") or (step.name == "exists" and step.arguments):
            return self._filter(step, items)
        if step.name == "resolve":
            return [target for item in items for target in self._resolve(item)]
        arguments = [self._evaluate(argument, context) for argument in step.arguments]
        if step.name == "extension":
            found = self._children_of([item for item in items if isinstance(item, Element)], Child("extension"))
            return [item for item in found if isinstance(item, Element) and self._url(item) == arguments[0]]
        return FUNCTIONS[step.name](items, *arguments)

    def _filter(self, step: Call, items: list[Item]) -> list[Item]:
        self._spend(len(items))
        kept = [item for item in items if truth(self._evaluate(step.arguments[0], [item])) is True]
        if step.name == "where":
            return kept
        return [len(kept) == len(items) if step.name == "all" else bool(kept)]

    def _url(self, extension: Element) -> list[Item]:
        return [value for child in self.children(extension, "url") if (value := system(child)) is not None]

    def _resolve(self, item: Item) -> list[Item]:
        """What a reference to a contained resource (or to the container) leads to: patches change nothing else."""
        texts = [system(child) for child in self.children(item, "reference")] if isinstance(item, Element) else []
        if not all(isinstance(text, str) and text.startswith("#") for text in texts):
            raise PathError("uses resolve() for what is not contained in the resource")
        found: list[Item] = []
        for text in texts:
            inside = self._children_of(self._root, Child("contained")) if text != "#" else self._root
            wanted = str(text)[1:]
            found += [
                each
                for each in inside
                if isinstance(each, Element)
                and (not wanted or [system(child) for child in self.children(each, "id")] == [wanted])
            ]
        return found


def _unknown(type_: str, name: str) -> str:
    choice = next((row.name for row in rows(type_).values() if row.choice and name in dict(row.members())), "")
    return f"asks {type_} for {name[:64]}, which it does not have" + (f"; write {choice}" if choice else "")

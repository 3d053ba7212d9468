"""What Consents open, as a small algebra: a box is a set of types and a condition on labels and kinds; a tuple of
boxes is their union.

Meeting, joining and subtracting stay inside this form, so whatever Consents say ends up as clauses that a store can
evaluate. Where a result would not fit, it is made smaller, never larger.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

Kinds = tuple[frozenset[str], ...]
"""Of each of these sets one of a resource's kinds (`Facts.kinds`); in a fixed order, none within another."""


def both_kinds(*several: Kinds) -> Kinds:
    """What meets all of them."""
    sets = {one for kinds in several for one in kinds}
    return tuple(sorted((one for one in sets if not any(other < one for other in sets)), key=sorted))


def are_within(kinds: Kinds, others: Kinds) -> bool:
    """Whether whatever meets ``kinds`` meets the others, too (sufficient, not necessary)."""
    return all(any(one <= other for one in kinds) for other in others)


class Box(msgspec.Struct, frozen=True):
    """Resources of one of ``types`` that carry none of the labels ``without`` and, if given, one of ``having``, and
    that are of these ``kinds``."""

    types: frozenset[str]
    without: frozenset[str] = frozenset()
    having: frozenset[str] | None = None
    kinds: Kinds = ()

    def holds(self, type_: str, labels: Iterable[str], kinds: Iterable[str] = ()) -> bool:
        """Whether a resource of this type with these labels and kinds is in the box."""
        return (
            type_ in self.types
            and self.without.isdisjoint(labels)
            and (self.having is None or not self.having.isdisjoint(labels))
            and not any(one.isdisjoint(kinds) for one in self.kinds)
        )

    def covers(self, other: Box) -> bool:
        """Whether everything in ``other`` is in this box (sufficient, not necessary)."""
        return (
            self.types >= other.types
            and self.without <= other.without
            and (self.having is None or (other.having is not None and self.having >= other.having))
            and (not self.kinds or are_within(other.kinds, self.kinds))
        )


class Region(msgspec.Struct, frozen=True):
    """What a refusal covers: types (None: all) that carry one of the labels (None: whatever they carry) and are of none
    of the kinds ``spared``."""

    types: frozenset[str] | None = None
    labels: frozenset[str] | None = None
    spared: frozenset[str] = frozenset()


def meet(one: Box, other: Box) -> Box | None:
    """What is in both boxes.

    Two ``having`` sets meet in their intersection. That is exact where each box excludes the restricted labels that
    it does not have, as the boxes of permits do, and too small otherwise.
    """
    types = one.types & other.types
    without = one.without | other.without
    having = one.having if other.having is None else other.having
    if one.having is not None and other.having is not None:
        having = one.having & other.having
    if having is not None:
        having -= without
    if not types or (having is not None and not having):
        return None
    return Box(types, without, having, both_kinds(one.kinds, other.kinds) if one.kinds or other.kinds else ())


def meet_all(one: Iterable[Box], other: Iterable[Box]) -> tuple[Box, ...]:
    """What is in both unions."""
    right = tuple(other)
    return tidy(box for left in one for box in (meet(left, candidate) for candidate in right) if box is not None)


def less(boxes: Iterable[Box], region: Region) -> tuple[Box, ...]:
    """The boxes without what the region covers."""
    left: list[Box] = []
    for box in boxes:
        types = box.types if region.types is None else box.types & region.types
        outside = box.types - types
        if outside:
            left.append(Box(outside, box.without, box.having, box.kinds))
        if types and region.labels is not None:
            without = box.without | region.labels
            having = None if box.having is None else box.having - region.labels
            if having is None or having:
                left.append(Box(types, without, having, box.kinds))
        if types and region.spared:
            left.append(Box(types, box.without, box.having, both_kinds(box.kinds, (region.spared,))))
    return tidy(left)


def tidy(boxes: Iterable[Box]) -> tuple[Box, ...]:
    """The same union without boxes that another covers."""
    kept: list[Box] = []
    for box in dict.fromkeys(boxes):
        if not any(other.covers(box) for other in kept):
            kept = [other for other in kept if not box.covers(other)]
            kept.append(box)
    return tuple(kept)

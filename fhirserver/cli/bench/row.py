"""One line of the performance table, and how much work a run takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Size(NamedTuple):
    """How much a run takes."""

    chart: int
    small: int
    versions: int
    versioned: int
    repeats: int
    reads: int
    creates: int
    natives: int
    transactions: int
    entries: int


FULL = Size(
    chart=100_000,
    small=100,
    versions=50,
    versioned=500,
    repeats=5,
    reads=4_000,
    creates=2_000,
    natives=5_000,
    transactions=60,
    entries=10_000,
)
QUICK = Size(
    chart=10_000,
    small=20,
    versions=10,
    versioned=200,
    repeats=3,
    reads=1_000,
    creates=400,
    natives=1_000,
    transactions=15,
    entries=2_000,
)


class Row(NamedTuple):
    """One line of the table; ``below``: a smaller figure is better. ``must`` and ``goal`` are in ``unit``; None: the
    row is no claim of this server, but what its claims stand beside."""

    name: str
    figure: float
    unit: str
    must: float | None
    goal: float | None
    below: bool
    detail: dict[str, Any]

    @property
    def verdict(self) -> str:
        def met(bound: float) -> bool:
            return self.figure <= bound if self.below else self.figure >= bound

        if self.must is None or self.goal is None:
            return "-"
        return "goal" if met(self.goal) else "must" if met(self.must) else "MISSED"


Tell = Callable[[str], None]
"""Hears what is going on."""


def told(name: str, figure: float, unit: str, **detail: Any) -> Row:
    """A row without bounds."""
    return Row(name, figure, unit, None, None, False, detail)


def quantile(times: Sequence[float], share: float) -> float:
    """The value that ``share`` of the times do not exceed."""
    ordered = sorted(times)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]

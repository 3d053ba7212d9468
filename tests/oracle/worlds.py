"""Random small worlds for searches: valid resources of many types, with values from small pools so that queries hit.

A world is a list of (type, seed): Hypothesis shrinks it by leaving resources out, and each resource comes from its own
seed. Ids are small numbers, the same for every type, so that references meet and mistakes of type show.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import msgspec
from hypothesis import strategies as st

from tests.oracle.extract import JSON
from tests.oracle.kinds import KINDS
from tests.oracle.maker import Maker

encoder = msgspec.json.Encoder(decimal_format="number")
"""Writes a world's resources with the digits their decimals have."""

Seeds = Sequence[tuple[str, int]]


def make(type_: str, id_: str, seed: int) -> JSON:
    """One valid resource of this type."""
    maker = Maker(seed)
    elements = KINDS[type_](maker)
    meta = maker.meta()
    contained = [each for each in maker.contained if f"'#{each['id']}'" in str(elements)]
    if contained:
        elements = {**elements, "contained": contained}
    return {"resourceType": type_, "id": id_, **({"meta": meta} if meta else {}), **elements}


def world_of(seeds: Seeds) -> list[JSON]:
    """The resources of these seeds, in this order, with ids counted for each type."""
    counted: Counter[str] = Counter()
    world = []
    for type_, seed in seeds:
        counted[type_] += 1
        world.append(make(type_, str(counted[type_]), seed))
    return world


def worlds(least: int = 5, most: int = 40) -> st.SearchStrategy[list[JSON]]:
    """Worlds of so many resources; more of the types that searches are mostly about."""
    types = [*KINDS, "Patient", "Observation", "Observation", "Observation", "Condition", "Encounter", "Patient"]
    each = st.tuples(st.sampled_from(types), st.integers(0, 2**32))
    return st.lists(each, min_size=least, max_size=most).map(world_of)

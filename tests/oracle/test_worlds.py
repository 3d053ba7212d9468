"""Random worlds are valid, random searches of them hit and miss, and senseless ones are told from fruitless ones."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.validate import issues
from tests.counts import examples
from tests.oracle.broken import broken
from tests.oracle.evaluate import evaluate, included, key_of
from tests.oracle.extract import JSON
from tests.oracle.kinds import KINDS
from tests.oracle.match import plain, split
from tests.oracle.queries import Asker, escaped
from tests.oracle.reading import Unreadable
from tests.oracle.tables import NOW
from tests.oracle.values import fold
from tests.oracle.worlds import encoder, make, world_of, worlds

SAMPLES = examples(200)
WORLD = world_of([(type_, seed) for seed in range(4) for type_ in [*KINDS, "Observation", "Patient"]])
ASKER = Asker(WORLD, 0)


@pytest.mark.parametrize("type_", sorted(KINDS))
def test_random_resources_are_valid(type_: str) -> None:
    for seed in range(SAMPLES):
        _, found = issues(encoder.encode(make(type_, "1", seed)))
        assert [issue for issue in found if issue.severity != "warning"] == [], seed


def test_an_invalid_one_would_be_noticed() -> None:
    _, found = issues(encoder.encode(make("Observation", "1", 0) | {"status": "none"}))
    assert found


@given(world=worlds(), seed=st.integers(0, 2**32))
def test_every_random_query_has_a_meaning(world: list[JSON], seed: int) -> None:
    type_, query = Asker(world, seed).query()
    found = evaluate(world, type_, query, now=NOW)
    assert {key.partition("/")[0] for key in found} <= {type_ or key.partition("/")[0] for key in found}
    assert set(found) <= {key_of(resource) for resource in world}


def test_random_queries_hit_and_miss() -> None:
    counted: Counter[str] = Counter()
    for seed in range(600):
        type_, query = ASKER.again(seed).query()
        found = evaluate(WORLD, type_, query, now=NOW)
        every = sum(type_ in (None, resource["resourceType"]) for resource in WORLD)
        counted["none" if not found else "all" if len(found) == every else "some"] += 1
    assert counted["none"] > 100, counted
    assert counted["some"] > 200, counted
    assert counted["all"] > 5, counted


def test_random_queries_are_of_every_kind() -> None:
    pairs = [pair for seed in range(3000) for pair in ASKER.again(seed).query()[1]]
    names, values = [name for name, _ in pairs], [value for _, value in pairs]
    for modifier in (
        "missing", "exact", "contains", "not", "text", "above", "below", "of-type", "identifier", "Patient"
    ):  # fmt: skip
        assert any(f":{modifier}" in name for name in names), modifier
    for code in ("_has:", "_list", "_id", "_tag", "_profile", "_security", "_source", "_sort", "near", "probability"):
        assert any(code in name for name in names), code
    assert any(name.count(".") > 1 for name in names)
    assert any(name.count("_has") > 1 for name in names)
    assert any("\\" in value for value in values)
    assert any("$" in value for value in values)


def test_includes_bring_something() -> None:
    brought = 0
    for seed in range(200):
        asker = ASKER.again(seed)
        type_, query = asker.query()
        query = [*query[: seed % 2], *asker.includes(type_)] if type_ else query
        matches = evaluate(WORLD, type_, query, now=NOW)
        brought += bool(included(WORLD, matches, query, now=NOW))
    assert brought > 30


@given(st.integers(0, 2**32))
def test_every_broken_query_is_unreadable(seed: int) -> None:
    type_, pair = broken(seed)
    with pytest.raises(Unreadable):
        evaluate([], type_, [pair], now=NOW)


@given(st.lists(st.text("a,|$\\", min_size=1), min_size=1))
def test_what_is_escaped_is_one_value(texts: list[str]) -> None:
    assert [plain(part) for part in split(",".join(map(escaped, texts)), ",")] == texts


@given(st.text())
def test_folding_twice_is_folding_once(text: str) -> None:
    assert fold(fold(text)) == fold(text)

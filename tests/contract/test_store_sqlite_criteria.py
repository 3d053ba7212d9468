"""How SQLite answers criteria: whichever way in it takes, and without walking the store where they meet rarely."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from math import inf
from pathlib import Path

import msgspec
import pytest

from fhirserver.core.criteria import AllOf, AnyOf, Criterion, Has, Not, Present, Span, Text, Written
from fhirserver.core.model import Clause, Key, Query, Visible
from fhirserver.store.open import open_store
from fhirserver.store.sqlite import asked, candidates, meaning, plan, scan, totals, verify, ways, write
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.plan import compile_query
from tests.contract.test_criteria import indexed
from tests.contract.test_criteria_model import agree
from tests.contract.world import START, Clock
from tests.counts import examples

SMALL = {
    "everything is large": {"_LARGE": 1, "_PROBE": 1, "_SMALL": 0, "_TINY": 0},
    "everything is large, and tests are in vain": {
        "_LARGE": 1,
        "_PROBE": 1,
        "_SMALL": 0,
        "_TINY": 0,
        "_TRIED": 1,
        "_RARE": 1,
    },
    "what is little in all is taken at once": {},
    "some of it is large": {"_LARGE": 3, "_PROBE": 2, "_SMALL": 1, "_TINY": 1, "_TRIED": 3, "_RARE": 2},
    "much is small, and looked at in many steps": {"_SMALL": 0, "_TINY": 0, "_STRIDE": 1, "TESTED": 1, "WINDOW": 1},
}  # fmt: skip
"""Bounds that no test would wait for otherwise."""


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("few", [1, 64])
async def test_any_way_in_gives_what_the_model_gives(
    monkeypatch: pytest.MonkeyPatch, name: str, few: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """With regions of four versions, and with bounds that are soon reached."""
    for module in (asked, plan, verify, write):
        monkeypatch.setattr(module, "REGION_BITS", 2)
    for module in (asked, meaning):
        monkeypatch.setattr(module, "FEW", few)
    monkeypatch.setattr(ways, "MERGED_TERMS", 2 if few == 1 else 16)
    monkeypatch.setattr(ways, "_ALTERNATIVES", few)
    for bound, value in {"_SCARCE": 0 if SMALL[name] else 8, **SMALL[name]}.items():
        for module in (plan, candidates, scan, totals):
            if hasattr(module, bound):
                monkeypatch.setattr(module, bound, value)
    clock = Clock()
    store = open_store(f"sqlite:///{tmp_path_factory.mktemp('store')}/x.db", clock=clock)
    await store.start()
    try:
        await agree(store, clock, examples(25))
    finally:
        await store.close()


OBSERVATIONS = frozenset({"Observation"})
TEXT, LENGTH = "Observation|text", "Observation|length"
IN_TEXTS = r"SEARCH texts USING PRIMARY KEY \(region=\? AND name=\? AND text>\? AND text<\?\)"
IN_SPANS = r"SEARCH spans USING PRIMARY KEY \(region=\? AND name=\? AND width=\? AND lo>\? AND lo<\?\)"
IN_TERMS = r"SEARCH terms USING PRIMARY KEY \(region=\? AND hash=\?"
BY_SEQ = r"SEARCH x USING INTEGER PRIMARY KEY \(rowid=\?\)"
short, common = Span(LENGTH, (0, 5), (0, 50)), Has(("red",))
LED_BY: dict[str, tuple[tuple[Criterion, ...], str]] = {
    "the beginning of a text": ((Text(TEXT, "b"),), f"{BY_SEQ} .*{IN_TEXTS}"),
    "a part of a text": ((Text(TEXT, "b", "contains"),), r"SEARCH texts USING PRIMARY KEY \(region=\? AND name=\?\)"),
    "a span between bounds": ((short,), f"{BY_SEQ} .*{IN_SPANS}"),
    "a span that ends late": ((Span(LENGTH, high=(5, inf)),), f"{BY_SEQ} .*{IN_SPANS} .*{IN_SPANS}"),
    "a span that ends early": ((Span(LENGTH, high=(-inf, 9)),), f"{BY_SEQ} .*{IN_SPANS}"),
    "one of a text and a span": ((AnyOf((Text(TEXT, "b"), short)),), f"{BY_SEQ} .*{IN_TEXTS} .*{IN_SPANS}"),
    "one of which one is two": (
        (AnyOf((AllOf((common, short)), Text(TEXT, "b"))),),
        f"{IN_TERMS}.*{IN_SPANS} .*{IN_TEXTS}",
    ),
    "a term": ((common,), r"SEARCH t USING PRIMARY KEY \(region=\? AND hash=\? AND seq>\? AND seq<\?\)"),
    "a term and a span": ((common, short), f"{BY_SEQ} .*{IN_TERMS}.*INTERSECT.*{IN_SPANS}"),
    "a term and an open span": (
        (common, Span(LENGTH, high=(5, inf))),
        f"{BY_SEQ} .*{IN_TERMS}.*INTERSECT.*{IN_SPANS}",
    ),
    "many terms": ((Has(tuple(f"t{at}" for at in range(100))),), f"{BY_SEQ} .*{IN_TERMS}"),
    "a type, where nothing else leads": (
        (Not(common), Not(Text(TEXT, "a"))),
        "SEARCH x USING COVERING INDEX current_type",
    ),
    "a type and a time": ((Not(Written(5, START)),), "SEARCH x USING COVERING INDEX current_type"),
}  # fmt: skip


def plan_of(connection: sqlite3.Connection, statement: str, values: object = ()) -> str:
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()  # type: ignore[arg-type]
    return " ".join(row[3] for row in rows)


@pytest.mark.parametrize("name", LED_BY)
def test_every_criterion_that_can_leads_in(
    connection: sqlite3.Connection, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plan, "_SMALL", 0)
    criteria, wanted = LED_BY[name]
    [side] = compile_query(connection, Texts(), Query(types=OBSERVATIONS, criteria=criteria)).sides
    for thorough in (False, True):
        piece = side.piece(connection, 0, 120, thorough=thorough)
        assert piece is not None
        read_by = plan_of(connection, *piece.select(0, 120, limit=10))
        assert re.search(wanted, read_by), read_by
        assert "TEMP B-TREE FOR ORDER BY" not in read_by, read_by


WALKED = re.compile(r"SCAN (?!json_each|\(subquery|w |[a-z] VIRTUAL TABLE|CONSTANT|commits)")
"""What a statement has made for itself, ``w`` among it, may be walked through, and of the commits the last is taken."""


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("name", LED_BY)
def test_no_statement_of_a_search_walks_through_a_table(
    file: Path, name: str, large: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not those either that look for the next region, count a way in, or unpack entries."""
    for module in (asked, plan):
        monkeypatch.setattr(module, "REGION_BITS", 4)
    monkeypatch.setattr(plan, "_TINY", 0)
    for bound in ("_LARGE", "_PROBE", "_SCARCE") if large else ():
        monkeypatch.setattr(plan, bound, 1)
    said: list[str] = []
    mine = Visible((Clause(organization="org-1"),))
    with closing(sqlite3.connect(file, isolation_level=None)) as connection:
        connection.set_trace_callback(said.append)
        for query in (
            Query(types=OBSERVATIONS), Query(within="p1"), Query(types=OBSERVATIONS, visible=mine),
            Query(keys=(Key("Observation", "1"),)),
        ):  # fmt: skip
            for as_of in (None, 100):
                whole = msgspec.structs.replace(query, criteria=LED_BY[name][0], as_of=as_of, sorts=(TEXT,))
                steps, done = scan.Scan(Texts(), whole, 4), False
                while not done:
                    _, done = steps.step(connection)
                totals.count(connection, Texts(), whole)
                totals.tally(connection, Texts(), whole)
        connection.set_trace_callback(None)
        asked_for = {statement for statement in said if statement.startswith("SELECT")}
        assert len(asked_for) > 5
        for statement in asked_for:
            read_by = plan_of(connection, re.sub(r"\bInf\b", "9e999", statement))
            assert not WALKED.search(read_by), f"{statement}\n{read_by}"


@pytest.fixture
async def crowd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[sqlite3.Connection]:
    """4,000 observations in two regions, with bounds a tenth of what they are."""
    for module in (asked, plan, write):
        monkeypatch.setattr(module, "REGION_BITS", 11)
    monkeypatch.setattr(plan, "_LARGE", 500)
    monkeypatch.setattr(plan, "_SCARCE", 0)
    monkeypatch.setattr(plan, "_SMALL", 25)
    monkeypatch.setattr(candidates, "_TRIED", 100)
    store = open_store(f"sqlite:///{tmp_path}/x.db", clock=Clock())
    await store.start()
    await store.commit([
        indexed(
            f"Observation/{at}", terms=("even" if at % 2 == 0 else "odd", f"of {at % 400}"),
            spans=((LENGTH, at, at + 1),), texts=((TEXT, f"{at % 2} {at}"),), present=("code",),
        )
        for at in range(4000)
    ])  # fmt: skip
    await store.close()
    with closing(sqlite3.connect(tmp_path / "x.db", isolation_level=None)) as connection:
        yield connection


@pytest.mark.parametrize("bits", [5, 8])
async def test_what_is_rare_in_the_whole_store_is_found_at_once(
    crowd: sqlite3.Connection, bits: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """However many regions there are, and however few of them hold any of it."""
    monkeypatch.setattr(plan, "_SCARCE", 50)
    crowd.execute("UPDATE terms SET region = seq >> ?", (bits,))
    for module in (asked, plan):
        monkeypatch.setattr(module, "REGION_BITS", bits)
    query = Query(types=OBSERVATIONS, criteria=(Has(("even",)), Has(("of 8",))))
    said: list[str] = []
    crowd.set_trace_callback(said.append)
    records, done = scan.Scan(Texts(), query, 50).step(crowd)
    assert (len(records), done) == (10, True)
    assert len([statement for statement in said if "terms" in statement]) < 8


NEVER_MET: dict[str, tuple[tuple[Criterion, ...], int, int]] = {
    "two terms that exclude each other": ((Has(("even",)), Has(("odd",))), 0, 200),
    "a term and a text that exclude each other": ((Has(("even",)), Text(TEXT, "1")), 0, 200),
    "a frequent term and a rare span": ((Has(("even",)), Span(LENGTH, (100, 109), (100, 109))), 5, 10),
    "a frequent span and a rare term": ((Has(("of 7",)), Span(LENGTH, (0, 3000))), 8, 10),
    "a frequent term and a span that is rarely so late": (
        (Has(("odd",)), Span(LENGTH, high=(3990, inf))),
        6,
        600,
    ),
    "three of which two never meet": ((Span(LENGTH, (0, 4000)), Has(("odd",)), Text(TEXT, "0")), 0, 200),
}


@pytest.mark.parametrize("name", NEVER_MET)
async def test_frequent_criteria_that_hardly_meet_are_not_looked_for_one_by_one(
    crowd: sqlite3.Connection, name: str
) -> None:
    criteria, wanted, most = NEVER_MET[name]
    steps, done, found = scan.Scan(Texts(), Query(types=OBSERVATIONS, criteria=criteria), 50), False, 0
    while not done:
        records, done = steps.step(crowd)
        found += len(records)
    assert found == wanted == totals.count(crowd, Texts(), Query(criteria=criteria))
    assert steps.tested <= most


async def test_frequent_criteria_that_meet_often_are_soon_a_page(crowd: sqlite3.Connection) -> None:
    for criteria in (
        (Has(("even",)), Span(LENGTH, high=(100, inf))), (Not(Has(("of 1",))), Present("code")),
        (Text(TEXT, "", "contains"), Span(LENGTH, (0, 3000))),
    ):  # fmt: skip
        steps = scan.Scan(Texts(), Query(types=OBSERVATIONS, criteria=criteria, limit=50), 50)
        records, done = [], False
        while not done:
            some, done = steps.step(crowd)
            records += some
        assert len(records) == 50
        assert steps.tested <= 250

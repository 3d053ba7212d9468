"""By which way in the MongoDB store answers a search: the narrowest one, told by what the server reads for it.

The sizes from which a way in counts as wide are small here, so that a small store has wide ones."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from math import inf
from typing import Any, NamedTuple

import pytest
from pymongo.database import Database

from fhirserver.core.criteria import AnyOf, Criterion, Has, Not, Present, Span, Text, Written
from fhirserver.core.model import Query
from fhirserver.store.mongo import ways
from fhirserver.store.port import Store
from tests.contract.test_criteria import indexed
from tests.contract.test_criteria_model import agree
from tests.contract.test_store_mongo_plans import commands, plan
from tests.contract.world import START, Clock, found, started
from tests.counts import examples
from tests.proxy import proxied

Document = dict[str, Any]
DAY = 86_400_000
PATIENTS, EACH = 40, 15
DATE = "Observation|date"


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, size in {"_FEW": 3, "_SMALL": 20, "_PROBE": 40, "_WIDE": 60, "RANGE": 64, "_REACH": 128}.items():
        monkeypatch.setattr(ways, name, size)


async def filled(store: Store, clock: Clock) -> None:
    """Six hundred observations of forty patients in order of time, and two hundred more patients with names."""
    for patient in range(PATIENTS):
        await store.commit([
            indexed(
                f"Observation/{at}", f"p{patient}",
                terms=(
                    f"patient=p{patient}", "status=final", f"code=c{at % 2}", f"category=k{at % 3}",
                    *(["code=rare"] if at % 100 == 50 else []), "tint=red" if at % 2 else "tint=blue",
                ),
                spans=((DATE, START + at * DAY, START + at * DAY + 999),), present=("date",),
            )
            for at in range(patient * EACH, (patient + 1) * EACH)
        ])  # fmt: skip
        clock.now += 1000
    await store.commit([indexed(f"Patient/{at}", texts=(("Patient|name", f"smith{at:03}"),)) for at in range(200)])


class Read(NamedTuple):
    """What was given, by which indexes, and how many documents the server looked at for it."""

    ids: list[str]
    hints: list[str]
    looked_at: int


Ask = Callable[..., Awaitable[Read]]


def looked_at(node: Any) -> int:
    """Documents that an explained command has looked at, whatever server explains it."""
    if isinstance(node, list):
        return sum(map(looked_at, node))
    if not isinstance(node, dict):
        return 0
    if "totalDocsExamined" in node:
        return int(node["totalDocsExamined"])
    total = 0
    if node.get("Node Type") in ("Index Scan", "Bitmap Heap Scan", "Seq Scan"):
        names = ("Actual Rows", "Rows Removed by Filter", "Rows Removed by Index Recheck")
        total = int(sum(node.get(name, 0) for name in names))
    return total + sum(looked_at(value) for name, value in node.items() if name != "command")


@pytest.fixture
async def ask(url: str, database: Database[Document], clock: Clock) -> AsyncIterator[Ask]:
    """Scan a filled store."""
    async with proxied(url) as (proxy, through), started(through, clock) as store:
        await filled(store, clock)

        async def asked(query: Query) -> Read:
            messages: list[bytes] = []
            proxy.lose = messages.append  # type: ignore[assignment]  # None: nothing is lost
            records = await found(store, query)
            proxy.lose = lambda _: None
            sent = [command for command in commands(messages) if command.get("find") == "current"]
            explained = [database.command("explain", command, verbosity="executionStats") for command in sent]
            for one in explained:
                assert "COLLSCAN" not in plan(one)[1]
            assert await store.count(query) == len(records)
            return Read([one.id for one in records], [one["hint"] for one in sent], sum(map(looked_at, explained)))

        yield asked


def on(first: int, last: int) -> Span:
    """Dates within these days."""
    bounds = START + first * DAY, START + (last + 1) * DAY - 1
    return Span(DATE, bounds, bounds)


def terms(*groups: str) -> tuple[tuple[str, ...], ...]:
    return tuple((group,) for group in groups)


NARROW: dict[str, tuple[Query, list[int], int]] = {
    # What is asked, what is found, and how many documents may be looked at for it.
    "patient and code": (Query(terms=terms("code=c0", "patient=p3")), list(range(46, 60, 2)), 15),
    "patient, category and date": (
        Query(terms=terms("patient=p3", "category=k0"), criteria=(on(48, 51),)), [48, 51], 15,
    ),
    "a rare code and a wide range of dates": (
        Query(terms=terms("code=rare"), criteria=(on(100, 600),)), [150, 250, 350, 450, 550], 6,
    ),
    "a common code and a narrow range of dates": (
        Query(terms=terms("code=c0"), criteria=(on(100, 105),)), [100, 102, 104], 7,
    ),
    "a day": (Query(criteria=(on(7, 7),)), [7], 2),
    "since a day": (Query(criteria=(Span(DATE, high=(START + 590 * DAY, inf)),)), list(range(590, 600)), 12),
    "before a day": (Query(criteria=(Span(DATE, (-inf, START + 3 * DAY - 1)),)), [0, 1, 2], 4),
    "the beginning of a name": (Query(criteria=(Text("Patient|name", "smith01"),)), list(range(10, 20)), 10),
    "one of a code, a name and a day": (
        Query(criteria=(AnyOf((Has(("code=rare",)), Text("Patient|name", "smith19"), on(7, 7))),)),
        [7, 50, 150, 250, 350, 450, 550, *range(190, 200)], 20,
    ),
    "a rare one in a large chart": (Query(within="p3", criteria=(on(50, 51),)), [50, 51], 4),
    "a common one in a chart": (Query(within="p3", criteria=(on(0, 500),)), list(range(45, 60)), 15),
    "nothing of a range": (Query(criteria=(on(700, 800), Has(("status=final",)))), [], 0),
    "what few commits wrote": (
        Query(criteria=(Written(START + 3000, START + 3000), Has(("status=final",)))), list(range(45, 60)), 15,
    ),
    "thousands of terms beside a rare one": (
        Query(terms=(tuple(f"patient=p{at}" for at in range(20, 20_000)), ("code=rare",))), [350, 450, 550], 6,
    ),
}  # fmt: skip


async def test_the_narrowest_way_in_bounds_what_is_read(ask: Ask) -> None:
    for name, (query, wanted, bound) in NARROW.items():
        read = await ask(query)
        assert read.ids == [str(at) for at in wanted], name
        assert len(read.hints) <= 2, name  # a chart has two
        assert bool(wanted) <= read.looked_at <= bound, name


async def test_what_is_met_everywhere_is_read_in_order_and_found_soon(ask: Ask) -> None:
    for criterion in (Span(DATE, (START, inf)), Present("date"), Not(Has(("code=rare",)))):
        read = await ask(Query(types=frozenset({"Observation"}), criteria=(criterion,), limit=10))
        assert len(read.ids) == 10
        assert read.hints == ["type"]
        assert 10 <= read.looked_at <= 12, criterion


async def test_of_two_common_ones_that_never_meet_one_is_read_and_not_the_store(ask: Ask) -> None:
    red = Has(("tint=red",))
    for other in (Has(("code=c0",)), on(0, 400)):
        beside: tuple[Criterion, ...] = (Has(("tint=blue",)), other)
        read = await ask(Query(criteria=(red, *beside)))
        assert read.ids == []
        assert set(read.hints) == {"terms"}
        assert 0 < read.looked_at <= PATIENTS * EACH / 2


async def test_a_wide_range_that_is_met_seldom_is_left_for_its_index(ask: Ask) -> None:
    """Patients stand behind everything else; a first look in order of seq finds none."""
    read = await ask(Query(criteria=(Text("Patient|name", "smith"),)))
    assert len(read.ids) == 200
    assert read.hints[0] == "seq"
    assert set(read.hints[1:]) == {"terms"}
    assert read.looked_at <= ways.RANGE + 200


async def test_every_way_of_reading_gives_what_the_model_gives(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sizes so small that a handful of versions has wide ways in."""
    for name, size in {"_FEW": 1, "_SMALL": 1, "_PROBE": 2, "_WIDE": 3, "RANGE": 2, "_REACH": 5}.items():
        monkeypatch.setattr(ways, name, size)
    async with started(url, clock) as store:
        await agree(store, clock, examples(40, "mongo"))

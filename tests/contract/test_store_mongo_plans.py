"""Which index of the MongoDB store answers what: told by the server's own plans of what the store really sends."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import bson
import msgspec
import pytest
from pymongo.database import Database

from fhirserver.core.model import AuditRow, Clause, HistoryQuery, Key, Query, Visible
from fhirserver.core.trail import TrailQuery
from fhirserver.store.port import Store
from tests.contract.world import START, draft, found, gathered, started
from tests.proxy import Proxy, proxied

Document = dict[str, Any]
ONE = Key("Observation", "1")


async def filled(store: Store) -> None:
    """A little of everything, twice, so that there is history; seq 60 is in between."""
    for text in "ab":
        await store.commit([
            *(draft(f"Observation/{at}", f"p{at % 3}", text=text, terms=("red", f"t{at}")) for at in range(30)),
            *(draft(f"Condition/{at}", f"p{at % 3}", "p1", text=text, terms=("red",)) for at in range(30)),
        ])  # fmt: skip
    await store.commit([draft("Binary/large", "p1", text="x" * 2_000_000)])
    rows = [
        AuditRow(id=str(at), at=at, organization="o", subject="s", interaction="i", outcome="x", patients=("p",))
        for at in range(9)
    ]
    await store.audit.append(rows)
    await store.ledger.put_if("job/1", b"1", stamp=None)


TYPES = frozenset({"Observation", "Condition"})
MANY = frozenset({"Observation", *(f"Type{at}" for at in range(20))})
VISIBLE = Visible((Clause(organization="org-1"), Clause(owners=frozenset({"p1", "p2"}), without=frozenset({"s|R"}))))
Wanted = dict[str, set[str]]
CHART: Wanted = {"current": {"chart", "chart_also"}}
SHAPES: dict[str, tuple[Query, Wanted, Wanted]] = {
    # What is read now, and what a snapshot reads besides.
    "the whole store": (Query(), {"current": {"seq"}}, {"history": {"ended"}}),
    "one type": (Query(types=frozenset({"Observation"})), {"current": {"type"}}, {"history": {"type"}}),
    "two types": (Query(types=TYPES), {"current": {"type"}}, {"history": {"ended"}}),
    "many types": (Query(types=MANY), {"current": {"seq"}}, {"history": {"ended"}}),
    "keys": (Query(keys=(ONE, Key("Condition", "2"))), {"current": {"_id_"}}, {"history": {"key"}}),
    "a chart": (Query(within="p1"), CHART, {"history": {"chart"}}),
    "a chart as a grant shows it": (Query(within="p1", visible=VISIBLE), CHART, {"history": {"chart"}}),
    "one type of a chart": (
        Query(within="p1", types=frozenset({"Observation"})),
        {"current": {"chart_type", "chart_also"}},
        {"history": {"chart"}},
    ),
    "two types of a chart": (
        Query(within="p1", types=TYPES),
        {"current": {"chart_type", "chart_also"}},
        {"history": {"chart"}},
    ),
    "many types of a chart": (Query(within="p1", types=MANY), CHART, {"history": {"chart"}}),
    "a chart beyond another": (Query(within="p1", beyond=("p2",)), CHART, {"history": {"chart"}}),
    "a care period of a chart": (Query(within="p1", care=(1, 2)), CHART, {"history": {"chart"}}),
    "a page of a chart": (Query(within="p1", after=9, limit=5), CHART, {"history": {"chart"}}),
    "a chart since a time": (
        Query(within="p1", updated_from=START),
        {**CHART, "commits": {"updated"}},
        {"history": {"chart"}},
    ),
    "a term": (Query(terms=(("red",),)), {"current": {"terms"}}, {"history": {"ended"}}),
    "one of two terms": (Query(terms=(("red", "t1"),)), {"current": {"terms"}}, {"history": {"ended"}}),
    "two terms": (Query(terms=(("red",), ("t1",))), {"current": {"terms"}}, {"history": {"ended"}}),
    "a rare term in a chart": (
        Query(within="p1", terms=(("t1",),)),
        {"current": {"chart", "terms"}},  # a look at both tells which is the rarer
        {"history": {"chart"}},
    ),
}
ORDERED = [name for name in SHAPES if "term" not in name and name != "keys"]
"""Read in order from the index; the others are few by nature, or read range by range."""
MAY_SORT = "chart_also"
"""An index on an array: not every server reads it in order; what stands in a second chart is little. Nor is history
read in order, of which a read of current versions needs the few that were superseded a moment ago."""


def commands(messages: list[bytes]) -> list[Document]:
    """The reads among the messages of a client, as `explain` takes them; the counter's and the heartbeat's left out."""
    told = []
    for message in messages:
        size = int.from_bytes(message[21:25], "little")
        body = bson.decode(message[21 : 21 + size])
        name = next(iter(body))
        if name in ("find", "aggregate", "count", "distinct") and body[name] not in ("store", "servers"):
            apart = ("lsid", "txnNumber", "autocommit", "startTransaction", "readConcern")
            told.append({name: value for name, value in body.items() if name[0] != "$" and name not in apart})
    return told


def plan(node: Any) -> tuple[set[str], set[str]]:
    """The indexes and the stages of an explained command, whatever server explains it."""
    indexes, stages = set(), set()
    if isinstance(node, dict):
        for name, value in node.items():
            if name == "indexName" and "IndexCosts" not in node:
                indexes.add(value)
            elif name in ("stage", "Node Type"):
                stages.add({"Sort": "SORT", "Incremental Sort": "SORT", "Seq Scan": "COLLSCAN"}.get(value, value))
                indexes.update({"_id_"} if value == "IDHACK" else set())
            elif name == "indexes":
                indexes.update(value)
            elif name not in ("IndexCosts", "IndexDetails", "rejectedPlans", "command"):
                more = plan(value)
                indexes, stages = indexes | more[0], stages | more[1]
    elif isinstance(node, list):
        for each in node:
            more = plan(each)
            indexes, stages = indexes | more[0], stages | more[1]
    return indexes, stages


@pytest.fixture
async def watched(url: str, database: Database[Document]) -> AsyncIterator[Callable[..., Awaitable[Wanted]]]:
    """Do some work over a filled store; the indexes that answer its reads, by collection."""
    async with proxied(url) as (proxy, through), started(through) as store:
        await filled(store)

        async def watch(work: Callable[[Store], Awaitable[object]], *, ordered: bool = False) -> Wanted:
            messages: list[bytes] = []
            proxy.lose = messages.append  # type: ignore[assignment]  # None: nothing is lost
            await work(store)
            proxy.lose = lambda _: None
            answered: Wanted = {}
            for command in commands(messages):
                explained = database.command("explain", command, verbosity="queryPlanner")
                indexes, stages = plan(explained)
                assert "COLLSCAN" not in stages, (command, explained)
                assert indexes, (command, explained)
                if ordered and command.get("find") == "current" and command["hint"] != MAY_SORT:
                    assert "SORT" not in stages, (command, explained)
                answered.setdefault(command[next(iter(command))], set()).update(indexes)
            return answered

        yield watch


@pytest.mark.parametrize("name", SHAPES)
async def test_every_shape_of_query_is_read_from_its_index(
    watched: Callable[..., Awaitable[Wanted]], name: str
) -> None:
    query, now, before = SHAPES[name]
    snapshot = msgspec.structs.replace(query, as_of=60)
    for asked, wanted in ((query, now), (snapshot, {**now, **before})):
        answered = await watched(lambda store: found(store, asked, 7), ordered=name in ORDERED)  # noqa: B023
        # Also without a snapshot several reads may look for what has moved to history since the first of them.
        assert answered.pop("history", set()) in (before["history"], wanted.get("history", set()))
        assert answered == now
        for work in (lambda store: store.count(asked), lambda store: store.tally(asked)):  # noqa: B023
            assert wanted.keys() <= (await watched(work)).keys() <= now.keys() | before.keys()


OTHERS: dict[str, tuple[Callable[[Store], Awaitable[object]], Wanted]] = {
    "what is not there": (lambda store: store.get(Key("Observation", "no")), {"current": {"_id_"}}),
    "a resource": (lambda store: store.get(ONE), {"current": {"_id_"}}),
    "a version": (lambda store: store.get(ONE, 1), {"current": {"_id_"}, "history": {"key"}}),
    "a resource then": (lambda store: store.get(ONE, as_of=60), {"current": {"_id_"}, "history": {"key"}}),
    "the feed": (lambda store: gathered(store.changes(0)), {"current": {"seq"}, "history": {"_id_"}}),
    "a time": (lambda store: store.seq_at(START), {"commits": {"updated"}}),
    "what left": (
        lambda store: found(store, Query(within="p1", departed_since=60)),
        {"current": {"_id_"}, "history": {"chart", "key"}},
    ),
    "every version": (
        lambda store: gathered(store.history(HistoryQuery(), 7)),
        {"current": {"seq"}, "history": {"_id_"}},
    ),
    "every version of a type": (
        lambda store: gathered(store.history(HistoryQuery(types=frozenset({"Observation"})), 7)),
        {"current": {"type"}, "history": {"feed"}},
    ),
    "every version of a resource": (
        lambda store: gathered(store.history(HistoryQuery(key=ONE))),
        {"current": {"_id_"}, "history": {"key"}},
    ),
    "what a grant shows of the past": (
        lambda store: hidden_since(store),
        {"audit": {"at"}, "current": {"type", "_id_"}, "history": {"feed", "key"}},
    ),
    "an entry": (lambda store: store.ledger.get("job/1"), {"ledger": {"_id_"}}),
    "entries": (lambda store: drained(store.ledger.scan("job/")), {"ledger": {"_id_"}}),
    "the trail": (lambda store: drained(store.audit.scan()), {"audit": {"_id_"}}),
    "an organisation's": (
        lambda store: store.audit.find(TrailQuery(organization="o", since=5)),
        {"audit": {"organization"}},
    ),
    "a patient's": (lambda store: store.audit.find(TrailQuery(patient="p", until=5)), {"audit": {"patients"}}),
    "the newest of it": (lambda store: store.audit.find(TrailQuery(after=(5, "00"))), {"audit": {"at"}}),
    "an event": (lambda store: store.audit.events(["x", "y"]), {"audit": {"event"}}),
    "the latest of it": (lambda store: drained(store.audit.scan(since=5)), {"audit": {"at", "_id_"}}),
    "a commit": (
        lambda store: store.commit([draft("Observation/1"), draft("Observation/new")]),
        {"audit": {"at"}, "current": {"_id_"}},
    ),
}


async def test_other_reads_use_their_index(watched: Callable[..., Awaitable[Wanted]]) -> None:
    assert {name: await watched(work) for name, (work, _) in OTHERS.items()} == {
        name: wanted for name, (_, wanted) in OTHERS.items()
    }


@pytest.mark.parametrize("name", [name for name in OTHERS if name.startswith("every version")])
async def test_the_past_is_read_in_order_from_its_index(watched: Callable[..., Awaitable[Wanted]], name: str) -> None:
    work, wanted = OTHERS[name]
    assert await watched(work, ordered=True) == wanted


async def hidden_since(store: Store) -> None:
    """The past of a type in which one resource's current version is hidden."""
    await store.commit([draft("Observation/1", "p1", custodian="org-2")])
    visible = Visible((Clause(organization="org-1"),))
    shown = await gathered(store.history(HistoryQuery(types=frozenset({"Observation"}), visible=visible)))
    assert ONE not in {record.key for record in shown}


async def drained(items: AsyncIterator[Any]) -> list[Any]:
    return [item async for item in items]


async def test_fifty_versions_of_each_resource_cost_what_one_version_costs(url: str) -> None:
    """Told by what goes over the wire, not by the clock."""

    async def cost(store: Store, proxy: Proxy, patient: str) -> tuple[int, int]:
        mark = (await store.high_water()).seq
        asked, before = 0, proxy.received

        def ask(_: bytes) -> None:
            nonlocal asked
            asked += 1

        proxy.lose = ask
        for query in (Query(within=patient), Query(within=patient, as_of=mark)):
            assert len(await found(store, query, 20)) == 60
            assert await store.count(query) == 60
        proxy.lose = lambda _: None
        return asked, proxy.received - before

    async with proxied(url) as (proxy, through), started(through) as store:
        await store.commit([draft(f"Observation/one-{at}", "one", text="x" * 500) for at in range(60)])
        for version in range(50):
            text = f"{version:03}" + "x" * 497
            await store.commit([draft(f"Observation/many-{at}", "many", text=text) for at in range(60)])
        (one, one_bytes), (many, many_bytes) = [await cost(store, proxy, patient) for patient in ("one", "many")]
        assert many <= one
        assert many_bytes <= 1.3 * one_bytes

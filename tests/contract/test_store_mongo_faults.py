"""The MongoDB store over connections that are cut, answers that are lost, a server that stalls and an election.

All on real sockets: a proxy stands between the store and its server. Whatever happens to a connection, what was
acknowledged is there once, what was refused is not there, and a reading goes on or fails; it never just ends.
"""

from __future__ import annotations

import asyncio
import gc
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pymongo.errors import PyMongoError

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow, Key, Query
from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.build import load, observation, patient
from tests.contract.world import derive, draft, found, gathered, started, wall_clock
from tests.counts import PROOF
from tests.proxy import Loss, Proxy, first, only, proxied
from tests.served import served
from tests.stores import client_of, fresh

pytestmark = pytest.mark.filterwarnings(
    # The driver forgets to close the socket of a heartbeat that its client's closing ends while it connects.
    "ignore:Exception ignored in. <socket.socket:pytest.PytestUnraisableExceptionWarning"
)
SHORT = {"serverSelectionTimeoutMS": "1500", "connectTimeoutMS": "1000"}
A = Key("Observation", "a")


class Broken(NamedTuple):
    """A store whose connections go through a proxy, and its URL past it."""

    store: Store
    proxy: Proxy
    straight: str


@pytest.fixture
async def broken(mongodb: str, tmp_path: Path) -> AsyncIterator[Broken]:
    with fresh("mongo", tmp_path) as url:
        async with proxied(url) as (proxy, through), started(through, wall_clock) as store:
            yield Broken(store, proxy, url)


@pytest.fixture
async def impatient(mongodb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Broken]:
    """The same with short time-outs and little patience."""
    for module in ("client", "committer"):
        for name in ("PATIENCE", "ANSWER_SECONDS"):
            monkeypatch.setattr(f"fhirserver.store.mongo.{module}.{name}", 1.0)
    with fresh("mongo", tmp_path) as url:
        async with proxied(url, **SHORT) as (proxy, through), started(through, wall_clock) as store:
            yield Broken(store, proxy, url)


@pytest.fixture(autouse=True)
def collected() -> Iterator[None]:
    """What the driver forgets (see above) is found before the next test, not in it."""
    yield
    gc.collect()


async def cutting(proxy: Proxy, chance: random.Random, longest: float) -> None:
    """Cut all connections, again and again, at random moments."""
    while True:
        await asyncio.sleep(chance.uniform(0.001, longest))
        proxy.cut()


def row(name: str) -> AuditRow:
    return AuditRow(id=name, at=1, organization="o", subject="s", interaction="i", outcome="intent")


async def write(store: Store, name: str, commits: int, known: set[str], doubtful: set[str]) -> None:
    """Commit pairs with a row of the trail and a turn of a counter; tell which were acknowledged and which not."""
    for at in range(commits):
        one = f"{name}-{at}"
        pair = [draft(f"Observation/{one}-{half}", "p", text=one) for half in "ab"]
        try:
            await store.commit(pair, audit=[row(one)], epochs=["turns"])
            known.add(one)
        except Unavailable:
            doubtful.add(one)


async def nothing_lost_nothing_twice(url: str, known: set[str], doubtful: set[str]) -> None:
    """Seen by a store of its own."""
    async with started(url, wall_clock) as store:
        records = await gathered(store.changes(0))
        there = {record.id.rpartition("-")[0] for record in records}
        assert known <= there <= known | doubtful
        assert sorted(record.id for record in records) == sorted(f"{one}-{half}" for one in there for half in "ab")
        assert {record.version for record in records} <= {1}
        assert [record.seq for record in records] == list(range(1, 2 * len(there) + 1))
        assert await store.ledger.incr("turns", 0) == len(there)
        assert sorted([each.id async for rows in store.audit.scan() for each in rows]) == sorted(there)
        assert [sentence async for sentence in store.verify(derive)] == []


async def test_writers_whose_connections_are_cut_at_random_lose_nothing_and_write_nothing_twice(
    broken: Broken,
) -> None:
    known: set[str] = set()
    doubtful: set[str] = set()
    cutter = asyncio.create_task(cutting(broken.proxy, random.Random(7), 0.25))  # noqa: S311 - no secret
    each = 60 if PROOF else 12
    try:
        await asyncio.gather(*(write(broken.store, f"w{n}", each, known, doubtful) for n in range(6)))
    finally:
        cutter.cancel()
    assert broken.proxy.lost > 5
    assert len(known) + len(doubtful) == 6 * each
    before = len(known)
    await write(broken.store, "after", 1, known, doubtful)  # the same store goes on by itself
    assert len(known) == before + 1
    await nothing_lost_nothing_twice(broken.straight, known, doubtful)


async def test_writers_do_not_notice_outages_of_a_second(broken: Broken) -> None:
    """Among them the moments in which nobody can tell the server that a transaction is given up."""
    known: set[str] = set()
    doubtful: set[str] = set()
    each = 100 if PROOF else 10
    writing = asyncio.gather(*(write(broken.store, f"w{n}", each, known, doubtful) for n in range(4)))
    for _ in range(20 if PROOF else 3):
        await asyncio.sleep(0.05)
        broken.proxy.refusing = True
        broken.proxy.cut()
        await asyncio.sleep(1)
        broken.proxy.refusing = False
    await asyncio.wait_for(writing, 60)
    assert broken.proxy.lost
    assert (len(known), doubtful) == (4 * each, set())
    await nothing_lost_nothing_twice(broken.straight, known, doubtful)


@pytest.mark.parametrize("loss", ["request", "answer"])
async def test_whichever_message_of_a_commit_is_lost_it_is_made_once(broken: Broken, loss: Loss) -> None:
    known: set[str] = set()
    await write(broken.store, "before", 1, known, set())
    number = 0
    while True:
        broken.proxy.lose = only(number, loss)
        lost = broken.proxy.lost
        await write(broken.store, f"n{number}", 1, known, set())
        if broken.proxy.lost == lost:  # a commit has no more messages than that
            break
        number += 1
    assert number > 5
    assert len(known) == number + 2
    await nothing_lost_nothing_twice(broken.straight, known, set())


@pytest.mark.parametrize("loss", ["request", "answer"])
@pytest.mark.parametrize("times", [1, 2, 3, 4])
async def test_a_commit_whose_end_is_in_doubt_is_made_once(broken: Broken, loss: Loss, times: int) -> None:
    known: set[str] = set()
    broken.proxy.lose = first(times, loss, b"commitTransaction\0")
    await write(broken.store, "w", 2, known, set())
    assert broken.proxy.lost == times
    assert known == {"w-0", "w-1"}
    await nothing_lost_nothing_twice(broken.straight, known, set())


async def test_a_commit_that_stays_in_doubt_is_unavailable_and_either_whole_or_not_there(impatient: Broken) -> None:
    known: set[str] = set()
    doubtful: set[str] = set()
    impatient.proxy.lose = first(1, "answer", b"commitTransaction\0")
    writing = asyncio.create_task(write(impatient.store, "w", 1, known, doubtful))
    while not impatient.proxy.lost:  # noqa: ASYNC110 - the proxy offers a number, no event
        await asyncio.sleep(0.001)
    impatient.proxy.refusing = True
    impatient.proxy.cut()
    await asyncio.wait_for(writing, 20)
    assert doubtful == {"w-0"}
    impatient.proxy.refusing = False
    await write(impatient.store, "after", 1, known, doubtful)
    assert known == {"after-0"}
    await nothing_lost_nothing_twice(impatient.straight, known, doubtful)


async def charted(store: Store, count: int) -> int:
    """A chart of so many resources, the last of which is kept out of line; the high water."""
    await store.commit([draft(f"Observation/{at}", "p", text="x" * 2_000) for at in range(count - 1)])
    await store.commit([draft("Binary/large", "p", text="0123456789" * 300_000)])
    return (await store.high_water()).seq


async def test_a_scan_whose_connections_are_cut_between_all_its_batches_goes_on(broken: Broken) -> None:
    """It holds nothing on the server while nobody takes the next batch, so nothing is lost with a connection."""
    mark = await charted(broken.store, 61)
    for query in (Query(within="p", as_of=mark), Query(within="p"), Query(), Query(types=frozenset({"Observation"}))):
        count = await broken.store.count(query)
        given: list[int] = []
        async for batch in broken.store.scan(query, 30):
            given += [record.seq for record in batch]
            broken.proxy.cut()
        assert given == sorted(set(given))
        assert len(given) == count >= 60


async def test_readings_whose_connections_are_cut_at_random_end_whole_or_fail(broken: Broken) -> None:
    store, count = broken.store, 400
    mark = await charted(store, count)
    large = (await found(store, Query(types=frozenset({"Binary"}))))[0]

    async def body() -> int:
        return sum([len(piece) async for piece in store.body(large)])

    readings: list[tuple[Callable[[], Awaitable[int]], int]] = [
        (lambda: _size(found(store, Query(within="p", as_of=mark), 25)), count),
        (lambda: _size(found(store, Query(types=frozenset({"Observation"})), 25)), count - 1),
        (lambda: _size(gathered(store.changes(0))), count),
        (lambda: store.count(Query(within="p", as_of=mark)), count),
        (lambda: _sum(store.tally(Query(within="p", as_of=mark))), count),
        (body, large.size),
    ]
    chance = random.Random(11)  # noqa: S311 - no secret
    cutter = asyncio.create_task(cutting(broken.proxy, chance, 0.3))
    whole = 0
    try:
        for _ in range(10 if PROOF else 2):
            for reading, wanted in readings:
                try:
                    assert await reading() == wanted
                    whole += 1
                except Unavailable:
                    continue
    finally:
        cutter.cancel()
    assert whole
    for reading, wanted in readings:
        assert await reading() == wanted


async def _size(records: Awaitable[list[Any]]) -> int:
    return len(await records)


async def _sum(tallies: Awaitable[list[Any]]) -> int:
    return sum(one.count for one in await tallies)


async def test_a_scan_that_cannot_go_on_fails_and_a_new_one_is_whole(impatient: Broken) -> None:
    mark = await charted(impatient.store, 101)
    scan = impatient.store.scan(Query(within="p", as_of=mark), 10)
    given = len(await anext(scan))
    impatient.proxy.refusing = True
    impatient.proxy.cut()
    with pytest.raises(Unavailable):
        given += len([record async for batch in scan for record in batch])
    assert given < 101
    impatient.proxy.refusing = False
    assert len(await found(impatient.store, Query(within="p", as_of=mark))) == 101


async def test_a_stream_over_cut_connections_is_whole_or_is_no_answer(mongodb: str, tmp_path: Path) -> None:
    import httpx

    with fresh("mongo", tmp_path) as url:
        async with proxied(url) as (proxy, through), served(tmp_path, store=through) as server:
            await load(server.gate, [patient("p")])
            notes = [{"text": "x" * 4_000}]
            await load(server.gate, [observation(f"o{at}", "p", note=notes) for at in range(600)])
            cutter = asyncio.create_task(cutting(proxy, random.Random(3), 0.2))  # noqa: S311 - no secret
            answers = whole = 0
            try:
                for _ in range(30 if PROOF else 5):
                    try:
                        answer = await server.get("Patient/p/$everything")
                    except httpx.HTTPError:
                        continue
                    answers += 1
                    if answer.status_code == 200:
                        whole += 1
                        bundle = answer.json()
                        assert bundle["total"] == len(bundle["entry"]) == 602
                    else:
                        assert answer.status_code == 503
            finally:
                cutter.cancel()
            assert answers >= whole > 0
            assert proxy.lost


async def test_a_server_that_stalls_is_unavailable_within_the_time_outs_and_forgiven_afterwards(
    impatient: Broken,
) -> None:
    store, proxy = impatient.store, impatient.proxy
    [record] = await store.commit([draft("Observation/a", "p")])
    await charted(store, 10)
    large = (await found(store, Query(types=frozenset({"Binary"}))))[0]
    await store.audit.append([row("1")])
    proxy.stalled = True
    began = time.monotonic()

    async def each(batches: AsyncIterator[Any]) -> None:
        async for _ in batches:
            pass

    works = {
        "get": store.get(A), "scan": found(store, Query(within="p")), "count": store.count(Query()),
        "tally": store.tally(Query()), "commit": store.commit([draft("Observation/b", "p")]),
        "large commit": store.commit([draft("Binary/b", text="x" * 2_000_000)]), "high water": store.high_water(),
        "seq_at": store.seq_at(5), "changes": each(store.changes(0)), "body": each(store.body(large)),
        "reindex": store.reindex([(record, *derive(record, record.body or b""))]),
        "verify": each(store.verify(derive)), "ledger.get": store.ledger.get("k"),
        "ledger.put_if": store.ledger.put_if("k", b"1", stamp=None), "ledger.incr": store.ledger.incr("k"),
        "ledger.scan": each(store.ledger.scan("")), "audit.append": store.audit.append([row("2")]),
        "audit.scan": each(store.audit.scan()),
    }  # fmt: skip
    outcomes = await asyncio.wait_for(asyncio.gather(*works.values(), return_exceptions=True), 30)
    told = dict(zip(works, outcomes, strict=True))
    assert {name: type(outcome) for name, outcome in told.items()} == dict.fromkeys(works, Unavailable)
    assert time.monotonic() - began < 20
    proxy.stalled = False
    await store.get(A)
    await store.commit([draft("Observation/c", "p")])
    assert [sentence async for sentence in store.verify(derive)] == []


async def test_a_store_can_be_closed_while_its_server_stalls(impatient: Broken) -> None:
    impatient.proxy.stalled = True
    await asyncio.wait_for(impatient.store.close(), 15)


@pytest.mark.parametrize("how", ["stalled", "refusing", "nobody there"])
async def test_a_store_whose_server_does_not_answer_is_unavailable_at_start_and_its_url_is_not_told(
    mongodb: str, tmp_path: Path, how: str
) -> None:
    with fresh("mongo", tmp_path) as url:
        async with proxied(url, **SHORT) as (proxy, through):
            proxy.stalled, proxy.refusing = how == "stalled", how == "refusing"
            if how == "nobody there":
                through = through.replace(f":{proxy.port}/", ":1/")
            store = open_store(through.replace("://", "://somebody:secret@"), clock=lambda: 0)
            with pytest.raises(Unavailable) as raised:
                await asyncio.wait_for(store.start(), 20)
            await store.close()
    told = str(raised.value)
    assert told.endswith(".")
    assert "secret" not in told
    assert "127.0.0.1" not in told


async def test_a_step_down_while_several_write_loses_nothing(mongodb: str, tmp_path: Path) -> None:
    with client_of(mongodb) as client:
        members = client.admin.command("hello")["hosts"]
        if len(members) < 2:
            print("MONGODB_URL names a replica set of one member, which holds no election: no step-down is tested.")
            pytest.skip("no election in a replica set of one member")
        known: set[str] = set()
        doubtful: set[str] = set()
        with fresh("mongo", tmp_path) as url:
            async with started(url, wall_clock) as one, started(url, wall_clock) as other:
                before = client.primary
                writing = asyncio.gather(
                    *(write(store, f"{name}{n}", 60, known, doubtful)
                      for name, store in (("one", one), ("other", other)) for n in range(4))
                )  # fmt: skip
                while len(known) < 40:  # noqa: ASYNC110 - no event tells
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(_step_down, client)
                await writing
                assert client.admin.command("hello")["primary"] != "{}:{}".format(*(before or ("", 0)))
                for store in (one, other):
                    await store.commit([draft("List/after")])
                assert len(known) > len(doubtful)
                await one.commit([draft("List/after", deleted=True)])
            assert known.isdisjoint(doubtful)
            async with started(url, wall_clock) as store:
                there = {record.id.rpartition("-")[0] for record in await found(store, Query())}
                assert known <= there <= known | doubtful
                assert await store.ledger.incr("turns", 0) == len(there)
                assert [sentence async for sentence in store.verify(derive)] == []


def _step_down(client: Any) -> None:
    try:
        client.admin.command("replSetStepDown", 20, secondaryCatchUpPeriodSecs=10)
    except PyMongoError as error:  # the connection may end with the term of office
        print(f"step-down: {type(error).__name__}")

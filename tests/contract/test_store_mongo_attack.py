"""The MongoDB store when a commit's end is in doubt, servers and callers go, and something cannot be stored.

What is tested here went wrong once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any

import msgspec
import pytest
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure

from fhirserver.core.errors import Fault, Kind, Unavailable
from fhirserver.core.model import AuditRow, Key, Query
from fhirserver.store.mongo import MongoStore, client, schema
from fhirserver.store.mongo.audit import Order
from fhirserver.store.mongo.write import Transaction
from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.contract.world import START, Clock, derive, draft, gathered, names, started, tombstone
from tests.proxy import Loss, proxied

Document = dict[str, Any]
A = Key("Observation", "a")


def row(name: str, **more: Any) -> AuditRow:
    return AuditRow(id=name, at=1, organization="o", subject="s", interaction="i", outcome="intent", **more)


# -- elections and answers that are lost --


async def test_what_is_read_while_the_primary_changes_is_read_again(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A new primary may not show for a moment what the one before has acknowledged."""
    async with started(url, clock) as store:
        assert isinstance(store, MongoStore)
        database = store._database
        terms = ["one", "one", "two"]
        monkeypatch.setattr(client, "term", lambda _: (terms[0],))
        caught_up: list[tuple[str, ...]] = []
        really = client._caught_up

        async def caught_up_in(database: Any) -> Any:
            caught_up.append(await really(database))
            return caught_up[-1]

        monkeypatch.setattr(client, "_caught_up", caught_up_in)
        reads = 0

        async def work() -> int:
            nonlocal reads
            reads += 1
            if reads == 1:
                terms[0] = "two"  # the primary it began with is none any more
            return reads

        assert await client.again(database, work) == 2
        assert caught_up == [("one",), ("two",)]


def doubtful(times: int) -> Callable[[AsyncClientSession], Awaitable[None]]:
    """A commit that takes place and, so many times, is said to have an unknown result."""
    really = AsyncClientSession.commit_transaction
    left = times

    async def commit(self: AsyncClientSession) -> None:
        nonlocal left
        await really(self)
        if left:
            left -= 1
            error = OperationFailure("time is up", 50)
            error._add_error_label("UnknownTransactionCommitResult")
            raise error

    return commit


async def test_a_group_whose_end_stays_in_doubt_is_not_made_again_one_by_one(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with started(url, clock) as store:
        await store.commit([draft("Observation/before")])
        monkeypatch.setattr("fhirserver.store.mongo.committer.PATIENCE", -1.0)
        with monkeypatch.context() as patch:
            patch.setattr(AsyncClientSession, "commit_transaction", doubtful(1))
            outcomes = await asyncio.gather(
                *(store.commit([draft(f"Observation/{at}")]) for at in range(3)), return_exceptions=True
            )
        assert [type(outcome) for outcome in outcomes] == [Unavailable] * 3
        assert [(one.id, one.version) for one in await gathered(store.changes(1))] == [("0", 1), ("1", 1), ("2", 1)]


async def test_a_commit_that_is_found_after_its_answer_was_lost_is_told_when_a_majority_has_it(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[bool] = []
    really = Transaction.outlasts

    async def outlasts(self: Transaction, turn: int, token: bytes) -> bool:
        asked.append(await really(self, turn, token))
        return asked[-1] and len(asked) > 3

    monkeypatch.setattr(Transaction, "outlasts", outlasts)
    async with started(url, clock) as store:
        with monkeypatch.context() as patch:
            patch.setattr(AsyncClientSession, "commit_transaction", doubtful(1))
            [record] = await store.commit([draft("Observation/a")])
        assert record == await store.get(A)
        assert asked == [True] * 4
        monkeypatch.setattr("fhirserver.store.mongo.committer.PATIENCE", 0.1)
        asked.clear()
        monkeypatch.setattr(Transaction, "outlasts", lambda *_: asyncio.sleep(0, False))
        monkeypatch.setattr(AsyncClientSession, "commit_transaction", doubtful(1))
        with pytest.raises(Unavailable):
            await store.commit([draft("Observation/a", text="again")])


async def test_a_commit_that_another_server_has_ended_is_made_again(
    url: str, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a session's end does to an operation that runs in it has an error code, and no label, of its own."""
    really, left = Transaction.finish, [2]

    async def finish(self: Transaction, token: bytes) -> None:
        await really(self, token)
        if left[0]:
            left[0] -= 1
            raise OperationFailure("operation was interrupted", 11601)

    monkeypatch.setattr(Transaction, "finish", finish)
    async with started(url, clock) as store:
        await store.commit([draft("Observation/a")])
        assert [record.version for record in await gathered(store.changes(0))] == [1]
        assert left == [0]


async def test_a_live_server_that_is_taken_for_dead_loses_nothing(
    url: str, clock: Clock, database: Database[Document]
) -> None:
    async with started(url, clock) as store, started(url, clock) as other:
        ending = asyncio.create_task(end_sessions(database))
        writing = [
            each.commit([draft(f"Observation/{name}-{at}", text=name)], epochs=["turns"])
            for name, each in (("one", store), ("other", other))
            for at in range(40)
        ]
        records = [record for part in chunked(writing, 8) for record in await asyncio.gather(*part)]
        ending.cancel()
        assert len(records) == 80
        assert sorted(record[0].seq for record in records) == list(range(1, 81))
        assert await store.ledger.incr("turns", 0) == 80
        assert [sentence async for sentence in store.verify(derive)] == []


def chunked(works: list[Any], size: int) -> list[list[Any]]:
    return [works[at : at + size] for at in range(0, len(works), size)]


async def end_sessions(database: Database[Document]) -> None:
    while True:
        await asyncio.sleep(0.01)
        for server in await asyncio.to_thread(lambda: list(database.servers.find())):
            command = {"killSessions": [{"id": server["session"]}]}
            await asyncio.to_thread(database.client.admin.command, command)


async def test_a_server_that_died_is_not_waited_for_between_commits(
    url: str, clock: Clock, database: Database[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.store.mongo.presence.BEAT", 0.05)
    monkeypatch.setattr("fhirserver.store.mongo.presence.DEAD", 300)
    async with started(url, clock) as store:
        assert isinstance(store, MongoStore)
        await store.commit([draft("Observation/a")])
        database.servers.insert_one({"_id": "dead", "session": b"", "seen": database.servers.find_one()["seen"]})  # type: ignore[index]
        presence = store._open().presence
        async with asyncio.timeout(10):
            while presence.others:  # noqa: ASYNC110 - it offers no event
                await asyncio.sleep(0.02)
    assert [one["_id"] for one in database.servers.find()] == ["dead"]


# -- callers that go, and a store that is closed --


async def test_nothing_that_was_staged_is_left_whenever_its_caller_goes(
    url: str, clock: Clock, database: Database[Document]
) -> None:
    """Cancelled at each message that the commit of a large body sends."""
    large = draft("Binary/a", text="x" * 5_000_000)
    async with proxied(url) as (proxy, through), started(through, clock) as store:
        await store.commit([draft("Binary/first"), draft("Binary/second")])
        number, ended = 0, False
        while not ended:
            committing = asyncio.create_task(store.commit([large]))
            proxy.lose = cancelling(committing, number)
            with suppress(asyncio.CancelledError):
                await committing
            proxy.lose = lambda _: None
            ended = not committing.cancelled()
            published = {one["_id"] for one in database.blobs.find({"staged": {"$exists": False}})}
            assert set(database.chunks.distinct("blob")) == published
            assert database.blobs.count_documents({"staged": {"$exists": True}}) == 0
            number += 1
        assert number > 8
        assert [sentence async for sentence in store.verify(derive)] == []
        for record in await gathered(store.changes(0)):
            assert sum([len(piece) async for piece in store.body(record)]) == record.size


def cancelling(task: asyncio.Task[Any], number: int) -> Callable[[bytes], Loss]:
    seen = -1

    def lose(_: bytes) -> Loss:
        nonlocal seen
        seen += 1
        if seen == number:
            task.cancel()
        return None

    return lose


async def test_a_large_commit_that_meets_the_end_of_the_store_is_unavailable(url: str, clock: Clock) -> None:
    for turns in range(0, 60, 4):
        store = open_store(url, clock=clock)
        await store.start()
        committing = asyncio.create_task(store.commit([draft("Binary/a", text="x" * 2_000_000)]))
        await asyncio.sleep(0.001 * turns)
        async with asyncio.timeout(20):
            await store.close()
            with suppress(Unavailable):
                await committing


async def test_who_waits_for_a_committer_that_is_cancelled_hears_of_it(url: str, clock: Clock) -> None:
    async with started(url, clock) as store:
        assert isinstance(store, MongoStore)
        parts = store._open()
        works = [store.commit([draft(f"Observation/{at}", text="x" * 100_000)]) for at in range(400)]
        works += [store.audit.append([row(str(at))]) for at in range(20)]
        tasks = [asyncio.ensure_future(work) for work in works]
        await asyncio.sleep(0.05)
        for running in (parts.committer._running, parts.audit._running):
            if running is not None:
                running.cancel()
        async with asyncio.timeout(20):
            outcomes = await asyncio.gather(*tasks, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {list, Unavailable, type(None)}
        await store.commit([draft("Observation/after")])
        await store.audit.append([row("after")])


async def test_who_gives_up_closing_ends_no_commit(url: str, clock: Clock) -> None:
    store = open_store(url, clock=clock)
    await store.start()
    committing = asyncio.create_task(store.commit([draft(f"Observation/{at}") for at in range(500)]))
    await asyncio.sleep(0.01)
    with suppress(TimeoutError):
        async with asyncio.timeout(0.01):
            await store.close()
    outcome = (await asyncio.gather(committing, return_exceptions=True))[0]
    assert isinstance(outcome, list | Unavailable)


# -- what cannot be stored --


async def test_one_that_cannot_be_stored_does_not_abort_its_group(url: str, clock: Clock) -> None:
    async with started(url, clock) as store:
        unstorable = draft("Observation/bad", care=(-(2**70), 2**70))
        outcomes = await asyncio.gather(
            store.commit([draft("Observation/a")]),
            store.commit([unstorable]),
            store.commit([draft("Observation/b")]),
            return_exceptions=True,
        )
        assert [isinstance(outcome, list) for outcome in outcomes] == [True, False, True]
        assert sorted(await names(store, Query())) == ["Observation/a", "Observation/b"]
        appended = await asyncio.gather(
            *(store.audit.append([row(str(at), detail={"n": 2**70 if at == 2 else at})]) for at in range(5)),
            return_exceptions=True,
        )
        assert [outcome is None for outcome in appended] == [True, True, False, True, True]
        assert [one.id async for rows in store.audit.scan() for one in rows] == ["0", "1", "3", "4"]


async def test_a_version_that_could_not_be_superseded_is_refused(url: str, clock: Clock) -> None:
    async with started(url, clock) as store:
        for size, fits in ((16_000_000, True), (16_750_000, False), (17_500_000, False)):
            one = draft(f"Observation/{size}")
            one = msgspec.structs.replace(one, index=msgspec.structs.replace(one.index, terms=("t" * size,)))
            if fits:
                await store.commit([one])
                await store.commit([tombstone(f"Observation/{size}")])
            else:
                with pytest.raises(Fault) as raised:
                    await store.commit([one])
                assert raised.value.kind is Kind.TOO_LARGE


async def test_a_sort_key_may_be_a_large_integer(store: Store) -> None:
    one = draft("Observation/a")
    await store.commit([msgspec.structs.replace(one, index=msgspec.structs.replace(one.index, sorts=(("n", 2**70),)))])
    assert await names(store, Query()) == ["Observation/a"]


# -- answers --


async def test_a_version_is_read_by_number_if_it_was_there_by_then(store: Store) -> None:
    for text in ("1", "22", "333"):
        await store.commit([draft("Observation/a", text=text)])
    for version in (1, 2, 3):
        for as_of in range(5):
            record = await store.get(A, version, as_of=as_of)
            assert (record.version if record else None) == (version if version <= as_of else None)


async def test_a_batch_of_many_types_is_no_larger_than_one_of_a_single_type(store: Store) -> None:
    types = [f"Type{at}" for at in range(6)]
    for at in range(8):
        await store.commit([draft(f"{each}/{at}", "p", text="x" * 240_000) for each in types])
    mark = (await store.high_water()).seq
    for query in (Query(types=frozenset(types)), Query(within="p", types=frozenset(types), as_of=mark)):
        batches = [batch async for batch in store.scan(query)]
        assert max(sum(record.size for record in batch) for batch in batches) <= 4 << 20
        assert [record.seq for batch in batches for record in batch] == list(range(1, 49))


# -- the trail --


async def test_rows_stand_in_order_after_a_restart_with_a_clock_that_is_behind(url: str, clock: Clock) -> None:
    for at in range(3):
        async with started(url, clock) as store:
            await store.audit.append([row(f"{at}-{number}") for number in range(3)])
        clock.now -= 5_000
    async with started(url, clock) as store:
        ids = [one.id async for rows in store.audit.scan() for one in rows]
    assert ids == sorted(ids)
    assert len(ids) == 9


def test_there_are_places_in_the_trail_for_longer_than_a_server_lives() -> None:
    now = [START]
    order = Order(lambda: now[0])
    order._count = 2**32 - 2
    places = []
    for _ in range(4):
        now[0] += 1
        places += [document["_id"] for document in order.documents([row("1"), row("2")])]
    assert places == sorted(places)
    assert len(set(places)) == 8


async def test_rows_of_a_commit_stand_where_it_stands(url: str, clock: Clock) -> None:
    """A large body takes a while; what is appended meanwhile comes before."""
    async with started(url, clock) as store:
        committing = asyncio.create_task(store.commit([draft("Binary/a", text="x" * 3_000_000)], audit=[row("2")]))
        await asyncio.sleep(0)
        await store.audit.append([row("1")])
        await committing
        assert [one.id async for rows in store.audit.scan() for one in rows] == ["1", "2"]


# -- the start --


async def test_what_a_killed_server_has_only_begun_is_finished(
    url: str, clock: Clock, database: Database[Document], caplog: pytest.LogCaptureFixture
) -> None:
    marker = {"_id": "store", "application": "fhirserver", "schema": schema.SCHEMA_VERSION}
    for begun in (
        lambda: database.create_collection("store"),
        lambda: database.store.insert_one(marker),
    ):
        begun()
        async with started(url, clock) as store:
            await store.commit([draft("Observation/a")])
            assert [sentence async for sentence in store.verify(derive)] == []
        database.client.drop_database(database.name)
    assert caplog.records == []  # nor has anything been missing


async def test_a_counter_that_is_gone_is_not_begun_anew(url: str, clock: Clock, database: Database[Document]) -> None:
    async with started(url, clock) as store:
        await store.commit([draft("Observation/a")])
    database.store.delete_one({"_id": "commits"})
    async with started(url, clock) as store:
        with pytest.raises(Unavailable):
            await store.commit([draft("Observation/b")])
        assert [sentence async for sentence in store.verify(derive)] == ["The commit counter is gone or damaged."]


def test_an_index_that_no_read_may_use_is_not_the_stores_own() -> None:
    chart = {"key": [("home", 1), ("seq", 1)]}
    assert schema.foreign("current", {"chart": chart}) == []
    with pytest.raises(Unavailable, match=r"current\.chart"):
        schema.foreign("current", {"chart": {**chart, "hidden": True}})

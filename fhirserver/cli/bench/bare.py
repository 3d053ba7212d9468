"""What the engine gives a bare driver: the reference that rows on MongoDB stand beside.

Each question runs in a process of its own, ``python -m fhirserver.cli.bench.bare``, which knows nothing of the
server: pymongo's AsyncMongoClient, the documents as they are, and no more work on them than to count them.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any, cast

import msgspec
from pymongo import AsyncMongoClient
from pymongo.asynchronous.collection import AsyncCollection
from pymongo.asynchronous.database import AsyncDatabase

from fhirserver.cli.bench.stores import BESIDE
from fhirserver.config import PREFIX

Document = dict[str, Any]
Answer = dict[str, Any]

PROJECTION = dict.fromkeys(
    ("version", "seq", "updated", "deleted", "facts", "supports", "digest", "size", "key", "ended", "body"), 1
)
"""What the store reads of a version to make its record; `tests/bench/test_bench.py` holds the two equal."""

BATCH = 500
"""Documents in one insert, as many as an import commits together."""
_PAGE = 2_000


def ask(environment: dict[str, str], question: str, *words: str) -> Answer:
    """The answer of a process of its own; RuntimeError with what it said when it failed."""
    done = subprocess.run(  # noqa: S603  our own module, our own words
        [sys.executable, "-m", "fhirserver.cli.bench.bare", question, *words],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    if done.returncode:
        raise RuntimeError(f"The bare driver failed: {done.stderr}")
    return cast(Answer, msgspec.json.decode(done.stdout))


def _per_second(count: int, began: float) -> float:
    return round(count / (time.perf_counter() - began), 1)


async def chart(database: AsyncDatabase[Document], patient: str, batch: int = 0) -> Answer:
    """One patient's chart, in chart order, to its end; ``batch``: documents in one answer (0: the driver's choice)."""
    await database.command("ping")
    began = time.perf_counter()
    found = database["current"].find({"home": patient}, PROJECTION).sort("seq", 1).batch_size(batch)
    count = size = 0
    first = 0.0
    while page := await found.to_list(_PAGE):
        first = first or time.perf_counter() - began
        count += len(page)
        size += sum([document["size"] for document in page])
    seconds = time.perf_counter() - began
    return {
        "records": count,
        "seconds": round(seconds, 3),
        "per_second": round(count / seconds),
        "MB_per_second": round(size / seconds / 1e6, 1),
        "first_ms": round(first * 1000, 1),
    }


async def batches(database: AsyncDatabase[Document], patient: str) -> Answer:
    """The same in small answers, which some engines give faster."""
    return await chart(database, patient, 1_000)


async def reads(database: AsyncDatabase[Document], patient: str) -> Answer:
    """Documents of a chart by `_id`, one client and eight."""
    some = await database["current"].find({"home": patient}, {"_id": 1}).sort("seq", 1).limit(2000).to_list(None)
    keys = [document["_id"] for document in some]

    async def read(share: Sequence[str]) -> None:
        for key in share:
            await database["current"].find_one({"_id": key}, PROJECTION)

    rates = {}
    for clients in (1, 8):
        shares = [keys[number::clients] for number in range(clients)]
        await asyncio.gather(*[read(share[:5]) for share in shares])
        began = time.perf_counter()
        await asyncio.gather(*map(read, shares))
        rates[f"find_one_by_id_{clients}_per_second"] = _per_second(len(keys), began)
    return rates


async def commits(database: AsyncDatabase[Document], patient: str) -> Answer:  # noqa: ARG001  one signature
    """Transactions that raise one counter, one after the other; and counters raised without one."""
    count = 500
    async with _beside(database) as other:
        counters = other["counters"]
        await counters.insert_one({"_id": "commits", "last": 0})
        began = time.perf_counter()
        for _ in range(count):
            async with other.client.start_session() as session, await session.start_transaction():
                await counters.update_one({"_id": "commits"}, {"$inc": {"last": 1}}, session=session)
        transactions = _per_second(count, began)
        began = time.perf_counter()
        for _ in range(count):
            await counters.update_one({"_id": "commits"}, {"$inc": {"last": 1}})
        return {"transactions_per_second": transactions, "updates_per_second": _per_second(count, began)}


async def inserts(database: AsyncDatabase[Document], patient: str) -> Answer:
    """The chart's own documents into a collection with the same indexes: plain, and as an import would commit them.

    ``committed_native``: with the native documents in the same transactions, for a store that has them.
    """
    documents = await database["current"].find({"home": patient}).sort("seq", 1).limit(10_000).to_list(None)
    parts = [documents[at : at + BATCH] for at in range(0, len(documents), BATCH)]
    natives = await _natives(database, documents)
    answer: Answer = {"documents": len(documents), "native_documents": len(natives)}
    async with _beside(database) as other:
        plain, committed, both = other["plain"], other["committed"], other["committed_native"]
        for into in (plain, committed, both):
            await _same_indexes(database["current"], into)
        began = time.perf_counter()
        for part in parts:
            await plain.insert_many(part, ordered=False)
        answer["plain_per_second"] = _per_second(len(documents), began)
        began = time.perf_counter()
        for part in parts:
            await _commit(other, committed, part, {})
        answer["committed_per_second"] = _per_second(len(documents), began)
        if natives:
            for type_ in {type_ for type_, _ in natives.values()}:
                await other.create_collection(type_)
            began = time.perf_counter()
            for part in parts:
                await _commit(other, both, part, natives)
            answer["committed_native_per_second"] = _per_second(len(documents), began)
    return answer


async def _commit(
    other: AsyncDatabase[Document],
    into: AsyncCollection[Document],
    part: Sequence[Document],
    natives: dict[str, tuple[str, Document]],
) -> None:
    by_type: dict[str, list[Document]] = {}
    for document in part:
        if document["_id"] in natives:
            type_, native = natives[document["_id"]]
            by_type.setdefault(type_, []).append(native)
    async with other.client.start_session() as session, await session.start_transaction():
        await other["counters"].update_one(
            {"_id": "commits"}, {"$inc": {"last": len(part)}}, upsert=True, session=session
        )
        await into.insert_many(part, ordered=False, session=session)
        for type_, those in by_type.items():
            await other[type_].insert_many(those, ordered=False, session=session)


async def _natives(database: AsyncDatabase[Document], documents: Sequence[Document]) -> dict[str, tuple[str, Document]]:
    """The native documents beside these versions, where the store has them."""
    wanted: dict[str, list[str]] = {}
    for document in documents:
        wanted.setdefault(document["type"], []).append(document["id"])
    found = {}
    for type_, ids in wanted.items():
        async for native in database[type_].find({"_id": {"$in": ids}}):
            found[f"{type_}/{native['_id']}"] = type_, native
    return found


async def _same_indexes(like: AsyncCollection[Document], into: AsyncCollection[Document]) -> None:
    async for index in await like.list_indexes():
        if index["name"] != "_id_":
            kept = {
                name: value for name, value in index.items() if name in ("unique", "sparse", "partialFilterExpression")
            }
            await into.create_index(list(index["key"].items()), name=index["name"], **kept)


@asynccontextmanager
async def _beside(database: AsyncDatabase[Document]) -> AsyncIterator[AsyncDatabase[Document]]:
    """Another database of the benchmark's own on the same engine, dropped afterwards."""
    name = database.name + BESIDE
    try:
        await database.client[name].create_collection("counters")
        yield database.client[name]
    finally:
        await database.client.drop_database(name)


QUESTIONS = {"chart": chart, "batches": batches, "reads": reads, "commits": commits, "inserts": inserts}


async def _main(question: str, patient: str) -> Answer:
    async with AsyncMongoClient[Document](os.environ[PREFIX + "STORE"]) as client:
        return await QUESTIONS[question](client.get_default_database(), patient)


if __name__ == "__main__":
    sys.stdout.buffer.write(msgspec.json.encode(asyncio.run(_main(sys.argv[1], sys.argv[2]))))

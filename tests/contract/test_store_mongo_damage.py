"""What the MongoDB store tells: of every damaged field to `check`, and of no content or secret in a failure."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import AutoReconnect

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Draft, Query
from fhirserver.store.mongo import client
from fhirserver.store.port import Store
from tests.contract.world import Clock, derive, draft, found, gathered, started, tombstone

Document = dict[str, Any]
Damage = Callable[[Database[Document]], object]

ENTRIES = {"terms", "texts", "spans", "sorts", "present"}
UNSEEN = {
    # What a superseded version or a tombstone is found by is derived by the rules of its day and not looked at again.
    "history": {"supports", "care_lo", "care_hi"} | ENTRIES,
    "tombstone": {"digest", "updated", "supports", "care_lo", "care_hi"} | ENTRIES,
    "commits": {"token"},
    "chunks": {"part"},  # only the order counts
}


def another(value: Any) -> Any:
    """A value of the same kind that is not this one."""
    if isinstance(value, bool):
        return not value
    if isinstance(value, list):
        return [*value, "zz"]
    if isinstance(value, str):
        return value + "z"
    if isinstance(value, bytes):
        return value + b"z"
    return value + 1 if isinstance(value, int | float) else 5


async def test_every_field_that_is_lost_or_changed_is_told(
    url: str, clock: Clock, database: Database[Document]
) -> None:
    def full(reference: str, text: str) -> Draft:
        return draft(
            reference, "p", "q", text=text, terms=("red",), labels=("l",), parties=("x",), care=(1, 2),
            supports=("Practitioner/1",),
        )  # fmt: skip

    async with started(url, clock) as store:
        for text in "ab":
            await store.commit([full("Observation/a", text), full("Observation/b", text)])
        await store.commit([draft("Binary/large", "p", text="x" * 700_000), tombstone("Observation/b")])

        async def told() -> list[str]:
            return [sentence async for sentence in store.verify(derive)]

        assert await told() == []
        unseen = []
        for kind, collection, which in (
            ("current", "current", {"_id": "Observation/a"}), ("history", "history", {"_id": 1}),
            ("tombstone", "current", {"_id": "Observation/b"}), ("large", "current", {"_id": "Binary/large"}),
            ("commits", "commits", {"_id": 2}), ("store", "store", {"_id": "commits"}), ("blobs", "blobs", {}),
            ("chunks", "chunks", {}),
        ):  # fmt: skip
            kept = database[collection].find_one(which)
            assert kept is not None
            for name in kept.keys() - {"_id"} - UNSEEN.get(kind, set()):
                for change in (
                    {"$unset": {name: 1}}, {"$set": {name: another(kept[name])}}, {"$set": {name: {"a": 1}}},
                ):  # fmt: skip
                    if (kind, name) in {("current", "seq"), ("large", "seq")} and "$set" in change:
                        continue  # another's seq: refused by the unique index
                    database[collection].update_one({"_id": kept["_id"]}, change)
                    if not await told():
                        unseen.append((kind, name, change))
                    database[collection].replace_one({"_id": kept["_id"]}, kept)
        assert unseen == []
        database.chunks.insert_one({"blob": "nobody's", "part": 0, "data": b"x"})
        assert await told() == ["6 pieces of bodies are kept where the versions have 5."]


DAMAGES: dict[str, Damage] = {
    "a version": lambda database: database.current.update_one({"_id": "Observation/a"}, {"$unset": {"size": 1}}),
    "a superseded one": lambda database: database.history.update_one({"_id": 1}, {"$unset": {"digest": 1}}),
    "a piece": lambda database: database.chunks.update_one({}, {"$unset": {"data": 1}}),
    "an entry": lambda database: database.ledger.update_one({"_id": "k"}, {"$unset": {"stamp": 1}}),
}


@pytest.mark.parametrize("name", DAMAGES)
async def test_what_is_damaged_is_unavailable_and_no_failure_of_ours(
    url: str, clock: Clock, database: Database[Document], name: str
) -> None:
    async with started(url, clock) as store:
        for text in ("x", "y"):
            await store.commit([draft("Observation/a", text=text), draft("Binary/b", text=text * 600_000)])
        await store.ledger.put_if("k", b"v", stamp=None)
        DAMAGES[name](database)
        with pytest.raises(Unavailable) as raised:
            await everything(store)
        assert raised.value.__cause__ is not None
        assert not isinstance(raised.value.__cause__, AutoReconnect)


async def everything(store: Store) -> None:
    await found(store, Query())
    for record in await gathered(store.changes(0)):
        assert sum([len(piece) async for piece in store.body(record)]) == record.size
    assert await store.ledger.get("k") is not None


# -- what is told --

NAME = "0c0f1d3e"
"""In no line of code, of which a trace consists as well."""


async def test_the_cause_of_a_failure_repeats_no_content(url: str, clock: Clock, database: Database[Document]) -> None:
    async with started(url, clock) as store:
        await store.commit([draft("Observation/a")])
        database.current.insert_one({"_id": "stray", "seq": 2})
        with pytest.raises(Unavailable) as raised:
            await store.commit([draft(f"Observation/{NAME}", text=NAME)])
    told = "".join(traceback.format_exception(raised.value))
    assert NAME not in told
    assert "BulkWriteError" in told


@pytest.mark.parametrize(
    "url",
    [
        "mongodb+srv://user:pass/hunter2@host.example.org/db",
        "mongodb+srv://user:hunter2@host.example.org/db?tls=maybe",
        "mongodb://user:hunter2@host/db?tls=true&tlsCertificateKeyFile=/nowhere/hunter2.pem",
    ],
)
def test_a_url_that_is_not_understood_is_a_sentence_without_its_secrets(url: str) -> None:
    with pytest.raises(ValueError, match="cannot be understood") as raised:
        client.understand(url)
    assert "hunter2" not in "".join(traceback.format_exception(raised.value))


def test_the_options_of_a_url_that_is_resolved_by_dns_win_too() -> None:
    place = client.understand("mongodb+srv://u:p@h.example.org/charts?maxPoolSize=7&srvMaxHosts=2")
    assert place.database == "charts"
    assert "maxPoolSize" not in place.options
    assert "connectTimeoutMS" in place.options

"""What holds for the MongoDB store alone: its indexes, its start, its native documents, its refusals."""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bson import Decimal128
from pymongo.database import Database

from fhirserver.core.criteria import Text
from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Draft, Facts, Index, Key, Query, Record
from fhirserver.store.mongo.client import refuse_standalone, understand
from fhirserver.store.mongo.schema import COLLECTIONS, INDEXES, SCHEMA_VERSION
from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.contract.test_criteria import indexed
from tests.contract.world import START, Clock, derive, draft, found, gathered, names, started, tombstone
from tests.stores import client_of, database_of, fresh

Document = dict[str, Any]
A = Key("Observation", "a")
ROOT = Path(__file__).parents[2]


# -- start --


async def test_the_indexes_are_those_of_the_catalogue(url: str, database: Database[Document]) -> None:
    async with started(url):
        there = {
            (collection, name): tuple(key for key, _ in index["key"])
            for collection in COLLECTIONS
            for name, index in database[collection].index_information().items()
            if name != "_id_"
        }
    assert there == {(index.collection, index.name): index.keys for index in INDEXES}
    assert all(index.reason for index in INDEXES)


async def test_an_index_that_is_missing_is_made_again_and_told(
    url: str, database: Database[Document], caplog: pytest.LogCaptureFixture
) -> None:
    async with started(url) as store:
        await store.commit([draft("Observation/a", "p")])
        database.current.drop_index("chart")
        assert [one async for one in store.verify(derive)] == ["The index current.chart is missing."]
    with caplog.at_level(logging.WARNING, "fhirserver.store"):
        async with started(url) as store:
            assert await names(store, Query(within="p")) == ["Observation/a"]
    assert [record.getMessage() for record in caplog.records] == [
        "The index current.chart was missing and is made again."
    ]
    assert "chart" in database.current.index_information()


async def test_a_foreign_index_is_told_and_left_alone(
    url: str, database: Database[Document], caplog: pytest.LogCaptureFixture
) -> None:
    async with started(url):
        database.current.create_index("texts.v", name="somebody_elses")
    with caplog.at_level(logging.WARNING, "fhirserver.store"):
        async with started(url):
            pass
    [told] = [record.getMessage() for record in caplog.records]
    assert "current.somebody_elses" in told
    assert "somebody_elses" in database.current.index_information()


@pytest.mark.parametrize(
    ("keys", "options"),
    [([("home", 1)], {}), ([("seq", 1), ("home", 1)], {}), ([("home", 1), ("seq", 1)], {"unique": True})],
)
async def test_an_index_of_ours_with_another_definition_is_refused_by_name(
    url: str, database: Database[Document], keys: Any, options: Any
) -> None:
    async with started(url):
        pass
    database.current.drop_index("chart")
    database.current.create_index(keys, name="chart", **options)
    with pytest.raises(Unavailable, match=r"current\.chart"):
        await open_store(url, clock=Clock()).start()


async def test_a_database_of_another_program_is_refused_and_left_alone(url: str, database: Database[Document]) -> None:
    database.theirs.insert_one({"_id": 1})
    with pytest.raises(Unavailable, match="another program") as raised:
        await open_store(url, clock=Clock()).start()
    assert database_of(url) not in str(raised.value)
    assert database.list_collection_names() == ["theirs"]
    database.theirs.drop()
    database.store.insert_one({"_id": "store", "application": "another"})
    with pytest.raises(Unavailable, match="another program"):
        await open_store(url, clock=Clock()).start()
    assert database.list_collection_names() == ["store"]


async def test_a_store_of_another_schema_version_is_refused_with_a_sentence(
    url: str, database: Database[Document]
) -> None:
    async with started(url):
        pass
    database.store.update_one({"_id": "store"}, {"$set": {"schema": SCHEMA_VERSION + 1}})
    with pytest.raises(Unavailable, match=f"schema version {SCHEMA_VERSION + 1}; this server knows"):
        await open_store(url, clock=Clock()).start()


async def test_a_store_of_the_first_schema_version_is_brought_up_and_indexed_again(
    url: str, database: Database[Document]
) -> None:
    async with started(url) as store:
        await store.commit([indexed("Patient/a", "p", texts=(("Patient|name", "anna"),))])
        as_it_was = {"$set": {"terms": ["Patient|active=true"]}, "$unset": {"present": ""}}
        database.current.update_one({"_id": "Patient/a"}, as_it_was)
    database.store.update_one({"_id": "store"}, {"$set": {"schema": 1}})
    asked = Query(criteria=(Text("Patient|name", "an"),))
    async with started(url) as store:
        assert database.store.find_one({"_id": "store"})["schema"] == SCHEMA_VERSION  # type: ignore[index]
        [record] = [each async for batch in store.scan(Query()) for each in batch]
        fresh = indexed("Patient/a", "p", texts=(("Patient|name", "anna"),), present=("name",))
        await store.reindex([(record, fresh.facts, fresh.index)])
        assert [each.key async for batch in store.scan(asked) for each in batch] == [record.key]
        assert [problem async for problem in store.verify(lambda *_: (fresh.facts, fresh.index))] == []


def test_a_standalone_server_is_refused_with_what_to_do() -> None:
    with pytest.raises(Unavailable, match="replSet"):
        refuse_standalone({"isWritablePrimary": True, "maxWireVersion": 21, "ok": 1.0})
    refuse_standalone({"isWritablePrimary": True, "setName": "rs0"})
    refuse_standalone({"isWritablePrimary": True, "msg": "isdbgrid"})


@pytest.mark.parametrize(
    "url",
    ["mongodb://", "mongodb://u:secret@", "mongodb://u:secret@h:x/db", "mongodb://u:sec@ret@h/db", "mongodb://h/a?b"],
)
def test_a_url_that_cannot_be_understood_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="mongodb://") as raised:
        open_store(url, clock=Clock())
    assert "sec" not in str(raised.value)


def test_a_url_names_the_database_and_its_options_win() -> None:
    assert understand("mongodb://h:1,i:2/charts?replicaSet=rs0").database == "charts"
    for none in ("mongodb://h/?replicaSet=rs0", "mongodb://h", "mongodb+srv://h.example.org/?w=1"):
        assert understand(none).database == "fhirserver"
    assert understand("mongodb+srv://u:p@h.example.org/charts?w=1").database == "charts"
    assert understand("mongodb://h/c?connecttimeoutms=7").options.keys() < understand("mongodb://h/c").options.keys()


async def test_several_processes_may_start_at_once_on_an_empty_database(url: str) -> None:
    program = """
import asyncio, sys, time
from fhirserver.store.open import open_store
from tests.contract.world import draft

async def main(url, name):
    store = open_store(url, clock=lambda: time.time_ns() // 1_000_000)
    sys.stdin.readline()
    await store.start()
    await store.commit([draft(f"Observation/{name}"), draft(f"Type{name}/x")])
    await store.close()

asyncio.run(main(*sys.argv[1:]))
"""
    processes = [process(program, url, str(number)) for number in range(4)]
    await asyncio.sleep(1)  # the imports; whoever is later only makes the test easier
    for each in processes:
        assert each.stdin is not None
        each.stdin.write("\n")
        each.stdin.flush()
    for each in processes:
        _, errors = await asyncio.to_thread(each.communicate)
        assert each.returncode == 0, errors
    async with started(url) as store:
        assert await store.count(Query()) == 8
        assert [one async for one in store.verify(derive)] == []


def process(program: str, *words: str) -> subprocess.Popen[str]:
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen([sys.executable, "-c", program, *words], cwd=ROOT, text=True, **pipes)


async def test_two_servers_whose_clocks_differ_tell_times_that_never_run_back(url: str) -> None:
    ahead, behind = Clock(), Clock()
    behind.now -= 3_600_000
    async with started(url, ahead) as one, started(url, behind) as other:
        told = []
        for store in (one, other, one, other):
            [record] = await store.commit([draft("Observation/a", text=str(len(told)))])
            told += [record.updated, (await store.high_water()).time]
            ahead.now += 10
        assert told == sorted(told)
        assert {record.seq for record in await gathered(other.changes(0))} == {1, 2, 3, 4}


# -- native documents --


def real(reference: str, **content: Any) -> Draft:
    """A draft of a resource whose content is this."""
    key = Key.parse(reference)
    head = f'{{"resourceType":"{key.type}","id":"{key.id}","meta":{{'.encode()
    raw: bytes = content.pop("raw", None) or msgspec.json.encode({"text": key.id, **content})
    facts = Facts("org-1", (), ("p",), (), ("p",))
    return Draft(key=key, head=head, tail=b"}," + raw[1:], facts=facts, index=Index(compartments=("p",), owners=("p",)))


async def test_a_current_resource_is_a_document_of_its_type_in_step_with_its_versions(
    url: str, database: Database[Document]
) -> None:
    code = {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]}
    async with started(url) as store:
        await store.commit([real("Observation/a", code=code), real("Patient/p")])
        one = database.Observation.find_one({"code.coding.code": "8480-6"})
        assert one is not None
        assert one["_id"] == "a"
        assert one["meta"] == {"versionId": "1", "lastUpdated": "2023-11-14T22:13:20.000Z"}
        assert one["_store"]["custodian"] == "org-1"
        assert one["_store"]["owners"] == one["_store"]["compartments"] == ["p"]
        assert (one["_store"]["version"], one["_store"]["seq"]) == (1, 1)
        assert one["_store"]["updated"].timestamp() * 1000 == START
        await store.commit([real("Observation/a", code={"text": "new"}), tombstone("Patient/p")])
        assert [one["code"] for one in database.Observation.find()] == [{"text": "new"}]
        assert database.Patient.count_documents({}) == 0
        with pytest.raises(Exception, match="version"):
            await store.commit([real("Observation/b"), draft("Observation/a", if_version=7)])
        assert database.Observation.count_documents({}) == 1


async def test_decimals_keep_their_digits_in_the_native_document_and_the_body_keeps_its_bytes(
    url: str, database: Database[Document]
) -> None:
    raw = b'{"values":[1.00,3e2,-0.0,12345678901234567890,0.1,7],"z":1,"a":2}'
    async with started(url) as store:
        [record] = await store.commit([real("Observation/a", raw=raw)])
        there = await store.get(A)
        assert there == record
        assert there is not None
        assert (there.body or b"").endswith(raw[1:])
    one = database.Observation.find_one({})
    assert one is not None
    assert [str(value) for value in one["values"]] == ["1.00", "3E+2", "-0.0", "12345678901234567890", "0.1", "7"]
    assert isinstance(one["values"][0], Decimal128)
    assert isinstance(one["values"][5], int)
    assert [name for name in one if name in "za"] == ["z", "a"]


async def test_the_store_not_the_setting_says_whether_native_documents_are_kept(
    url: str, database: Database[Document], caplog: pytest.LogCaptureFixture
) -> None:
    async with started(url, native=False) as plain:
        await plain.commit([real("Observation/a")])
        assert "Observation" not in database.list_collection_names()
        with caplog.at_level(logging.WARNING, "fhirserver.store"):
            async with started(url, native=True) as wishing:
                await wishing.commit([real("Observation/b")])
                assert "Observation" not in database.list_collection_names()
                assert "reindex" in caplog.text
                await reindexed(wishing)
                assert sorted(one["_id"] for one in database.Observation.find()) == ["a", "b"]
                assert [one async for one in wishing.verify(as_they_are)] == []
        # The other server, which was started without them, follows with its next commit.
        await plain.commit([real("Observation/c"), tombstone("Observation/b")])
        assert sorted(one["_id"] for one in database.Observation.find()) == ["a", "c"]
        await reindexed(plain)
        assert "Observation" not in database.list_collection_names()
        await plain.commit([real("Observation/d")])
        assert "Observation" not in database.list_collection_names()
        assert [one async for one in plain.verify(as_they_are)] == []


async def reindexed(store: Store) -> None:
    """What `fhirserver reindex` does."""
    await store.rebuild()
    async for batch in store.scan(Query()):
        await store.reindex([(record, *as_they_are(record, record.body or b"")) for record in batch])


def as_they_are(record: Record, _: bytes) -> tuple[Facts, Index]:
    drafted = real(str(record.key))
    return drafted.facts, drafted.index


async def test_what_is_too_large_for_a_document_has_none_and_is_served_all_the_same(
    url: str, database: Database[Document]
) -> None:
    large = real("Binary/large", data="QUJD" * 1_500_000)
    async with started(url) as store:
        await store.commit([real("Binary/large", data="QUJD"), real("Binary/small", data="QUJD")])
        await store.commit([large])
        assert [one["_id"] for one in database.Binary.find()] == ["small"]
        [record] = [record for record in await found(store, Query()) if record.id == "large"]
        assert b"".join([piece async for piece in store.body(record)]).endswith(large.tail)


# -- bodies --


async def test_a_binary_of_64_mb_is_stored_and_streamed_whole(url: str) -> None:
    large = real("Binary/a", data="0123456789abcdef" * (4 << 20))
    async with started(url) as store:
        [record] = await store.commit([large])
        [slim] = await found(store, Query(within="p"))
        assert slim.body is None
        assert slim.size == record.size > 64 << 20
        at, whole, largest = 0, record.body or b"", 0
        async for piece in store.body(slim):
            assert whole[at : at + len(piece)] == piece
            at, largest = at + len(piece), max(largest, len(piece))
        assert at == slim.size
        assert largest <= 1 << 20


async def test_what_was_staged_for_a_request_that_was_cancelled_goes_away(
    url: str, database: Database[Document]
) -> None:
    large = draft("Binary/a", text="x" * 30_000_000)
    async with started(url) as store:
        commit = asyncio.create_task(store.commit([large]))
        while database.chunks.count_documents({}) < 20:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        assert (database.chunks.count_documents({}), database.blobs.count_documents({})) == (0, 0)
        assert await store.count(Query()) == 0


async def test_what_a_killed_process_has_staged_is_swept_after_a_day_and_not_before(
    url: str, database: Database[Document]
) -> None:
    clock = Clock()
    async with started(url, clock):
        for name, staged in (("old", clock.now - 25 * 3_600_000), ("young", clock.now - 3_600_000)):
            database.blobs.insert_one({"_id": name, "staged": staged})
            database.chunks.insert_one({"blob": name, "part": 0, "data": b"x"})
    async with started(url, clock):
        assert [one["_id"] for one in database.blobs.find()] == ["young"]
        assert [one["blob"] for one in database.chunks.find()] == ["young"]


# -- damage --


DAMAGES: dict[str, Callable[[Database[Document]], object]] = {
    "nothing": lambda _: None,
    "a current version is gone": lambda db: db.current.delete_one({"_id": "Observation/1"}),
    "a superseded version is gone": lambda db: db.history.delete_one({"_id": 5}),
    "a term is gone": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$pull": {"terms": "red"}}),
    "a term is new": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$push": {"terms": "blue"}}),
    "a text is another": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$set": {"texts.0.v": "zz"}}),
    "an owner is another": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$set": {"owners": ["p2"]}}),
    "a home is another": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$set": {"home": "p2"}}),
    "a body is another": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$set": {"body": b"{}"}}),
    "a version is another": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$set": {"version": 3}}),
    "a period is another": lambda db: db.current.update_one({"_id": "Observation/1"}, {"$set": {"care_lo": 5}}),
    "an end is another": lambda db: db.history.update_one({"_id": 5}, {"$set": {"ended": 99}}),
    "a commit is gone": lambda db: db.commits.delete_one({"_id": 1}),
    "a commit is another": lambda db: db.commits.update_one({"_id": 2}, {"$inc": {"last": 1}}),
    "the counter is another": lambda db: db.store.update_one({"_id": "commits"}, {"$inc": {"last": 1}}),
    "the counter is gone": lambda db: db.store.delete_one({"_id": "commits"}),
    "a chunk is gone": lambda db: db.chunks.delete_one({}),
    "a blob is unpublished": lambda db: db.blobs.update_one({}, {"$set": {"staged": 1}}),
    "a blob is nobody's": lambda db: db.blobs.insert_one({"_id": "x"}),
    "a native document is gone": lambda db: db.Observation.delete_one({"_id": "1"}),
    "a native document is another": lambda db: db.Observation.update_one({"_id": "1"}, {"$set": {"text": "z"}}),
    "a native document is nobody's": lambda db: db.Observation.insert_one({"_id": "stray"}),
    "a native document is of nothing that ever was": lambda db: db.Condition.insert_one({"_id": "stray"}),
    "an index is gone": lambda db: db.history.drop_index("chart"),
}


async def test_verify_tells_each_kind_of_damage(mongodb: str, tmp_path: Path) -> None:
    for damage, do in DAMAGES.items():
        with fresh("mongo", tmp_path) as url, client_of(url) as client:
            async with started(url) as store:
                for text in "ab":
                    await store.commit([draft(f"Observation/{at}", "p1", text=text, terms=("red",)) for at in range(9)])
                await store.commit([draft("Binary/large", "p1", text="x" * 1_000_000), draft("Condition/1", "p2")])
                do(client[database_of(url)])
                sentences = [sentence async for sentence in store.verify(derive)]
                assert bool(sentences) == (damage != "nothing"), (damage, sentences)
                assert all(sentence.endswith(".") for sentence in sentences)

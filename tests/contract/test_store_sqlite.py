# ruff: noqa: ASYNC240, S608 - the tests damage files and tables by hand
"""What holds for the SQLite store alone: its plans, its file, its refusals."""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import threading
import time
from pathlib import Path

import msgspec
import pytest
from hypothesis.stateful import run_state_machine_as_test

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow, Clause, HistoryQuery, Key, Query, Visible
from fhirserver.store.open import open_store
from fhirserver.store.sqlite import history, plan, verify, write
from fhirserver.store.sqlite.file import StoreFile
from fhirserver.store.sqlite.intern import Texts, delete_statement
from fhirserver.store.sqlite.plan import compile_query
from fhirserver.store.sqlite.readers import Readers
from fhirserver.store.sqlite.schema import SCHEMA_VERSION, prepare
from fhirserver.store.sqlite.visible import SHIFT, Admission
from fhirserver.store.sqlite.write import INDEX_TABLES
from tests.contract.test_store_machine import StoreMachine, machine_settings
from tests.contract.world import Clock, derive, draft, found, tombstone

AUDIT_ROW = AuditRow(id="1", at=1, organization="o", subject="s", interaction="i", outcome="intent")
MANY = tuple(f"t{at}" for at in range(100))


@pytest.fixture
async def file(tmp_path: Path) -> Path:
    """A closed store with a little of everything."""
    store = open_store(f"sqlite:///{tmp_path}/store.db", clock=Clock())
    await store.start()
    for text in "ab":
        await store.commit([
            *(draft(f"Observation/{at}", f"p{at % 3}", text=text, terms=("red", f"t{at}")) for at in range(30)),
            *(draft(f"Condition/{at}", f"p{at % 3}", text=text, terms=("red",)) for at in range(30)),
        ])  # fmt: skip
    await store.close()
    return tmp_path / "store.db"


@pytest.fixture
def connection(file: Path):  # type: ignore[no-untyped-def]  # a generator fixture
    connection = sqlite3.connect(file, isolation_level=None)
    yield connection
    connection.close()


TYPES = frozenset({"Observation", "Condition"})
SHAPES = {
    "the whole store": (Query(), "SCAN|SEARCH x USING INTEGER PRIMARY KEY"),
    "one type": (Query(types=frozenset({"Observation"})), "SEARCH x USING COVERING INDEX current_type"),
    "two types": (Query(types=TYPES), "MERGE .*SEARCH x USING COVERING INDEX current_type"),
    "keys": (Query(keys=(Key("Observation", "1"),)), r"SEARCH x USING INDEX current_key \(type=\? AND id=\?"),
    "a chart": (Query(within="p1"), r"SEARCH x USING PRIMARY KEY \(compartment=\? AND seq>\? AND seq<\?\)"),
    "one type of a chart": (
        Query(within="p1", types=frozenset({"Observation"})),
        r"SEARCH x USING (COVERING )?INDEX chart_type \(compartment=\? AND type=\? AND seq>\? AND seq<\?\)",
    ),
    "two types of a chart": (Query(within="p1", types=TYPES), "MERGE .*chart_type"),
    "a chart beyond another": (Query(within="p1", beyond=("p2",)), r"SEARCH o USING PRIMARY KEY \(compartment=\? AND"),
    "a term": (
        Query(terms=(("red",),)),
        r"SEARCH t USING PRIMARY KEY \(region=\? AND hash=\? AND seq>\? AND seq<\?\) SEARCH x USING INTEGER PRIMARY",
    ),
    "one of two terms": (Query(terms=(("red", "t1"),)), "MERGE .*SEARCH t USING PRIMARY KEY"),
    "one of many terms": (Query(terms=(MANY,)), r"SEARCH terms USING PRIMARY KEY \(region=\? AND hash=\?"),
    "two terms": (Query(terms=(("red",), ("t1",))), r"SEARCH g USING PRIMARY KEY \(region=\? AND hash=\? AND seq=\?\)"),
    "a term in a chart": (
        Query(within="p1", terms=(("t1",),)),
        r"SEARCH b USING PRIMARY KEY \(compartment=\? AND seq=\?\)",
    ),
    "a care period": (Query(within="p1", care=(1, 2)), "SEARCH x USING PRIMARY KEY"),
    "since a time": (Query(within="p1", updated_from=5), "SEARCH x USING PRIMARY KEY"),
    "what left": (
        Query(within="p1", departed_since=3),
        r"SEARCH p USING PRIMARY KEY \(compartment=\? AND ended>\? AND",
    ),
}
MAY_SORT = {"keys", "what left"}
"""A few rows by nature, which no index has in seq order."""


def plan_of(connection: sqlite3.Connection, statement: str, values: object = ()) -> str:
    rows = connection.execute(f"EXPLAIN QUERY PLAN {statement}", values).fetchall()  # type: ignore[arg-type]
    return " ".join(row[3] for row in rows)


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_of_query_is_read_from_its_index(connection: sqlite3.Connection, name: str) -> None:
    query, wanted = SHAPES[name]
    [side] = compile_query(connection, Texts(), query).sides
    statement, values = side.select(0, 99, limit=10, admitted="[1]")
    read_by = plan_of(connection, statement, values)
    assert re.search(wanted, read_by), read_by
    assert not re.search(r"SCAN (?!json_each|k VIRTUAL|\d)", read_by), read_by
    assert ("TEMP B-TREE" in read_by) == (name in MAY_SORT), read_by


def test_what_left_is_decided_by_each_resource_s_own_versions(connection: sqlite3.Connection) -> None:
    """By its type's index each candidate costs a walk through all that ended since: 2.4 s for 3,000, now 0.03 s."""
    [side] = compile_query(connection, Texts(), SHAPES["what left"][0]).sides
    read_by = plan_of(connection, *side.select(0, 99, limit=10))
    assert len(re.findall(r"SEARCH g USING INDEX history_key \(type=\? AND id=\?\)", read_by)) == 2, read_by
    assert "history_type" not in read_by, read_by


@pytest.mark.parametrize("name", [name for name in SHAPES if name != "what left"])
def test_a_snapshot_reads_only_what_ended_later(connection: sqlite3.Connection, name: str) -> None:
    query = msgspec.structs.replace(SHAPES[name][0], as_of=70)
    _, side = compile_query(connection, Texts(), query).sides
    read_by = plan_of(connection, *side.select(0, 70, limit=10))
    if query.keys is not None:
        assert re.search(r"SEARCH x USING INDEX history_key \(type=\? AND id=\?", read_by), read_by
    else:
        assert re.search(
            r"SEARCH (p|x) USING [A-Z ]+( history_\w+)? \((compartment=\? AND |type=\? AND )?ended>\?\)", read_by
        ), read_by
    assert not re.search(r"SCAN (?!json_each|k VIRTUAL|\d)", read_by), read_by


PASTS = {
    "every version": (HistoryQuery(), "SEARCH x USING INTEGER PRIMARY KEY", "SEARCH x USING INTEGER PRIMARY KEY"),
    "every version of a type": (
        HistoryQuery(types=frozenset({"Observation"})),
        r"MERGE .*SEARCH x USING COVERING INDEX current_type \(type=\? AND deleted=\? AND seq>\? AND seq<\?\)",
        r"SEARCH x USING INDEX history_feed \(type=\? AND rowid>\? AND rowid<\?\)",
    ),
    "every version of two types": (HistoryQuery(types=TYPES), "MERGE .*current_type", "MERGE .*history_feed"),
    "every version of a resource": (
        HistoryQuery(key=Key("Observation", "1")),
        r"SEARCH x USING INDEX current_key \(type=\? AND id=\? AND rowid>\? AND rowid<\?\)",
        r"SEARCH x USING INDEX history_key \(type=\? AND id=\?\)",
    ),
}


@pytest.mark.parametrize("name", PASTS)
def test_the_past_is_read_in_order_from_its_index(connection: sqlite3.Connection, name: str) -> None:
    query, *wanted = PASTS[name]
    for asked in (query, msgspec.structs.replace(query, standing_after=70)):
        for side, index in zip(history.sides(connection, Texts(), asked, 100, open_=False), wanted, strict=True):
            read_by = plan_of(connection, *side.select(0, 99, limit=10, admitted="[1]"))
            assert re.search(index, read_by), read_by
            assert not re.search(r"SCAN (?!json_each|k VIRTUAL|\d)", read_by), read_by
            assert "TEMP B-TREE" not in read_by, read_by
            if side.table == "history":
                assert re.search(r"SEARCH c USING (COVERING )?INDEX current_key \(type=\? AND id=\? AND", read_by), (
                    read_by
                )
                assert re.search(r"SEARCH h USING INDEX history_key \(type=\? AND id=\?\)", read_by), read_by


async def test_a_store_without_the_index_of_the_past_gets_it(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP INDEX history_feed")
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(f"sqlite:///{file}", clock=Clock())
        await store.start()
        stack.push_async_callback(store.close)
        assert await store.count_history(HistoryQuery(types=frozenset({"Condition"}))) == 60


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT last FROM commits WHERE updated < 5 ORDER BY updated DESC, last DESC LIMIT 1",
        "SELECT last, updated FROM commits ORDER BY last DESC LIMIT 1",
        "SELECT seq FROM current WHERE type = 1 AND id = 'a'",
        "SELECT seq FROM history WHERE type = 1 AND id = 'a' AND version = 1",
        "SELECT seq, size FROM history WHERE seq > 3 ORDER BY seq LIMIT 5",
        *(delete_statement(table, 8) for table in (*INDEX_TABLES, "current", "entries")),
    ],
)
def test_statements_with_a_fixed_text_use_an_index(connection: sqlite3.Connection, statement: str) -> None:
    read_by = plan_of(connection, statement, [0] * statement.count("?"))
    assert "SEARCH" in read_by or "ORDER BY last DESC" in statement, read_by
    assert not re.search(r"SCAN (?!\d|\(subquery)", read_by) or "ORDER BY last" in statement, read_by
    assert "TEMP B-TREE" not in read_by, read_by


def test_any_history_gives_what_the_model_gives_when_every_four_versions_begin_a_region(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for 65,536 versions: the machine again, with regions so small that each search crosses some."""
    for module in (plan, verify, write):
        monkeypatch.setattr(module, "REGION_BITS", 2)
    run_state_machine_as_test(StoreMachine, settings=machine_settings())


async def test_a_store_of_a_later_schema_version_is_refused_with_a_sentence(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(Unavailable, match=f"schema version {SCHEMA_VERSION + 1}; this server knows"):
        await open_store(f"sqlite:///{file}", clock=Clock()).start()


async def test_the_file_and_its_log_are_for_their_owner_only(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/x.db", clock=Clock())
    await store.start()
    await store.commit([draft("Observation/a")])
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    await store.close()


async def test_a_file_that_is_no_store_is_refused_and_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.db"
    text.write_bytes(b"not a database, but long enough to be looked at " * 50)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs(a)")
    connection.close()
    for path, sentence in (
        (text, "not a SQLite database"),
        (other, "another program"),
        (tmp_path / "no" / "x", "cannot"),
    ):
        with pytest.raises(Unavailable, match=sentence) as raised:
            await open_store(f"sqlite:///{path}", clock=Clock()).start()
        assert str(tmp_path) not in str(raised.value)
    assert text.read_bytes().startswith(b"not a database")
    with sqlite3.connect(other) as connection:
        assert [row[0] for row in connection.execute("SELECT name FROM sqlite_master")] == ["theirs"]
    connection.close()


@pytest.mark.parametrize(
    "url", ["postgres://u:secret@h/db", "sqlite://host/x.db", "sqlite:///", "sqlite:///x?y=1", "x.db", ""]
)
def test_another_url_is_refused_without_being_repeated(url: str) -> None:
    with pytest.raises(ValueError, match="sqlite:///") as raised:
        open_store(url, clock=Clock())
    assert "secret" not in str(raised.value)


async def test_a_relative_url_is_a_file_in_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    store = open_store("sqlite:///my%20store.db", clock=Clock())
    await store.start()
    await store.close()
    assert (tmp_path / "my store.db").is_file()


async def test_a_damaged_file_is_unavailable_and_nothing_of_it_is_told(file: Path) -> None:
    data = bytearray(file.read_bytes())
    for at in range(8192, len(data), 64):
        data[at : at + 32] = b"\xff" * 32
    file.write_bytes(data)
    store = open_store(f"sqlite:///{file}", clock=Clock())
    with pytest.raises(Unavailable) as raised:  # noqa: PT012 - whichever meets the damage first
        await store.start()
        await found(store, Query(within="p1"))
    assert str(file) not in str(raised.value)
    await store.close()


async def test_verify_tells_each_kind_of_damage(file: Path) -> None:
    """Every index table, a version, a body, a commit: what is taken away or added is found."""
    whole = file.read_bytes()
    damages = [
        *(f"DELETE FROM {table} WHERE seq = 100" for table in INDEX_TABLES),
        "INSERT INTO terms VALUES (0, 1, 100)", "INSERT INTO terms VALUES (0, 1, 5)",
        "DELETE FROM entries WHERE seq = 100",
        "INSERT INTO chart_past VALUES (1, 9, 100)", "DELETE FROM history WHERE seq = 5",
        "DELETE FROM current WHERE seq = 100", "UPDATE current SET body = x'7b7d' WHERE seq = 100",
        "UPDATE history SET ended = 99 WHERE seq = 5", "DELETE FROM commits WHERE first = 1",
        "UPDATE commits SET last = last + 1 WHERE first > 1", "UPDATE current SET version = 3 WHERE seq = 100",
        "UPDATE current SET care_lo = 5 WHERE seq = 100", "INSERT INTO blobs VALUES (7, NULL)",
        "UPDATE current SET blob = 9 WHERE seq = 100", "UPDATE texts SET text = 'zz' WHERE seq = 100",
    ]  # fmt: skip
    for damage in ["", *damages]:
        file.write_bytes(whole)
        with sqlite3.connect(file) as connection:
            connection.execute(damage)
        connection.close()
        store = open_store(f"sqlite:///{file}", clock=Clock())
        await store.start()
        sentences = [sentence async for sentence in store.verify(derive)]
        await store.close()
        assert bool(sentences) == bool(damage), damage


async def test_audit_rows_cannot_be_changed_or_removed(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("INSERT INTO audit(at, organization, row) VALUES (1, 'o', x'')")
        for statement in ("DELETE FROM audit", "UPDATE audit SET at = 2"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)
    connection.close()


async def test_a_stalled_scan_keeps_no_lock_and_no_log(tmp_path: Path) -> None:
    """A reader that never comes back does not keep the log from being emptied."""
    store = open_store(f"sqlite:///{tmp_path}/store.db", clock=Clock())
    await store.start()
    await store.commit([draft(f"Observation/{at}", "p") for at in range(1000)])
    mark = (await store.high_water()).seq
    scan = store.scan(Query(within="p", as_of=mark, visible=Visible((Clause(organization="org-1"),))), 10)
    for _ in range(3):
        await anext(scan)
    await store.commit([tombstone("Observation/5")])
    with sqlite3.connect(tmp_path / "store.db", timeout=5) as connection:
        busy, log, done = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    connection.close()
    assert (busy, log, done) == (0, 0, 0)
    await store.close()


@pytest.mark.parametrize("what", ["deleted", "its folder deleted", "replaced", "its log deleted"])
async def test_a_store_whose_file_was_taken_away_is_unavailable_and_acknowledges_nothing(
    tmp_path: Path, what: str
) -> None:
    """SQLite itself would go on with the file that no path leads to any more, and all of it would be lost."""
    folder = tmp_path / "store"
    folder.mkdir()
    for name in ("store.db", "other.db"):
        store = open_store(f"sqlite:///{folder}/{name}", clock=Clock())
        await store.start()
        await store.commit([draft(f"Observation/{name}", "p")])
        if name == "store.db":
            first = store
        else:
            await store.close()
    await first.get(Key("Observation", "store.db"))  # the loop's connection is open
    if what == "replaced":
        (folder / "other.db").replace(folder / "store.db")
    elif what == "its log deleted":
        (folder / "store.db-wal").unlink()
    else:
        for file in folder.iterdir():
            file.unlink()
        if what == "its folder deleted":
            folder.rmdir()
    await asyncio.sleep(0.15)
    for _ in range(2):
        for work in (
            first.commit([draft("Observation/new", "p")]),
            first.get(Key("Observation", "store.db")),
            first.count(Query()),
            found(first, Query(within="p")),
            first.high_water(),
            first.ledger.get("k"),
            first.audit.append([AUDIT_ROW]),
        ):
            with pytest.raises(Unavailable):
                await asyncio.wait_for(work, 5)
    await first.close()
    assert (folder / "store.db").exists() == (what in ("replaced", "its log deleted"))


async def test_closing_waits_for_a_short_read_in_another_thread(tmp_path: Path) -> None:
    """Closing a connection under a running statement would end the process."""
    path = str(tmp_path / "store.db")
    prepare(path)
    readers = Readers(StoreFile(path))
    entered, leave = threading.Event(), threading.Event()

    def work(connection: sqlite3.Connection) -> int:
        entered.set()
        leave.wait(5)
        return int(connection.execute("SELECT 7").fetchone()[0])

    reading = asyncio.create_task(asyncio.to_thread(lambda: asyncio.run(readers.short(work))))
    await asyncio.to_thread(entered.wait)
    closing = asyncio.create_task(asyncio.to_thread(readers.close))
    await asyncio.sleep(0.05)
    assert not closing.done()
    leave.set()
    assert await reading == 7
    await closing
    with pytest.raises(Unavailable):
        await readers.short(work)


async def test_two_event_loops_never_share_a_connection_at_the_same_time(tmp_path: Path) -> None:
    """A short read of one loop must not run inside, or end, the read transaction of another."""
    path = str(tmp_path / "store.db")
    prepare(path)
    readers = Readers(StoreFile(path))
    busy: set[int] = set()

    def work(connection: sqlite3.Connection) -> None:
        assert id(connection) not in busy
        busy.add(id(connection))
        time.sleep(0.0005)
        busy.discard(id(connection))

    async def many() -> None:
        for _ in range(200):
            await readers.short(work)

    await asyncio.gather(*(asyncio.to_thread(lambda: asyncio.run(many())) for _ in range(4)))
    readers.close()


async def test_a_file_of_another_program_keeps_every_byte(tmp_path: Path) -> None:
    other = tmp_path / "other.db"
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE theirs(a)")
    connection.close()
    before = other.read_bytes()
    with pytest.raises(Unavailable, match="another program"):
        await open_store(f"sqlite:///{other}", clock=Clock()).start()
    assert other.read_bytes() == before
    assert [file.name for file in tmp_path.iterdir()] == ["other.db"]


def test_a_decision_that_failed_is_not_remembered_as_a_refusal(connection: sqlite3.Connection) -> None:
    admission = Admission(Visible((Clause(organization="org-1"),)), None)
    closed = sqlite3.connect(":memory:")
    with pytest.raises(sqlite3.OperationalError):
        admission.decide(closed, Texts(), [1 << SHIFT | 1])
    closed.close()
    assert admission.decide(connection, Texts(), [1 << SHIFT | 1]) is None


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE current SET meta = x'dc' WHERE seq = 100",
        "UPDATE entries SET packed = x'92c101' WHERE seq = 100",
        "DELETE FROM facts",
        "DELETE FROM types",
        "UPDATE facts SET text = CAST(x'ff' AS TEXT)",
    ],
)
async def test_damage_is_unavailable_to_a_request_and_a_sentence_to_who_checks(file: Path, damage: str) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(damage)
    connection.close()
    store = open_store(f"sqlite:///{file}", clock=Clock())
    await store.start()
    for work in (
        store.get(Key("Observation", "9")),
        found(store, Query()),
        found(store, Query(within="p1"), 1000),
        store.tally(Query()),
        store.commit([draft(f"Observation/{at}", "p") for at in range(30)]),
    ):
        with contextlib.suppress(Unavailable):
            await work
    assert [sentence async for sentence in store.verify(derive)] != []
    await store.close()


async def test_what_was_staged_for_a_request_that_was_cancelled_goes_away(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/store.db", clock=Clock())
    await store.start()
    large = draft("Binary/a", text="x" * 30_000_000)
    commit = asyncio.create_task(store.commit([large]))
    with sqlite3.connect(tmp_path / "store.db") as connection:
        while connection.execute("SELECT count(*) FROM chunks").fetchone()[0] < 20:  # noqa: ASYNC110 - no event tells
            await asyncio.sleep(0.001)
        commit.cancel()
        with pytest.raises(asyncio.CancelledError):
            await commit
        assert connection.execute("SELECT count(*) FROM chunks").fetchone()[0] == 0
        assert connection.execute("SELECT count(*) FROM blobs").fetchone()[0] == 0
    connection.close()
    assert await store.count(Query()) == 0
    await store.close()


async def test_reindex_mends_a_version_whose_record_of_index_rows_is_gone(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("DELETE FROM entries WHERE seq IN (100, 101)")
        connection.execute("DELETE FROM terms WHERE seq = 101")
    connection.close()
    store = open_store(f"sqlite:///{file}", clock=Clock())
    await store.start()
    records = await found(store, Query())
    await store.reindex([(record, *derive(record, record.body or b"")) for record in records])
    assert [sentence async for sentence in store.verify(derive)] == []
    await store.close()

# ruff: noqa: ASYNC240 - the tests look at files by hand
"""What holds for the SQLite store alone: its file, its URL, its threads, its refusals."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import threading
import time
from pathlib import Path

import pytest
from hypothesis.stateful import run_state_machine_as_test

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow, Clause, HistoryQuery, Key, Query, Visible
from fhirserver.store.open import open_store
from fhirserver.store.sqlite import asked, plan, verify, write
from fhirserver.store.sqlite.file import StoreFile
from fhirserver.store.sqlite.readers import Readers
from fhirserver.store.sqlite.schema import SCHEMA_VERSION, prepare
from tests.contract.older import as_version_2
from tests.contract.test_store_machine import StoreMachine, machine_settings
from tests.contract.world import Clock, draft, found, tombstone

AUDIT_ROW = AuditRow(id="1", at=1, organization="o", subject="s", interaction="i", outcome="intent")


async def test_a_store_without_the_index_of_the_past_gets_it(file: Path) -> None:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP INDEX history_feed")
    async with contextlib.AsyncExitStack() as stack:
        store = open_store(f"sqlite:///{file}", clock=Clock())
        await store.start()
        stack.push_async_callback(store.close)
        assert await store.count_history(HistoryQuery(types=frozenset({"Condition"}))) == 60


def test_any_history_gives_what_the_model_gives_when_every_four_versions_begin_a_region(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody waits for 65,536 versions: the machine again, with regions so small that each search crosses some."""
    for module in (asked, plan, verify, write):
        monkeypatch.setattr(module, "REGION_BITS", 2)
    run_state_machine_as_test(StoreMachine, settings=machine_settings())


async def test_a_store_of_a_later_schema_version_is_refused_with_a_sentence(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    with pytest.raises(Unavailable, match=f"schema version {SCHEMA_VERSION + 1}; this server knows"):
        await open_store(f"sqlite:///{file}", clock=Clock()).start()


async def test_a_store_of_the_first_schema_version_is_brought_up(file: Path) -> None:
    with sqlite3.connect(file) as connection:
        connection.execute("CREATE TABLE sorts(region, name, value, seq, PRIMARY KEY (region, name, value, seq))")
        connection.execute("DROP TABLE spans")
        connection.execute("CREATE TABLE spans(region, name, lo, hi, seq, PRIMARY KEY (region, name, lo, hi, seq))")
        as_version_2(connection)
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    store = open_store(f"sqlite:///{file}", clock=Clock())
    await store.start()
    await store.close()
    with sqlite3.connect(file) as connection:
        assert connection.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION
        assert not connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sorts'").fetchall()
        assert connection.execute("SELECT width FROM spans").fetchall() == []
    connection.close()


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

# ruff: noqa: S608 - the tests damage tables by hand
"""Damage to the audit trail, done past the store: `verify` names the first row that does not fit."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from pymongo.database import Database

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow, Key
from tests.contract.older import as_mongo_version_2, as_version_2
from tests.contract.test_store_trail import row, told
from tests.contract.world import START, Clock, draft, started

Document = dict[str, Any]
Execute = Callable[..., sqlite3.Cursor]


async def fill(url: str, clock: Clock) -> None:
    """Twelve rows: 1 to 9 appended, 10 to 12 with commits."""
    async with started(url, clock) as store:
        for at in range(1, 10):
            clock.now += 1
            await store.audit.append([row(str(at), clock.now, patients=("p",), organization="north")])
        for at in range(10, 13):
            clock.now += 1
            await store.commit([draft(f"Observation/{at}")], audit=[row(str(at), clock.now)])


def changed(packed: bytes) -> bytes:
    one = msgspec.msgpack.decode(packed, type=AuditRow)
    return msgspec.msgpack.encode(msgspec.structs.replace(one, subject="someone else"))


def rewrite(execute: Execute) -> None:
    packed = execute("SELECT row FROM audit WHERE n = 5").fetchone()[0]
    execute("UPDATE audit SET row = ? WHERE n = 5", (changed(packed),))


def put_in(execute: Execute) -> None:
    """A row that hides another: all after it are moved."""
    for table in ("audit_events", "audit_patients"):
        execute(f"DELETE FROM {table} WHERE n > 5")
    execute("UPDATE audit SET n = -n WHERE n > 5")
    execute("UPDATE audit SET n = 1 - n WHERE n < 0")
    execute("INSERT INTO audit SELECT 6, at, organization, row, link FROM audit WHERE n = 5")


SQLITE: dict[str, tuple[Callable[[Execute], object], str]] = {
    "a changed row": (rewrite, "Row 5 of the audit trail does not fit"),
    "a removed row": (lambda execute: execute("DELETE FROM audit WHERE n = 5"), "Row 5 of the audit trail is missing"),
    "the first rows": (lambda execute: execute("DELETE FROM audit WHERE n < 4"), "Rows 1 to 3 of the audit trail are"),
    "the last rows": (lambda execute: execute("DELETE FROM audit WHERE n > 10"), "Rows 11 to 12 of the audit trail"),
    "a row put in": (put_in, "Row 6 of the audit trail does not fit"),
    "two rows exchanged": (
        lambda execute: [
            execute(f"UPDATE audit SET n = {to} WHERE n = {of}") for of, to in ((5, 99), (6, 5), (99, 6))
        ],
        "Row 5 of the audit trail does not fit",
    ),
    "a link": (lambda execute: execute("UPDATE audit SET link = zeroblob(32) WHERE n = 5"), "Row 5 of the audit trail"),
    "no link": (lambda execute: execute("UPDATE audit SET link = NULL WHERE n = 5"), "Row 5 of the audit trail has no"),
    "an unreadable row": (lambda execute: execute("UPDATE audit SET row = x'00' WHERE n = 5"), "Row 5 of the audit"),
    "the time it is found by": (lambda execute: execute("UPDATE audit SET at = 1 WHERE n = 5"), "Row 5 of the audit"),
    "a patient's entry": (
        lambda execute: execute("DELETE FROM audit_patients WHERE n = 5"), "Row 5 of the audit trail is not found",
    ),
    "an entry too many": (
        lambda execute: execute("INSERT INTO audit_patients VALUES ('q', 1, 5)"), "1 entries of audit_patients belong",
    ),
    "an event": (lambda execute: execute("DELETE FROM audit_events WHERE n = 5"), "Row 5 of the audit trail is not f"),
    "a false anchor": (
        lambda execute: [execute("UPDATE audit_dropped SET n = 5, link = zeroblob(32)"),
                         execute("DELETE FROM audit WHERE n < 6")], "Row 6 of the audit trail does not fit",
    ),
}  # fmt: skip


@pytest.mark.parametrize("damage", SQLITE)
async def test_sqlite_tells_the_first_row_that_does_not_fit(tmp_path: Path, clock: Clock, damage: str) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await fill(url, clock)
    work, sentence = SQLITE[damage]
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        for name in ("audit_stays", "audit_stands"):
            connection.execute(f"DROP TRIGGER {name}")
        work(connection.execute)
    async with started(url, clock) as store:
        assert (await told(store))[0].startswith(sentence)


async def test_sqlite_refuses_to_change_or_drop_what_retention_has_not(tmp_path: Path, clock: Clock) -> None:
    await fill(f"sqlite:///{tmp_path}/store.db", clock)
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        for statement in ("DELETE FROM audit WHERE n = 1", "UPDATE audit SET at = 1"):
            with pytest.raises(sqlite3.IntegrityError, match="append-only"):
                connection.execute(statement)


async def test_what_cannot_be_written_to_the_trail_is_not_written_at_all(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await fill(url, clock)
    refuse = "CREATE TRIGGER refused BEFORE INSERT ON audit BEGIN SELECT RAISE(ABORT, 'no'); END"
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection:
        connection.execute(refuse)
    async with started(url, clock) as store:
        with pytest.raises(Unavailable):
            await store.commit([draft("Observation/new")], audit=[row("x")])
        with pytest.raises(Unavailable):
            await store.audit.append([row("y")])
        assert await store.get(Key("Observation", "new")) is None
        assert await told(store) == []


def of(number: int) -> Document:
    return {"id": str(number)}


def copy(database: Database[Document]) -> None:
    five = database.audit.find_one(of(5)) or {}
    database.audit.insert_one({**five, "_id": five["_id"][:10] + b"\xff" * 6})


def renumbered(database: Database[Document]) -> None:
    """The fifth is gone, and those behind it have moved up."""
    database.audit.delete_one(of(5))
    for number in range(6, 10):
        there = database.audit.find_one(of(number)) or {}
        line, at, own = there["chain"]
        database.audit.update_one(of(number), {"$set": {"chain": [line, at - 1, own]}})
    line = (database.audit.find_one(of(6)) or {})["chain"][0]
    database.lines.update_one({"_id": line}, {"$unset": {"head": ""}})


MONGO: dict[str, tuple[Callable[[Database[Document]], object], str]] = {
    "a changed row": (lambda db: db.audit.update_one(of(5), {"$set": {"subject": "x"}}), "does not fit its link"),
    "a changed detail": (lambda db: db.audit.update_one(of(5), {"$set": {"detail.x": 1}}), "does not fit its link"),
    "a patient": (lambda db: db.audit.update_one(of(5), {"$set": {"patients": []}}), "does not fit its link"),
    "one of a commit": (lambda db: db.audit.update_one(of(11), {"$set": {"subject": "x"}}), "does not fit its link"),
    "a removed row": (lambda db: db.audit.delete_one(of(5)), "A row of the audit trail is missing before"),
    "the first rows": (lambda db: db.audit.delete_many({"id": {"$in": ["1", "2"]}}), "2 rows of the audit trail"),
    "the last appended": (lambda db: db.audit.delete_one(of(9)), "A row of the audit trail is missing at the end"),
    "the last committed": (lambda db: db.audit.delete_one(of(12)), "A row of the audit trail is missing at the end"),
    "a row put in": (copy, "has a number that another row has"),
    "a row without a link": (
        lambda db: db.audit.insert_one({"_id": b"zzz", **(db.audit.find_one(of(5), {"_id": 0, "chain": 0}) or {})}),
        "cannot be read, or has no link",
    ),
    "a line of one's own": (
        lambda db: db.audit.update_one(of(5), {"$set": {"chain.0": "own", "chain.1": 1}}), "that no server has begun",
    ),
    "renumbered": (renumbered, "does not fit its link"),
    "no link": (lambda db: db.audit.update_one(of(5), {"$unset": {"chain": ""}}), "cannot be read, or has no link"),
    "an event": (lambda db: db.audit.update_one(of(5), {"$set": {"event": "x"}}), "is not found by its event"),
    "the counter's head": (
        lambda db: db.store.update_one({"_id": "commits"}, {"$unset": {"trail": ""}}), "does not know the end",
    ),
    "a damaged head": (lambda db: db.lines.update_one({}, {"$set": {"head": [1]}}), "head of a line"),
    "a field more": (lambda db: db.audit.update_one(of(5), {"$set": {"note": "x"}}), "cannot be read, or has no link"),
}  # fmt: skip


@pytest.mark.parametrize("damage", MONGO)
async def test_mongo_tells_the_first_row_that_does_not_fit(
    url: str, database: Database[Document], clock: Clock, damage: str
) -> None:
    await fill(url, clock)
    work, sentence = MONGO[damage]
    place = (database.audit.find_one(of(5)) or {})["_id"].hex()
    work(database)
    async with started(url, clock) as store:
        first = (await told(store))[0]
    assert sentence in first
    if damage in ("a changed row", "no link", "a patient"):
        assert place in first


async def test_rows_of_several_servers_are_one_chain_whatever_their_clocks_say(url: str) -> None:
    slow, fast = Clock(), Clock()
    fast.now += 30_000
    async with started(url, slow) as one, started(url, fast) as other:
        for at in range(20):
            for server, clock in ((one, slow), (other, fast)):
                clock.now += 7
                await server.commit([draft(f"Observation/{at}")], audit=[row(f"c{at}", clock.now)])
                await server.audit.append([row(f"a{at}", clock.now)])
        assert await told(one) == []


async def test_a_server_that_was_killed_leaves_a_chain_that_fits(url: str, clock: Clock) -> None:
    async with started(url, clock) as store:
        await store.audit.append([row("a"), row("b")])
        store.audit._line = ""  # type: ignore[attr-defined]  # nothing is told of where it ended
        await store.audit.append([row("c")])
        assert await told(store) == []
    async with started(url, clock) as store:
        assert await told(store) == []


async def test_a_sqlite_store_from_before_comes_under_the_chain_with_its_next_row(tmp_path: Path, clock: Clock) -> None:
    url = f"sqlite:///{tmp_path}/store.db"
    await fill(url, clock)
    async with started(url, clock) as store:
        await store.audit.append([row("out", intent="3", outcome="complete", patients=("p", "q"))])
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        as_version_2(connection)
    async with started(url, clock) as store:
        assert await told(store) == []
        assert [each.row.id for each in await store.audit.events(["3"])] == ["3", "out"]
        await store.audit.append([row("new")])
        await store.commit([draft("Observation/z")], audit=[row("newer")])
        links = [bool(each.link) async for batch in store.audit.entries() for each in batch]
        assert links == [False] * 13 + [True] * 2
        assert await told(store) == []
        assert await store.audit.drop(START + 5) == 4
        assert await told(store) == []
    with contextlib.closing(sqlite3.connect(tmp_path / "store.db")) as connection, connection:
        connection.execute("DROP TRIGGER audit_stands")
        connection.execute("UPDATE audit SET link = NULL WHERE n = 14")
    async with started(url, clock) as store:
        assert "Row 15" in (await told(store))[0]


async def test_a_mongo_store_from_before_comes_under_the_chain_with_its_next_row(
    url: str, database: Database[Document], clock: Clock
) -> None:
    await fill(url, clock)
    async with started(url, clock) as store:
        await store.audit.append([row("out", intent="3", outcome="complete", patients=("p", "q"))])
    as_mongo_version_2(database)
    async with started(url, clock) as store:
        assert await told(store) == []
        assert [each.row.id for each in await store.audit.events(["3"])] == ["3", "out"]
        await store.audit.append([row("new")])
        await store.commit([draft("Observation/z")], audit=[row("newer")])
        links = [bool(each.link) async for batch in store.audit.entries() for each in batch]
        assert links == [False] * 13 + [True] * 2
        assert await told(store) == []
    database.audit.update_one(of("new"), {"$unset": {"chain": ""}})  # type: ignore[arg-type]
    async with started(url, clock) as store:
        assert "has no link" in (await told(store))[0]


async def test_a_mongo_trail_that_may_not_be_brought_up_says_who_may(
    url: str, database: Database[Document], clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pymongo.asynchronous.collection import AsyncCollection
    from pymongo.errors import OperationFailure

    await fill(url, clock)
    as_mongo_version_2(database)

    async def refuse(*_: object, **__: object) -> None:
        raise OperationFailure("not authorized", 13)

    monkeypatch.setattr(AsyncCollection, "update_many", refuse)
    with pytest.raises(Unavailable, match="must be brought up once by a MongoDB user"):
        async with started(url, clock):
            pass

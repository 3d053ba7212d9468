# ruff: noqa: ASYNC240, S608 - the tests damage files and tables by hand
"""A damaged SQLite store: unavailable to requests, told by `verify`, mended where it can be."""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

import pytest

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Clause, Key, Query, Visible
from fhirserver.store.open import open_store
from fhirserver.store.sqlite.intern import Texts
from fhirserver.store.sqlite.visible import SHIFT, Admission
from fhirserver.store.sqlite.write import INDEX_TABLES
from tests.contract.world import Clock, derive, draft, found


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

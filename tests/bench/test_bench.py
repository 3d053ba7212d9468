"""The benchmark: it measures a store of its own and nothing else, and it runs."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from pymongo import MongoClient
from typer.testing import CliRunner

from fhirserver.cli import app, explain
from fhirserver.cli.bench import bare, row, rows, sizes, stores
from fhirserver.cli.bench.site import Site
from fhirserver.store.mongo.codec import PROJECTION
from tests.stores import MONGODB_URL, every_kind_for_proof

TINY = row.Size(
    chart=300,
    small=2,
    versions=2,
    versioned=30,
    repeats=1,
    reads=40,
    creates=16,
    natives=60,
    transactions=2,
    entries=200,
)  # enough to run every line, not to measure anything

kind = every_kind_for_proof


@pytest.fixture
def place(kind: str, tmp_path: Path) -> Iterator[stores.Embedded | stores.Engine]:
    made = stores.place(MONGODB_URL if kind == "mongo" else None, tmp_path)
    yield made
    made.remove()


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("mongodb://h/prod?replicaSet=rs0", "mongodb://h/x?replicaSet=rs0"),
        ("mongodb://h:1,i:2", "mongodb://h:1,i:2/x"),
        ("mongodb://u:p%40w@h/prod", "mongodb://u:p%40w@h/x?authSource=prod"),
        ("mongodb+srv://u:p@h/?w=1", "mongodb+srv://u:p@h/x?w=1&authSource=admin"),
        ("mongodb://u:p@h/prod?authSource=admin", "mongodb://u:p@h/x?authSource=admin"),
    ],
)
def test_another_database_of_the_same_engine_is_reached_by_the_same_user(url: str, expected: str) -> None:
    assert stores.with_database(url, "x") == expected


def test_a_database_that_the_url_names_is_never_the_one_that_is_measured(tmp_path: Path) -> None:
    first, second = (stores.place("mongodb://u:p@h/production", tmp_path) for _ in range(2))
    assert isinstance(first, stores.Engine)
    assert isinstance(second, stores.Engine)
    assert first.database.startswith(stores.PREFIX_OF_DATABASES)
    assert first.database != second.database
    assert f"/{first.database}?" in first.environment["FHIRSERVER_STORE"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--store", "sqlite:///data/fhir.db"], "a file of its own"),
        (["--store", "postgres://u:secret@h/d"], "must begin with"),
        (["--data", "x"], "--sizes"),
    ],
)
def test_what_cannot_be_measured_is_refused_in_a_sentence_without_a_password(arguments: list[str], told: str) -> None:
    result = CliRunner().invoke(app, ["bench", *arguments])
    assert isinstance(result.exception, ValueError)
    sentence, code = explain(result.exception)
    assert told in sentence
    assert "secret" not in sentence
    assert code == 1


def test_the_bare_driver_reads_what_the_store_reads() -> None:
    assert bare.PROJECTION == PROJECTION


def test_a_row_without_bounds_claims_nothing() -> None:
    assert row.told("engine: reads", 5.0, "/s").verdict == "-"
    assert row.Row("ratio", 0.5, "", 0.4, 0.6, False, {}).verdict == "must"
    assert row.Row("ratio", 0.7, "", 0.4, 0.6, False, {}).verdict == "goal"
    assert row.Row("time", 0.7, "ms", 0.6, 0.4, True, {}).verdict == "MISSED"


def test_quantiles() -> None:
    assert row.quantile([3.0, 1.0, 2.0, 4.0], 0.5) == 3.0
    assert row.quantile([1.0], 0.99) == 1.0


def test_the_bare_driver_leaves_no_database_behind(mongodb: str, tmp_path: Path) -> None:
    engine = stores.Engine(mongodb, tmp_path)
    with MongoClient[dict[str, object]](engine.url) as client:
        client[engine.database]["current"].insert_one({"_id": "Patient/1"})
    answer = bare.ask(engine.environment, "commits", "1")
    assert answer["transactions_per_second"] > 0
    assert _databases(mongodb, engine.database) == {engine.database}
    engine.remove()
    assert not _databases(mongodb, engine.database)


def test_a_run_that_is_ended_leaves_no_database_behind(mongodb: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "fhirserver", "bench", "--quick", "--store", mongodb, "--folder", str(tmp_path)]
    with subprocess.Popen(words, cwd=tmp_path, stderr=subprocess.PIPE) as running:
        deadline = time.monotonic() + 60
        while not (keys := list(tmp_path.glob("*/*.keys.json"))) and time.monotonic() < deadline:
            time.sleep(0.05)
        database = keys[0].name.partition(".")[0]
        assert _databases(mongodb, database) == {database}
        running.terminate()
        assert running.wait(30) == 130
    assert not _databases(mongodb, database)
    assert not list(tmp_path.iterdir())


def _databases(url: str, begin: str) -> set[str]:
    """Those of the engine whose names begin so."""
    with MongoClient[dict[str, object]](url) as client:
        return {name for name in client.list_database_names() if name.startswith(begin)}


@pytest.mark.slow
def test_every_row_can_be_measured(place: stores.Embedded | stores.Engine, kind: str, tmp_path: Path) -> None:
    measured = list(rows.measure(Site(tmp_path, place), TINY, lambda _: None))
    names = [one.name for one in measured]
    assert len(names) == len(set(names))
    assert all(one.figure > 0 for one in measured if not one.name.startswith("memory"))
    engine = {one.name for one in measured if one.must is None and one.name.startswith(("engine", "native"))}
    assert bool(engine) == (kind == "mongo")
    assert any(name.endswith("ratio to bare driver") for name in names) == (kind == "mongo")
    for claimed in (
        "ingest",
        "first byte",
        "page k",
        "2 versions",
        "read by id, 1",
        "read by id, 8",
        "create, 8",
        "transactions",
        "others' create p99",
        "gate",
    ):
        assert any(name.startswith(claimed) for name in names), claimed


@pytest.mark.slow
def test_sizes_are_told_for_each_part_of_a_store(
    place: stores.Embedded | stores.Engine, kind: str, tmp_path: Path
) -> None:
    parts = {part.name: part for part in sizes.measure(Site(tmp_path, place), 2 * sizes.CHART, [], lambda _: None)}
    assert all(part.bytes > 0 and part.number > 0 for part in parts.values())
    if kind == "mongo":
        assert {"current, documents", "current, index terms", "current, BSON of bodies", "native documents"} <= set(
            parts
        )
        assert {"history, documents", "audit, documents"} <= set(parts)
        assert parts["current, documents"].number == parts["native documents"].number
    else:
        assert parts

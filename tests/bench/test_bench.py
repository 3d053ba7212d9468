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
from fhirserver.cli.bench import bare, row, rows, searched, searches, searchrows, sizes, stores
from fhirserver.cli.bench.client import Ask, Client
from fhirserver.cli.bench.site import Site
from fhirserver.cli.bench.turns import in_turns
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

TINY_SEARCH = searched.Size(patients=(30, 60), consents=(100, 200), rounds=14, seconds=1, indexed=250, rate=120)

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
        (["--patients", "5"], "--search"),
        (["--consents", "5"], "--search"),
        (["--search", "--sizes"], "not both"),
        (["--search", "--patients", "5"], "--patients is given twice"),
        (["--search", "--patients", "5", "--patients", "-5"], "--patients is given twice"),
        (["--search", "--consents", "7", "--consents", "7"], "--consents is given twice"),
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


def test_sizes_of_a_search_run(tmp_path: Path) -> None:
    embedded, engine = stores.place(None, tmp_path), stores.place("mongodb://h", tmp_path)
    assert searchrows.size(embedded, quick=False).patients == (1_000, 8_000, 64_000)
    assert searchrows.size(engine, quick=False).patients == (1_000, 4_000, 16_000)
    assert searchrows.size(engine, quick=True) == searched.QUICK
    chosen = searchrows.size(embedded, quick=True, patients=[9, 3], consents=[0])
    assert chosen.patients == (3, 9)
    assert chosen.consents == ()


def test_a_search_that_finds_nothing_is_not_measured() -> None:
    answers = {10: [(1.0, 3), (2.0, 0)], 20: [(1.0, 0), (2.0, 0)]}
    with pytest.raises(RuntimeError, match="of 20 hardly a search found anything"):
        searched.ratio("a search", answers, 2.0, 1.5)
    row_ = searched.ratio("a search", {10: [(2.0, 3)], 20: [(3.0, 5)]}, 2.0, 1.5)
    assert row_.figure == 1.5
    assert row_.verdict == "goal"


def test_late_charts_come_later_than_all_others() -> None:
    def dates(resources: Iterator[dict[str, object]]) -> list[str]:
        return [str(each["effectiveDateTime"]) for each in resources if each["resourceType"] == "Observation"]

    others, late = dates(searches.small_charts(range(50))), dates(searches.late_charts(50))
    assert max(others) < searches.LATE < min(late)
    assert len(late) > searches.LATE_CHARTS


def test_answers_in_chunks_are_read_to_their_end(tmp_path: Path) -> None:
    site = Site(tmp_path, stores.Embedded(tmp_path))
    site.ingest(searches.small_charts(range(12)))
    ask = Ask(searches.CODE.ask(0).path.replace("code=", "code%3Anot="))  # fifty of nearly all: more than one piece
    with site.serving() as running:
        answers = in_turns([running.writer, running.reader], [[ask] * 3, [ask] * 3], seconds=5, warm=1)
        with pytest.raises(RuntimeError, match="401"):
            in_turns([Client(running.writer.port, "no token")], [[ask]], seconds=1)
    assert [found for _, found in answers[0]] == [50] * 3
    assert [found for _, found in answers[1]] == [0] * 3
    assert all(spent > 0 for each in answers for spent, _ in each)


@pytest.mark.slow
def test_every_row_of_search_can_be_measured(place: stores.Embedded | stores.Engine, kind: str, tmp_path: Path) -> None:
    measured = list(searchrows.measure(place, tmp_path, TINY_SEARCH, lambda _: None))
    names = [one.name for one in measured]
    assert len(names) == len(set(names))
    assert all(one.figure > 0 for one in measured)
    for each in searches.KINDS:
        (one,) = (one for one in measured if one.name == f"search: {each.name}")
        assert [set(one.detail[str(count)]) for count in TINY_SEARCH.patients] == [
            {"p50_ms", "p99_ms", "matches", "searches"}
        ] * 2
    for claimed in (
        "search: deep page",
        "consents, 200 to 100: Patient?",
        "index: entries",
        "index: bytes",
        "index: an",
    ):
        assert any(name.startswith(claimed) for name in names), claimed
    assert not [each for each in tmp_path.iterdir() if each.is_dir()]

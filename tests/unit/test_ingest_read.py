"""The forms in which input comes, told by content; what cannot be read is rejected with its place."""

from __future__ import annotations

import asyncio
import bz2
import gzip
import io
import json
import os
import stat
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from fhirserver.core.errors import Fault
from ingest.load import Progress
from tests.imported import Imports, bundle, entry, imports, patient

TWO = b"\n".join(json.dumps(patient(name)).encode() for name in "ab")
PRETTY = b"\n".join(json.dumps(patient(name), indent=2).encode() for name in "ab")
BUNDLE = json.dumps(bundle(entry(patient("a")), entry(patient("b")))).encode()


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Imports]:
    async with imports(tmp_path) as found:
        yield found


@pytest.mark.parametrize("name", ["x.ndjson", "x.json", "x"])
@pytest.mark.parametrize(
    "raw",
    [
        TWO,
        TWO + b"\n",
        TWO.replace(b"\n", b"\r\n\r\n"),
        b"\xef\xbb\xbf" + TWO,
        PRETTY,
        PRETTY.replace(b"\n", b""),
        BUNDLE,
        BUNDLE + b"\n \n",
        json.dumps(json.loads(BUNDLE), indent=1).encode(),
        b"\n".join(json.dumps(bundle(entry(patient(name)))).encode() for name in "ab"),
        gzip.compress(TWO[:70], mtime=0) + gzip.compress(TWO[70:], mtime=0),
        bz2.compress(BUNDLE),
        gzip.compress(PRETTY, mtime=0),
    ],
)
async def test_the_content_tells_the_form_whatever_the_name(store: Imports, name: str, raw: bytes) -> None:
    report = await store.ingest(store.write(name, raw))
    assert (report.created, report.rejected) == (2, 0)
    assert list(await store.resources()) == ["Patient/a", "Patient/b"]


@pytest.mark.parametrize(
    ("raw", "reason", "line", "column"),
    [
        (b"", "the file is empty", 1, 1),
        (b"[" + TWO.replace(b"\n", b",") + b"]", "a JSON array; give one resource per line", 1, 1),
        (b"\n <Patient/>", "not JSON (it looks like XML)", 2, 2),
        (b"hello", "not JSON: a resource begins with {", 1, 1),
        (b'{"resourceType": "Patient",\n}', "a comma before the closing bracket", 2, 1),
        (b'{"resourceType": "Patient",\n "id": "a"', "the text ends inside a value", 1, 1),
        (b'{\n"resourceType": "Patient"} trailing', "found t where the end of the file should be", 2, 28),
        (b'{"a": 1}', "not a FHIR resource: it has no resourceType", 1, 0),
        (b'{"resourceType": 5}', "not a FHIR resource: Expected str, got int - at resourceType", 1, 0),
        (gzip.compress(TWO, mtime=0)[:-12], "the compressed data ends too early", 0, 0),
        (b"PK\x03\x04....", "a zip archive", 0, 0),
        (b"\xff\xfe{\0", "not UTF-8", 0, 0),
    ],
)
async def test_what_cannot_be_read_is_rejected_with_its_place(
    store: Imports, raw: bytes, reason: str, line: int, column: int
) -> None:
    report = await store.ingest(store.write("x.json", raw))
    assert report.rejected >= 1
    found = store.rejections()[-1]
    assert found["reason"].startswith(reason)
    assert (found["line"], found.get("column", 0)) == (line, column)


async def test_a_broken_line_costs_that_line_only(store: Imports) -> None:
    lines = [
        json.dumps(patient("a")).encode(),
        b'{"resourceType": "Patient", "id": "b"',
        b'{"resourceType": "Bundle", "type": "collection", "entry": [{"resource": {"resourceType": "Patient"}}',
        b"",
        b"{'resourceType': 'Patient'}",
        json.dumps(patient("c")).encode() + b"}",
        json.dumps(patient("d")).encode(),
    ]
    report = await store.ingest(store.write("x.ndjson", b"\n".join(lines)))
    assert [line["line"] for line in store.rejections()] == [2, 3, 5, 6]
    assert (report.rejected, list(await store.resources())) == (4, ["Patient/a", "Patient/c", "Patient/d"])


async def test_a_broken_first_line_costs_that_line_only(store: Imports) -> None:
    report = await store.ingest(store.write("x.ndjson", b'{"resourceType": "Pati\n' + TWO))
    assert (report.created, report.rejected) == (2, 1)


async def test_lines_longer_than_what_is_read_at_a_time_are_whole(store: Imports) -> None:
    long = patient("long", text={"status": "generated", "div": f"<div>{'x' * 700_000}</div>"})
    long["text"]["div"] = long["text"]["div"].replace("<div>", '<div xmlns="http://www.w3.org/1999/xhtml">')
    many = bundle(*(entry(patient(f"m{n}")) for n in range(4000)))
    report = await store.ingest(store.write("x.ndjson", patient("a"), long, many, long, patient("z")))
    assert (report.created, report.unchanged, report.rejected) == (4003, 1, 0)
    assert len((await store.resources())["Patient/long"]["text"]["div"]) > 700_000


async def test_a_bundle_that_is_no_json_near_its_end_is_rejected_before_anything_of_it_is_stored(
    store: Imports,
) -> None:
    entries = ",\n".join(json.dumps(entry(patient(f"p{n}"))) for n in range(3000))
    raw = f'{{"resourceType": "Bundle", "type": "batch", "entry": [\n{entries},\n]}}'
    report = await store.ingest(store.write("x.json", raw.encode()))
    assert (report.created, report.rejected) == (0, 1)
    [line] = store.rejections()
    assert (line["reason"], line["line"], line["column"]) == ("a comma before the closing bracket", 3002, 1)
    assert await store.resources() == {}


async def test_an_empty_ndjson_file_is_fine(store: Imports) -> None:
    assert (await store.ingest(store.write("x.ndjson", b""))).rejected == 0


async def test_directories_are_read_in_order_and_only_what_is_named_like_fhir(store: Imports) -> None:
    store.write("in/b/2.json", patient("c"))
    store.write("in/a.ndjson.gz", gzip.compress(TWO, mtime=0))
    store.write("in/README.md", b"no")
    store.write("in/.hidden.json", b"no")
    store.write("in/.git/x.json", b"no")
    report = await store.ingest(store.folder / "in")
    assert (report.sources, report.rejected) == (2, 0)
    assert list(await store.resources()) == ["Patient/a", "Patient/b", "Patient/c"]


@pytest.mark.parametrize("make", [Path.absolute, Path.mkdir])
async def test_a_path_with_nothing_to_ingest_is_an_error_that_names_it(store: Imports, make: Any) -> None:
    path = store.folder / "there"
    make(path)
    with pytest.raises(Fault, match="there"):
        await store.ingest(store.write("x.json", patient("a")), path)
    assert await store.resources() == {}


async def test_standard_input_and_pipes_are_read_like_files(store: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    class Standard:
        buffer = io.BytesIO(gzip.compress(TWO, mtime=0))

    monkeypatch.setattr("sys.stdin", Standard)
    pipe = store.folder / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(json.dumps(patient("c")).encode()))
    writer.start()
    report = await store.ingest("-", pipe)  # type: ignore[arg-type]
    writer.join()
    assert (report.sources, report.created, report.rejected) == (2, 3, 0)


async def test_standard_input_that_is_closed_is_said_to_be(store: Imports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(Fault, match="closed"):
        await store.ingest("-")  # type: ignore[arg-type]


async def test_progress_ends_at_the_total_in_both_passes(store: Imports) -> None:
    told: list[Progress] = []
    file = store.write("x.ndjson", *(patient(f"p{n}", language="en" * 500) for n in range(3000)))
    await store.ingest(file, progress=told.append)
    for phase in ("reading", "loading"):
        steps = [step.done for step in told if step.phase == phase]
        assert steps == sorted(steps)
        assert len(steps) > 2
        assert steps[-1] == file.stat().st_size


async def test_the_rejects_file_of_an_earlier_run_does_not_stay(store: Imports) -> None:
    await store.ingest(store.write("x.json", b"hello"))
    assert store.rejects.exists()
    report = await store.ingest(store.write("x.json", patient("a")))
    assert report.rejects is None
    assert not store.rejects.exists()


async def test_a_rejects_file_that_cannot_be_written_is_an_error_at_once(store: Imports) -> None:
    with pytest.raises(Fault, match="cannot be written"):
        await store.ingest(store.write("x.json", patient("a")), rejects=store.folder / "no" / "x.ndjson")


async def test_no_file_but_a_list_of_rejects_is_replaced_by_one(store: Imports) -> None:
    file = store.write("x.ndjson", b"hello", patient("a"))
    with pytest.raises(Fault, match="no list of rejects"):
        await store.ingest(file, rejects=file)
    assert file.read_bytes().startswith(b"hello")
    with pytest.raises(Fault, match="no list of rejects"):
        await store.ingest(store.folder, rejects=file)
    assert (await store.ingest(file, rejects=Path("/dev/null"))).rejected == 1
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)


async def test_two_runs_at_once_keep_a_list_of_rejects_each(store: Imports) -> None:
    async def run(name: str) -> Path:
        report = await store.ingest(store.write(name, b"hello", *(patient(f"{name}{n}") for n in range(2000))))
        assert report.rejects is not None
        return report.rejects

    one, other = await asyncio.gather(run("x.ndjson"), run("y.ndjson"))
    told = [json.loads(line)["source"] for path in (one, other) for line in path.read_bytes().splitlines()]
    assert sorted(Path(source).name for source in told) == ["x.ndjson", "y.ndjson"]


async def test_what_is_valid_is_stored_though_the_rejects_cannot_be_written_there(
    store: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    make = Path.open

    def refuse(path: Path, mode: str = "r", *rest: Any) -> Any:
        if mode == "xb":
            raise PermissionError(13, "Permission denied", str(path))
        return make(path, mode, *rest)

    monkeypatch.setattr(Path, "open", refuse)
    report = await store.ingest(store.write("x.ndjson", patient("a"), b"hello", patient("b")))
    assert (report.created, report.rejected) == (2, 1)
    assert report.rejects is not None
    assert b"x.ndjson" in report.rejects.read_bytes()
    report.rejects.unlink()


async def test_a_file_whose_name_is_not_utf8_is_ingested_and_named_in_the_rejects(store: Imports) -> None:
    store.write("in/" + os.fsdecode(b"b\xff.ndjson"), patient("a"), b"hello")
    report = await store.ingest(store.folder / "in")
    assert (report.created, report.rejected) == (1, 1)
    assert store.rejections()[0]["source"].endswith("b\ufffd.ndjson")


async def test_a_folder_that_cannot_be_looked_into_is_among_the_rejects(
    store: Imports, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.write("in/a.json", patient("a"))
    store.write("in/closed/b.json", patient("b"))
    look = os.scandir

    def refuse(path: Any = ".") -> Any:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied", str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refuse)
    report = await store.ingest(store.folder / "in")
    assert (report.created, report.rejected) == (1, 1)
    (rejection,) = store.rejections()
    assert rejection["source"] == str(store.folder / "in" / "closed")
    assert "folder cannot be opened" in rejection["reason"]


async def test_a_run_that_was_interrupted_is_completed_by_the_next(store: Imports) -> None:
    class Enough(Exception):
        pass

    def tell(progress: Progress) -> None:
        if progress.phase == "loading" and progress.created:
            raise Enough

    file = store.write("x.ndjson", *(patient(f"p{n}", language="en" * 500) for n in range(5000)))
    with pytest.raises(Enough):
        await store.ingest(file, progress=tell)
    there = len(await store.records(bodies=False))
    assert 0 < there < 5000
    report = await store.ingest(file)
    assert (report.created, report.updated, report.unchanged) == (5000 - there, 0, there)
    assert not list(store.folder.glob("fhirserver-ingest-*"))

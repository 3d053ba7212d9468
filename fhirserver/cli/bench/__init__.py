"""`fhirserver bench`: the performance table, measured here and now on generated charts."""

from __future__ import annotations

import os
import platform
import signal
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fhirserver.cli.console import AsJson, say, show, show_json, show_table

if TYPE_CHECKING:
    from fhirserver.cli.bench.row import Row
    from fhirserver.cli.bench.sizes import Part
    from fhirserver.cli.bench.stores import Place

SIZED = 100_000
"""Resources behind the table of sizes; a tenth with ``--quick``."""


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: about a minute.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write raw output to docs/performance/ here.")] = False,
    folder: Annotated[
        str | None, typer.Option(help="Where files are made and removed; a temporary folder unless given.")
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(
            "--store",
            metavar="URL",
            help="A MongoDB: a fresh database is made there, measured and dropped; the embedded store unless given.",
        ),
    ] = None,
    sizes: Annotated[
        bool, typer.Option("--sizes", help="Instead, show what a million resources take, collection by collection.")
    ] = False,
    data: Annotated[
        list[str] | None,
        typer.Option("--data", metavar="PATH", help="With --sizes: files to ingest instead of generated charts."),
    ] = None,
    search: Annotated[
        bool, typer.Option("--search", help="Instead, measure searches over stores of growing size, and the index.")
    ] = False,
    patients: Annotated[
        list[int] | None,
        typer.Option("--patients", metavar="N", help="With --search: charts in each store; two or more times."),
    ] = None,
    consents: Annotated[
        list[int] | None,
        typer.Option("--consents", metavar="N", help="With --search: consents of each organisation; 0 leaves it out."),
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure the rows of the performance table: a real server process, a real client, gate and audit on."""
    from fhirserver.cli.bench.stores import place

    if data and not sizes:
        raise ValueError("--data goes with --sizes only.")
    if (patients or consents) and not search:
        raise ValueError("--patients and --consents go with --search only.")
    if search and sizes:
        raise ValueError("Give --search or --sizes, not both.")
    with _ended_cleanly(), tempfile.TemporaryDirectory(prefix="fhirserver-bench-", dir=folder) as made:
        where = place(store, Path(made))
        try:
            result: dict[str, Any] = {
                "size": "quick" if quick else "full",
                "machine": {**_machine(), **where.describe()},
            }
            if sizes:
                parts = _parts(Path(made), where, quick, [Path(each) for each in data or ()])
                result["parts"] = [{**part._asdict(), "per_million": round(part.per_million)} for part in parts]
            else:
                rows = (
                    _searches(where, Path(made), quick, patients, consents)
                    if search
                    else _rows(Path(made), where, quick)
                )
                result["rows"] = [_plain(row) for row in rows]
        finally:
            where.remove()
    if json:
        show_json(result)
    else:
        _show_parts(parts) if sizes else _show_rows(rows)
        show("\n" + ", ".join(f"{name} {value}" for name, value in result["machine"].items()))
    if write:
        words = (
            where.name,
            "search" if search else "",
            "sizes" if sizes else "",
            "data" if data else "",
            "quick" if quick else "",
        )
        _write(result, "-".join(filter(None, words)) or "full")


@contextmanager
def _ended_cleanly() -> Iterator[None]:
    """SIGTERM ends a run as Ctrl-C does, so that no database or server of it stays behind."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _rows(folder: Path, where: Place, quick: bool) -> list[Row]:
    from fhirserver.cli.bench import row, rows
    from fhirserver.cli.bench.site import Site

    return _heard(rows.measure(Site(folder, where), row.QUICK if quick else row.FULL, say))


def _searches(
    where: Place, folder: Path, quick: bool, patients: list[int] | None, consents: list[int] | None
) -> list[Row]:
    from fhirserver.cli.bench import searchrows

    size = searchrows.size(where, quick=quick, patients=patients, consents=consents)
    return _heard(searchrows.measure(where, folder, size, say))


def _heard(rows: Iterator[Row]) -> list[Row]:
    """The rows, each told as it comes."""
    measured = []
    for one in rows:
        say(f"  {one.name}: {_figure(one.figure)} {one.unit} ({one.verdict})")
        measured.append(one)
    return measured


def _parts(folder: Path, where: Place, quick: bool, files: list[Path]) -> list[Part]:
    from fhirserver.cli.bench.site import Site
    from fhirserver.cli.bench.sizes import measure

    return measure(Site(folder, where), SIZED // 10 if quick else SIZED, files, say)


def _show_rows(rows: list[Row]) -> None:
    def bound(value: float | None) -> str:
        return "" if value is None else f"{value:g}"

    show_table(
        ("WHAT", "MEASURED", "MUST", "GOAL", "MEETS"),
        [
            (row.name, f"{_figure(row.figure)} {row.unit}".strip(), bound(row.must), bound(row.goal), row.verdict)
            for row in rows
        ],
    )


def _show_parts(parts: list[Part]) -> None:
    show_table(
        ("WHAT", "NUMBER", "OF", "BYTES", "MB PER MILLION"),
        [
            (
                part.name,
                f"{part.number:,}",
                part.each,
                f"{part.bytes:,}",
                f"{part.per_million / 1e6:,.0f}",
            )
            for part in parts
        ],
    )


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _plain(row: Row) -> dict[str, Any]:
    return {**row._asdict(), "figure": round(row.figure, 4), "verdict": row.verdict}


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
    }


def _write(result: dict[str, Any], name: str) -> None:
    import msgspec

    target = Path("docs/performance")
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{name}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    say(f"Raw output is in {path}.")

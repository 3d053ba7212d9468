"""`fhirserver bench`: the performance table, measured here and now on generated charts."""

from __future__ import annotations

import os
import platform
import sqlite3
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

from fhirserver.cli.console import AsJson, say, show, show_json, show_table


def bench(
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: about a minute.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Write raw output to docs/performance/ here.")] = False,
    folder: Annotated[
        str | None, typer.Option(help="Where the stores are made and removed; a temporary folder unless given.")
    ] = None,
    store: Annotated[
        str | None, typer.Option("--store", metavar="URL", help="A store to fill and measure; one of its own else.")
    ] = None,
    json: AsJson = False,
) -> None:
    """Measure the rows of the performance table: a real server process, a real client, gate and audit on."""
    from fhirserver.cli.bench import rows
    from fhirserver.cli.bench.site import Site

    measured: list[rows.Row] = []
    with tempfile.TemporaryDirectory(prefix="fhirserver-bench-", dir=folder) as place:
        for row in rows.measure(Site(Path(place), store), rows.QUICK if quick else rows.FULL, say):
            say(f"  {row.name}: {_figure(row.figure)} {row.unit} ({row.verdict})")
            measured.append(row)
    machine, size = _machine(), "quick" if quick else "full"
    result = {"size": size, "machine": machine, "rows": [_plain(row) for row in measured]}
    if json:
        show_json(result)
    else:
        show_table(
            ("WHAT", "MEASURED", "MUST", "GOAL", "MEETS"),
            [
                (row.name, f"{_figure(row.figure)} {row.unit}".strip(), f"{row.must:g}", f"{row.goal:g}", row.verdict)
                for row in measured
            ],
        )
        show("\n" + ", ".join(f"{name} {value}" for name, value in machine.items()))
    if write:
        _write(result, size)


def _figure(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def _plain(row: Any) -> dict[str, Any]:
    return {**row._asdict(), "figure": round(row.figure, 4), "verdict": row.verdict}


def _machine() -> dict[str, Any]:
    return {
        "cpus": os.cpu_count(),
        "processor": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "sqlite": sqlite3.sqlite_version,
    }


def _write(result: dict[str, Any], size: str) -> None:
    import msgspec

    target = Path("docs/performance")
    target.mkdir(parents=True, exist_ok=True)
    path = target / f"{size}.json"
    path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=2) + b"\n")
    say(f"Raw output is in {path}.")

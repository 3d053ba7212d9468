"""`fhirserver check`, `stats` and `reindex`: what the operator of a store does to it as a whole."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from fhirserver.cli import session
from fhirserver.cli.console import AsJson, StoreUrl, say, show, show_json, show_table

if TYPE_CHECKING:
    from fhirserver.app import Runtime


def check(store: StoreUrl = None, json: AsJson = False) -> None:
    """Verify the store: index against bodies, versions, unfinished commits; exit code 1 if anything is wrong."""

    async def work(runtime: Runtime) -> list[str]:
        return [problem async for problem in runtime.gate.upkeep(subject=session.subject()).verify()]

    problems = session.run(store, work, upkeep=True)
    if json:
        show_json({"ok": not problems, "problems": problems})
    else:
        for problem in problems:
            show(problem)
    say(f"{len(problems)} problems." if problems else "The store is sound.")
    if problems:
        raise typer.Exit(1)


def stats(store: StoreUrl = None, json: AsJson = False) -> None:
    """Count what is stored, by type."""
    found = session.run(store, measure, upkeep=True)
    if json:
        show_json(found)
        return
    show_table(("TYPE", "RESOURCES"), found["types"].items())
    show(f"\n{found['resources']} resources, seq {found['seq']}, as of {found['time']}, in {found['store']}")
    for name, size in found["files"].items():
        show(f"{name}: {size:,} bytes")


async def measure(runtime: Runtime) -> dict[str, Any]:
    """Where the store is, resources by type, the high water, and the sizes of an embedded store's files in bytes."""
    from fhirserver.core.model import Query
    from fhirserver.core.stamp import instant

    scoped = session.operator(runtime, "stats")
    counts: Counter[str] = Counter()
    for tally in await scoped.tally(Query()):
        counts[tally.type] += tally.count
    high = await scoped.high_water()
    path = runtime.settings.store_path
    return {
        "resources": counts.total(),
        "types": dict(sorted(counts.items())),
        "seq": high.seq,
        "time": instant(high.time),
        "store": runtime.settings.store_place,
        "files": _sizes(path) if path else {},
    }


def _sizes(path: Path) -> dict[str, int]:
    files = [path.with_name(path.name + suffix) for suffix in ("", "-wal")]
    return {str(file): file.stat().st_size for file in files if file.exists()}


def reindex(store: StoreUrl = None) -> None:
    """Derive the index of every resource again, in place: no new versions. SearchParameters that the operator has
    stored count from then on (restart running servers); interrupted, it goes on where it was. On MongoDB the store's
    own indexes come first, and native documents are made or dropped as FHIRSERVER_NATIVE_DOCUMENTS says."""

    async def work(runtime: Runtime) -> int:
        with counted("reindex") as progress:
            return await runtime.gate.upkeep(subject=session.subject()).reindex(
                progress, lambda left: say(f"Left out: {left.url}. {left.reason}")
            )

    say(f"{session.run(store, work, upkeep=True)} resources indexed again.")


def relabel(store: StoreUrl = None) -> None:
    """Derive the security labels of every resource again, in place: no new versions. For when the code lists have
    changed (restart running servers with them) or an organisation has become a Part 2 program; third parties wait
    meanwhile. Interrupted, it goes on where it was."""

    async def work(runtime: Runtime) -> tuple[int, int]:
        with counted("relabel") as progress:
            return await runtime.gate.upkeep(subject=session.subject()).relabel(progress)

    done, changed = session.run(store, work, upkeep=True)
    say(f"{done} resources looked at, {changed} labelled otherwise.")


@contextmanager
def counted(what: str) -> Iterator[Callable[[int, int], None]]:
    """A line on a terminal that hears (done, total)."""
    from rich.console import Console
    from rich.progress import MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(what, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)

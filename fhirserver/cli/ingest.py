"""`fhirserver ingest`: bring charts into the store."""

from __future__ import annotations

import gc
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fhirserver.cli import session
from fhirserver.cli.console import AsJson, StoreUrl, say, show, show_json

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from ingest.load import Progress, Report

REJECTS = "ingest.rejects.ndjson"


def ingest(
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, folders, or - for standard input.")],
    organization: Annotated[
        str | None, typer.Option(metavar="ORG", help="The custodian; the operator's own organisation unless given.")
    ] = None,
    namespace: Annotated[
        bool, typer.Option("--namespace", help="Give everything ids of the custodian's own, so that none can collide.")
    ] = False,
    as_resources: Annotated[
        bool, typer.Option("--as-resources", help="Store Bundles as they are instead of unwrapping them.")
    ] = False,
    no_persons: Annotated[
        bool, typer.Option("--no-persons", help="Do not make a Person for a Patient that has none.")
    ] = False,
    trust_consents: Annotated[
        bool, typer.Option("--trust-consents", help="Consents in the input decide access; else they are data only.")
    ] = False,
    rejects: Annotated[
        str, typer.Option(metavar="FILE", help="Where to write what was rejected, one JSON object a line.")
    ] = REJECTS,
    store: StoreUrl = None,
    json: AsJson = False,
) -> None:
    """Store everything that is valid in Bundles, NDJSON or single resources; exit code 1 if any were rejected."""
    if "-" in paths and len(paths) != paths.index("-") + 1 and "-" in paths[paths.index("-") + 1 :]:
        raise ValueError("Standard input (-) can be read only once.")
    _settle_in()
    with _progress() as tell:
        report = session.run(
            store,
            lambda runtime: load(
                runtime,
                paths,
                organization=organization,
                namespace=namespace,
                as_resources=as_resources,
                persons=not no_persons,
                trust_consents=trust_consents,
                rejects=Path(rejects),
                progress=tell,
            ),
        )
    _report(report, json=json)
    if report.rejected:
        raise typer.Exit(1)


def _silent(_: Progress) -> None:
    """Nobody is watching."""


def _settle_in() -> None:
    """Measured on charts of 100,000: a quarter more resources a second. A collection for every 700 new dicts finds
    nothing here, since nothing of an import is cyclic, and threads that swap the interpreter's lock less often lose
    less to it than they wait.

    SIGTERM ends the run as Ctrl-C does: its temporary files hold what the charts hold, and must not stay. Also where
    SIGINT is ignored, as a shell has it for what it starts in the background."""

    def end(*_: object) -> None:
        if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGTERM, end)
    gc.set_threshold(100_000, 20, 100)
    sys.setswitchinterval(0.02)


async def load(
    runtime: Runtime,
    paths: Sequence[str],
    *,
    organization: str | None = None,
    namespace: bool = False,
    as_resources: bool = False,
    persons: bool = True,
    trust_consents: bool = False,
    rejects: Path = Path(REJECTS),
    progress: Callable[[Progress], None] = _silent,
) -> Report:
    """Ingest under the audited system grant of ``organization``, which must be known (None: the operator's own)."""
    from ingest.load import Options
    from ingest.load import ingest as ingest_files

    if organization is not None:
        await session.known_organization(session.operator(runtime, "ingest"), organization)
    scoped = session.operator(runtime, "ingest", organization=organization)
    options = Options(
        as_resources=as_resources,
        namespace=namespace,
        persons=persons,
        trust_consents=trust_consents,
        rejects=rejects,
    )
    sources: list[Path | Literal["-"]] = ["-" if path == "-" else Path(path) for path in paths]
    return await ingest_files(sources, scoped, options, progress)


@contextmanager
def _progress() -> Iterator[Callable[[Progress], None]]:
    """A bar on standard error where somebody is watching."""
    import sys

    if not sys.stderr.isatty():
        yield _silent
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        DownloadColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[stored]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        tasks = {}

        def tell(now: object) -> None:
            from ingest.load import Progress as Told

            if not isinstance(now, Told):
                return
            if now.phase not in tasks:
                tasks[now.phase] = bar.add_task(now.phase, total=now.total, stored="")
            stored = f"{now.created + now.updated + now.unchanged:,} resources, {now.rejected:,} rejected"
            bar.update(
                tasks[now.phase], completed=now.done, total=now.total, stored=stored if now.phase == "loading" else ""
            )

        yield tell


def _report(report: Report, *, json: bool) -> None:
    if json:
        import msgspec

        show_json({**msgspec.to_builtins(report, enc_hook=str), "rejects": str(report.rejects or "")})
    else:
        show(
            f"created {report.created}, updated {report.updated}, unchanged {report.unchanged}, "
            f"rejected {report.rejected}"
        )
    if report.mended:
        say(f"{report.mended} resources had a known quirk that was mended.")
    for warning in report.warnings:
        say(warning + ".")
    if report.rejects:
        say(f"What was rejected, and why, is in {report.rejects}.")

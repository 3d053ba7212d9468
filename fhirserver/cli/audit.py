"""`fhirserver audit`: look at the audit trail, hand it on, drop what is too old."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import msgspec
import typer

from fhirserver.cli import session
from fhirserver.cli.console import AsJson, StoreUrl, say, show_json, show_table
from fhirserver.cli.person import bare
from fhirserver.cli.syslog import Syslog

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.policy.archive import Archive, Told

app = typer.Typer(help="The audit trail.", no_args_is_help=True)

PAUSE = 1.0
"""Seconds between two looks at a trail that is followed, and after a receiver that has failed."""


class State(msgspec.Struct):
    """How far an export has come: the place of the last row, and the bytes of the file up to it."""

    after: str = ""
    size: int = 0


class _Sink(Protocol):
    def take(self, told: Told, state: State) -> None:
        """Hand over a batch; ``state`` is told how far that was."""

    def close(self) -> None:
        """Nothing more comes."""


@app.command("list")
def list_(
    patient: Annotated[
        str | None, typer.Option("--patient", metavar="ID", help="Who got what of this patient's chart, and when.")
    ] = None,
    org: Annotated[str | None, typer.Option("--org", metavar="ORG", help="What this organisation did.")] = None,
    since: Annotated[str | None, typer.Option("--since", metavar="DATE", help="From this day or moment on.")] = None,
    until: Annotated[str | None, typer.Option("--until", metavar="DATE", help="Up to this day or moment.")] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="At most so many.")] = 50,
    store: StoreUrl = None,
    json: AsJson = False,
) -> None:
    """List what was done, newest first; this is itself in the trail."""
    from fhirserver.core.dates import interval
    from fhirserver.core.search import Search
    from fhirserver.policy.accounting import Asked

    whose = bare(patient, "Patient") if patient else None
    asked = Asked(
        search=Search(types=("AuditEvent",)),
        patient=whose,
        organization=org,
        since=interval(since)[0] if since else None,
        until=interval(until)[1] + 1 if until else None,
    )

    async def work(runtime: Runtime) -> list[dict[str, Any]]:
        scoped = session.operator(runtime, "audit list")
        patients, detail = ((whose,) if whose else ()), ({"org": org} if org else {})
        async with scoped.disclosure(interaction="audit-list", patients=patients, detail=detail) as note:
            found: list[dict[str, Any]] = []
            after = None
            while len(found) < limit:
                page = await scoped.accounting().page(asked, after, limit - len(found))
                found += [event for event in page.events if event["id"] != note.intent]
                after = page.next
                if after is None:
                    break
            note.count = len(found)
            note.complete()
        return found

    events = session.run(store, work, upkeep=True)
    if json:
        show_json(events)
    else:
        show_table(("TIME", "ORG", "WHO", "WHAT", "OUTCOME", "PATIENTS", "RESOURCES"), map(_line, events))


@app.command()
def export(
    file: Annotated[
        Path | None, typer.Option("--file", metavar="FILE", help="Append to this file (- for standard output).")
    ] = None,
    syslog: Annotated[
        str | None, typer.Option("--syslog", metavar="URL", help="udp://, tcp:// or tls://HOST:PORT, or unix:///PATH.")
    ] = None,
    authorities: Annotated[
        Path | None, typer.Option("--ca", metavar="FILE", help="Who certifies a tls:// receiver.")
    ] = None,
    rows: Annotated[bool, typer.Option("--rows", help="Rows with their links, not AuditEvents.")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="Go on with what is added, until stopped.")] = False,
    state: Annotated[
        Path | None, typer.Option("--state", metavar="FILE", help="Where to remember how far this came; FILE.state.")
    ] = None,
    store: StoreUrl = None,
) -> None:
    """Hand the trail on as lines of JSON. Run again, it goes on where it was."""
    if (file is None) == (syslog is None):
        raise ValueError("Give --file or --syslog.")
    kept = state or (Path(f"{file}.state") if file is not None and str(file) != "-" else None)
    place = _read(kept)
    sink: _Sink = _File(file, place) if file is not None else _Network(syslog or "", authorities)
    retries = syslog is not None and follow

    async def work(runtime: Runtime) -> int:
        archive = runtime.gate.archive(subject=session.subject())
        return await _handed_on(archive, sink, place, kept, rows=rows, follow=follow, retries=retries)

    say(f"{session.run(store, work, upkeep=True)} lines handed on.")


@app.command()
def retain(
    days: Annotated[int, typer.Option("--days", metavar="N", min=1, help="Keep this many days.")],
    store: StoreUrl = None,
) -> None:
    """Drop what is older, from the beginning of the trail; what is kept still verifies with `fhirserver check`."""

    async def work(runtime: Runtime) -> int:
        return await runtime.gate.archive(subject=session.subject()).retain(days, runtime.clock())

    say(f"{session.run(store, work, upkeep=True)} rows dropped.")


async def _handed_on(
    archive: Archive, sink: _Sink, place: State, kept: Path | None, *, rows: bool, follow: bool, retries: bool
) -> int:
    form = "rows" if rows else "events"
    try:
        async with archive.handing_on(form=form) as handing:
            while True:
                async for told in handing.lines(place.after, rows=rows, settled=follow):
                    await _taken(sink, told, place, retries=retries)
                    _write(kept, place)
                if not follow:
                    return handing.count
                await asyncio.sleep(PAUSE)
    finally:
        sink.close()


async def _taken(sink: _Sink, told: Told, place: State, *, retries: bool) -> None:
    left = told
    while left:
        before = place.after
        try:
            await asyncio.to_thread(sink.take, left, place)
            return
        except OSError as error:
            if not retries:
                raise
            say(f"The receiver does not take it ({error.strerror or type(error).__name__}); trying again.")
        if place.after != before:  # some went over
            left = left[next(at for at, each in enumerate(left, 1) if each[0] == place.after) :]
        await asyncio.sleep(PAUSE)


class _File:
    """Appends lines. What a killed export has written beyond its state is cut off first, so that no line is twice."""

    def __init__(self, file: Path, state: State) -> None:
        self._file = file
        if str(file) == "-":
            return
        with open(os.open(file, os.O_CREAT | os.O_RDWR, 0o600), "r+b") as opened:
            size = opened.seek(0, os.SEEK_END)
            if size < state.size or (size and not state.after):
                raise ValueError(
                    f"{file} is not the file of this export; name another, or remove both it and its state."
                )
            opened.truncate(state.size)

    def take(self, told: Told, state: State) -> None:
        data = b"".join(line + b"\n" for _, _, line in told if line)
        if str(self._file) == "-":
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()
        else:
            with open(self._file, "ab") as opened:
                opened.write(data)
                opened.flush()
                os.fsync(opened.fileno())
        state.after, state.size = told[-1][0], state.size + len(data)

    def close(self) -> None:
        return


class _Network:
    def __init__(self, url: str, authorities: Path | None) -> None:
        self._syslog = Syslog(url, authorities=str(authorities) if authorities else None)

    def take(self, told: Told, state: State) -> None:
        for place, row, line in told:
            if line:
                self._syslog.send(row, line)
            state.after = place

    def close(self) -> None:
        self._syslog.close()


def _read(file: Path | None) -> State:
    try:
        return msgspec.json.decode(file.read_bytes(), type=State) if file is not None else State()
    except FileNotFoundError:
        return State()
    except msgspec.DecodeError as error:
        raise ValueError(f"{file} is not the state of an export.") from error


def _write(file: Path | None, state: State) -> None:
    if file is None:
        return
    fresh = file.with_name(file.name + ".new")
    with open(os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), "wb") as opened:
        opened.write(msgspec.json.encode(state))
        opened.flush()
        os.fsync(opened.fileno())
    fresh.replace(file)


def _line(event: dict[str, Any]) -> tuple[str, ...]:
    agents = event["agent"]
    names = [each["what"].get("reference", "") for each in event["entity"] if "what" in each]
    patients = [name.partition("/")[2] for name in names if name.startswith("Patient/")]
    others = [name for name in names if name and not name.startswith(("Patient/", "Consent/"))]
    return (
        event["recorded"],
        agents[2]["who"]["identifier"]["value"],
        agents[0]["who"]["identifier"]["value"],
        event["subtype"][-1]["code"],
        event.get("outcomeDesc", "complete").split(":")[0].rstrip("."),
        " ".join(patients[:3]) + (f" +{len(patients) - 3}" if len(patients) > 3 else ""),
        " ".join(others[:2]) + (f" +{len(others) - 2}" if len(others) > 2 else ""),
    )

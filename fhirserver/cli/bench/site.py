"""Where a benchmark happens: a folder with a store of its own, the real commands, and a real server process."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from fhirserver.cli.bench.client import Client
from fhirserver.cli.bench.stores import Place
from fixtures import charts

CUSTODIAN, READER = "bench-clinic", "bench-reader"


class Running(NamedTuple):
    """A server that answers: its process id, and the clients of a third party, an operator and a writing member."""

    pid: int
    reader: Client
    operator: Client
    writer: Client


class Site:
    """One folder with one store; every step is a command as people would type it."""

    def __init__(self, folder: Path, place: Place) -> None:
        self.folder = folder
        self.place = place
        # In the environment and not among the words: a URL with a password stands in no list of processes.
        self.environment = {**os.environ, **place.environment}
        self._files = 0
        self.command("org", "add", "Bench clinic", "--id", CUSTODIAN)
        self.command("org", "add", "Bench reader", "--id", READER)
        self.ingest(charts.directory(), owned=False)

    def command(self, *words: str, good: Sequence[int] = (0,)) -> str:
        """Standard output of ``fhirserver WORDS``; RuntimeError with what it said when its exit code is not good."""
        done = subprocess.run(  # noqa: S603  our own command, our own words
            [sys.executable, "-m", "fhirserver", *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=self.folder,
            env=self.environment,
        )
        if done.returncode not in good:
            raise RuntimeError(f"fhirserver {' '.join(words)}: {done.stderr or done.stdout}")
        return done.stdout

    def ingest(self, resources: Iterator[charts.Resource], *words: str, owned: bool = True) -> tuple[int, float]:
        """Write the resources to a file and ingest it (``words``: more options): how many, and the seconds of the
        command."""
        self._files += 1
        path = self.folder / f"input-{self._files}.ndjson"
        count = 0
        with path.open("wb") as out:
            for line in charts.lines(resources):
                out.write(line)
                count += 1
        began = time.perf_counter()
        report = self.command("ingest", str(path), *(("--organization", CUSTODIAN) if owned else ()), *words, "--json")
        spent = time.perf_counter() - began
        path.unlink()
        if msgspec.json.decode(report)["rejected"]:
            raise RuntimeError(f"The ingest rejected generated resources: {report}")
        return count, spent

    def ingest_files(self, paths: Sequence[Path]) -> None:
        """Ingest what is there already; what is rejected is left out."""
        words = ("ingest", *(str(path.resolve()) for path in paths), "--organization", CUSTODIAN, "--json")
        self.command(*words, good=(0, 1))

    def consent(self, patients: Sequence[str]) -> None:
        """Open these patients' charts to the reader."""
        for patient in patients:
            self.command("consent", "grant", "--patient", patient, "--org", READER)

    def reader_token(self) -> str:
        """A third party's."""
        return self.command("token", "--org", READER).strip()

    def operator_token(self) -> str:
        """An operator's."""
        return self.command("token", "--as", "operator").strip()

    def writer_token(self) -> str:
        """A member's of the custodian, who may write."""
        return self.command("token", "--as", "member", "--org", CUSTODIAN, "--scope", "system/*.cruds").strip()

    @contextmanager
    def serving(self) -> Iterator[Running]:
        """A server process over the store, ended at the end."""
        port = _free_port()
        with (self.folder / "server.log").open("ab") as log:
            process = subprocess.Popen(  # noqa: S603  our own module
                [sys.executable, "-m", "fhirserver.cli.bench.server", str(port)],
                stderr=log,
                cwd=self.folder,
                env=self.environment,
            )
        try:
            _await(port, process)
            tokens = (self.reader_token(), self.operator_token(), self.writer_token())
            yield Running(process.pid, *(Client(port, token) for token in tokens))
        finally:
            process.terminate()
            process.wait(20)

    def fsyncs(self) -> float:
        """How many 4 KiB writes per second this disk makes durable, one by one."""
        path = self.folder / "fsync"
        count = 200
        with path.open("wb", buffering=0) as out:
            began = time.perf_counter()
            for _ in range(count):
                out.write(bytes(4096))
                os.fsync(out.fileno())
            spent = time.perf_counter() - began
        path.unlink()
        return count / spent


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await(port: int, process: subprocess.Popen[Any]) -> None:
    deadline = time.monotonic() + 30
    client = Client(port, "")
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError("The benchmark's server ended before it answered.")
        try:
            with client.keep() as kept:
                kept.get("/health/live")
        except OSError:
            time.sleep(0.05)
        else:
            return
    raise RuntimeError("The benchmark's server does not answer.")

"""`fhirserver serve` as its own process: what a stalled reader costs, what a kill leaves, how it ends."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import NamedTuple

import pytest

from fhirserver.app import wall_clock
from fhirserver.core.model import AuditRow
from fhirserver.store.open import open_store
from fixtures import charts
from tests.stores import KINDS, environment, fresh

RESOURCES = {"sqlite": 15_000, "mongo": 8_000}


class Loaded(NamedTuple):
    """A store with a chart, and the environment of commands over it."""

    url: str
    environment: dict[str, str]

    def command(self, *words: str) -> subprocess.CompletedProcess[str]:
        words = (sys.executable, "-m", "fhirserver", *words)
        done = subprocess.run(words, check=False, capture_output=True, text=True, env=self.environment)
        assert done.returncode == 0, done.stderr
        return done


@pytest.fixture(scope="module", params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Loaded]:
    """A store with one chart of some 20 MB; of half of that on MongoDB, where writing takes longer."""
    folder = tmp_path_factory.mktemp("serve")
    file = folder / "chart.ndjson"
    with file.open("wb") as out:
        out.writelines(charts.lines([*charts.directory(), *charts.chart(RESOURCES[request.param])]))
    with fresh(request.param, folder) as url:
        # On MongoDB the same as on SQLite, in less time.
        patience = {} if request.param == "sqlite" else {"FHIRSERVER_SHUTDOWN_SECONDS": "2"}
        loaded = Loaded(url, environment(url, folder) | patience)
        loaded.command("ingest", str(file), "--rejects", str(folder / "rejects"))
        yield loaded


class Serving:
    """The process and its port."""

    def __init__(self, store: Loaded) -> None:
        self.token = store.command("token", "--org", "operator", "--as", "operator").stdout.strip()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fhirserver", "serve", "--port", "0"],
            stderr=subprocess.PIPE,
            text=True,
            env=store.environment,
        )
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        match = re.search(r":(\d+)/", said)
        assert match, said
        self.port = int(match[1])
        self.get("/health/ready").close()

    def get(self, path: str, *, buffer: int | None = None) -> socket.socket:
        """A GET, sent; nothing is read."""
        for _ in range(200):
            connection = socket.socket()
            if buffer:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            with suppress(ConnectionRefusedError):
                connection.connect(("127.0.0.1", self.port))
                break
            connection.close()
            time.sleep(0.05)
        lines = [f"GET {path} HTTP/1.1", "Host: x", f"Authorization: Bearer {self.token}", "Connection: close", "", ""]
        connection.sendall("\r\n".join(lines).encode())
        return connection

    def whole(self, path: str) -> bytes:
        """The whole answer."""
        with closing(self.get(path)) as connection:
            return b"".join(iter(lambda: connection.recv(1 << 20), b""))

    def resident(self) -> int:
        """Resident memory in bytes."""
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def serving(store: Loaded) -> Iterator[Serving]:
    running = Serving(store)
    try:
        yield running
    finally:
        running.process.kill()
        running.process.communicate()


def chart() -> str:
    return f"/FHIR/R4/Person/{charts.patient_id(0)}/$everything"


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="resident memory is read from /proc")
def test_a_stalled_reader_costs_less_than_16_mb(serving: Serving) -> None:
    assert serving.whole(chart()).endswith(b"0\r\n\r\n")
    before = serving.resident()
    stalled = [serving.get(chart(), buffer=1 << 16) for _ in range(4)]
    for connection in stalled:
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
    time.sleep(1.5)
    grown = serving.resident() - before
    for connection in stalled:
        connection.close()
    assert grown < len(stalled) * 16 * 2**20


@pytest.mark.slow
def test_a_killed_process_leaves_the_intent_of_what_it_was_disclosing(serving: Serving, store: Loaded) -> None:
    with closing(serving.get(chart(), buffer=1 << 16)) as connection:
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        serving.process.kill()
        serving.process.wait()

    async def rows() -> list[AuditRow]:
        opened = open_store(store.url, clock=wall_clock)
        await opened.start()
        found = [row async for batch in opened.audit.scan() for row in batch if row.interaction == "$everything"]
        await opened.close()
        return found

    last = asyncio.run(rows())[-1]
    assert (last.outcome, last.patients) == ("intent", (charts.patient_id(0),))


@pytest.mark.slow
def test_sigterm_ends_the_server_within_15_seconds_whatever_its_readers_do(serving: Serving) -> None:
    with closing(serving.get(chart(), buffer=1 << 16)) as stalled:
        assert stalled.recv(1024).startswith(b"HTTP/1.1 200")
        serving.process.send_signal(signal.SIGTERM)
        assert serving.process.wait(timeout=15) is not None
        rest = b"".join(iter(lambda: stalled.recv(1 << 20), b""))
        assert not rest.endswith(b"0\r\n\r\n")

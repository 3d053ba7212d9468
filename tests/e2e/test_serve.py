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

import pytest

from fhirserver.app import wall_clock
from fhirserver.core.model import AuditRow
from fhirserver.store.open import open_store
from fixtures import charts

RESOURCES = 15_000


def command(store: str, *words: str) -> subprocess.CompletedProcess[str]:
    """One command over this store."""
    return subprocess.run(
        [sys.executable, "-m", "fhirserver", *words, "--store", store], check=True, capture_output=True, text=True
    )


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A store with one chart of some 20 MB."""
    folder = tmp_path_factory.mktemp("serve")
    file = folder / "chart.ndjson"
    with file.open("wb") as out:
        out.writelines(charts.lines([*charts.directory(), *charts.chart(RESOURCES)]))
    url = f"sqlite:///{folder}/fhir.db"
    command(url, "ingest", str(file), "--rejects", str(folder / "rejects"))
    return url


class Serving:
    """The process and its port."""

    def __init__(self, store: str) -> None:
        self.token = command(store, "token", "--org", "operator", "--as", "operator").stdout.strip()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "fhirserver", "serve", "--port", "0", "--store", store],
            stderr=subprocess.PIPE,
            text=True,
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
def serving(store: str) -> Iterator[Serving]:
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
def test_a_killed_process_leaves_the_intent_of_what_it_was_disclosing(serving: Serving, store: str) -> None:
    with closing(serving.get(chart(), buffer=1 << 16)) as connection:
        assert connection.recv(1024).startswith(b"HTTP/1.1 200")
        serving.process.kill()
        serving.process.wait()

    async def rows() -> list[AuditRow]:
        opened = open_store(store, clock=wall_clock)
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

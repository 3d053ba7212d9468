"""The demo as somebody meets it: start it, paste what it prints, get a whole chart; stop it, start it again."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.stores import KINDS, fresh

TOP = Path(__file__).parents[2]


def free_port() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])


@contextmanager
def demo(folder: Path, *words: str, port: str, store: str = "") -> Iterator[list[str]]:
    """`fhirserver demo` in ``folder``: the lines of its standard output once it has said what to paste.

    Over ``store``, or over the file that it makes by itself.
    """
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FHIRSERVER_")}
    named = {"FHIRSERVER_STORE": store} if store else {}
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "fhirserver", "demo", *words],
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            cwd=folder,
            env=clean | named | {"PORT": port},
        )
    assert process.stdout is not None
    try:
        lines = [process.stdout.readline().strip(), process.stdout.readline().strip()]
        assert lines[1].startswith("curl "), (folder / "log").read_text()
        yield lines
    finally:
        process.send_signal(signal.SIGTERM)
        began = time.monotonic()
        process.wait(20)
        process.stdout.close()
    assert time.monotonic() - began < 15


def bash(line: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["bash", "-c", line], capture_output=True, text=True, cwd=folder, timeout=60, check=False)


def paste(line: str, folder: Path) -> dict[str, Any]:
    done = bash(line, folder)
    assert done.returncode == 0, done
    bundle: dict[str, Any] = json.loads(done.stdout)
    return bundle


@pytest.fixture
def port() -> str:
    return free_port()


@pytest.fixture
def store(kind: str, tmp_path: Path) -> Iterator[str]:
    """The store to name to the demo; none for SQLite, where it has its own."""
    with fresh(kind, tmp_path) as url:
        yield "" if kind == "sqlite" else url


def test_a_consent_that_runs_out_is_given_again_by_the_next_start(tmp_path: Path, port: str) -> None:
    with demo(tmp_path, port=port):
        until = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 3))
        store = "--store sqlite:///data/demo.db"
        words = f"consent grant --person amara-okafor --org carebridge --until {until} {store}"
        assert bash(f"{sys.executable} -m fhirserver {words}", tmp_path).returncode == 0
    time.sleep(3)
    with demo(tmp_path, port=port) as (_, curl):
        assert paste(curl, tmp_path)["resourceType"] == "Bundle"


@pytest.mark.parametrize("kind", KINDS)
def test_the_printed_line_returns_the_whole_chart_and_nothing_of_who_did_not_consent(
    tmp_path: Path, port: str, store: str
) -> None:
    with demo(tmp_path, port=port, store=store) as (token, curl):
        bundle = paste(curl, tmp_path)
        assert bundle["resourceType"] == "Bundle", bundle
        keys = [f"{e['resource']['resourceType']}/{e['resource']['id']}" for e in bundle["entry"]]
        assert bundle["total"] == len(keys) == len(set(keys))
        assert keys[:2] == ["Person/amara-okafor", "Patient/amara-northfield"]
        assert {"Patient/amara-riverton", "Binary/amara-rv-discharge-text", "Medication/apixaban-5"} <= set(keys)
        assert [e["fullUrl"] for e in bundle["entry"]] == [f"http://127.0.0.1:{port}/FHIR/R4/{key}" for key in keys]
        assert '"value":7.20,' in bash(curl, tmp_path).stdout
        elias = paste(curl.replace("amara-okafor", "elias-lindqvist"), tmp_path)
        assert {e["resource"]["resourceType"] for e in elias["entry"]} >= {
            "Patient",
            "AllergyIntolerance",
            "Immunization",
        }
        assert "Condition" not in {e["resource"]["resourceType"] for e in elias["entry"]}
        noor, nobody = (paste(curl.replace("amara-okafor", id), tmp_path) for id in ("noor-haddad", "no-such-person"))
        assert noor["resourceType"] == "OperationOutcome"
        assert noor == nobody
        everything = json.dumps([bundle, elias, noor])
        assert "CANARY" not in everything
        environment = (tmp_path / "data" / "demo.env").read_text()
        assert f"TOKEN='{token}'" in environment
        example = bash(f"{TOP / 'examples' / 'everything.sh'}", tmp_path)
        assert example.returncode == 0, example.stderr
        assert f"{bundle['total']} in all" in example.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_starting_it_again_changes_nothing(tmp_path: Path, port: str, store: str) -> None:
    with demo(tmp_path, port=port, store=store) as (_, curl):
        first = paste(curl, tmp_path)
    with demo(tmp_path, port=port, store=store) as (_, curl):
        second = paste(curl, tmp_path)
    assert first["entry"] == second["entry"]


def test_consent_withdrawn_by_a_command_counts_at_once(tmp_path: Path, port: str) -> None:
    with demo(tmp_path, port=port) as (_, curl):
        assert paste(curl, tmp_path)["resourceType"] == "Bundle"
        store = f"sqlite:///{tmp_path}/data/demo.db"
        fhirserver = f"{sys.executable} -m fhirserver consent"
        revoked = bash(f"{fhirserver} revoke --person amara-okafor --org carebridge --store {store}", tmp_path)
        assert revoked.returncode == 0, revoked.stderr
        assert paste(curl, tmp_path)["resourceType"] == "OperationOutcome"
        granted = bash(f"{fhirserver} grant --person amara-okafor --org carebridge --store {store}", tmp_path)
        assert granted.returncode == 0, granted.stderr
        assert paste(curl, tmp_path)["resourceType"] == "Bundle"


@pytest.mark.parametrize("kind", KINDS)
def test_two_workers_share_one_store(tmp_path: Path, port: str, store: str) -> None:
    with demo(tmp_path, port=port, store=store) as (token, _):
        pass
    clean = {name: value for name, value in os.environ.items() if not name.startswith("FHIRSERVER_")}
    keys = {"FHIRSERVER_KEYS_FILE": "data/demo.keys.json"} if store else {}
    with (tmp_path / "log").open("wb") as log:
        words = ["serve", "--workers", "2", "--port", port, "--store", store or "sqlite:///data/demo.db"]
        process = subprocess.Popen(
            [sys.executable, "-m", "fhirserver", *words], stderr=log, cwd=tmp_path, env=clean | keys
        )
    try:
        url = f"http://127.0.0.1:{port}/FHIR/R4/Person/amara-okafor/$everything"
        line = f"curl -sS --retry 20 --retry-connrefused --retry-delay 1 -H 'Authorization: Bearer {token}' '{url}'"
        totals = {paste(line, tmp_path)["total"] for _ in range(6)}
        assert len(totals) == 1
    finally:
        process.terminate()
        process.wait(20)

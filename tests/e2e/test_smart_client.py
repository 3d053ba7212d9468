"""A client that others wrote, `smart-fetch`, gets its token by SMART Backend Services and reads with it.

It is looked for on PATH, or where `SMART_FETCH` says; it wants packages of its own, so `pip install smart-fetch` goes
into a virtual environment of its own.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import sys
from pathlib import Path

import jwt
import pytest

from fhirserver.policy.gate import CallerClass
from tests.build import load, observation, patient
from tests.clients import jwk, private, registered
from tests.served import Served

CLIENT = os.environ.get("SMART_FETCH") or shutil.which("smart-fetch")
MEMBER = {"organization": "operator", "caller": CallerClass.MEMBER}


@pytest.fixture
def command() -> str:
    if CLIENT is None:
        print("smart-fetch is not installed: no client that others wrote asks for a token")
        pytest.skip("smart-fetch is not installed")
    return CLIENT


def key_file(folder: Path, algorithm: str, kid: str) -> Path:
    """The client's private key as it keeps it: a JWK Set."""
    key = json.loads(jwt.get_algorithm_by_name(algorithm).to_jwk(private(algorithm)))
    file = folder / f"{algorithm}.jwks"
    given = {**key, "kid": kid, "alg": algorithm, "key_ops": ["sign"]}
    file.write_text(json.dumps({"keys": [given]}))
    return file


async def run(command: str, *words: str) -> tuple[int, str]:
    running = await asyncio.create_subprocess_exec(
        command, *words, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    try:
        out, _ = await asyncio.wait_for(running.communicate(), 60)
    finally:
        if running.returncode is None:
            running.kill()
    return running.returncode or 0, out.decode()


@pytest.mark.parametrize("algorithm", ["RS384", "ES384"])
async def test_it_gets_a_token_and_reads(command: str, server: Served, tmp_path: Path, algorithm: str) -> None:
    await load(server.gate, [patient("p"), *(observation(f"o{n}", "p") for n in range(3))])
    await server.gate.clients.add(registered(jwks={"keys": [jwk(algorithm, "mine")]}, **MEMBER))
    login = ("--fhir-url", server.base, "--smart-client-id", "bulk")
    key = key_file(tmp_path, algorithm, "mine")
    code, out = await run(command, "single", "Patient/p", *login, "--smart-key", str(key))
    assert (code, json.loads(out)["id"]) == (0, "p"), out
    folder = tmp_path / "out"
    words = ("crawl", str(folder), "--type", "Patient,Observation", "--id-list", "p")
    words += ("--no-compression", "--no-default-filters")
    code, out = await run(command, *words, *login, "--smart-key", str(key))
    assert code == 0, out
    lines = [line for file in folder.glob("Observation*.ndjson") for line in file.read_text().splitlines()]
    assert sorted(json.loads(line)["id"] for line in lines) == ["o0", "o1", "o2"], out
    rows = [row for row in await server.audit() if row.interaction == "token"]
    assert {(row.subject, row.outcome) for row in rows} == {("bulk", "complete")}


async def test_it_is_refused_with_a_key_that_is_not_registered(command: str, server: Served, tmp_path: Path) -> None:
    await load(server.gate, [patient("p")])
    await server.gate.clients.add(registered(jwks={"keys": [jwk("ES384", "mine")]}, **MEMBER))
    key = key_file(tmp_path, "RS384", "mine")
    words = ("single", "Patient/p", "--fhir-url", server.base, "--smart-client-id", "bulk", "--smart-key", str(key))
    code, out = await run(command, *words)
    assert code != 0
    assert "Family-p" not in out


async def test_the_example_client_gets_a_token_and_reads(server: Served, tmp_path: Path) -> None:
    await load(server.gate, [patient("p")])
    example, key = Path(__file__).parents[2] / "examples" / "backend_services.py", str(tmp_path / "client.pem")
    code, out = await run(sys.executable, str(example), "key", key)
    assert code == 0, out
    await server.gate.clients.add(registered(jwks=json.loads(out), **MEMBER))
    words = (str(example), "get", key, server.base)
    code, out = await run(sys.executable, *words, "bulk", "Patient/p")
    assert (code, json.loads(out)["id"]) == (0, "p"), out
    code, out = await run(sys.executable, *words, "nobody", "Patient/p")
    assert code == 1
    assert "401" in out
    assert "invalid_client" in out

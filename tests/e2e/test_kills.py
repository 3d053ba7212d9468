"""A server killed amid transactions: each of them is there whole or not at all, and what was answered is there."""

from __future__ import annotations

import asyncio
import json
import random
import re
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from tests.build import observation, patient
from tests.counts import PROOF
from tests.stores import KINDS, environment, fresh

KILLS = 50 if PROOF else 3
SIZE = 40


def transaction(name: str) -> bytes:
    resources = [patient(name), *(observation(f"{name}-{at}", name) for at in range(SIZE - 1))]
    entries = [
        {"resource": one, "request": {"method": "PUT", "url": f"{one['resourceType']}/{one['id']}"}}
        for one in resources
    ]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}).encode()


class Serving:
    """`fhirserver serve` on a free port, until it is killed."""

    def __init__(self, settings: dict[str, str]) -> None:
        command = [sys.executable, "-m", "fhirserver", "serve", "--port", "0"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=settings)
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:\d+", said)
        assert found, said
        self.base = found[0] + "/FHIR/R4/"

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        with self.process:
            self.process.wait(10)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_killed_amid_transactions_leaves_none_of_them_half(kind: str, tmp_path: Path) -> None:
    chance = random.Random(11)  # noqa: S311 - no secret
    with fresh(kind, tmp_path) as url:
        settings = environment(url, tmp_path)
        words = ["token", "--org", "operator", "--as", "operator", "--scope", "system/*.cruds"]
        token = await asyncio.to_thread(command, settings, *words)
        headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/fhir+json"}
        begun: list[str] = []
        answered: set[str] = set()
        for kill in range(KILLS):
            serving = Serving(settings)
            async with httpx.AsyncClient(base_url=serving.base, headers=headers, timeout=60) as client:
                await ready(client)

                async def write(lane: int, client: httpx.AsyncClient = client, kill: int = kill) -> None:
                    for number in range(1000):
                        name = f"k{kill}-{lane}-{number}"
                        begun.append(name)
                        try:
                            answer = await client.post("", content=transaction(name))
                        except httpx.TransportError:
                            return
                        assert answer.status_code == 200, answer.text
                        answered.add(name)

                writing = asyncio.gather(*(write(lane) for lane in range(3)))
                await asyncio.sleep(chance.uniform(0.05, 0.6))
                await asyncio.to_thread(serving.kill)
                await writing
        serving = Serving(settings)
        try:
            async with httpx.AsyncClient(base_url=serving.base, headers=headers, timeout=60) as client:
                await ready(client)
                for name in begun:
                    found = await client.get(
                        f"Patient/{name}/$everything", params={"_count": 1, "_type": "Patient,Observation"}
                    )
                    there = found.json().get("total", 0) if found.status_code == 200 else 0
                    assert there in ((SIZE,) if name in answered else (0, SIZE)), name
                after = await client.post("", content=transaction("after"))
                assert after.status_code == 200
        finally:
            serving.kill()
        await asyncio.to_thread(command, settings, "check")
        assert answered


def command(settings: dict[str, str], *words: str) -> str:
    """What a command says that succeeds."""
    done = subprocess.run(
        [sys.executable, "-m", "fhirserver", *words], check=False, capture_output=True, text=True, env=settings
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.strip()


async def ready(client: httpx.AsyncClient) -> None:
    for _ in range(200):
        try:
            if (await client.get("metadata")).status_code == 200:
                return
        except httpx.TransportError:
            await asyncio.sleep(0.05)
    raise AssertionError("the server does not answer")

"""A request whose body comes slowly: what it was admitted by at its beginning has to hold at its end, too."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Sequence
from typing import Any

import pytest

from fhirserver.policy.consenting import grant_consent, revoke_consent
from fhirserver.policy.scoped import RENEWED_SECONDS
from tests.build import load, observation, patient
from tests.served import Served

JSON_PATCH = "application/json-patch+json"


def parameters(**values: Any) -> dict[str, Any]:
    given = [{"name": name, **value} for name, value in values.items()]
    return {"resourceType": "Parameters", "parameter": given}


def bundle(method: str, url: str, **more: Any) -> dict[str, Any]:
    entry = {"request": {"method": method, "url": url}, **more}
    return {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}


META = parameters(meta={"valueMeta": {"tag": [{"code": "late"}]}})
WRONG = [{"op": "test", "path": "/status", "value": "no"}]
READS: tuple[tuple[str, str, str, Any], ...] = (
    ("POST", "Patient/n/$everything", "application/fhir+json", parameters(_count={"valueInteger": 10})),
    ("PATCH", "Observation/on", JSON_PATCH, WRONG),
    ("POST", "Observation/on/$validate", "application/fhir+json", parameters(mode={"valueCode": "delete"})),
)
WRITES: tuple[tuple[str, str, str, Any], ...] = (
    ("POST", "Observation", "application/fhir+json", observation("x", "n")),
    ("PUT", "Observation/late", "application/fhir+json", observation("late", "n")),
    ("PUT", "Observation?_id=on", "application/fhir+json", observation("on", "n")),
    ("PATCH", "Observation/on", JSON_PATCH, [{"op": "replace", "path": "/status", "value": "amended"}]),
    ("POST", "Observation/on/$meta-add", "application/fhir+json", META),
    ("POST", "Binary", "text/plain", "late"),
    ("POST", "", "application/fhir+json", bundle("POST", "Observation", resource=observation("x", "n"))),
    ("POST", "", "application/fhir+json", bundle("DELETE", "Observation?_id=on")),
)


@pytest.fixture
async def clinic(server: Served) -> Served:
    await load(server.gate, [patient("n"), observation("on", "n")], organization="north")
    return server


class Slow:
    """Requests whose bodies wait, for longer than an admission stands, until what they were admitted by is gone."""

    def __init__(self, server: Served, token: str, requests: Sequence[tuple[str, str, str, Any]]) -> None:
        self._server = server
        self._token = token
        self._begun = asyncio.Semaphore(0)
        self._cut = asyncio.Event()
        self._requests = requests

    async def answers(self, cut: Awaitable[None]) -> list[tuple[str, int]]:
        """(method and path, status) of each, when ``cut`` has happened amid them all."""
        waiting = [asyncio.create_task(self._answer(*request)) for request in self._requests]
        for _ in waiting:
            await self._begun.acquire()
        await asyncio.sleep(RENEWED_SECONDS * 1.5)
        await cut
        self._cut.set()
        return await asyncio.gather(*waiting)

    async def _answer(self, method: str, path: str, type_: str, sent: Any) -> tuple[str, int]:
        body = (sent if isinstance(sent, str) else json.dumps(sent)).encode()

        async def slowly() -> AsyncIterator[bytes]:
            yield body[:1]
            self._begun.release()
            await self._cut.wait()
            yield body[1:]

        async with self._server.client(self._token, headers={"Content-Type": type_}) as client:
            answer = await client.request(method, path, content=slowly())
        return f"{method} {path}", answer.status_code


def all_of(requests: Sequence[tuple[str, str, str, Any]], status: int) -> list[tuple[str, int]]:
    return [(f"{method} {path}", status) for method, path, _, _ in requests]


async def test_a_token_revoked_before_the_body_has_come_is_of_no_use(clinic: Served) -> None:
    token = clinic.token("member", org="north", scope="system/*.cruds", subject="thief", token_id="stolen")
    slow = Slow(clinic, token, (*READS, *WRITES))
    revoked = clinic.gate.revoke("stolen", clinic.runtime.clock() + 3_600_000)
    assert await slow.answers(revoked) == all_of((*READS, *WRITES), 401)
    assert (await clinic.get("Observation/on")).headers["etag"] == 'W/"1"'
    assert [row for row in await clinic.audit() if row.subject == "thief"] == []


async def test_a_consent_withdrawn_before_the_body_has_come_opens_nothing(clinic: Served) -> None:
    scoped = clinic.gate.system(subject="operator", organization="operator", purpose="test")
    await grant_consent(scoped, ["n"], "app")
    token = clinic.token("third-party", org="app", scope="patient/*.cruds")
    assert (await clinic.get("Patient/n", token)).status_code == 200
    slow = Slow(clinic, token, READS)

    async def withdrawn() -> None:
        await revoke_consent(scoped, ["n"], "app")

    assert await slow.answers(withdrawn()) == all_of(READS, 403)

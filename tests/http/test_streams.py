"""Long answers have places, which come back however an answer ends; a client that asks too much is told when to come
again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import closing, nullcontext
from pathlib import Path

import httpx
import pytest
from starlette.types import Message

from fhirserver.app import Runtime, application
from fhirserver.core.errors import Fault
from fhirserver.http import stream
from fhirserver.http.stream import Streaming
from fhirserver.http.streams import Streams
from fhirserver.policy.gate import CallerClass, Principal
from fhirserver.policy.scopes import Scopes
from tests import served as serving
from tests.build import load, observation, patient
from tests.http.test_streaming import Note
from tests.served import Served, served

NOTE = "x" * 9_000
MEMBERS = 2_000


@pytest.fixture
def places(monkeypatch: pytest.MonkeyPatch) -> list[Streams]:
    """The places of each server that is made, to look at."""
    made: list[Streams] = []

    def watched(runtime: Runtime) -> object:
        app = application(runtime)
        made.append(app._server.streams)
        return app

    monkeypatch.setattr(serving, "application", watched)
    return made


@pytest.fixture
async def server(tmp_path: Path, places: list[Streams]) -> AsyncIterator[Served]:
    """A server that sends two long answers to a client and three in all, over a chart of some 18 MB."""
    async with served(tmp_path, max_client_streams=2, max_streams=3, stall_seconds=2) as running:
        await load(running.gate, [patient("p"), patient("small")])
        await load(running.gate, [observation(f"o{n}", "p", note=[{"text": NOTE}]) for n in range(MEMBERS)])
        yield running


Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def begin(server: Served, token: str) -> Line:
    """The chart, asked for on a socket that nobody reads."""
    port = int(server.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    head = f"GET /FHIR/R4/Patient/p/$everything HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n\r\n"
    writer.write(head.encode())
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    return reader, writer


async def leave(line: Line) -> None:
    line[1].transport.abort()
    await asyncio.sleep(0)


async def idle(places: list[Streams], *, within: float = 2) -> None:
    end = time.monotonic() + within
    while places[0].running:
        assert time.monotonic() < end, f"{places[0].running} places were not given back"
        await asyncio.sleep(0.02)


async def test_a_client_has_so_many_long_answers_at_once_and_its_short_ones_besides(
    server: Served, places: list[Streams]
) -> None:
    token = server.token()
    running = [await begin(server, token) for _ in range(2)]
    refused = await server.get("Patient/p/$everything", token)
    assert (refused.status_code, refused.json()["issue"][0]["code"]) == (429, "throttled")
    assert refused.headers["retry-after"] == "5"
    assert (await server.get("Observation?_count=500", token)).status_code == 429
    assert (await server.get("Patient/small/$everything", token)).status_code == 200
    assert (await server.get("Observation/o1", token)).status_code == 200
    async with server.client(token) as client:
        assert (await client.head("Patient/p/$everything")).status_code == 200
    for line in running:
        await leave(line)
    await idle(places)
    assert (await server.get("Patient/p/$everything", token)).status_code == 200
    rows = [row for row in await server.audit() if row.interaction == "$everything" and row.intent]
    assert [(row.outcome, row.detail["count"]) for row in rows if row.outcome == "cut"][:1] == [("cut", 0)]


async def test_all_clients_together_have_so_many(server: Served, places: list[Streams]) -> None:
    tokens = [server.token(subject=f"client-{n}") for n in range(4)]
    running = [await begin(server, token) for token in tokens[:3]]
    refused = await server.get("Patient/p/$everything", tokens[3])
    assert (refused.status_code, refused.json()["issue"][0]["code"]) == (503, "transient")
    assert refused.headers["retry-after"] == "5"
    await leave(running[0])
    end = time.monotonic() + 2
    while (await server.get("Patient/p/$everything", tokens[3])).status_code != 200:
        assert time.monotonic() < end
        await asyncio.sleep(0.05)
    for line in running[1:]:
        await leave(line)
    await idle(places)


async def test_a_place_comes_back_from_a_whole_answer_an_abort_a_stall_and_a_revoked_token(
    server: Served, places: list[Streams]
) -> None:
    token = server.token(token_id="t1")
    assert (await server.get("Patient/p/$everything", token)).status_code == 200
    await idle(places)
    await leave(await begin(server, token))
    await idle(places)
    stalled = await begin(server, token)
    assert places[0].running == 1
    await idle(places, within=6)
    await leave(stalled)
    revoked = await begin(server, token)
    await server.gate.revoke("t1", server.runtime.clock() + 60_000)
    await idle(places)
    await leave(revoked)


async def test_a_place_comes_back_when_the_store_fails_amid_the_answer(
    server: Served, places: list[Streams], tmp_path: Path
) -> None:
    line = await begin(server, server.token())
    with closing(sqlite3.connect(tmp_path / "fhir.db", isolation_level=None)) as database:
        database.execute("ALTER TABLE current RENAME TO gone")
        assert not (await line[0].read()).endswith(b"0\r\n\r\n")
        await idle(places, within=0.5)
        database.execute("ALTER TABLE gone RENAME TO current")
    await leave(line)


async def test_an_answer_that_takes_its_time_has_a_place_however_short_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RECHECK_SECONDS", 0.02)
    places = Streams(per_client=1, in_all=1)
    one = Principal(
        subject="s", organization="o", caller=CallerClass.MEMBER, scopes=Scopes("system/*.rs"), until=1 << 60
    )
    go_on = asyncio.Event()
    sent: list[Message] = []

    async def slow() -> AsyncGenerator[bytes, None]:
        await go_on.wait()
        yield b"{}"

    async def admitted() -> None:
        """The grant holds."""

    async def send(message: Message) -> None:
        sent.append(message)

    def running() -> asyncio.Task[None]:
        answer = Streaming(
            chunks=slow(),
            headers={},
            disclosure=nullcontext(Note()),
            still_admitted=admitted,
            sent=lambda: 1,
            stall_seconds=1,
            place=places.place(one),
        )
        return asyncio.create_task(answer({"method": "GET"}, asyncio.Event().wait, send))

    first = running()
    await asyncio.sleep(0.1)
    assert places.running == 1
    with pytest.raises(Fault) as refused:
        await running()
    assert (refused.value.status, sent) == (429, [])
    go_on.set()
    await first
    assert (places.running, sent[-1]["body"]) == (0, b"{}")


async def test_requests_in_a_minute(tmp_path: Path) -> None:
    now = 1_800_000_000_000
    async with served(tmp_path, clock=lambda: now, requests_per_minute=3) as server:
        await load(server.gate, [patient("p")])
        token, other = server.token(subject="one"), server.token(subject="two")
        async with server.client(token) as client:
            assert [(await client.get("Patient/p")).status_code for _ in range(5)] == [200, 200, 200, 429, 429]
            refused = await client.get("Patient/p")
            assert refused.json()["resourceType"] == "OperationOutcome"
            assert refused.json()["issue"][0]["code"] == "throttled"
            assert refused.headers["retry-after"] == refused.headers["ratelimit-reset"] == "60"
            assert refused.headers["ratelimit-limit"] == "3, 3;w=60"
            assert refused.headers["ratelimit-remaining"] == "0"
            assert (await server.get("Patient/p", other)).status_code == 200
            now += 60_000
            assert (await client.get("Patient/p")).status_code == 200
        denied = [row for row in await server.audit() if row.outcome == "denied"]
        assert [row.detail["reason"] for row in denied] == ["rate"]
        async with httpx.AsyncClient(base_url=server.url) as client:
            assert {(await client.get("/health/live")).status_code for _ in range(5)} == {200}


async def test_the_entries_of_a_batch_count_one_by_one(tmp_path: Path) -> None:
    async with served(tmp_path, clock=lambda: 1_800_000_000_000, requests_per_minute=3) as server:
        await load(server.gate, [patient("p")])
        entry = {"request": {"method": "GET", "url": "Patient/p"}}
        async with server.client(server.token(scope="system/*.cruds")) as client:
            answer = await client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": [entry] * 4})
        statuses = [each["response"]["status"][:3] for each in answer.json()["entry"]]
        assert sorted(statuses) == ["200", "200", "429", "429"]

"""A stream obeys its reader, ends when it must, and is never taken for complete when it is not (HE-4)."""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import closing, nullcontext
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from starlette.types import Message

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import AuditRow
from fhirserver.core.validate import parse
from fhirserver.http import stream
from fhirserver.http.stream import Left, Streaming
from fhirserver.policy.consenting import grant_consent, revoke_consent
from fhirserver.policy.gate import Put
from tests.build import load, observation, organization, patient
from tests.proxy import proxied
from tests.served import Served, served
from tests.stores import every_kind, fresh

RESOURCES = 2_500
NOTE = "x" * 9_000
kind = every_kind


@pytest.fixture
async def chart(server: Served) -> Served:
    """A server with a chart of some 23 MB, more than the sockets' buffers hold."""
    return await with_chart(server)


async def with_chart(server: Served) -> Served:
    await load(server.gate, [patient("p")])
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    puts = []
    for number in range(RESOURCES):
        raw = json.dumps(observation(f"o{number}", "p", note=[{"text": NOTE}])).encode()
        puts.append(Put(resource=parse(raw), raw=raw, id=f"o{number}"))
    for at in range(0, RESOURCES, 500):
        await scoped.load(puts[at : at + 500])
    return server


class Failing(NamedTuple):
    """A server with that chart, whose current versions can be made unreadable and readable again."""

    server: Served
    fail: Callable[[], None]
    mend: Callable[[], None]


@pytest.fixture
async def failing(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Failing]:
    if kind == "sqlite":
        async with served(tmp_path) as server:

            def rename(old: str, new: str) -> None:
                with closing(connect(tmp_path)) as database:
                    database.execute(f"ALTER TABLE {old} RENAME TO {new}")

            await with_chart(server)
            yield Failing(server, lambda: rename("current", "gone"), lambda: rename("gone", "current"))
        return
    monkeypatch.setattr("fhirserver.store.mongo.client.PATIENCE", 0.5)
    with fresh(kind, tmp_path) as url:
        async with proxied(url) as (proxy, through), served(tmp_path, store=through) as server:

            def fail() -> None:
                proxy.lose = lambda message: "request" if b"\x08\0\0\0current\0" in message else None

            def mend() -> None:
                proxy.lose = lambda _: None

            await with_chart(server)
            yield Failing(server, fail, mend)


async def ask(server: Served, token: str | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """The whole chart, asked for on a bare socket that reads as little as possible by itself."""
    port = int(server.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    lines = [
        "GET /FHIR/R4/Person/p/$everything HTTP/1.1",
        "Host: x",
        f"Authorization: Bearer {token or server.token()}",
    ]
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await writer.drain()
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    return reader, writer


async def outcomes(server: Served) -> list[AuditRow]:
    """The outcome rows of `$everything` so far."""
    rows = await server.audit()
    return [row for row in rows if row.interaction == "$everything" and row.intent is not None]


async def outcome(server: Served, *, within: float) -> AuditRow:
    """The first outcome row, waited for."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        found = await outcomes(server)
        if found:
            return found[0]
        await asyncio.sleep(0.05)
    raise AssertionError(f"no outcome within {within} s")


def connect(folder: Path) -> sqlite3.Connection:
    return sqlite3.connect(folder / "fhir.db", isolation_level=None)


async def test_a_whole_stream_is_audited_as_complete_with_its_count(chart: Served) -> None:
    bundle = (await chart.get("Person/p/$everything")).json()
    assert bundle["total"] == len(bundle["entry"]) == RESOURCES + 2
    row = await outcome(chart, within=2)
    assert (row.outcome, row.detail["count"]) == ("complete", RESOURCES + 2)


@pytest.mark.parametrize("kind", ["sqlite"])
async def test_a_stalled_reader_holds_no_read_transaction_and_stops_the_scan(chart: Served, tmp_path: Path) -> None:
    _, writer = await ask(chart)
    await asyncio.sleep(0.5)
    assert await outcomes(chart) == []
    await load(chart.gate, [patient("another")])
    with closing(connect(tmp_path)) as database:
        busy, _, left = database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    assert (busy, left) == (0, 0)
    writer.close()


async def test_a_reader_that_leaves_ends_the_scan_within_a_second_and_the_audit_says_cut(chart: Served) -> None:
    _, writer = await ask(chart)
    writer.transport.abort()
    row = await outcome(chart, within=1)
    assert row.outcome == "cut"
    assert isinstance(row.detail["count"], int)
    assert row.detail["count"] < RESOURCES


async def test_a_reader_that_leaves_is_one_line_in_the_log_and_no_error(
    chart: Served, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.ERROR, logger="uvicorn.error")
    caplog.set_level(logging.INFO, logger="fhirserver.http")
    _, writer = await ask(chart)
    writer.transport.abort()
    await outcome(chart, within=2)
    await asyncio.sleep(0.5)
    told = [(record.levelname, record.getMessage().partition(" ")[2]) for record in caplog.records]
    assert told == [("WARNING", "$everything cut: the reader left")]


async def test_a_reader_without_progress_is_dropped(kind: str, tmp_path: Path) -> None:
    async with served(tmp_path, kind, stall_seconds=1) as server:
        await load(server.gate, [patient("p")])
        await load(server.gate, [observation(f"o{n}", "p", note=[{"text": NOTE * 40}]) for n in range(60)])
        reader, writer = await ask(server)
        assert (await outcome(server, within=4)).outcome == "cut"
        assert not (await reader.read()).endswith(b"0\r\n\r\n")
        writer.close()


async def test_a_store_that_fails_mid_stream_aborts_the_connection(failing: Failing) -> None:
    reader, writer = await ask(failing.server)
    failing.fail()
    text = await reader.read()
    assert not text.endswith(b"0\r\n\r\n")
    failing.mend()
    assert (await outcome(failing.server, within=2)).outcome == "cut"
    writer.close()


async def test_a_client_library_sees_the_abort_as_an_error(failing: Failing) -> None:
    plain = {"Accept-Encoding": "identity"}
    server = failing.server
    async with server.client(headers=plain) as client, client.stream("GET", "Person/p/$everything") as answer:
        pieces = answer.aiter_raw(65536)
        await anext(pieces)
        failing.fail()
        with pytest.raises(httpx.RemoteProtocolError):
            async for _ in pieces:
                pass


async def test_a_store_that_cannot_be_read_before_the_first_byte_is_a_503(failing: Failing) -> None:
    server = failing.server
    token = server.token()
    failing.fail()
    answer = await server.get("Person/p/$everything", token)
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (503, "transient")
    assert answer.headers["retry-after"] == "1"
    assert (await server.get("Patient/p", token)).status_code == 503
    async with httpx.AsyncClient(base_url=server.url) as client:
        assert (await client.get("/health/live")).status_code == 200
        assert (await client.get("/health/ready")).status_code == 503


async def test_others_are_served_while_a_stream_runs(chart: Served) -> None:
    streaming = asyncio.create_task(chart.get("Person/p/$everything"))
    async with chart.client() as client:
        while not streaming.done():
            assert (await client.get("Patient/p")).status_code == 200
    assert (await streaming).json()["total"] == RESOURCES + 2


async def a_large_binary(server: Served) -> bytes:
    """Larger than the sockets' buffers; admitted to ``app`` through a document about a patient who consents."""
    data = "QUJD" * 5_000_000
    await load(server.gate, [organization("app"), patient("q")])
    await load(server.gate, [{"resourceType": "Binary", "id": "scan", "contentType": "image/tiff", "data": data}])
    subject, content = {"reference": "Patient/q"}, [{"attachment": {"url": "Binary/scan"}}]
    document = {"id": "d", "status": "current", "subject": subject, "content": content}
    await load(server.gate, [{"resourceType": "DocumentReference", **document}])
    return data.encode()


async def begin(server: Served, path: str, token: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    port = int(server.url.rsplit(":", 1)[1])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
    headers = f"Accept: application/fhir+json\r\nAuthorization: Bearer {token}"
    writer.write(f"GET /FHIR/R4/{path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n".encode())
    assert (await reader.readline()) == b"HTTP/1.1 200 OK\r\n"
    return reader, writer


async def reads(server: Served, *, within: float) -> list[str]:
    """The outcomes of the reads so far, waited for."""
    end = time.monotonic() + within
    while time.monotonic() < end:
        rows = await server.audit()
        found = [row.outcome for row in rows if row.interaction == "read" and row.intent is not None]
        if found:
            return found
        await asyncio.sleep(0.05)
    return []


async def test_an_answer_that_took_its_time_is_admitted_again_before_its_first_byte(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sent: list[Message] = []

    async def late() -> AsyncGenerator[bytes, None]:
        yield b"{"
        await asyncio.sleep(0.02)
        yield b"}"

    async def refuse() -> None:
        raise Fault(Kind.FORBIDDEN, "no longer")

    async def send(message: Message) -> None:
        sent.append(message)

    def answer() -> Streaming:
        note = nullcontext(Note())
        return Streaming(
            chunks=late(),
            headers={},
            disclosure=note,
            still_admitted=refuse,
            sent=lambda: 1,
            stall_seconds=1,
            place=nullcontext(),
        )

    await answer()({"method": "GET"}, asyncio.Event().wait, send)
    assert [message.get("body") for message in sent] == [None, b"{}"]
    monkeypatch.setattr(stream, "RECHECK_SECONDS", 0.01)
    sent.clear()
    with pytest.raises(Fault):
        await answer()({"method": "GET"}, asyncio.Event().wait, send)
    assert sent == []


class Note:
    """An audit entry of nothing."""

    count = 0

    def complete(self) -> None:
        """It is not written."""


async def test_a_large_binary_is_read_piece_by_piece_at_its_readers_pace(server: Served) -> None:
    data = await a_large_binary(server)
    asked = {"Accept": "application/fhir+json", "Accept-Encoding": "identity"}
    answer = await server.get("Binary/scan", headers=asked)
    assert answer.json()["data"].encode() == data
    assert int(answer.headers["content-length"]) == len(answer.content)
    assert await reads(server, within=1) == ["complete"]


async def test_a_large_binary_whose_reader_stalls_is_not_held_in_memory_and_cut_when_it_leaves(server: Served) -> None:
    await a_large_binary(server)
    _, writer = await begin(server, "Binary/scan", server.token())
    assert await reads(server, within=0.5) == []
    writer.transport.abort()
    assert await reads(server, within=2) == ["cut"]


async def test_withdrawal_ends_the_reading_of_a_large_binary(server: Served) -> None:
    await a_large_binary(server)
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await grant_consent(scoped, ["q"], "app")
    reader, writer = await begin(server, "Binary/scan", server.token("third-party", org="app"))
    await revoke_consent(scoped, ["q"], "app")
    assert await reads(server, within=2) == ["cut"]
    assert len(await reader.read()) < 20_000_000
    writer.close()


class Slow:
    """An answer whose first piece never comes. ``ended``: the work on it has been stopped."""

    def __init__(self) -> None:
        self.ended = False

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        try:
            await asyncio.Event().wait()
            yield b"{}"
        finally:
            self.ended = True

    def answer(self, still_admitted: Callable[[], Awaitable[None]], *, stall_seconds: float = 60) -> Streaming:
        return Streaming(
            chunks=self.chunks(),
            headers={},
            disclosure=nullcontext(Note()),
            still_admitted=still_admitted,
            sent=lambda: 0,
            stall_seconds=stall_seconds,
            place=nullcontext(),
        )


async def admitted() -> None:
    """The grant holds."""


async def nothing_is_sent(message: Message) -> None:
    raise AssertionError(message)


async def test_a_reader_that_leaves_before_the_first_byte_ends_the_work_within_a_second() -> None:
    async def gone() -> Message:
        await asyncio.sleep(0.1)
        return {"type": "http.disconnect"}

    slow = Slow()
    with pytest.raises(Left):
        await asyncio.wait_for(slow.answer(admitted)({"method": "GET"}, gone, nothing_is_sent), 1)
    assert slow.ended


async def test_a_withdrawal_before_the_first_byte_ends_the_work_within_a_second_and_is_an_ordinary_refusal() -> None:
    async def refuse() -> None:
        raise Fault(Kind.FORBIDDEN, "no longer")

    slow = Slow()
    with pytest.raises(Fault):
        await asyncio.wait_for(slow.answer(refuse)({"method": "GET"}, asyncio.Event().wait, nothing_is_sent), 1)
    assert slow.ended


async def test_a_reader_that_waits_for_the_first_byte_is_not_dropped_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "RECHECK_SECONDS", 0.01)
    answer = Slow().answer(admitted, stall_seconds=0.02)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(answer({"method": "GET"}, asyncio.Event().wait, nothing_is_sent), 0.3)

"""Limits: each is a refusal in a sentence, before memory or patience is used up."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest
import zstandard

from tests.build import practitioner
from tests.served import Served, served

FHIR = {"Content-Type": "application/fhir+json"}


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Served]:
    """A server that takes little and waits for nobody long."""
    async with served(tmp_path, max_body=20_000, max_entries=3, stall_seconds=1) as running:
        yield running


def writer(server: Served) -> httpx.AsyncClient:
    return server.client(server.token(scope="system/*.cruds"), headers=FHIR)


def sized(length: int) -> bytes:
    """A Practitioner of exactly so many bytes."""
    body = json.dumps(practitioner("dr")).encode()
    return body[:-1] + b" " * (length - len(body)) + b"}"


async def in_pieces(body: bytes) -> AsyncIterator[bytes]:
    for at in range(0, len(body), 3_000):
        yield body[at : at + 3_000]


async def test_a_body_may_be_as_long_as_the_limit_and_no_longer(server: Served) -> None:
    async with writer(server) as client:
        assert (await client.put("Practitioner/dr", content=sized(20_000))).status_code == 201
        for body in (sized(20_001), in_pieces(sized(20_001)), in_pieces(sized(2_000_000))):
            answer = await client.put("Practitioner/dr", content=body)
            assert (answer.status_code, answer.json()["issue"][0]["code"]) == (413, "too-long")
            assert "20000" in answer.json()["issue"][0]["diagnostics"]
        assert (await client.get("Practitioner/dr")).headers["etag"] == 'W/"1"'


async def test_what_is_packed_counts_as_what_it_becomes(server: Served) -> None:
    async with writer(server) as client:
        for coding, pack in (("gzip", gzip.compress), ("zstd", zstandard.ZstdCompressor().compress)):
            for length, status in ((20_000, (200, 201)), (20_001, (413,)), (100_000_000, (413,))):
                headers = {"Content-Encoding": coding}
                answer = await client.put("Practitioner/dr", content=pack(sized(length)), headers=headers)
                assert answer.status_code in status, (coding, length)


async def test_a_length_that_is_announced_is_refused_before_it_is_sent(server: Served) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer_ = await asyncio.open_connection(host, int(port))
    token = server.token(scope="system/*.cruds")
    head = f"PUT /FHIR/R4/Practitioner/dr HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    writer_.write((head + "Content-Length: 999999999\r\nExpect: 100-continue\r\n\r\n").encode())
    assert (await asyncio.wait_for(reader.readline(), 5)).startswith(b"HTTP/1.1 413")
    writer_.close()


async def test_a_sender_that_stops_is_not_waited_for(server: Served) -> None:
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, writer_ = await asyncio.open_connection(host, int(port))
    token = server.token(scope="system/*.cruds")
    head = f"PUT /FHIR/R4/Practitioner/dr HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    writer_.write((head + "Content-Length: 100\r\n\r\n").encode())

    async def drip() -> None:
        while True:
            writer_.write(b" ")
            await asyncio.sleep(0.3)

    dripping = asyncio.create_task(drip())
    answer = await asyncio.wait_for(reader.read(), 5)
    dripping.cancel()
    assert answer.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in answer.lower()
    assert b'"code":"timeout"' in answer
    writer_.close()


async def test_a_bundle_of_too_many_entries_is_a_413(server: Served) -> None:
    entry = {"resource": practitioner("x"), "request": {"method": "POST", "url": "Practitioner"}}
    async with writer(server) as client:
        for kind in ("batch", "transaction"):
            bundle = {"resourceType": "Bundle", "type": kind, "entry": [entry] * 4}
            answer = await client.post("", json=bundle)
            assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (413, ["Bundle.entry"])
        assert (await client.get("Practitioner?_summary=count")).json()["total"] == 0


async def test_json_nested_without_end_is_refused_in_a_sentence(server: Served) -> None:
    deep = (
        b'{"resourceType":"Basic","code":{"extension":'
        + b'[{"url":"x","extension":' * 600
        + b"[]"
        + b"}]" * 600
        + b"}}"
    )
    async with writer(server) as client:
        for body in (deep, b"[" * 19_000, b'{"a":' * 3_000):
            answer = await client.post("Basic", content=body)
            assert answer.status_code == 400
            assert answer.json()["issue"][0]["diagnostics"]

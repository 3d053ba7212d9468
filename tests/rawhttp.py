"""HTTP/1.1 with nothing between the test and the socket: any bytes as a request, and what came back, read strictly."""

from __future__ import annotations

import asyncio
from typing import NamedTuple

import h11

PATIENCE = 20
"""Seconds after which a server that has not answered hangs."""


class Raw(NamedTuple):
    """A request as it is written to the socket; a body gets its Content-Length."""

    method: str
    target: bytes
    headers: tuple[tuple[bytes, bytes], ...] = ()
    body: bytes = b""

    def bytes(self) -> bytes:
        """The request, which asks for the connection to be closed after the answer."""
        lines = [self.method.encode() + b" " + self.target + b" HTTP/1.1", b"Host: localhost", b"Connection: close"]
        lines += [name + b": " + value for name, value in self.headers]
        if self.body:
            lines.append(b"Content-Length: %d" % len(self.body))
        return b"\r\n".join(lines) + b"\r\n\r\n" + self.body


class Answer(NamedTuple):
    """A complete answer: header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def type(self) -> str:
        """The media type without its parameters."""
        return self.headers.get("content-type", "").partition(";")[0]


async def exchange(port: int, request: Raw) -> Answer:
    """The answer to one request on a connection of its own. TimeoutError for a server that hangs,
    h11.RemoteProtocolError for an answer that breaks HTTP or ends too early."""
    async with asyncio.timeout(PATIENCE):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        try:
            sending = asyncio.create_task(_send(writer, request.bytes()))
            try:
                return await _received(reader, request.method)
            finally:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        finally:
            writer.close()


async def _send(writer: asyncio.StreamWriter, text: bytes) -> None:
    writer.write(text)
    await writer.drain()


async def _received(reader: asyncio.StreamReader, method: str) -> Answer:
    connection = h11.Connection(h11.CLIENT)
    known = method if method in ("HEAD", "CONNECT") else "GET"  # what an answer looks like depends on these two
    connection.send(h11.Request(method=known, target="/", headers=[("Host", "localhost"), ("Connection", "close")]))
    connection.send(h11.EndOfMessage())
    start: h11.Response | None = None
    body = b""
    while True:
        event = connection.next_event()
        if event is h11.NEED_DATA:
            connection.receive_data(await reader.read(1 << 16))
        elif isinstance(event, h11.Response):
            start = event
        elif isinstance(event, h11.Data):
            body += event.data
        elif isinstance(event, (h11.EndOfMessage, h11.ConnectionClosed)) or event is h11.PAUSED:
            break
    assert start is not None
    headers = {name.decode(): value.decode("latin-1") for name, value in start.headers}
    return Answer(start.status_code, headers, body)

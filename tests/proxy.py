"""A TCP proxy between a store and its MongoDB server, on real sockets, that loses connections when it is told to."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Literal
from urllib.parse import urlsplit

from tests.stores import MONGODB_URL, client_of

Loss = Literal["request", "answer"] | None
"""What of a message is lost with its connection: all of it, or what the server, having done it, answers."""


class Proxy:
    """Passes everything on, unless it is told otherwise; ``port`` is where it listens.

    * ``refusing``: a new connection is dropped at once.
    * ``stalled``: nothing is passed on, in either direction, and nothing is dropped.
    * ``lose``: asked about each message of a client, handshakes and heartbeats excepted.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._open: set[asyncio.Transport] = set()
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.refusing = False
        self.lose: Callable[[bytes], Loss] = lambda _: None
        self.lost = 0
        """How many connections were dropped."""
        self.received = 0
        """How many bytes the server has sent."""

    @property
    def stalled(self) -> bool:
        return not self._flowing.is_set()

    @stalled.setter
    def stalled(self, stalled: bool) -> None:
        (self._flowing.clear if stalled else self._flowing.set)()

    def cut(self) -> None:
        """Drop every connection now, in the middle of whatever it carries."""
        for transport in list(self._open):
            self._drop(transport)

    def _drop(self, transport: asyncio.WriteTransport) -> None:
        if not transport.is_closing():
            self.lost += 1
            transport.abort()

    async def start(self) -> asyncio.Server:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        return server

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._open.add(writer.transport)  # type: ignore[arg-type]
        upstream: asyncio.StreamWriter | None = None
        try:
            if self.refusing:
                return
            answers, upstream = await asyncio.open_connection(*self._target)
            losing = asyncio.Event()
            async with asyncio.TaskGroup() as ways:
                ways.create_task(self._requests(reader, upstream, losing))
                ways.create_task(self._answers(answers, writer, losing))
        except* (OSError, EOFError, _Over):
            pass
        finally:
            self._tasks.discard(task)
            self._open.discard(writer.transport)  # type: ignore[arg-type]
            for each in (writer, upstream):
                if each is not None:
                    each.transport.abort()

    async def _requests(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while True:
            length = await source.readexactly(4)
            message = length + await source.readexactly(struct.unpack("<i", length)[0] - 4)
            await self._flowing.wait()
            loss = None if is_greeting(message) else self.lose(message)
            if loss == "request":
                self.lost += 1
                raise _Over
            if loss == "answer":
                losing.set()
            sink.write(message)
            await sink.drain()

    async def _answers(self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, losing: asyncio.Event) -> None:
        while data := await source.read(1 << 16):
            await self._flowing.wait()
            if losing.is_set():
                self.lost += 1
                break
            self.received += len(data)
            sink.write(data)
            await sink.drain()
        raise _Over

    async def close(self) -> None:
        self.refusing, self.stalled = True, False
        self.cut()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Over(Exception):
    """A connection is to end."""


def is_greeting(message: bytes) -> bool:
    """A handshake or a heartbeat."""
    return any(name in message[:64] for name in (b"hello\0", b"ismaster\0", b"isMaster\0"))


def first(count: int, loss: Loss, command: bytes = b"") -> Callable[[bytes], Loss]:
    """Lose so many messages that hold this, then none."""
    left = count

    def lose(message: bytes) -> Loss:
        nonlocal left
        if not left or command not in message:
            return None
        left -= 1
        return loss

    return lose


def only(number: int, loss: Loss) -> Callable[[bytes], Loss]:
    """Lose one message, counted from 0 from now on."""
    seen = -1

    def lose(_: bytes) -> Loss:
        nonlocal seen
        seen += 1
        return loss if seen == number else None

    return lose


@asynccontextmanager
async def proxied(url: str, **options: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the primary of a store's server, and the store's URL through it."""
    with client_of(MONGODB_URL) as client:
        client.admin.command("ping")
        assert client.primary is not None
        host, port = client.primary
    proxy = Proxy(host, port)
    server = await proxy.start()
    given = "&".join(f"{name}={value}" for name, value in {"directConnection": "true", **options}.items())
    parts = urlsplit(url)
    try:
        yield proxy, f"mongodb://127.0.0.1:{proxy.port}{parts.path}?{given}"
    finally:
        server.close()
        await proxy.close()
        await server.wait_closed()

"""The streaming response: the reader's pace is obeyed, and a truncated answer never looks complete.

* No header before the first chunk is there, so a failure until then is an ordinary error answer. An answer that is
  small goes out in one piece; whether its grant still holds is asked before, if making it has taken a while.
* A failure later aborts the connection (the terminating chunk is never sent), so the JSON does not parse.
* While the answer runs, a guard asks several times a second whether the grant still holds, whether the reader has
  left, and whether it has made progress; any "no" ends the scan and the audit trail says "cut".
* For HEAD the answer ends once its head is known, and the audit trail says that nothing of it was sent.
* Every chunk is followed by a real suspension point: `send` often returns without one, and other requests would wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from typing import Protocol

import msgspec
from starlette.types import ASGIApp, Receive, Scope, Send

from fhirserver.core.errors import Fault
from fhirserver.core.model import Record
from fhirserver.policy.gate import Disclosure

RECHECK_SECONDS = 0.4
"""How often a running answer asks whether its grant still holds; withdrawal must bite within a second."""

WHOLE = 64 * 1024
"""An answer that is complete within this many bytes goes out in one piece with its length."""


class Aborted(Exception):
    """The answer was ended after its first byte; the server closes the connection without a proper end. ``fault``: what
    the caller would have been told before it."""

    def __init__(self, message: str, fault: Fault | None = None) -> None:
        super().__init__(message)
        self.fault = fault


class Left(Aborted):
    """The reader is gone, so there is nobody to tell and no connection to close: no failure of the server."""


class Note(Protocol):
    """The audit entry of a running disclosure."""

    count: int

    def complete(self) -> None: ...


class Disclosed:
    """A short answer inside its audited context: the intent is durable before its first byte, the outcome follows when
    it has been sent. The reader does not wait for the outcome."""

    def __init__(self, response: ASGIApp, disclosure: Disclosure, *, count: int) -> None:
        self._response = response
        self._disclosure = disclosure
        self._count = count

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self._disclosure as note:
            await self._response(scope, receive, send)
            note.count = self._count
            note.complete()


class Streaming(msgspec.Struct, kw_only=True):
    """An ASGI response over an async iterator of chunks, under one audited disclosure.

    ``still_admitted`` raises a Fault when the grant no longer holds; ``sent()`` is the number of entries out so far;
    a reader that takes nothing for ``stall_seconds`` is dropped; ``place`` is held while an answer runs that is longer
    than `WHOLE`, and entering it may raise a Fault. ``begun``: the header is out; ``progress`` counts the chunks that
    were taken.
    """

    chunks: AsyncGenerator[bytes, None]
    headers: Mapping[str, str]
    disclosure: AbstractAsyncContextManager[Note]
    still_admitted: Callable[[], Awaitable[None]]
    sent: Callable[[], int]
    stall_seconds: float
    place: AbstractContextManager[None]
    status: int = 200
    begun: bool = False
    progress: int = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        head = scope["method"] == "HEAD"
        async with self.disclosure as note:
            try:
                await self._run(receive, send, head=head)
                note.complete()
            finally:
                note.count = self.sent() if self.begun and not head else 0
                await self.chunks.aclose()

    async def _run(self, receive: Receive, send: Send, *, head: bool) -> None:
        begun, size, more = list[bytes](), 0, True
        loop = asyncio.get_running_loop()
        began = loop.time()
        while more and size < WHOLE:
            chunk = await anext(self.chunks, None)
            more = chunk is not None
            begun.append(chunk or b"")
            size += len(begun[-1])
        if loop.time() - began > RECHECK_SECONDS:
            await self.still_admitted()
        if more and not head:
            with self.place:
                await self._start(send, None)
                await self._stream(receive, send, begun)
            return
        await self._start(send, None if more else size)
        await send({"type": "http.response.body", "body": b"".join(begun), "more_body": more})
        if more:
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _stream(self, receive: Receive, send: Send, begun: list[bytes]) -> None:
        pump = asyncio.create_task(self._pump(send, begun))
        left = asyncio.create_task(_disconnected(receive))
        guard = asyncio.create_task(self._guard())
        try:
            await asyncio.wait({pump, left, guard}, return_when=asyncio.FIRST_COMPLETED)
            if pump.done():
                await pump
            elif guard.done():
                await guard
            else:
                raise Left("the reader left")
        except Fault as fault:
            raise Aborted(fault.message, fault) from fault
        finally:
            for task in (pump, left, guard):
                task.cancel()
            await asyncio.gather(pump, left, guard, return_exceptions=True)

    async def _start(self, send: Send, length: int | None) -> None:
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        self.begun = True
        await send({"type": "http.response.start", "status": self.status, "headers": headers})

    async def _pump(self, send: Send, begun: list[bytes]) -> None:
        for chunk in begun:
            if chunk:
                await self._send(send, chunk)
        async for chunk in self.chunks:
            await self._send(send, chunk)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send(self, send: Send, chunk: bytes) -> None:
        await send({"type": "http.response.body", "body": chunk, "more_body": True})
        self.progress += 1
        await asyncio.sleep(0)

    async def _guard(self) -> None:
        # One clock for all chunks: a timeout around each `send` was measured to cost a tenth of the stream.
        seen, since = -1, 0.0
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(RECHECK_SECONDS, self.stall_seconds))
            await self.still_admitted()
            if self.progress != seen:
                seen, since = self.progress, loop.time()
            elif loop.time() - since >= self.stall_seconds:
                raise Aborted("the reader made no progress")


class Counted:
    """Batches passed on, and how many records they held so far."""

    def __init__(self, batches: AsyncIterator[list[Record]]) -> None:
        self.sent = 0
        self._batches = batches

    async def __aiter__(self) -> AsyncIterator[list[Record]]:
        async for batch in self._batches:
            self.sent += len(batch)
            yield batch


async def nothing() -> AsyncIterator[list[Record]]:
    """Batches of an answer without entries."""
    for batch in list[list[Record]]():
        yield batch


async def _disconnected(receive: Receive) -> None:
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return

"""The streaming response: the reader's pace is obeyed, and a truncated answer never looks complete.

* No header before the first chunk is there, so a failure until then is an ordinary error answer. An answer that is
  small goes out in one piece; whether its grant still holds is asked before, if making it has taken a while.
* A failure later aborts the connection (the terminating chunk is never sent), so the JSON does not parse.
* While the answer is made and sent, a guard asks several times a second whether the grant still holds, whether the
  reader has left, and whether it has made progress; any "no" ends the scan and the audit trail says "cut".
* For HEAD the answer ends once its head is known, and the audit trail says that nothing of it was sent.
* Every chunk is followed by a real suspension point: `send` often returns without one, and other requests would wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, ExitStack
from typing import Any, Protocol

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
    a reader that takes nothing for ``stall_seconds`` is dropped. ``place`` is held while an answer runs that is longer
    than `WHOLE`, or that takes its time to be made; entering it may raise a Fault. ``begun``: there was a first byte;
    ``progress`` counts the chunks that were taken.
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
        with ExitStack() as held:
            await self._sent(receive, send, held, head=head)

    async def _sent(self, receive: Receive, send: Send, held: ExitStack, *, head: bool) -> None:
        """Send it; ``held``: what is given back when all of it has ended."""
        making = asyncio.create_task(self._first())
        tasks: list[asyncio.Task[Any]] = [making]
        try:
            # Nearly every answer is made before anything needs to be asked.
            late = not (await asyncio.wait(tasks, timeout=RECHECK_SECONDS))[0]
            if late:
                held.enter_context(self.place)
                tasks += self._watch(receive)
                await _finished(*tasks)
            first, size, more = making.result()
            if late:
                await self.still_admitted()
            elif more and not head:
                held.enter_context(self.place)
            self.begun = True
            await self._start(send, None if more else size)
            if head or not more:
                await send({"type": "http.response.body", "body": b"".join(first), "more_body": more})
                if more:
                    await send({"type": "http.response.body", "body": b"", "more_body": False})
                return
            if not late:
                tasks += self._watch(receive)
            tasks[0] = asyncio.create_task(self._pump(send, first))
            await _finished(*tasks)
        except Fault as fault:
            if not self.begun:
                raise
            raise Aborted(fault.message, fault) from fault
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _first(self) -> tuple[list[bytes], int, bool]:
        """The first chunks, their size, and whether there are more: all of them, if the answer is small."""
        first, size, more = list[bytes](), 0, True
        while more and size < WHOLE:
            chunk = await anext(self.chunks, None)
            more = chunk is not None
            first.append(chunk or b"")
            size += len(first[-1])
        return first, size, more

    def _watch(self, receive: Receive) -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(disconnected(receive)), asyncio.create_task(self._guard())]

    async def _start(self, send: Send, length: int | None) -> None:
        headers = [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in self.headers.items()]
        if length is not None:
            headers.append((b"content-length", b"%d" % length))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})

    async def _pump(self, send: Send, first: list[bytes]) -> None:
        for chunk in filter(None, first):
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
            await self.still_admitted()
            await asyncio.sleep(min(RECHECK_SECONDS, self.stall_seconds))
            if not self.begun:  # the reader waits for us
                continue
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


async def _finished(work: asyncio.Task[Any], left: asyncio.Task[Any], guard: asyncio.Task[Any]) -> None:
    """Returns when the work is done; fails as it or the guard does, or with Left."""
    await asyncio.wait({work, left, guard}, return_when=asyncio.FIRST_COMPLETED)
    if work.done():
        await work
    elif guard.done():
        await guard
    else:
        raise Left("the reader left")


async def disconnected(receive: Receive) -> None:
    """Returns when the reader is gone."""
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return

"""An entry of a batch, or a read of a transaction, run as the request it stands for: by the same routes, handlers and
gate, so nothing can be had by an entry that a request would not get."""

from __future__ import annotations

import asyncio
import logging
from string import printable
from typing import Self
from urllib.parse import quote, unquote

import msgspec
from starlette.requests import Request
from starlette.types import Message, Scope

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.jsontext import UNREADABLE
from fhirserver.http.bundled import Entry, Outcome
from fhirserver.http.failures import trace
from fhirserver.http.labels import NOTICE_HEADER, NOTICE_URL
from fhirserver.http.negotiation import NDJSON
from fhirserver.http.respond import outcome
from fhirserver.http.server import FHIR_BASE
from fhirserver.http.stream import Aborted, Left, disconnected

MOST = 16 << 20
"""Bytes of one entry's answer: a batch is answered from memory."""

ALTOGETHER = 64 << 20
"""Bytes of the answers of all entries of a Bundle."""

_PASSED = frozenset({b"authorization", b"host", b"prefer"})

_log = logging.getLogger("fhirserver.http")


class Room:
    """The bytes that the answers of a Bundle's entries may still have, and what still follows those that were given: as
    with a request by itself, nobody waits for the outcome in the audit trail, which goes along with the next entry's
    intent. All of it is done when the context ends."""

    def __init__(self) -> None:
        self.left = ALTOGETHER
        self._following: set[asyncio.Task[None]] = set()

    def follow(self, running: asyncio.Task[None]) -> None:
        self._following.add(running)
        running.add_done_callback(self._following.discard)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.gather(*self._following, return_exceptions=True)


async def outcome_of(request: Request, entry: Entry, room: Room) -> Outcome:
    """What became of the entry: its answer, or the Fault there was, also one amid the answer, since a part is none.

    Left when nobody waits for it any more."""
    try:
        return await _answer_of(request, entry, room)
    except Fault as fault:
        failure = fault
    except Left:
        raise
    except Aborted as cut:
        failure = cut.fault or Fault(Kind.UNAVAILABLE, "The answer was cut; ask again.")
    except Exception as error:  # a defect of ours amid an answer: the other entries, and what was committed, stand
        _log.error("unexpected failure in an entry's answer: %s", trace(error))
        failure = Fault(Kind.INTERNAL, "The server failed; the failure has been logged.")
    return Outcome(status=failure.status, resource=outcome(failure))


async def _answer_of(request: Request, entry: Entry, room: Room) -> Outcome:
    """The entry's answer. Of what was done only the content is left out where it does not fit; Fault TOO_LARGE for a
    read that does not, NOT_ACCEPTABLE for one that is no FHIR JSON."""
    scope, body = _scope(request, entry), sent_as(entry)[1]
    kept = _Kept(max(0, min(MOST, room.left)), reads=entry.method in ("GET", "HEAD"))
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if sent:
            return sent.pop()
        await disconnected(request.receive)  # the entry's reader is the batch's
        return {"type": "http.disconnect"}

    running = asyncio.create_task(request.app(scope, receive, kept.send))
    try:
        await asyncio.wait({running, kept.ended}, return_when=asyncio.FIRST_COMPLETED)
    except asyncio.CancelledError:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)
        raise
    if running.done():
        await running
        if not kept.status:
            raise Left("the reader left")
    else:
        room.follow(running)
    room.left -= len(kept.body)
    return Outcome(
        status=kept.status,
        resource=bytes(kept.body) or None,
        location=kept.headers.get("location", ""),
        etag=kept.headers.get("etag", ""),
        noticed=NOTICE_HEADER.lower() in kept.headers or NOTICE_URL in kept.body,
    )


def local(base: str, url: str) -> str:
    """``Patient/1?…`` of an entry's url, which may be absolute or begin with a slash."""
    return url.removeprefix(base).lstrip("/")


def _scope(request: Request, entry: Entry) -> Scope:
    base = str(request.base_url).rstrip("/") + FHIR_BASE
    path, _, query = local(base, entry.url).partition("?")
    if not path:
        raise Fault(Kind.BAD_REQUEST, "An entry names a type at least.", expression=f"{entry.place}.request.url")
    headers = [(name, value) for name, value in request.scope["headers"] if name in _PASSED]
    # In a Bundle everything is FHIR in JSON, a Binary too (R4 binary §2.35.5).
    headers.append((b"accept", b"application/fhir+json"))
    headers += [(name.encode(), _ascii(value).encode()) for name, value in entry.headers.items()]
    if entry.resource is not None:
        headers.append((b"content-type", sent_as(entry)[0].encode()))
    return {
        **request.scope,
        "method": entry.method,
        "path": f"{FHIR_BASE}/{unquote(path)}",
        "raw_path": f"{FHIR_BASE}/{path}".encode(),
        "query_string": _ascii(query).encode(),
        "headers": headers,
    }


class _Binary(msgspec.Struct):
    resource_type: str = msgspec.field(name="resourceType")
    content_type: str = msgspec.field(default="", name="contentType")
    data: bytes = b""


def _patch(entry: Entry) -> _Binary | None:
    """A JSON Patch that comes as a Binary (R4 http §3.1.0.11.2)."""
    if entry.method != "PATCH" or entry.resource is None or b"Binary" not in entry.resource:
        return None
    try:
        found = msgspec.json.decode(entry.resource, type=_Binary)
    except UNREADABLE:
        return None
    return found if found.resource_type == "Binary" else None


def sent_as(entry: Entry) -> tuple[str, bytes]:
    """The content type and the body that the entry would have as a request."""
    patch = _patch(entry)
    return (patch.content_type, patch.data) if patch else ("application/fhir+json", entry.resource or b"")


def _ascii(text: str) -> str:
    """The text as a client would have to send it in a URL or header."""
    return quote(text, safe=printable)


class _Kept:
    """An answer that is kept instead of sent; ``most`` bytes of it."""

    def __init__(self, most: int, *, reads: bool) -> None:
        self._most = most
        self._reads = reads
        self._full = False
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
            if self.headers.get("content-type", "").partition(";")[0] == NDJSON:
                raise Fault(Kind.NOT_ACCEPTABLE, "An entry's answer is one resource in JSON.")
        elif message["type"] == "http.response.body" and not self._full:
            self.body += message.get("body", b"")
            self._full = len(self.body) > self._most and self.status < 400
            if self._full and self._reads:
                raise Fault(Kind.TOO_LARGE, "The entry's answer is too large for a Bundle; ask for it by itself.")
            if self._full:
                self.body.clear()
        if message["type"] == "http.response.body" and not message.get("more_body", False) and not self.ended.done():
            self.ended.set_result(None)

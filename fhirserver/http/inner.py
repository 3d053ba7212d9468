"""An entry of a batch, or a read of a transaction, run as the request it stands for: by the same routes, handlers and
gate, so nothing can be had by an entry that a request would not get."""

from __future__ import annotations

import asyncio
import logging
from urllib.parse import unquote

import msgspec
from starlette.requests import Request
from starlette.types import Message, Scope

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.jsontext import UNREADABLE
from fhirserver.http.bundled import Entry, Outcome
from fhirserver.http.respond import outcome
from fhirserver.http.server import FHIR_BASE
from fhirserver.http.stream import Aborted

MOST = 16 << 20
"""Bytes of one entry's answer: a batch is answered from memory."""

_PASSED = frozenset({b"authorization", b"host", b"prefer"})

_log = logging.getLogger("fhirserver.http")


async def outcome_of(request: Request, entry: Entry) -> Outcome:
    """What became of the entry: its answer, or the Fault there was, also one amid the answer, since a part is none."""
    try:
        return await _answer_of(request, entry)
    except Fault as fault:
        failure = fault
    except Aborted as cut:
        cause = cut.__cause__
        failure = cause if isinstance(cause, Fault) else Fault(Kind.UNAVAILABLE, "The answer was cut; ask again.")
    except Exception:  # a defect of ours amid an answer: the other entries, and what has been committed, stand
        _log.exception("unexpected failure in an entry's answer")
        failure = Fault(Kind.INTERNAL, "The server failed; the failure has been logged.")
    return Outcome(status=failure.status, resource=outcome(failure))


async def _answer_of(request: Request, entry: Entry) -> Outcome:
    """The entry's answer; Fault TOO_LARGE for one that does not fit into a Bundle."""
    scope, body = _scope(request, entry), sent_as(entry)[1]
    kept = _Kept()
    sent = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> Message:
        if sent:
            return sent.pop()
        await asyncio.Event().wait()  # nobody leaves: the batch's own reader is waited for elsewhere
        raise AssertionError("an event that nobody sets")

    await request.app(scope, receive, kept.send)
    return Outcome(
        status=kept.status,
        resource=bytes(kept.body) or None,
        location=kept.headers.get("location", ""),
        etag=kept.headers.get("etag", ""),
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
    headers += [(name.encode(), value.encode()) for name, value in entry.headers.items()]
    if entry.resource is not None:
        headers.append((b"content-type", sent_as(entry)[0].encode()))
    return {
        **request.scope,
        "method": entry.method,
        "path": f"{FHIR_BASE}/{unquote(path)}",
        "raw_path": f"{FHIR_BASE}/{path}".encode(),
        "query_string": query.encode(),
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


class _Kept:
    """An answer that is kept instead of sent."""

    def __init__(self) -> None:
        self.status = 0
        self.headers: dict[str, str] = {}
        self.body = bytearray()

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {name.decode().lower(): value.decode("latin-1") for name, value in message["headers"]}
        elif message["type"] == "http.response.body":
            self.body += message.get("body", b"")
            if len(self.body) > MOST:
                raise Fault(Kind.TOO_LARGE, "The entry's answer is too large for a Bundle; ask for it by itself.")

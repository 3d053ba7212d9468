"""One request and its answer on the way out: what holds for every answer, whichever handler made it.

Request ids, security headers, CORS, `_pretty`, compression, and HEAD, which is the answer to GET without its body. It
wraps ``send`` and nothing else: an answer that streams still goes out chunk by chunk, at its reader's pace.

Source: R4 http, "General parameters" (`_pretty`), "HEAD", "Custom headers" (X-Request-Id, X-Correlation-Id); RFC 9110
§8.4 (Content-Encoding), §9.3.2 (HEAD).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from os import urandom

from starlette.datastructures import MutableHeaders
from starlette.types import Message, Scope, Send

from fhirserver.core.indent import Indenter, indent
from fhirserver.http import cors
from fhirserver.http.encoding import WORTH_IT, Compressor, chosen_encoding, compressed, compressible

_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")
_USUAL = (
    (b"x-content-type-options", b"nosniff"),
    (b"cache-control", b"no-store"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"referrer-policy", b"no-referrer"),
)
"""What every answer says, errors and those without content, too, unless its handler says something else."""

_TLS_ONLY = (b"strict-transport-security", b"max-age=31536000")
"""RFC 6797 §7.2: where the client has come by TLS, to this server or to the proxy before it."""

_PLAIN = re.compile(r"[\x21-\x7e](?:[\x20-\x7e]{0,126}[\x21-\x7e])?")


class Exchange:
    """One request's ids and status, and its answer as it leaves. ``pretty`` is set once the parameters are read."""

    def __init__(self, scope: Scope, send: Send, *, origins: Collection[str] = (), tls: bool = False) -> None:
        """``tls``: a proxy before this server speaks TLS."""
        self.scope = scope
        self.status = 0
        self.pretty = False
        # Every answer passes here: bytes, and a dict, are several times as fast as Starlette's Headers.
        self._given: dict[bytes, bytes] = dict(scope["headers"])
        self._origins = origins
        self._tls = tls or scope["scheme"] == "https"
        self._send = send
        self._start: Message | None = None
        self._indenter: Indenter | None = None
        self._compressor: Compressor | None = None
        self._finished = False
        given = self._text(b"x-request-id")
        self.request_id = given if _ID.fullmatch(given) else urandom(8).hex()
        # The id that the client knows the request by, where it is not the server's (R4: X-Correlation-Id).
        known = self._text(b"x-correlation-id") or (given if given != self.request_id else "")
        self._correlation_id = known if _PLAIN.fullmatch(known) else ""

    def _text(self, name: bytes) -> str:
        return self._given.get(name, b"").decode("latin-1")

    async def send(self, message: Message) -> None:
        """ASGI's send. The start waits for the first piece of the body, which decides what its headers say."""
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self._start = message
        elif not self._finished:
            await self._body(message.get("body", b""), more=message.get("more_body", False))

    async def _body(self, body: bytes, *, more: bool) -> None:
        if self._start is not None:
            start, self._start = self._start, None
            given = list(start.get("headers", ()))
            headers = MutableHeaders(raw=[*given, *self._own_headers({name for name, _ in given})])
            body = await self._begun(headers, body, more=more)
            await self._send({**start, "headers": headers.raw})
            if self.scope["method"] == "HEAD":
                self._finished = True
                await self._send({"type": "http.response.body", "body": b""})
                return
        else:
            body = self._continued(body, more=more)
        if body or not more:
            await self._send({"type": "http.response.body", "body": body, "more_body": more})

    async def _begun(self, headers: MutableHeaders, body: bytes, *, more: bool) -> bytes:
        """The first piece as it goes out, with the headers that say what was done to it."""
        if self.status in (204, 304) or not compressible(headers.get("content-type", "")):
            return body
        if "content-encoding" in headers:
            return body
        # Lines of NDJSON must stay lines.
        indented = self.pretty and "ndjson" not in headers["content-type"] and "json" in headers["content-type"]
        encoding = chosen_encoding(self._text(b"accept-encoding"))
        headers.append("vary", "Accept-Encoding")
        if more:
            self._indenter = Indenter() if indented else None
            self._compressor = Compressor(encoding) if encoding else None
            sent = self._continued(body, more=True)
        else:
            sent = indent(body) if indented and body else body
            encoding = encoding if len(sent) >= WORTH_IT else None
            sent = await compressed(sent, encoding) if encoding else sent
        if encoding:
            headers["Content-Encoding"] = encoding
        if indented or encoding:
            del headers["Content-Length"]
            if not more:
                headers["Content-Length"] = str(len(sent))
        return sent

    def _continued(self, body: bytes, *, more: bool) -> bytes:
        if self._indenter is not None:
            body = self._indenter.feed(body)
        return self._compressor.feed(body, last=not more) if self._compressor is not None else body

    def _own_headers(self, given: Collection[bytes]) -> list[tuple[bytes, bytes]]:
        own = [pair for pair in _USUAL if pair[0] not in given]
        own.append((b"x-request-id", self.request_id.encode()))
        if self._tls:
            own.append(_TLS_ONLY)
        if self._correlation_id:
            own.append((b"x-correlation-id", self._correlation_id.encode()))
        if self._origins:
            told = cors.headers(self._text(b"origin") or None, self._origins)
            own += [(name.lower().encode(), value.encode("latin-1")) for name, value in told.items()]
        return own

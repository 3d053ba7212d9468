"""The ASGI application: find the row, run its handler, turn every Fault into the answer of its kind.

Pure ASGI throughout; a middleware that wraps the response (Starlette's BaseHTTPMiddleware) was measured to cost two
thirds of the requests per second. The access log names the interaction and never the query string.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from secrets import token_hex

from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.errors import Fault, Kind
from fhirserver.http.respond import refusal
from fhirserver.http.routes import ROUTES, Row
from fhirserver.http.server import Server
from fhirserver.http.stream import Aborted, Left

_log = logging.getLogger("fhirserver.http")
_REQUEST_ID = re.compile(r"[A-Za-z0-9._\-]{1,64}")


class Application:
    """The server's HTTP face over one `Server`; an ASGI callable for ``http`` scopes."""

    def __init__(self, server: Server, routes: Sequence[Row] = ROUTES) -> None:
        self._server = server
        self._table = [(row, row.pattern()) for row in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = _Exchange(scope, send)
        row: Row | None = None
        try:
            row, parameters = self._find(scope["method"], scope["path"])
            scope["path_params"] = parameters
            response = await row.handler(Request(scope, receive), self._server)
        except _WrongMethod as fault:
            response = refusal(fault, allowed=fault.allowed)
        except Fault as fault:
            response = refusal(fault)
        except Exception:  # a defect of ours: logged with its trace, told without
            _log.exception("unexpected failure in %s", row.interaction if row else "routing")
            response = refusal(Fault(Kind.INTERNAL, "The server failed; the failure has been logged."))
        await self._answer(response, exchange, row, receive)

    async def _answer(self, response: ASGIApp, exchange: _Exchange, row: Row | None, receive: Receive) -> None:
        name = row.interaction if row else "none"
        try:
            await response(exchange.scope, receive, exchange.send)
        except Aborted as reason:
            _log.warning("%s %s cut: %s", exchange.request_id, name, reason)
            if isinstance(reason, Left):
                return
            raise
        except Exception as error:  # the same, while the answer is being made
            if exchange.status:
                raise
            if not isinstance(error, Fault):
                _log.exception("unexpected failure in %s", name)
                error = Fault(Kind.INTERNAL, "The server failed; the failure has been logged.")
            await refusal(error)(exchange.scope, receive, exchange.send)
        _log.info("%s %s %s %s", exchange.request_id, exchange.scope["method"], name, exchange.status)

    def _find(self, method: str, path: str) -> tuple[Row, dict[str, str]]:
        allowed: set[str] = set()
        for row, pattern in self._table:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            parameters = match.groupdict()
            if parameters.get("type", "Patient") not in RESOURCE_TYPES:
                continue
            if method in row.methods:
                return row, parameters
            allowed.update(row.methods)
        if allowed:
            raise _WrongMethod(allowed)
        raise Fault(Kind.NOT_FOUND, "There is no such path or resource type on this server.")


class _WrongMethod(Fault):
    def __init__(self, allowed: set[str]) -> None:
        super().__init__(Kind.METHOD_NOT_ALLOWED, f"Use {' or '.join(sorted(allowed))} here.")
        self.allowed = allowed


class _Exchange:
    """One request's id and status, seen on the way out."""

    def __init__(self, scope: Scope, send: Send) -> None:
        self.scope = scope
        self.status = 0
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        self.request_id = given if _REQUEST_ID.fullmatch(given) else token_hex(8)
        self._send = send

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            message["headers"] = [*message.get("headers", ()), (b"x-request-id", self.request_id.encode())]
        await self._send(message)

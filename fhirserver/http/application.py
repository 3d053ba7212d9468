"""The ASGI application: find the row, run its handler, turn every Fault into the answer of its kind.

Pure ASGI throughout; a middleware that wraps the response (Starlette's BaseHTTPMiddleware) was measured to cost two
thirds of the requests per second. The access log names the interaction and never the query string.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.errors import Fault, Kind
from fhirserver.http import cors
from fhirserver.http.capabilities import refused
from fhirserver.http.exchange import Exchange
from fhirserver.http.failures import trace
from fhirserver.http.negotiation import HEAD_ONLY, content_type, pretty
from fhirserver.http.respond import SECURITY_HEADERS, Refused, refusal
from fhirserver.http.routes import ROUTES, Row
from fhirserver.http.server import Server
from fhirserver.http.stream import Aborted, Left
from fhirserver.http.subset import asked

WRITES = frozenset({"create", "update", "patch", "delete", "transaction"})

_log = logging.getLogger("fhirserver.http")


class Application:
    """The server's HTTP face over one `Server`; an ASGI callable for ``http`` scopes. ``routes`` is its whole table,
    which handlers find as ``request.app.routes``."""

    def __init__(self, server: Server, routes: Sequence[Row] = ROUTES) -> None:
        self.routes = tuple(routes)
        self._server = server
        self._table = [(row, row.pattern()) for row in routes]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        exchange = Exchange(scope, send, origins=self._server.cors_origins, tls=self._server.tls)
        row: Row | None = None
        try:
            if scope["method"] == "OPTIONS":
                response: ASGIApp = self._options(scope)
            else:
                request, row = self._request(scope, receive)
                exchange.pretty = pretty(request)
                if row.interaction in WRITES:
                    must_be_answerable(request)
                response = await row.handler(request, self._server)
        except Fault as fault:
            response = refusal(fault)
        except Left as reason:
            _log.warning("%s %s cut: %s", exchange.request_id, row.interaction if row else "none", reason)
            return
        except Exception as error:  # a defect of ours: logged with its trace, told without
            name = row.interaction if row else "routing"
            _log.error("%s unexpected failure in %s: %s", exchange.request_id, name, trace(error))
            response = refusal(Fault(Kind.INTERNAL, "The server failed; the failure has been logged."))
        await self._answer(response, exchange, row, receive)

    async def _answer(self, response: ASGIApp, exchange: Exchange, row: Row | None, receive: Receive) -> None:
        name = row.interaction if row else "none"
        try:
            await response(exchange.scope, receive, exchange.send)
        except Aborted as reason:
            _log.warning("%s %s cut: %s", exchange.request_id, name, reason)
            if isinstance(reason, Left):
                return
            raise Aborted(str(reason), reason.fault) from None  # uvicorn logs it, with all that led to it
        except Exception as error:  # the same, while the answer is being made
            if not isinstance(error, Fault):
                _log.error("%s unexpected failure in %s: %s", exchange.request_id, name, trace(error))
                error = Fault(Kind.INTERNAL, "The server failed; the failure has been logged.")
            if exchange.status:
                raise Aborted(error.message, error) from None
            await refusal(error)(exchange.scope, receive, exchange.send)
        _log.info("%s %s %s %s", exchange.request_id, exchange.scope["method"], name, exchange.status)

    def _request(self, scope: Scope, receive: Receive) -> tuple[Request, Row]:
        """The request as its handler gets it, and the row of the handler. HEAD is GET to a handler."""
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        methods: set[str] = set()
        for row, parameters in self._rows(scope["path"]):
            if method in row.methods:
                more = {"app": self, "method": method, "path_params": parameters}
                return Request({**scope, **more, HEAD_ONLY: method != scope["method"]}, receive), row
            methods.update(row.methods)
        if not methods:
            raise _no_such_path()
        told = f"Use {' or '.join(sorted(methods))} here."
        raise Refused(Kind.METHOD_NOT_ALLOWED, told, headers={"Allow": ", ".join(_allowed(methods))})

    def _options(self, scope: Scope) -> Response:
        """Which methods the path has, and whether a page of this origin may use them."""
        methods = {name for row, _ in self._rows(scope["path"]) for name in row.methods}
        if not methods:
            raise _no_such_path()
        allowed = _allowed(methods)
        asked_by = cors.preflight(Request(scope).headers, allowed, self._server.cors_origins)
        return Response(status_code=204, headers={**SECURITY_HEADERS, "Allow": ", ".join(allowed), **asked_by})

    def _rows(self, path: str) -> Iterator[tuple[Row, dict[str, str]]]:
        """The rows of this path with their parameters."""
        for row, pattern in self._table:
            match = pattern.fullmatch(path)
            if match is None:
                continue
            parameters = match.groupdict()
            type_, member = parameters.get("type", "Patient"), parameters.get("member", "Patient")
            if not {type_, member} <= RESOURCE_TYPES or refused(row.interaction, type_):
                continue
            if row.only is None:
                yield row, parameters
            elif row.only(parameters):
                yield row, parameters
                return


def _no_such_path() -> Fault:
    return Fault(Kind.NOT_FOUND, "There is no such path or resource type on this server.")


def must_be_answerable(request: Request) -> None:
    """Fault NOT_ACCEPTABLE or BAD_REQUEST for an answer that cannot be given, before anything is written."""
    content_type(request, request.query_params.get("_format"))
    asked(request)


def _allowed(methods: Iterable[str]) -> list[str]:
    """What the Allow header names: where there is GET there is HEAD, and OPTIONS is everywhere."""
    given = {*methods, "OPTIONS"}
    return sorted(given | {"HEAD"} if "GET" in given else given)

"""`/health/live` and `/health/ready`: is the process up, and can it do its work."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp

from fhirserver.core.errors import Unavailable
from fhirserver.http.respond import SECURITY_HEADERS
from fhirserver.http.server import Server


async def live(request: Request, server: Server) -> ASGIApp:
    """200 as long as the process answers at all."""
    return Response(b'{"status":"live"}', 200, dict(SECURITY_HEADERS), media_type="application/json")


async def ready(request: Request, server: Server) -> ASGIApp:
    """200 while the store answers, else 503."""
    try:
        await server.gate.ready()
    except Unavailable:
        return Response(b'{"status":"unavailable"}', 503, dict(SECURITY_HEADERS), media_type="application/json")
    return Response(b'{"status":"ready"}', 200, dict(SECURITY_HEADERS), media_type="application/json")

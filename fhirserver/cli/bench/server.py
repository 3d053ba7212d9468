"""The benchmark's server: the real one, with one more path that sends precomputed chunks, the ceiling of a ratio."""

from __future__ import annotations

import sys
from urllib.parse import parse_qs

from starlette.types import ASGIApp, Receive, Scope, Send

from fhirserver import app

CEILING = "/bench/ceiling"
CHUNK = 64 * 1024


def create() -> ASGIApp:
    """The application of `fhirserver.app` with `CEILING` in front."""
    real = app.create()
    chunk = b"x" * CHUNK

    async def serve(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != CEILING:
            await real(scope, receive, send)
            return
        left = int(parse_qs(scope["query_string"].decode())["bytes"][0])
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
        while left > 0:
            await send({"type": "http.response.body", "body": chunk[:left], "more_body": True})
            left -= CHUNK
        await send({"type": "http.response.body", "body": b""})

    return serve


def main() -> None:
    """Serve the store that the environment names on the port of the first argument."""
    from fhirserver.cli import serve, session

    serve.run(session.settings(None, port=sys.argv[1]), factory="fhirserver.cli.bench.server:create")


if __name__ == "__main__":
    main()

"""`fhirserver serve`: the HTTP server in the foreground."""

from __future__ import annotations

import os
import socket
from typing import Annotated

import typer

from fhirserver import config
from fhirserver.cli import session, tls
from fhirserver.cli.console import StoreUrl, say

FACTORY = "fhirserver.app:create"
"""What each worker calls to make the application."""


def serve(
    host: Annotated[str | None, typer.Option(help="The address to listen on.", show_default="127.0.0.1")] = None,
    port: Annotated[int | None, typer.Option(help="The port; 0 takes a free one.", show_default="8000")] = None,
    workers: Annotated[int | None, typer.Option(help="Server processes.", show_default="1")] = None,
    store: StoreUrl = None,
) -> None:
    """Serve the store over HTTP until SIGTERM or Ctrl-C."""
    settings = session.settings(store, host=host, port=port, workers=workers)
    for name in config.unknown(os.environ):
        say(f"fhirserver: {name} is no setting of this version and has no effect.")
    run(settings)


def run(settings: config.Settings, *, factory: str = FACTORY, listening: socket.socket | None = None) -> None:
    """Serve in this process (and its workers) until a signal ends it; ``listening`` where that is done already.

    The store is opened once before the first worker starts, so that what is wrong with it is told in a sentence.
    """
    if settings.tls_certificate or settings.tls_key:
        tls.context(settings.tls_certificate, settings.tls_key)
    with listening or listen(settings.host, settings.port) as listening:
        port = listening.getsockname()[1]
        _hand_down(settings, port)
        session.run(settings.store, _ready)
        say(f"fhirserver: serving {config.load().base} from {settings.store_place}")
        _serve(settings, listening, factory)


async def _ready(_: object) -> None:
    """Opening the store is all there is to do."""


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; ValueError in one sentence when the address cannot be had."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind, protocol)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        listening.listen(2048)
    except socket.gaierror:
        raise ValueError(f"{host!r} is no address of this machine; --host 127.0.0.1 is.") from None
    except OSError as failure:
        if isinstance(failure, PermissionError):
            raise ValueError(f"Port {port} needs more rights than this user has; choose one above 1023.") from None
        reason = (failure.strerror or "it cannot be had").lower()
        raise ValueError(f"Cannot listen on {host} port {port}: {reason}; choose another with --port.") from None
    listening.set_inheritable(True)
    return listening


def _hand_down(settings: config.Settings, port: int) -> None:
    """Put what this command was given into the environment, where the application of each worker reads it.

    A store URL that came from a file is left there: it may hold a password, and environments are easily shown.
    """
    if config.load().store != settings.store:
        os.environ[config.PREFIX + "STORE"] = settings.store
    os.environ[config.PREFIX + "HOST"] = settings.host
    os.environ[config.PREFIX + "PORT"] = str(port)
    os.environ[config.PREFIX + "WORKERS"] = str(settings.workers)


def _serve(settings: config.Settings, listening: socket.socket, factory: str) -> None:
    import uvicorn
    from uvicorn.supervisors import Multiprocess

    options = uvicorn.Config(
        factory,
        factory=True,
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        workers=settings.workers,
        log_level=settings.log_level if settings.log_level != "info" else "warning",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=settings.shutdown_seconds,
        backlog=2048,
        ssl_certfile=settings.tls_certificate or None,
        ssl_keyfile=settings.tls_key or None,
        ssl_context_factory=tls.of_worker if settings.tls_certificate else None,
    )
    if settings.workers > 1:
        Multiprocess(options, sockets=[listening]).run()
    else:
        uvicorn.Server(options).run(sockets=[listening])

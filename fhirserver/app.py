"""The composition root: settings in, a wired server out. The only place that knows every part."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple

from starlette.types import ASGIApp, Receive, Scope, Send

from fhirserver.config import Settings, load
from fhirserver.core.page import NONCE_BYTES
from fhirserver.core.sensitive import Lists, lists_of, put_in_force
from fhirserver.http.application import Application
from fhirserver.http.server import Server
from fhirserver.http.streams import Streams
from fhirserver.http.supporting import Closures
from fhirserver.policy.gate import Gate, Integrity
from fhirserver.policy.issuers import load_issuers
from fhirserver.policy.keys import Keys, load_keys
from fhirserver.policy.outbound import Outbound
from fhirserver.policy.vocabulary import labels
from fhirserver.store.open import open_store


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


class Runtime(NamedTuple):
    """An opened installation: whoever wants anything of its store asks the gate."""

    settings: Settings
    keys: Keys
    gate: Gate
    clock: Callable[[], int]


@asynccontextmanager
async def opened(
    settings: Settings, *, clock: Callable[[], int] = wall_clock, upkeep: bool = False
) -> AsyncIterator[Runtime]:
    """Open the store (creating it and the key file on first use) and close it at the end. ``upkeep``: also one whose
    search index is stale."""
    put_in_force(code_lists(settings.sensitive_codes))
    store = open_store(settings.store, clock=clock, native=settings.native_documents)
    await store.start()
    try:
        keys = load_keys(settings.keys_path)
        integrity = Integrity(mode=settings.referential_integrity, base=settings.base)
        issuers = load_issuers(Path(settings.issuers_file)) if settings.issuers_file else ()
        gate = Gate(
            store,
            keys,
            clock=clock,
            operators=settings.operator_tokens,
            integrity=integrity,
            per_minute=settings.requests_per_minute,
            keys_path=settings.keys_path,
            outbound=Outbound(loopback=settings.outbound_loopback, ca_file=settings.outbound_ca),
            issuers=issuers,
        )
        await gate.start(upkeep=upkeep)
        yield Runtime(settings, keys, gate, clock)
    finally:
        await store.close()


def code_lists(file: str) -> Lists:
    """The lists that labels are derived from, with those of this file (none: empty). OSError, or ValueError in one
    sentence, for one that cannot be used."""
    lists = lists_of(Path(file).read_bytes() if file else None)
    unknown = sorted(lists.topics.difference(labels().canonical))
    if unknown:
        known = ", ".join(sorted(labels().canonical))
        raise ValueError(
            f"The file of sensitive codes has the topic {unknown[0]!r}, which is no label; known: {known}."
        )
    return lists


def application(runtime: Runtime) -> Application:
    """The HTTP application over an opened installation."""
    settings = runtime.settings
    return Application(
        Server(
            gate=runtime.gate,
            page_key=runtime.keys.page_key,
            clock=runtime.clock,
            nonce=lambda: os.urandom(NONCE_BYTES),
            closures=Closures(),
            streams=Streams(per_client=settings.max_client_streams, in_all=settings.max_streams),
            base_url=settings.base_url,
            page_minutes=settings.page_token_minutes,
            stall_seconds=settings.stall_seconds,
            max_body=settings.max_body,
            max_binary=settings.max_binary,
            max_entries=settings.max_entries,
            conditional_delete=settings.conditional_delete,
            referential_integrity=settings.referential_integrity,
            cors_origins=settings.origins,
        )
    )


def create() -> ASGIApp:
    """The ASGI factory of each worker: settings from the environment, the store opened at start-up."""
    return _Lifespan(load(os.environ))


class _Lifespan:
    """Opens the installation when the server starts and closes it when the server ends (ASGI lifespan)."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._application: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http" and self._application is not None:
            await self._application(scope, receive, send)
        else:
            raise RuntimeError(f"this server speaks HTTP only, not {scope['type']}")

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with opened(self._settings) as runtime:
                self._application = application(runtime)
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self._application = None
        except Exception as error:
            ended: dict[str, Any] = {"message": str(error)}
            kind = "startup" if self._application is None else "shutdown"
            await send({"type": f"lifespan.{kind}.failed", **ended})
            return
        await send({"type": "lifespan.shutdown.complete"})

"""A real server on a real socket over a real store, for tests in the same process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import uvicorn

from fhirserver.app import Runtime, application, opened, wall_clock
from fhirserver.config import Settings
from fhirserver.core.model import AuditRow
from fhirserver.policy.principal import CallerClass, Principal, issue_token
from fhirserver.policy.scopes import Scopes
from fhirserver.store.open import open_store
from tests.stores import fresh
from tests.stores import settings as settings_of

PATIENCE = 200
"""Looks at the audit trail, 10 ms apart, until every intent has its outcome."""


class Served:
    """A running server: its runtime, its URL, and clients with tokens."""

    def __init__(self, runtime: Runtime, url: str) -> None:
        self.runtime = runtime
        self.gate = runtime.gate
        self.url = url
        self.base = url + "/FHIR/R4"

    def token(
        self,
        caller: str = "operator",
        *,
        org: str = "operator",
        scope: str | None = None,
        seconds: int = 3600,
        **more: Any,
    ) -> str:
        """A bearer token of this class for this organisation; ``more`` are further fields of its Principal."""
        usual = "patient/*.rs" if caller in ("third-party", "patient") else "system/*.rs"
        now = self.runtime.clock()
        principal = Principal(
            subject=more.pop("subject", "test"),
            organization=org,
            caller=CallerClass(caller),
            scopes=Scopes(usual if scope is None else scope),
            until=now + seconds * 1000,
            **more,
        )
        return issue_token(self.runtime.keys, principal, now)

    async def audit(self) -> list[AuditRow]:
        """Every audit row so far, read through a store of its own, since the server shows nobody its store. An outcome
        comes a moment after its answer: it is waited for."""
        store = open_store(self.runtime.settings.store, clock=self.runtime.clock)
        await store.start()
        try:
            for _ in range(PATIENCE):
                rows = [row async for batch in store.audit.scan() for row in batch]
                ended = {row.intent for row in rows}
                if all(row.id in ended for row in rows if row.outcome == "intent"):
                    break
                await asyncio.sleep(0.01)
            return rows
        finally:
            await store.close()

    def client(self, token: str | None = None, **options: Any) -> httpx.AsyncClient:
        """A client of the FHIR base, with the operator's token unless given."""
        headers = {"Authorization": f"Bearer {token or self.token()}", **options.pop("headers", {})}
        return httpx.AsyncClient(base_url=self.base + "/", headers=headers, timeout=30, **options)

    async def get(self, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        """One GET with the operator's token unless given."""
        async with self.client(token) as client:
            return await client.get(path, **options)


@asynccontextmanager
async def served(
    folder: Path, kind: str = "sqlite", *, clock: Callable[[], int] = wall_clock, **settings: Any
) -> AsyncIterator[Served]:
    """A server over a fresh store of this kind, or over the one named in ``settings``; both end with the block.

    ``folder`` (an absolute path) is where its files lie.
    """
    with fresh(kind, folder) as url:
        given = {**settings_of(settings.pop("store", url), folder), **settings}
        async with opened(msgspec.convert(given, Settings), clock=clock) as runtime:
            config = uvicorn.Config(application(runtime), port=0, lifespan="off", log_level="critical", log_config=None)
            server = uvicorn.Server(config)
            server.install_signal_handlers = lambda: None  # type: ignore[method-assign,attr-defined]  # pytest owns them
            running = asyncio.create_task(server.serve())
            try:
                while not server.started:  # noqa: ASYNC110  uvicorn offers a flag, no event
                    await asyncio.sleep(0.005)
                port = server.servers[0].sockets[0].getsockname()[1]
                yield Served(runtime, f"http://127.0.0.1:{port}")
            finally:
                server.should_exit = True
                server.force_exit = True
                await running

"""What one server is told, another that is in the middle of an answer heeds: within a second, whatever ended access."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path

import httpx
import jwt
import pytest

from fhirserver.policy.labelled import incomplete
from fhirserver.store.open import open_store
from tests.build import load, observation, organization, patient
from tests.clients import registered, token
from tests.http.test_consent import grant, revoke
from tests.served import Served, served
from tests.stores import every_kind

kind = every_kind
LARGE = 1_500

End = Callable[[Served, str], Awaitable[None]]


async def withdrawn(server: Served, token: str) -> None:
    await revoke(server, "p", org="reader")


async def revoked(server: Served, token: str) -> None:
    claims = jwt.decode(token, options={"verify_signature": False})
    await server.gate.revoke(claims["jti"], claims["exp"] * 1000)


async def disabled(server: Served, token: str) -> None:
    await server.gate.clients.enable("bulk", False)


async def removed(server: Served, token: str) -> None:
    await server.gate.clients.remove("bulk")


async def relabelling(server: Served, token: str) -> None:
    """A program comes to be whose records have no label yet."""
    store = open_store(server.runtime.settings.store, clock=server.runtime.clock)
    await store.start()
    try:
        async with incomplete(store, ["north"]):
            pass
    finally:
        await store.close()
    await grant(server, "other")  # the commit that makes it is one that access depends on


ENDS: dict[str, End] = {
    "withdrawn": withdrawn, "revoked": revoked, "disabled": disabled, "removed": removed, "relabelling": relabelling,
}  # fmt: skip


@pytest.mark.parametrize("end", ENDS.values(), ids=ENDS)
async def test_a_stream_of_another_server_ends(tmp_path: Path, kind: str, end: End) -> None:
    async with served(tmp_path, kind) as here:
        settings = here.runtime.settings
        async with served(tmp_path, kind, store=settings.store, keys_file=str(settings.keys_path)) as there:
            await load(here.gate, [organization("reader"), organization("app")])
            await load(here.gate, [patient("p"), patient("other")], organization="north")
            for at in range(0, LARGE, 500):
                each = [observation(f"o{n}", "p", note=[{"text": "x" * 9_000}]) for n in range(at, at + 500)]
                await load(here.gate, each, organization="north")
            await grant(here, "p", org="reader")
            await here.gate.clients.add(registered(scope="patient/*.rs"))
            given = await token(here, scope="patient/*.rs")
            received = b""
            plain = {"Accept-Encoding": "identity"}
            async with (
                there.client(given, headers=plain) as client,
                client.stream("GET", "Patient/p/$everything") as answer,
            ):
                assert answer.status_code == 200
                pieces = answer.aiter_raw(4096)
                received += await anext(pieces)
                await end(here, given)
                begun = here.runtime.clock()
                with pytest.raises(httpx.RemoteProtocolError):  # noqa: PT012
                    async for piece in pieces:
                        received += piece
                        await asyncio.sleep(0.0005)
            with pytest.raises(json.JSONDecodeError):
                json.loads(received)
            assert (await there.get("Patient/p", given)).status_code in (401, 403, 503)
            assert (await there.get("Observation?patient=p", given)).json().get("entry") is None
            # When the server stopped: what had been on its way by then the reader gets whenever it reads it.
            (cut,) = [row for row in await here.audit() if row.outcome == "cut"]
            assert cut.at - begun < 1_000

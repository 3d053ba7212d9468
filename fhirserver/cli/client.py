"""`fhirserver client`: who may ask for tokens by SMART Backend Services."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from fhirserver.cli import session
from fhirserver.cli.console import AsJson, StoreUrl, say, show, show_json, show_table

if TYPE_CHECKING:
    from fhirserver.app import Runtime
    from fhirserver.policy.gate import Client

LARGEST = 256 * 1024
"""Bytes of a file with keys."""

app = typer.Typer(help="Clients of SMART Backend Services.", no_args_is_help=True)

Id = Annotated[str, typer.Argument(metavar="ID", help="The client's id.")]


class As(StrEnum):
    """What a client can be registered as; the values of `CallerClass`."""

    THIRD_PARTY = "third-party"
    MEMBER = "member"


@app.command()
def add(
    id: Id,
    org: Annotated[str, typer.Option(help="The organisation it acts for.")],
    jwks: Annotated[
        Path | None, typer.Option("--jwks", metavar="FILE", help="A file with its public keys, a JWK Set.")
    ] = None,
    jwks_url: Annotated[
        str | None, typer.Option("--jwks-url", metavar="URL", help="Where it publishes them, instead of a file.")
    ] = None,
    as_: Annotated[As, typer.Option("--as", help="The client's class.")] = As.THIRD_PARTY,
    scope: Annotated[str, typer.Option(help="The SMART scopes it may ask for.")] = "system/*.rs",
    purpose: Annotated[str | None, typer.Option(help="The purpose of use of its tokens, such as TREAT.")] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Register one that is there anew; its tokens end.")
    ] = False,
    store: StoreUrl = None,
) -> None:
    """Register a client; prints its id."""
    from fhirserver.policy.gate import CallerClass, Client

    client = Client(
        id=id,
        organization=org,
        caller=CallerClass(as_.value),
        scope=" ".join(scope.split()),
        jwks=None if jwks is None else _read(jwks),
        jwks_url=jwks_url,
        purpose=purpose,
    )
    session.run(store, lambda runtime: register(runtime, client, replace=replace))
    show(id)
    say(f"{as_.value} client of {org}: {client.scope}.")


@app.command("list")
def list_(store: StoreUrl = None, json: AsJson = False) -> None:
    """List the clients."""
    found = session.run(store, _every)
    if json:
        show_json([_told(client) for client in found])
    else:
        rows = [(c.id, c.organization, c.caller.value, "yes" if c.enabled else "no", c.scope) for c in found]
        show_table(("ID", "ORGANISATION", "CLASS", "ENABLED", "SCOPES"), rows)


@app.command("show")
def show_(id: Id, store: StoreUrl = None) -> None:
    """Show one client with its keys, as JSON."""
    show_json(_told(session.run(store, lambda runtime: _one(runtime, id))))


@app.command()
def disable(id: Id, store: StoreUrl = None) -> None:
    """Give a client no more tokens, and end those it has on every server at their next request."""
    session.run(store, lambda runtime: _enable(runtime, id, False))
    say(f"{id}: disabled; its tokens have ended.")


@app.command()
def enable(id: Id, store: StoreUrl = None) -> None:
    """Give a client tokens again; those from before stay ended."""
    session.run(store, lambda runtime: _enable(runtime, id, True))
    say(f"{id}: enabled.")


@app.command()
def remove(id: Id, store: StoreUrl = None) -> None:
    """Forget a client; its tokens end on every server at their next request."""
    session.run(store, lambda runtime: _remove(runtime, id))
    say(f"{id}: removed; its tokens have ended.")


async def register(runtime: Runtime, client: Client, *, replace: bool = False) -> Client:
    """The client as registered; ValueError in one sentence for one that cannot be, or an unknown organisation."""
    await session.known_organization(session.operator(runtime, "client add"), client.organization)
    registered = await runtime.gate.clients.add(client, replace=replace)
    await _record(runtime, "client add", client.id)
    return registered


async def _enable(runtime: Runtime, id: str, enabled: bool) -> None:
    await runtime.gate.clients.enable(id, enabled)
    await _record(runtime, "client enable" if enabled else "client disable", id)


async def _remove(runtime: Runtime, id: str) -> None:
    await runtime.gate.clients.remove(id)
    await _record(runtime, "client remove", id)


async def _record(runtime: Runtime, doing: str, id: str) -> None:
    await runtime.gate.record(session.who(), doing, {"client": id})


async def _every(runtime: Runtime) -> list[Client]:
    return [client async for client in runtime.gate.clients.every()]


async def _one(runtime: Runtime, id: str) -> Client:
    client = await runtime.gate.clients.get(id)
    if client is None:
        raise ValueError(f"There is no client {id!r} here; `fhirserver client list` shows those there are.")
    return client


def _read(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        raw = file.read(LARGEST + 1)
    try:
        return msgspec.json.decode(raw if len(raw) <= LARGEST else b"", type=dict[str, Any])
    except msgspec.MsgspecError:
        raise ValueError(f"{path} holds no JWK Set: a JSON object with a list of keys (RFC 7517).") from None


def _told(client: Client) -> dict[str, Any]:
    told: dict[str, Any] = msgspec.to_builtins(client)
    return {name: value for name, value in told.items() if value is not None}

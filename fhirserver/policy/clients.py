"""Registered clients of SMART Backend Services, as small entries of the store's ledger.

What a client is (organisation, class, scopes, keys) is registered here by the operator and read from here; a token only
carries the client's name and epoch. Whatever changes a client gives it an epoch that no client ever had, which ends all
of its tokens on every server at their next request.
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from fhirserver.core.errors import Conflict
from fhirserver.core.model import LedgerEntry
from fhirserver.policy.grant import CONTEXTS
from fhirserver.policy.jwks import holds_secrets, read_keys
from fhirserver.policy.outbound import must_be_https
from fhirserver.policy.principal import CallerClass
from fhirserver.policy.scopes import Scopes
from fhirserver.policy.vocabulary import purposes
from fhirserver.store.port import Ledger, Store

CLIENT = "client/"
"""Prefix of the ledger entries of clients."""

EPOCHS = "clients/epoch"
"""The counter that epochs are taken from."""

CLASSES = frozenset({CallerClass.MEMBER, CallerClass.THIRD_PARTY})
"""What a client may be registered as."""

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._\-]{0,63}")


class Client(msgspec.Struct, frozen=True, kw_only=True):
    """One registered client. ``jwks`` is its key set, ``jwks_url`` where that is: one of the two."""

    id: str
    organization: str
    caller: CallerClass = msgspec.field(name="class")
    scope: str
    jwks: dict[str, Any] | None = None
    jwks_url: str | None = None
    purpose: str | None = None
    enabled: bool = True
    epoch: int = 0


class _Standing(msgspec.Struct, frozen=True):
    enabled: bool
    epoch: int


class Clients:
    """The clients of one store."""

    def __init__(self, store: Store) -> None:
        self._store = store

    @property
    def _ledger(self) -> Ledger:
        return self._store.ledger

    async def get(self, id: str) -> Client | None:
        """The client, enabled or not."""
        entry = await self._ledger.get(CLIENT + id) if is_client_id(id) else None
        return _decoded(entry) if entry is not None else None

    async def every(self) -> AsyncIterator[Client]:
        """All of them, by id."""
        async for _, entry in self._ledger.scan(CLIENT):
            yield _decoded(entry)

    async def add(self, client: Client, *, replace: bool = False) -> Client:
        """Register a client, or with ``replace`` what is there anew; ValueError for one that cannot be."""
        check(client)
        entry = await self._ledger.get(CLIENT + client.id)
        if entry is not None and not replace:
            raise ValueError(f"There is a client {client.id!r} already; --replace registers it anew.")
        return await self._put(client, entry)

    async def enable(self, id: str, enabled: bool) -> Client:
        """Let a client in, or no longer; its tokens end either way. ValueError when there is none."""
        entry, client = await self._known(id)
        return await self._put(msgspec.structs.replace(client, enabled=enabled), entry)

    async def remove(self, id: str) -> None:
        """Forget a client; its tokens end. ValueError when there is none."""
        entry, _ = await self._known(id)
        if not await self._ledger.put_if(CLIENT + id, None, stamp=entry.stamp):
            raise _raced()

    async def _known(self, id: str) -> tuple[LedgerEntry, Client]:
        entry = await self._ledger.get(CLIENT + id) if is_client_id(id) else None
        if entry is None:
            raise ValueError(f"There is no client {id!r} here; `fhirserver client list` shows those there are.")
        return entry, _decoded(entry)

    async def _put(self, client: Client, entry: LedgerEntry | None) -> Client:
        client = msgspec.structs.replace(client, epoch=await self._ledger.incr(EPOCHS))
        stamp = None if entry is None else entry.stamp
        if not await self._ledger.put_if(CLIENT + client.id, msgspec.json.encode(client), stamp=stamp):
            raise _raced()
        return client


def stands(entry: LedgerEntry | None, epoch: int) -> bool:
    """Whether a token that was given under this epoch is still good, going by its client's entry as it is now."""
    if entry is None:
        return False
    standing = msgspec.json.decode(entry.value, type=_Standing)
    return standing.enabled and standing.epoch == epoch


def is_client_id(text: str) -> bool:
    """Whether this can be the id of a client."""
    return _ID.fullmatch(text) is not None


def check(client: Client) -> None:
    """ValueError, in one sentence, for a client that could never get a token, or should not."""
    if not is_client_id(client.id):
        raise ValueError(f"{client.id!r} cannot be a client id: 1 to 64 letters, digits, '-', '_' and '.'.")
    if client.caller not in CLASSES:
        raise ValueError("A client is registered as member or third-party.")
    for word in client.scope.split() or [client.scope]:
        scopes = Scopes(word)
        if not any(scopes.types(letter, CONTEXTS[client.caller]) for letter in "cruds"):
            raise ValueError(f"The scope {word!r} allows nothing to a {client.caller.value}; system/*.rs does.")
    if client.purpose is not None and not purposes().known(client.purpose):
        raise ValueError(f"{client.purpose!r} is no purpose of use that is known here; TREAT is.")
    if (client.jwks is None) == (client.jwks_url is None):
        raise ValueError("A client needs its keys: a file with its JWK Set, or the URL of it.")
    if client.jwks_url is not None:
        must_be_https(client.jwks_url)
    elif holds_secrets(client.jwks):
        raise ValueError("The JWK Set holds a private key; register public keys only, and replace this one.")
    elif not read_keys(client.jwks):
        raise ValueError("No key of the JWK Set can verify RS384, ES384 or EdDSA; each needs a kid, too.")


def _decoded(entry: LedgerEntry) -> Client:
    return msgspec.json.decode(entry.value, type=Client)


def _raced() -> Conflict:
    return Conflict("Somebody else changed this client at the same time; look at it and try again.")

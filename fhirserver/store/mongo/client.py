"""The connection: what a URL may say, how failures are told, and reads that outlive an election.

Everything goes to the primary, written with ``w: majority, j: true`` and read with read concern ``majority``: what was
told to anybody is never rolled back, and a writer reads its own write.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import Any, NamedTuple, TypeVar

from bson.errors import BSONError
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.client_session_shared import TransactionOptions
from pymongo.errors import AutoReconnect, OperationFailure, PyMongoError, ServerSelectionTimeoutError
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from fhirserver.core.errors import Unavailable

T = TypeVar("T")
Document = dict[str, Any]
Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]

DATABASE = "fhirserver"
"""The database of a URL that names none."""

OPTIONS = {"serverSelectionTimeoutMS": 15_000, "connectTimeoutMS": 5_000, "socketTimeoutMS": 30_000, "maxPoolSize": 64}
"""Milliseconds and connections, unless the URL says otherwise. A server is waited for longer than an election takes
(12 s by default); one that is connected and does not answer is given up after half a minute."""

PATIENCE = 20.0
"""Seconds for which a read is repeated over lost connections and elections before the store counts as unavailable."""

TRANSACTION = TransactionOptions(
    read_concern=ReadConcern("snapshot"),
    write_concern=WriteConcern(w="majority", j=True),
    read_preference=ReadPreference.PRIMARY,
    max_commit_time_ms=10_000,
)
"""Of every transaction: a database's own concerns do not hold inside one."""

_SCHEMES = ("mongodb://", "mongodb+srv://")
_AGAIN = frozenset({43, 91, 112, 134, 189, 262, 11600, 11602})
"""Codes after which a read can be asked again: a cursor that is gone, a server that shuts down or was stepped down, a
conflict or a snapshot that is not to be had at this moment."""


class Place(NamedTuple):
    """What a URL names: the database, and the options it leaves to us."""

    url: str
    database: str
    options: Mapping[str, Any]


def understand(url: str) -> Place:
    """A URL taken apart; ValueError in one sentence that never repeats it (it may hold a password)."""
    if not url.startswith(_SCHEMES):
        raise ValueError("A MongoDB store's URL begins with mongodb:// or mongodb+srv://.")
    try:
        parsed = parse_uri(url, validate=True, warn=False) if url.startswith(_SCHEMES[0]) else None
    except (PyMongoError, ValueError, BSONError):
        raise ValueError(
            "The MongoDB store's URL cannot be understood; its form is mongodb://host:27017/database?replicaSet=rs0."
        ) from None
    if parsed is None:  # resolved by DNS when it is opened; the path is all that is needed before
        path = url[len(_SCHEMES[1]) :].partition("/")[2].partition("?")[0]
        return Place(url, path or DATABASE, OPTIONS)
    given = {name.lower() for name in parsed["options"]}
    kept = {name: value for name, value in OPTIONS.items() if name.lower() not in given}
    return Place(url, parsed["database"] or DATABASE, kept)


def connect(place: Place) -> tuple[Client, Database]:
    """A client (nothing is sent yet) and the store's database; both belong to the running event loop."""
    with reaching():
        client: Client = AsyncMongoClient(
            place.url, appname="fhirserver", retryReads=True, retryWrites=True, tz_aware=True, **place.options
        )
        database = client.get_database(
            place.database,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True),
        )
    return client, database


@contextmanager
def reaching() -> Iterator[None]:
    """Failures of the store inside are told as Unavailable."""
    try:
        yield
    except (PyMongoError, BSONError) as error:
        raise Unavailable from error


async def again(work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` (a read, safe to repeat) gives; Unavailable if the store cannot be reached for `PATIENCE`."""
    until = monotonic() + PATIENCE
    while True:
        try:
            return await work()
        except (PyMongoError, BSONError) as error:
            if not passes(error) or monotonic() > until:
                raise Unavailable from error
            await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - jitter, not a secret


def passes(error: Exception) -> bool:
    """Whether the failure is one of the moment: a lost connection, an election, a cursor that is gone."""
    if isinstance(error, ServerSelectionTimeoutError):  # it has waited as long as the URL allows
        return False
    if isinstance(error, AutoReconnect):
        return True
    if isinstance(error, OperationFailure):
        return error.code in _AGAIN or error.has_error_label("TransientTransactionError")
    return False


def refuse_standalone(hello: Mapping[str, Any]) -> None:
    """Unavailable, with what to do, for a server without transactions; ``hello`` is its answer to that command."""
    if "setName" not in hello and hello.get("msg") != "isdbgrid":
        raise Unavailable(
            "The MongoDB server is a standalone server, which has no transactions. Start it as a replica set (one "
            "node is enough): mongod --replSet rs0, then once rs.initiate() in mongosh."
        )

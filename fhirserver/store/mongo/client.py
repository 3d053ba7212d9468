"""The connection: what a URL may say, how failures are told, and reads that outlive an election.

Everything goes to the primary, written with ``w: majority, j: true`` and read with read concern ``majority``: what was
told to anybody is never rolled back, and a writer reads its own write.
"""

from __future__ import annotations

import asyncio
import logging
import random
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from time import monotonic
from typing import Any, NamedTuple, TypeVar
from weakref import WeakKeyDictionary

from bson.errors import BSONError
from pymongo import AsyncMongoClient, ReadPreference, WriteConcern
from pymongo.asynchronous.database import AsyncDatabase
from pymongo.client_session_shared import TransactionOptions
from pymongo.errors import (
    AutoReconnect,
    ConnectionFailure,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
)
from pymongo.read_concern import ReadConcern
from pymongo.uri_parser import parse_uri

from fhirserver.core.errors import Unavailable

T = TypeVar("T")
Document = dict[str, Any]
Client = AsyncMongoClient[Document]
Database = AsyncDatabase[Document]

DATABASE = "fhirserver"
"""The database of a URL that names none."""

OPTIONS = {"serverSelectionTimeoutMS": 15_000, "connectTimeoutMS": 5_000, "maxPoolSize": 64}
"""Milliseconds and connections, unless the URL says otherwise. A server is waited for longer than an election takes
(12 s by default)."""

ANSWER_SECONDS = 30.0
"""Seconds after which a server that is connected and does not answer is given up.

Not the driver's `socketTimeoutMS`, which is switched off: with it a cancelled read was measured to go on nine times in
ten on Python 3.11, and with it the chart of a reader who has left."""

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
_OF_DNS = re.compile(r"(?<=[?&])srv(?:MaxHosts|ServiceName)=[^&]*&?", re.IGNORECASE)
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
    rest = url.partition("://")[2]
    if url.startswith(_SCHEMES[1]):  # resolved by DNS when it is opened; the rest has the same form
        rest = _OF_DNS.sub("", rest).rstrip("?&")
    try:
        parsed = parse_uri(f"{_SCHEMES[0]}{rest}", validate=True, warn=False)
    except (PyMongoError, ValueError, BSONError, OSError):
        raise ValueError(
            "The MongoDB store's URL cannot be understood; its form is mongodb://host:27017/database?replicaSet=rs0."
        ) from None
    given = {name.lower() for name in parsed["options"]}
    kept = {name: value for name, value in OPTIONS.items() if name.lower() not in given}
    return Place(url, parsed["database"] or DATABASE, kept)


def connect(place: Place) -> tuple[Client, Database]:
    """A client (nothing is sent yet) and the store's database; both belong to the running event loop."""
    # The driver logs whole commands and replies at DEBUG: charts, whoever turned all logs on.
    logging.getLogger("pymongo.command").setLevel(logging.WARNING)
    try:
        client: Client = AsyncMongoClient(
            place.url,
            appname="fhirserver",
            retryReads=True,
            retryWrites=True,
            tz_aware=True,
            socketTimeoutMS=None,
            **place.options,
        )
        database = client.get_database(
            place.database,
            read_preference=ReadPreference.PRIMARY,
            read_concern=ReadConcern("majority"),
            write_concern=WriteConcern(w="majority", j=True),
        )
    except (PyMongoError, BSONError, OSError) as error:  # of the system: a file that the URL names
        raise Unavailable from discreet(error)
    return client, database


@contextmanager
def reaching() -> Iterator[None]:
    """Failures of the store inside are told as Unavailable, however long it takes."""
    try:
        yield
    except (PyMongoError, BSONError, TimeoutError) as error:
        raise Unavailable from discreet(error)
    go_on()


def discreet(error: Exception) -> Exception:
    """The failure without what it repeats: a server that refuses a command gives its text, documents and all, a driver
    the value that it cannot encode or the part of the URL that it does not understand."""
    if isinstance(error, OperationFailure):
        named = (error.details or {}).get("codeName", "no name")
        return OperationFailure(f"{type(error).__name__}: {named}", error.code)
    if isinstance(error, BSONError):
        return BSONError(type(error).__name__)
    if isinstance(error, ConnectionFailure | TimeoutError):
        return error
    return PyMongoError(type(error).__name__)


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """The same of something that a server answers within `ANSWER_SECONDS`."""
    with reaching():
        async with asyncio.timeout(ANSWER_SECONDS):
            yield


def go_on() -> None:
    """CancelledError if the task has been cancelled and its driver has swallowed that (`asyncio.wait_for` of Python
    3.11 does when what it waits for is just done)."""
    task = asyncio.current_task()
    if task is not None and task.cancelling():
        raise asyncio.CancelledError


async def again(database: Database, work: Callable[[], Awaitable[T]]) -> T:
    """What ``work`` (a read, safe to repeat) gives; Unavailable if the store cannot be reached for `PATIENCE`.

    All of it is read from one primary that has caught up with what was acknowledged before its term began.
    """
    until = monotonic() + PATIENCE
    while True:
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                begun = await _caught_up(database)
                found = await work()
            go_on()
            if term(database.client) == begun:
                return found
            if monotonic() > until:
                raise Unavailable
        except (PyMongoError, BSONError, TimeoutError) as error:
            if not passes(error) or monotonic() > until:
                raise Unavailable from discreet(error)
            await asyncio.sleep(random.uniform(0.02, 0.2))  # noqa: S311 - jitter, not a secret


Term = tuple[Any, ...]
_known: WeakKeyDictionary[Client, Term] = WeakKeyDictionary()
"""The term in which each client was last told that its primary has caught up."""
_ROUTERS = frozenset({"Mongos", "LoadBalancer"})
_CATCHING_UP = 5_000
_TIME_IS_UP = 50


def term(client: Client) -> Term:
    """Which server is the primary and since which election, as far as the client knows; empty: it knows none."""
    for server in client.topology_description.server_descriptions().values():
        if server.server_type_name == "RSPrimary":
            return server.address, server.election_id
        if server.server_type_name in _ROUTERS:
            return (server.server_type_name,)
    return ()


async def _caught_up(database: Database) -> Term:
    """The present term, in which everything that was acknowledged before can be read.

    A new primary has it all, but for a moment does not know that it is on a majority: a read with read concern
    ``majority`` would not show it. A linearizable read (of nothing) ends when that moment is over.
    """
    client = database.client
    for _ in range(3):
        now = term(client)
        if now and _known.get(client) == now:
            return now
        nothing = database.store.with_options(read_concern=ReadConcern("linearizable"))
        try:
            await nothing.find_one({"_id": "nothing"}, {"_id": 1}, max_time_ms=_CATCHING_UP)
        except OperationFailure as error:
            if error.code == _TIME_IS_UP:
                raise AutoReconnect("no majority") from error
            if passes(error):
                raise
            # The engine has no such reads.
        if now and term(client) == now:
            _known[client] = now
            return now
    raise AutoReconnect("one election after another")


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

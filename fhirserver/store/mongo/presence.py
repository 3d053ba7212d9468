"""Which servers live, and an end to the transactions of those that do not.

A transaction belongs to a session, not to a connection: one that a killed process has left open would hold the commit
counter for a minute. So each process commits in one session, told to the others beside a heartbeat, and whoever waits
for the counter ends the sessions of processes whose heart has stopped. Ending the session of one that was only slow
costs it a repetition and nothing else. All times are the database's own.
"""

from __future__ import annotations

import asyncio
import logging
from contextlib import suppress
from typing import Any

from bson import ObjectId
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern
from pymongo.write_concern import WriteConcern

from fhirserver.store.mongo.client import TRANSACTION, Client, Database, go_on, passes

BEAT = 1.0
"""Seconds from one heartbeat to the next."""
DEAD = 3_000
"""Milliseconds without a heartbeat after which a process counts as dead."""

_log = logging.getLogger("fhirserver.store")


class Presence:
    """This process among the servers of one store."""

    def __init__(self, client: Client, database: Database) -> None:
        self._client = client
        # What the primary knows is what counts here; a majority that lags would make the living look dead.
        self._servers = database.servers.with_options(read_concern=ReadConcern("local"), write_concern=WriteConcern(1))
        self._id = ObjectId()
        self._session: AsyncClientSession | None = None
        self._given_up: list[AsyncClientSession] = []
        self._beating: asyncio.Task[None] | None = None
        self.others = True
        """Whether other servers share the store, as of the last heartbeat."""

    async def session(self) -> AsyncClientSession:
        """The session that commits, which the others know."""
        while self._given_up:
            try:
                await self._end(self._given_up[0].session_id["id"])
            except OperationFailure as error:
                if passes(error):
                    raise
                # Not to be had here: what the session has open ends by itself, only later.
            await self._given_up.pop(0).end_session()
        if self._session is None:
            session = self._client.start_session(default_transaction_options=TRANSACTION)
            beat = {"session": session.session_id["id"], "seen": "$$NOW"}
            await self._servers.update_one({"_id": self._id}, [{"$set": beat}], upsert=True)
            self._session = session
        if self._beating is None:
            self._beating = asyncio.create_task(self._beat())
        return self._session

    async def renew(self) -> None:
        """Begin another session when next asked for one. The one before may have a transaction open that its client
        takes for ended (a commit that never arrived); it is ended first."""
        if self._session is not None:
            self._given_up.append(self._session)
            self._session = None

    async def bury(self) -> None:
        """End the sessions of processes that have died."""
        since = {"$expr": {"$lt": ["$seen", {"$subtract": ["$$NOW", DEAD]}]}}
        async for document in self._servers.find({**since, "_id": {"$ne": self._id}}):
            await self._end(document["session"])
            gone = await self._servers.delete_one({"_id": document["_id"], "seen": document["seen"]})
            if gone.deleted_count:
                _log.warning("A server has ended without closing the store; what it had open is undone.")

    async def leave(self) -> None:
        """This process ends."""
        if self._beating is not None:
            self._beating.cancel()
            await asyncio.wait([self._beating])  # so that no heartbeat comes after the end
        await self.renew()
        with suppress(PyMongoError):  # the others will see to it
            for session in self._given_up:
                await self._end(session.session_id["id"])
                await session.end_session()
            await self._servers.delete_one({"_id": self._id})

    async def _end(self, session: Any) -> None:
        await self._client.admin.command({"killSessions": [{"id": session}]})

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(BEAT)
            if self._session is None:
                continue
            go_on()
            beat = {"session": self._session.session_id["id"], "seen": "$$NOW"}
            with suppress(PyMongoError, TimeoutError):  # the store is away for everybody; the next beat tells
                async with asyncio.timeout(DEAD / 1000):
                    await self._servers.update_one({"_id": self._id}, [{"$set": beat}], upsert=True)
                    alive = {"$expr": {"$gte": ["$seen", {"$subtract": ["$$NOW", DEAD]}]}}
                    self.others = await self._servers.count_documents(alive, limit=2) > 1

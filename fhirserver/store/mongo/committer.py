"""The process's one committer: merges whatever waits into one transaction.

A transaction locks the counter document before anything else, so of several processes one is in its serialised section
and the others learn that at once and try again a moment later. What the section needs is prepared before it. A job
that loses (a guard, a version race) has written nothing, so it costs the others of its group nothing.

Whether a commit whose answer was lost has happened is asked of the store: each attempt of a group leaves the same
token in its row of ``commits``, and the next attempt looks for it once it holds the counter.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import suppress
from time import monotonic
from typing import Any, Generic, TypeVar

from bson.errors import BSONError
from pymongo.asynchronous.client_session import AsyncClientSession
from pymongo.errors import ConnectionFailure, DocumentTooLarge, DuplicateKeyError, OperationFailure, PyMongoError

from fhirserver.core.errors import Fault, Kind, Unavailable
from fhirserver.store.mongo.client import ANSWER_SECONDS, discreet, passes
from fhirserver.store.mongo.codec import TOO_LARGE
from fhirserver.store.mongo.presence import Presence
from fhirserver.store.mongo.write import Transaction

T = TypeVar("T")

GROUP_WEIGHT = 1000
"""Drafts merged into one transaction at most, so that it stays well below a second or two."""
GROUP_BYTES = 16 << 20
PATIENCE = 30.0
"""Seconds for which a group is tried again over conflicts, lost connections and elections."""
_REPEATED = 5
"""How often an entry that is there already is taken for the work of another process that was faster."""
_STUCK = 0.5
"""Seconds of conflicts after which it is looked whether a dead process holds the counter."""
_YIELD = 0.003
"""Seconds for which, on average, the counter is left to the other servers between two groups, if there are any."""
_WRITE_CONFLICT = 112
_INTERRUPTED = 11601
_IN_THREAD = 32
"""From this weight on, or with this many bytes, a group is prepared on a thread: the loop goes on."""
_IN_THREAD_BYTES = 256 << 10


class Job(Generic[T]):
    """One unit that commits or fails as a whole.

    ``prepare`` runs before the transaction; what it returns is handed to ``apply``, which checks everything before it
    writes anything (an attempt may be made several times). ``weight`` counts drafts, ``size`` their bytes; ``keys``
    are what it will look at.
    """

    def __init__(
        self,
        apply: Callable[[Transaction, Any], Awaitable[T]],
        prepare: Callable[[], Any] = lambda: None,
        weight: int = 1,
        size: int = 0,
        keys: Sequence[str] = (),
    ) -> None:
        self.apply = apply
        self.prepare = prepare
        self.weight = weight
        self.size = size
        self.keys = keys
        self.prepared: Any = None
        self.future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.settled = asyncio.Event()

    def settle(self, outcome: T | BaseException) -> None:
        """Hand the outcome to whoever waits."""
        self.settled.set()
        if self.future.done():
            return
        if isinstance(outcome, BaseException):
            self.future.set_exception(outcome)
        else:
            self.future.set_result(outcome)


class Committer:
    """Takes jobs of one event loop; `close` finishes those that were submitted."""

    def __init__(self, presence: Presence, begin: Callable[[AsyncClientSession], Awaitable[Transaction]]) -> None:
        """``begin`` locks the counter in a session's open transaction and says where the store stands."""
        self._presence = presence
        self._begin = begin
        self._waiting: list[Job[Any]] = []
        self._running: asyncio.Task[None] | None = None
        self._closed = False
        self._ended = 0.0

    async def submit(self, job: Job[T]) -> T:
        """The job's result once it is durable; its own fault; Unavailable if the store failed."""
        if self._closed:
            job.settle(Unavailable("The store is closed."))
        else:
            self._waiting.append(job)
            if self._running is None:
                self._running = asyncio.create_task(self._run())
        return await job.future

    def withdraw(self, job: Job[Any]) -> None:
        """A job whose caller has gone is not begun any more."""
        if job in self._waiting:
            self._waiting.remove(job)
            job.settle(Unavailable())

    async def close(self) -> None:
        """Finish what was submitted."""
        self._closed = True
        if self._running is not None:
            await asyncio.wait([self._running])  # which does not end with whoever waits

    async def _run(self) -> None:
        try:
            while self._waiting:
                if self._presence.others:
                    # Who has just had the counter would have it again before anybody else could ask.
                    since = monotonic() - self._ended
                    await asyncio.sleep(max(0.0, random.uniform(0, 2 * _YIELD) - since))  # noqa: S311 - jitter
                await self._commit(self._next())
                self._ended = monotonic()
        finally:
            self._running = None
            _give_up(self._waiting)  # nothing, unless the event loop is ending
            self._waiting.clear()

    def _next(self) -> list[Job[Any]]:
        """Whatever waits, in order, up to the bounds; one job at least."""
        jobs, weight, size = [self._waiting.pop(0)], 0, 0
        weight, size = jobs[0].weight, jobs[0].size
        while self._waiting:
            job = self._waiting[0]
            if weight + job.weight > GROUP_WEIGHT or size + job.size > GROUP_BYTES:
                break
            jobs.append(self._waiting.pop(0))
            weight, size = weight + job.weight, size + job.size
        return jobs

    async def _commit(self, jobs: Sequence[Job[Any]]) -> None:
        try:
            if sum(job.weight for job in jobs) >= _IN_THREAD or sum(job.size for job in jobs) > _IN_THREAD_BYTES:
                errors = await asyncio.to_thread(_prepare, jobs)
            else:
                errors = _prepare(jobs)
            for job, error in zip(jobs, errors, strict=True):
                if error is not None:
                    job.settle(error)
            await self._commit_ready([job for job in jobs if not job.settled.is_set()])
        finally:
            _give_up(jobs)

    async def _commit_ready(self, jobs: Sequence[Job[Any]]) -> None:
        if not jobs:
            return
        group = _Group(self._presence, self._begin, jobs)
        try:
            outcomes = await group.commit()
        except Exception as error:
            if len(jobs) > 1 and not group.in_doubt and _is_of_one(error):
                for job in jobs:  # one of them cannot be stored: it alone shall fail
                    await self._commit_ready([job])
                return
            outcomes = [_public(error)] * len(jobs)
        for job, outcome in zip(jobs, outcomes, strict=True):
            job.settle(outcome)


def _prepare(jobs: Sequence[Job[Any]]) -> list[Exception | None]:
    """Prepare the jobs; what each raised."""
    errors: list[Exception | None] = []
    for job in jobs:
        try:
            job.prepared = job.prepare()
            errors.append(None)
        except Exception as error:  # handed to the one who waits for it
            errors.append(error)
    return errors


def _give_up(jobs: Iterable[Job[Any]]) -> None:
    """Those that have not heard anything yet: their commit is not known to have happened."""
    for job in jobs:
        if not job.settled.is_set():
            job.settle(Unavailable())


class _Group:
    """One group's way to being committed."""

    def __init__(
        self,
        presence: Presence,
        begin: Callable[[AsyncClientSession], Awaitable[Transaction]],
        jobs: Sequence[Job[Any]],
    ) -> None:
        self._presence = presence
        self._begin = begin
        self._jobs = jobs
        self._token = os.urandom(12)
        self._doubt: tuple[int, list[Any]] | None = None
        """The turn of an attempt whose end is not known, and what it gave."""

    @property
    def in_doubt(self) -> bool:
        """Whether an attempt may have been committed although it was not told so."""
        return self._doubt is not None

    async def commit(self) -> list[Any]:
        """What became of each job; raises what the store raised when the group cannot be committed."""
        began = monotonic()
        pause, repeated, looked = 0.001, 0, began
        while True:
            try:
                async with asyncio.timeout(ANSWER_SECONDS):
                    return await self._attempt()
            except TimeoutError:
                await self._presence.renew()
                raise
            except (PyMongoError, BSONError) as error:
                repeated += isinstance(error, DuplicateKeyError)
                if not _is_passing(error) or monotonic() > began + PATIENCE or repeated > _REPEATED:
                    raise
                if not _is_conflict(error):
                    await self._presence.renew()
                lost = isinstance(error, ConnectionFailure)
            if monotonic() > looked + _STUCK:
                looked = monotonic()
                with suppress(PyMongoError):  # the next time
                    await self._presence.bury()
            await asyncio.sleep(random.uniform(0.2, 1) * (0.1 if lost else pause))  # noqa: S311 - jitter
            pause = min(pause * 1.2, 0.008)

    async def _attempt(self) -> list[Any]:
        session = await self._presence.session()
        async with await session.start_transaction():
            transaction = await self._begin(session)
            if self._doubt is not None:
                turn, outcomes = self._doubt
                if await transaction.holds(turn, self._token):
                    await session.abort_transaction()
                    await self._outlasts(transaction, turn)
                    return outcomes
                self._doubt = None
            await transaction.look([key for job in self._jobs for key in job.keys])
            outcomes = [await _applied(transaction, job) for job in self._jobs]
            if not transaction.wrote:
                await session.abort_transaction()
                return outcomes
            await transaction.finish(self._token)
            self._doubt = transaction.turn, outcomes
            await session.commit_transaction()
            return outcomes

    async def _outlasts(self, transaction: Transaction, turn: int) -> None:
        """Wait until a commit that is there is on a majority: on a primary alone it could still be rolled back."""
        until = monotonic() + PATIENCE
        while not await transaction.outlasts(turn, self._token):
            if monotonic() > until:
                raise Unavailable
            await asyncio.sleep(0.02)


async def _applied(transaction: Transaction, job: Job[Any]) -> Any:
    """What the job gave, or its own fault; what the store raises ends the attempt."""
    try:
        return await job.apply(transaction, job.prepared)
    except (PyMongoError, BSONError):
        raise
    except Exception as error:
        return error


def _is_of_one(error: Exception) -> bool:
    """Whether it may be the content of a single job that cannot be stored."""
    if isinstance(error, DuplicateKeyError):
        return True
    return not isinstance(error, Fault | ConnectionFailure | TimeoutError) and not _is_passing(error)


def _is_passing(error: Exception) -> bool:
    """A conflict with another process, a lost connection, an election, an end to the session by one who took this
    process for dead; of two that make one entry the later one."""
    if isinstance(error, DuplicateKeyError):
        return True
    if isinstance(error, OperationFailure) and error.code == _INTERRUPTED:
        return True
    if isinstance(error, PyMongoError) and error.has_error_label("UnknownTransactionCommitResult"):
        return True
    return passes(error)


def _is_conflict(error: Exception) -> bool:
    return isinstance(error, OperationFailure) and error.code == _WRITE_CONFLICT


def _public(error: BaseException) -> BaseException:
    if isinstance(error, DocumentTooLarge):
        return Fault(Kind.TOO_LARGE, TOO_LARGE)
    if not isinstance(error, PyMongoError | BSONError | TimeoutError):
        return error
    fault = Unavailable()
    fault.__cause__ = discreet(error)
    return fault

"""What code lists the store's labels were derived from, and whether every resource carries them.

Access follows from the labels in the facts. A store that was labelled by other lists is refused when a server starts,
and a running server that finds them exchanged stops answering. While labels are being derived again (other lists, a new
Part 2 program), third parties wait: they alone are limited by labels.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from contextlib import asynccontextmanager

import msgspec

from fhirserver.core.definitions import ORGANIZATION
from fhirserver.core.errors import Conflict, Unavailable
from fhirserver.core.model import Clause, Query, Visible
from fhirserver.core.sensitive import lists
from fhirserver.policy.following import changed_again, decide_again, following
from fhirserver.store.port import Store

STATE = "labels"
STALE = "The labels of this store were derived from other code lists; run `fhirserver relabel`."
REPLACED = "The code lists of this store have changed; restart this server with them."
UNFINISHED = "Security labels are being derived again; try again later."


class State(msgspec.Struct, frozen=True, kw_only=True):
    """``fingerprint`` and ``version`` of the lists; ``after``: the seq up to which everything is labelled by them, of
    no meaning once it is ``complete``."""

    fingerprint: str
    version: str
    complete: bool = True
    after: int = 0


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(State).decode


class Labelled:
    """The state of one store's labels as one process knows it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: State | None = None
        self._epoch = 0

    async def start(self, *, upkeep: bool = False) -> None:
        """Unavailable for labels of other lists, but for ``upkeep``. A store that holds nothing is labelled already."""
        if (await self._store.high_water()).seq == 0:
            await self._store.ledger.put_if(STATE, _encode(_now(complete=True)), stamp=None)
        self._known, _ = await _read(self._store)
        if (self._known is None or self._known.fingerprint != lists().fingerprint) and not upkeep:
            raise Unavailable(STALE)

    async def look(self, epoch: int) -> None:
        """Look again when access has changed somewhere; Unavailable where this process labels by other lists."""
        if epoch != self._epoch or self._known is None or not self._known.complete:
            self._known, _ = await _read(self._store)
            self._epoch = epoch
        if self._known is not None and self._known.fingerprint != lists().fingerprint:
            raise Unavailable(REPLACED)

    async def complete(self) -> bool:
        """Whether everything carries its labels now."""
        self._known, _ = await _read(self._store)
        return self._known is not None and self._known.complete

    def must_be_complete(self) -> None:
        """Unavailable while not everything carries its labels."""
        if self._known is not None and not self._known.complete:
            raise Unavailable(UNFINISHED)


def _now(*, complete: bool, after: int = 0) -> State:
    return State(fingerprint=lists().fingerprint, version=lists().version, complete=complete, after=after)


async def _read(store: Store) -> tuple[State | None, int | None]:
    entry = await store.ledger.get(STATE)
    return (None, None) if entry is None else (_decode(entry.value), entry.stamp)


@asynccontextmanager
async def incomplete(store: Store, programs: Collection[str]) -> AsyncIterator[None]:
    """Around a commit that makes Part 2 programs of these organisations: what they hold already is not labelled yet, so
    `relabel` has to come."""
    if not programs:
        yield
        return
    before, stamp = await _read(store)
    while not await store.ledger.put_if(STATE, _encode(_now(complete=False)), stamp=stamp):
        before, stamp = await _read(store)
    try:
        yield
    except Conflict:  # nothing was committed
        await _restore(store, before)
        raise
    held = [Query(visible=Visible((Clause(custodian=each),)), limit=1) for each in sorted(programs)]
    # Nobody can add to what they hold without the label from here on.
    if not any([await store.count(query) for query in held]):
        await _restore(store, before)


async def _restore(store: Store, before: State | None) -> None:
    """What `incomplete` found, unless somebody else has had to do with it."""
    now, stamp = await _read(store)
    if before is not None and before.complete and now == _now(complete=False):
        await store.ledger.put_if(STATE, _encode(before), stamp=stamp)


async def relabel(
    store: Store, tell: Callable[[], Awaitable[None]], progress: Callable[[int, int], None], clock: Callable[[], int]
) -> tuple[int, int]:
    """Decide the labels of every current resource again, in place; how many were looked at, and how many changed.

    It goes on where it was interrupted, and begins again where a program came meanwhile. ``tell``: let the servers look
    at the state again.
    """
    done = changed = 0
    while True:
        before, stamp = await _read(store)
        state = _now(complete=False)
        if before is not None and before.fingerprint == state.fingerprint and not before.complete:
            state = before
        mark = _Mark(store, stamp)
        if not await mark.put(state):
            continue
        await tell()
        if state.after == 0:  # whether a custodian is a program is what its Organization says
            async for batch in store.scan(Query(types=frozenset({ORGANIZATION}))):
                await decide_again(store, batch)
        query = Query(after=state.after)
        total = done + await store.count(query)
        standing = True
        async for batch in store.scan(query):
            found = await changed_again(store, batch)
            if found:  # announced: killed between the two, the next one would find nothing changed to be followed
                async with following(store, {record.key for record, _, _ in found}, clock()):
                    await store.reindex(found)
            done, changed = done + len(batch), changed + len(found)
            progress(done, max(total, done))
            standing = await mark.put(msgspec.structs.replace(state, after=batch[-1].seq))
            if not standing:
                break
        if standing and await mark.put(_now(complete=True)):
            await tell()
            return done, changed


class _Mark:
    """The state as this process has put it; `put` says False once somebody else has."""

    def __init__(self, store: Store, stamp: int | None) -> None:
        self._store = store
        self._stamp = stamp

    async def put(self, state: State) -> bool:
        if not await self._store.ledger.put_if(STATE, _encode(state), stamp=self._stamp):
            return False
        _, self._stamp = await _read(self._store)
        return True

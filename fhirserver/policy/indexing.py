"""What the store's search index was made under, and whether it is complete.

Index entries follow from the search parameters (`core.definitions.fingerprint`): those of R4, and the SearchParameter
resources that the operator has stored and activated by `reindex`. An index made under others would miss matches or
invent them, so a server refuses it when it starts, and a running one that finds it exchanged stops answering. While
`reindex` is at work, whatever is found by the index waits; reads by id and charts do not.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from fhirserver.core.definitions import edition, fingerprint, fingerprint_of, put_in_force
from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Query, parse_facts
from fhirserver.core.ownparameters import Refused, extended
from fhirserver.policy.derive import rederive
from fhirserver.policy.dossier import whole
from fhirserver.policy.principal import OPERATOR_ORGANIZATION
from fhirserver.store.port import Store

STATE = "index"
STALE = "The search index of this store was made under other definitions; run `fhirserver reindex`."
REPLACED = "The search parameters of this store have changed; restart this server."
REBUILDING = "The search index is being made again; try again later."


class State(msgspec.Struct, frozen=True, kw_only=True):
    """``parameters``: the SearchParameter resources that are active beside the published; ``after``: the seq up to
    which everything is indexed under ``fingerprint``, of no meaning once it is ``complete``."""

    fingerprint: str
    parameters: tuple[dict[str, Any], ...] = ()
    complete: bool = True
    after: int = 0


_encode = msgspec.json.encode
_decode = msgspec.json.Decoder(State).decode


class Indexed:
    """The state of one store's index as one process knows it."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known = State(fingerprint="")
        self._epoch = 0

    async def start(self, *, upkeep: bool = False) -> None:
        """Put the store's parameters in force; Unavailable for an index that is stale, but for ``upkeep``."""
        state = await read(self._store)
        if state is None:
            if (await self._store.high_water()).seq == 0:
                state = State(fingerprint=fingerprint_of(extended(()).edition))
                await write(self._store, state, fresh=True)
            else:
                state = State(fingerprint="")
        wanted = extended(state.parameters).edition
        if wanted != edition():
            put_in_force(wanted)
        if state.fingerprint != fingerprint() and not upkeep:
            raise Unavailable(STALE)
        self._known = state

    async def look(self, epoch: int) -> None:
        """Look again when access or the index has changed somewhere; Unavailable where this process is behind."""
        if epoch != self._epoch or not self._known.complete:
            self._known = await read(self._store) or self._known
            self._epoch = epoch
        if self._known.fingerprint and self._known.fingerprint != fingerprint():
            raise Unavailable(REPLACED)

    async def must_be_complete(self) -> None:
        """Unavailable while the index is being made again."""
        if not self._known.complete:
            self._known = await read(self._store) or self._known
        if not self._known.complete:
            raise Unavailable(REBUILDING)


async def read(store: Store) -> State | None:
    """What the store says; None of one that has never said it."""
    entry = await store.ledger.get(STATE)
    return None if entry is None else _decode(entry.value)


async def write(store: Store, state: State, *, fresh: bool = False) -> None:
    """Keep it; ``fresh``: only where there is none yet."""
    while True:
        entry = await store.ledger.get(STATE)
        if fresh and entry is not None:
            return
        if await store.ledger.put_if(STATE, _encode(state), stamp=entry.stamp if entry else None):
            return


async def activated(store: Store) -> tuple[tuple[dict[str, Any], ...], tuple[Refused, ...]]:
    """The operator's SearchParameter resources as they stand, and those among them that cannot be used."""
    found: list[dict[str, Any]] = []
    async for batch in store.scan(Query(types=frozenset({"SearchParameter"}))):
        for record in batch:
            if parse_facts(record.facts).custodian == OPERATOR_ORGANIZATION:
                found.append(msgspec.json.decode(await whole(store, record)))
    refused = extended(found).refused
    return tuple(found), refused


async def rebuilt(store: Store, state: State, progress: Callable[[int, int], None]) -> int:
    """Index everything again from where ``state`` is; how many resources. What is written meanwhile comes last."""
    query = Query(after=state.after)
    done, total = 0, await store.count(msgspec.structs.replace(query, bodies=False))
    async for batch in store.scan(query):
        await store.reindex([(record, *rederive(record, await whole(store, record))) for record in batch])
        await write(store, msgspec.structs.replace(state, after=batch[-1].seq))
        done += len(batch)
        progress(done, max(total, done))
    return done

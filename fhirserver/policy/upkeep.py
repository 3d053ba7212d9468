"""What the operator of a store does to it as a whole: verify it, and derive its index and facts again.

Facts decide access, so deriving them again is audited and moves the policy epoch like any other write that does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

import msgspec

from fhirserver.core.definitions import fingerprint, put_in_force
from fhirserver.core.ownparameters import Refused, extended
from fhirserver.core.sensitive import lists
from fhirserver.policy.audit import Detail, Trail
from fhirserver.policy.derive import rederive
from fhirserver.policy.dossier import POLICY_EPOCH
from fhirserver.policy.indexing import State, activated, read, rebuilt, write
from fhirserver.policy.labelled import relabel
from fhirserver.store.port import Store


class Upkeep:
    """A store and the trail of whoever looks after it; made by the gate only."""

    def __init__(self, store: Store, trail: Trail, clock: Callable[[], int]) -> None:
        self._store = store
        self._clock = clock
        self._trail = trail

    def verify(self) -> AsyncIterator[str]:
        """One sentence per inconsistency. Not audited: it shows no content, and must work where nothing can be
        written any more."""
        return self._store.verify(rederive)

    async def relabel(self, progress: Callable[[int, int], None]) -> tuple[int, int]:
        """Derive the labels of every current resource again, in place: no new versions, no other index entries. How
        many were looked at, and how many changed; interrupted, it goes on where it was."""
        intent = self._trail.row("relabel", "intent")
        await self._trail.append(intent)

        async def tell() -> None:
            await self._store.commit((), audit=(), epochs=(POLICY_EPOCH,))

        done, changed = await relabel(self._store, tell, progress, self._clock)
        detail: Detail = {"count": done, "changed": changed, "lists": lists().version}
        await self._trail.append(self._trail.row("relabel", "complete", detail=detail, intent=intent.id))
        return done, changed

    async def reindex(
        self, progress: Callable[[int, int], None], refused: Callable[[Refused], None] = lambda _: None
    ) -> int:
        """Derive index and facts of every current resource again, in place, under the published search parameters and
        those that the operator has stored; how many. ``progress`` hears (done, total) after each batch, ``refused``
        each SearchParameter that is left out. Interrupted, it goes on where it was when it is run again."""
        intent = self._trail.row("reindex", "intent")
        await self._trail.append(intent)
        parameters, left_out = await activated(self._store)
        for each in left_out:
            refused(each)
        put_in_force(extended(parameters).edition)
        before = await read(self._store)
        state = State(fingerprint=fingerprint(), parameters=parameters, complete=False)
        if before is not None and not before.complete and before.fingerprint == state.fingerprint:
            state = msgspec.structs.replace(state, after=before.after)
        # Other servers look at the state when the epoch moves: those that know other parameters stop answering.
        await write(self._store, state)
        await self._store.commit((), audit=(), epochs=(POLICY_EPOCH,))
        await self._store.rebuild()
        done = await rebuilt(self._store, state, progress)
        await write(self._store, msgspec.structs.replace(state, complete=True))
        outcome = self._trail.row("reindex", "complete", detail={"count": done}, intent=intent.id)
        await self._store.commit((), audit=(outcome,), epochs=(POLICY_EPOCH,))
        return done

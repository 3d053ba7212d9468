"""What the operator of a store does to it as a whole: verify it, and derive its index and facts again.

Facts decide access, so deriving them again is audited and moves the policy epoch like any other write that does.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable

from fhirserver.core.model import Query
from fhirserver.policy.audit import Trail
from fhirserver.policy.derive import rederive
from fhirserver.policy.dossier import POLICY_EPOCH, whole
from fhirserver.store.port import Store


class Upkeep:
    """A store and the trail of whoever looks after it; made by the gate only."""

    def __init__(self, store: Store, trail: Trail) -> None:
        self._store = store
        self._trail = trail

    def verify(self) -> AsyncIterator[str]:
        """One sentence per inconsistency. Not audited: it shows no content, and must work where nothing can be
        written any more."""
        return self._store.verify(rederive)

    async def reindex(self, progress: Callable[[int, int], None]) -> int:
        """Derive index and facts of every current resource again, in place; how many. ``progress`` hears
        (done, total) after each batch. Interrupted, it can be run again."""
        intent = self._trail.row("reindex", "intent")
        await self._trail.append(intent)
        await self._store.rebuild()
        done, total = 0, await self._store.count(Query(bodies=False))
        async for batch in self._store.scan(Query()):
            await self._store.reindex(
                [(record, *rederive(record, await whole(self._store, record))) for record in batch]
            )
            done += len(batch)
            progress(done, total)
        outcome = self._trail.row("reindex", "complete", detail={"count": done}, intent=intent.id)
        await self._store.commit((), audit=(outcome,), epochs=(POLICY_EPOCH,))
        return done

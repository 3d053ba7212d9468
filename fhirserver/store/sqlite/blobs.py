"""Large bodies out of line: staged in chunks before the commit that publishes them, read chunk by chunk."""

from __future__ import annotations

from collections.abc import Sequence

from fhirserver.core.model import Draft
from fhirserver.store.bodies import KEPT, parts
from fhirserver.store.sqlite.committer import Committer, Job
from fhirserver.store.sqlite.write import Transaction

INLINE_BOUND = 1 << 20
_STAGED_AT_ONCE = 16


async def stage(committer: Committer, draft: Draft, *, now: int) -> int:
    """Write the body's chunks in short transactions; the id under which a commit publishes them.

    The stamp between head and tail is only known at the commit, which adds it as part ``STAMP_PART``.
    """

    def begin(transaction: Transaction, _: None) -> int:
        row = transaction.connection.execute("INSERT INTO blobs(staged) VALUES (?) RETURNING id", (now,)).fetchone()
        return int(row[0])

    blob = await committer.submit(Job(begin))
    pieces = parts(draft)
    try:
        for at in range(0, len(pieces), _STAGED_AT_ONCE):
            rows = [(blob, part, data) for part, data in pieces[at : at + _STAGED_AT_ONCE]]

            def add(transaction: Transaction, _: None, rows: list[tuple[int, int, bytes]] = rows) -> None:
                transaction.connection.executemany("INSERT INTO chunks VALUES (?, ?, ?)", rows)

            await committer.submit(Job(add))
    except BaseException:
        await discard(committer, [blob])
        raise
    return blob


async def discard(committer: Committer, blobs: Sequence[int]) -> None:
    """The commit did not happen: remove what was staged for it."""
    await committer.submit(Job(lambda transaction, _: _remove(transaction, blobs)))


def sweep(transaction: Transaction) -> None:
    """Remove what killed processes have staged and never published."""
    rows = transaction.connection.execute("SELECT id FROM blobs WHERE staged < ?", (transaction.now - KEPT,)).fetchall()
    _remove(transaction, [row[0] for row in rows])


def _remove(transaction: Transaction, blobs: Sequence[int]) -> None:
    for blob in blobs:
        transaction.connection.execute("DELETE FROM blobs WHERE id = ? AND staged IS NOT NULL", (blob,))
        transaction.connection.execute(
            "DELETE FROM chunks WHERE blob = ?1 AND NOT EXISTS (SELECT 1 FROM blobs WHERE id = ?1)", (blob,)
        )

"""The store's port: what a document store must do for this server, and nothing it need not.

Adapters hold no FHIR logic: they keep versions (bytes and index entries), answer `Query` values and count. Each
method's docstring states its edge cases; the tests in `tests/contract` hold every adapter to them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from typing import Protocol

from fhirserver.core.model import (
    AuditRow,
    Draft,
    Facts,
    Guard,
    HighWater,
    HistoryQuery,
    Index,
    Key,
    LedgerEntry,
    Query,
    Record,
    Tally,
)


class Ledger(Protocol):
    """Small things that are not FHIR: keys, revocations, counters, epochs. Expired entries are not there."""

    async def get(self, name: str) -> LedgerEntry | None:
        """The entry, or None when it was never put, was removed, or has expired."""

    async def several(self, names: Sequence[str]) -> list[LedgerEntry | None]:
        """What `get` gives for each of these names, in one read."""

    async def put_if(self, name: str, value: bytes | None, *, stamp: int | None, expires: int | None = None) -> bool:
        """Put (or with None remove) if the entry's stamp is ``stamp`` (None: there is no entry). False: it was not.

        ``expires`` is in milliseconds since 1970. A put entry gets a stamp it never had before.
        """

    async def incr(self, name: str, by: int = 1, *, expires: int | None = None) -> int:
        """Add to a counter (absent or expired counts as 0) and return the new value; atomic over processes.

        ``expires`` is set only when the counter begins. Its value reads back from `get` as decimal text.
        """

    def scan(self, prefix: str) -> AsyncIterator[tuple[str, LedgerEntry]]:
        """Every entry whose name begins so, in name order, in short reads."""


class AuditLog(Protocol):
    """Append-only rows; durable when `append` returns (concurrent appends share one flush)."""

    async def append(self, rows: Sequence[AuditRow]) -> None: ...

    def scan(
        self, *, organization: str | None = None, patient: str | None = None, since: int = 0
    ) -> AsyncIterator[list[AuditRow]]:
        """Rows in the order they were appended, in batches, each its own short read."""


class Store(Protocol):
    """Versions of resources, visible commit by commit. Failure to reach it raises `Unavailable`."""

    @property
    def ledger(self) -> Ledger: ...

    @property
    def audit(self) -> AuditLog: ...

    async def start(self) -> None:
        """Open, create or migrate; a store of an unknown schema version is refused with a sentence."""

    async def close(self) -> None:
        """End threads and connections; a second call does nothing."""

    async def get(self, key: Key, version: int | None = None, *, as_of: int | None = None) -> Record | None:
        """The current version (or version ``version``, or the one that was current right after ``as_of``).

        None if there never was one. A tombstone is a Record with ``deleted=True`` and an empty body.
        """

    def scan(self, query: Query, batch: int = 256) -> AsyncIterator[list[Record]]:
        """Records in seq order, in non-empty batches of at most ``batch``; nothing twice.

        Each batch is its own short keyset read: no cursor, read transaction or thread outlives a hand-over, so a
        scan can be left or stalled at any point and holds nothing. With ``as_of`` the answer is the state right
        after that seq, however many writers follow. A record's body larger than the store's bound is None here
        and read with `body`.
        """

    async def count(self, query: Query) -> int:
        """How many records `scan` would give (``limit`` and ``after`` included)."""

    async def tally(self, query: Query) -> list[Tally]:
        """The records `scan` would give, counted by (type, facts, supports); order is not defined."""

    async def explain(self, query: Query) -> list[str]:
        """How `scan` would read the first of them: by which indexes, a sentence each. No value of the query is told."""

    def history(self, query: HistoryQuery, batch: int = 256) -> AsyncIterator[list[Record]]:
        """Versions, newest first, in non-empty batches of at most ``batch``; nothing twice.

        Each batch is its own short keyset read, as in `scan`. With ``as_of`` the answer is the same however many
        writers follow; `Record.ended` alone tells what has been superseded since.
        """

    async def count_history(self, query: HistoryQuery) -> int:
        """How many versions `history` would give (``limit`` included, beyond which nothing is counted)."""

    async def commit(
        self,
        drafts: Sequence[Draft],
        guards: Sequence[Guard] = (),
        *,
        audit: Sequence[AuditRow] = (),
        epochs: Sequence[str] = (),
    ) -> list[Record]:
        """Store all drafts as new versions, or nothing; durable and visible at once when it returns.

        Guards and ``if_version`` are evaluated inside the serialised commit, before any draft is applied; one
        that does not hold raises `Conflict` (its message is the guard's reason; kind PRECONDITION_FAILED for
        ``if_version``). Two drafts of one key are refused with ValueError. Audit rows and the increments of the
        ledger counters named in ``epochs`` commit with the drafts. Records come back in the drafts' order, with
        bodies. ``seq`` and ``updated`` never run backwards, whatever the clock does; ``updated`` is not below the time
        of any audit row before it, so that what was told as a time stays true over a restart, too.
        """

    async def high_water(self) -> HighWater:
        """A reader ``as_of`` this seq never misses a commit that later appears below it; time never runs back."""

    async def seq_at(self, time: int) -> int:
        """The last seq committed before ``time`` (milliseconds); 0 if none: ``updated >= time`` is ``seq >`` this."""

    def changes(self, after: int) -> AsyncIterator[list[Record]]:
        """Every version (tombstones and superseded ones too) with seq greater than ``after``, in seq order, in
        batches; ends at the high water of the last read."""

    def body(self, record: Record) -> AsyncIterator[bytes]:
        """The body's bytes in pieces, in line or out of line; the version may have been superseded meanwhile.

        Raises Unavailable at the end of what there is when the whole (``record.size`` bytes) cannot be had."""

    async def reindex(self, items: Sequence[tuple[Record, Facts, Index]]) -> None:
        """Replace the index entries and facts of current versions in place: no new version, no new seq. A record
        superseded meanwhile is left alone."""

    async def rebuild(self) -> None:
        """What the store derives beside its versions (native documents, search rows that belong to nothing, missing
        indexes) is made as it is set up now. `reindex` of every current version then fills it; see
        `fhirserver reindex`."""

    async def ever_within(self, patient: str) -> list[Key]:
        """Every resource of which some version, superseded ones included, stands or stood in the compartment of this
        Patient; what has been deleted, too."""

    async def purge(self, keys: Sequence[Key], *, audit: Sequence[AuditRow] = (), epochs: Sequence[str] = ()) -> int:
        """Remove every version of these resources as if there had never been any: index entries, bodies, chunks and
        native documents with them; how many versions that were. All of it, or nothing; audit rows and epochs as in
        `commit`. Keys that were never there are passed over.

        Seqs are not given again, and the gaps are remembered for `verify`. Nothing of it is in `get`, `scan`, `history`
        or `changes` any more, at no snapshot; what runs or pages over it goes on without. A resource put under such a
        key later begins with version 1. What refers to it, and audit rows, stay."""

    async def scrub(self) -> None:
        """Free what purged and superseded content has left in the store's own files: after it no byte of what was
        purged is in them. May take long and keep others from writing. A store whose files are another program's
        (MongoDB) does nothing here."""

    def verify(self, derive: Callable[[Record, bytes], tuple[Facts, Index]]) -> AsyncIterator[str]:
        """One sentence per inconsistency: index entries against ``derive(record, body)``, versions without
        a successor or gap, two current versions, unfinished commits, bodies whose chunks do not add up."""

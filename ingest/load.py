"""Ingest files: two passes over the input, batches committed while the next is being prepared, a report.

Running it again changes nothing: ids are deterministic, and what is stored already is recognised by its digest.
It may be interrupted anywhere; the next run completes it.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from threading import Event as Flag
from typing import IO, TYPE_CHECKING, Literal, TypeVar

import msgspec

from fhirserver.core import definitions
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key, Query, parse_facts
from fhirserver.core.validate import parse
from fhirserver.policy.gate import Put
from ingest.prepare import BATCH, Batch, Place, Preparer, Rejection
from ingest.read import Event, read
from ingest.resolve import Resolver, settle
from ingest.scratch import Scratch
from ingest.source import Source, find
from ingest.survey import Survey

if TYPE_CHECKING:
    from fhirserver.policy.gate import Scoped

_T = TypeVar("_T")


class Options(msgspec.Struct, frozen=True, kw_only=True):
    """How to ingest.

    * ``as_resources``: Bundles are stored as they are.
    * ``namespace``: every id becomes one of the custodian's own.
    * ``persons``: a Patient without a Person gets one.
    * ``trust_consents``: Consents in the input count (see `Scoped.load`).
    * ``rejects``: where rejections are written (NDJSON); the file is there afterwards only if there are any.
    * ``scratch``: the directory for temporary files (None: the system's).
    """

    as_resources: bool = False
    namespace: bool = False
    persons: bool = True
    trust_consents: bool = False
    rejects: Path = Path("rejects.ndjson")
    scratch: Path | None = None


class Progress(msgspec.Struct, frozen=True, kw_only=True):
    """How far it is: ``done`` of ``total`` bytes on disk of this pass over all sources, and the counts so far."""

    phase: Literal["reading", "loading"]
    source: str
    done: int
    total: int
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0


class Report(msgspec.Struct, kw_only=True):
    """What came of it.

    ``unresolved`` counts references that were left as they are because nothing, or more than one resource, meets
    them; ``warnings`` names their kinds. ``mended``: resources with a known quirk. ``rejects`` is None when
    nothing was rejected.
    """

    sources: int = 0
    created: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    unresolved: int = 0
    mended: int = 0
    warnings: tuple[str, ...] = ()
    rejects: Path | None = None


async def ingest(
    paths: Sequence[Path | Literal["-"]],
    scoped: Scoped,
    options: Options,
    progress: Callable[[Progress], None] = lambda _: None,
) -> Report:
    """Store everything in ``paths`` under the custodian that ``scoped`` stands for.

    ``progress`` is called from another thread, about once per megabyte and batch. Raises Fault for a path that is
    not there, a rejects file that cannot be written or would replace something else, and when the store fails; what
    is wrong inside the files is rejected and reported.
    """
    with (
        tempfile.TemporaryDirectory(prefix="fhirserver-ingest-", dir=options.scratch) as folder,
        closing(Scratch(Path(folder))) as scratch,
    ):
        run = _Run(scoped, options, progress, scratch)
        try:
            return await run.all(paths, Path(folder))
        finally:
            await run.close()


class _Stopped(Exception):
    """The run was given up while its thread was at work."""


class _Run:
    """One call of `ingest`."""

    def __init__(
        self, scoped: Scoped, options: Options, progress: Callable[[Progress], None], scratch: Scratch
    ) -> None:
        self._scoped = scoped
        self._options = options
        self._progress = progress
        self._scratch = scratch
        self._sources: list[Source] = []
        self._report = Report()
        self._rejects = _Rejects(options.rejects)
        self._flight: asyncio.Task[None] | None = None
        # Everything that reads, parses or asks the scratch tables runs on this one thread, so that the loop is
        # free for the store.
        self._thread = ThreadPoolExecutor(1, "ingest")
        self._stopped = Flag()

    async def _work(self, task: Callable[[], _T]) -> _T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, task)

    def _check(self) -> None:
        if self._stopped.is_set():
            raise _Stopped

    async def close(self) -> None:
        """Leave no thread or task behind, whatever happened; a batch on its way to the store lands first."""
        self._stopped.set()
        try:
            if self._flight is not None:
                await asyncio.gather(self._flight, return_exceptions=True)
        finally:
            self._thread.shutdown(wait=True)
            self._rejects.close()

    async def all(self, paths: Sequence[Path | Literal["-"]], spool: Path) -> Report:
        self._sources = await self._work(lambda: find(paths, spool, self._check))
        self._report.sources = len(self._sources)
        await self._work(self._survey)
        await settle(self._scratch, self._scoped, definitions.DIRECTORY_TYPES)
        organization = self._scoped.principal.organization if self._options.namespace else None
        resolver = Resolver(self._scratch, organization)
        batches = self._batches(resolver, organization)
        while (batch := await self._work(lambda: next(batches, None))) is not None:
            await self._send(batch)
        await self._landed()
        await self._load_late()
        self._report.unresolved = resolver.unresolved
        self._report.warnings = tuple(
            f"{times} reference{'s' if times > 1 else ''} by {kind} could not be resolved"
            for kind, times in resolver.shown.items()
        )
        self._report.rejects = self._rejects.written
        return self._report

    def _survey(self) -> None:
        """The first pass."""
        survey = Survey(self._scratch)
        for _ in self._through("reading", survey.note):
            pass
        self._scratch.finish()

    def _batches(self, resolver: Resolver, organization: str | None) -> Iterator[Batch]:
        """The second pass; where there are Persons, once for them and once for the others."""
        if self._scratch.persons and self._options.persons:
            persons = Preparer(self._scratch, resolver, organization, share="persons")
            yield from self._through("reading", persons.batches)
            yield persons.rest()
            others = Preparer(self._scratch, resolver, organization, share="others")
        else:
            others = Preparer(self._scratch, resolver, organization)
        yield from self._through("loading", others.batches)
        yield others.rest()

    def _through(
        self, phase: Literal["reading", "loading"], take: Callable[[str, Iterator[Event]], Iterator[_T]]
    ) -> Iterator[_T]:
        """Give every source's events to ``take`` and pass on what it makes of them, telling of the progress."""
        total = sum(source.size for source in self._sources)
        before = 0
        for source in self._sources:

            def tell(used: int, name: str = source.name, before: int = before) -> None:
                self._check()
                report = self._report
                self._progress(
                    Progress(
                        phase=phase,
                        source=name,
                        done=before + used,
                        total=total,
                        created=report.created,
                        updated=report.updated,
                        unchanged=report.unchanged,
                        rejected=report.rejected,
                    )
                )

            yield from take(source.name, read(source, unwrap=not self._options.as_resources, tell=tell))
            tell(source.size)
            before += source.size

    async def _send(self, batch: Batch) -> None:
        """Commit a batch while the next one is prepared; batches are committed in order."""
        await self._landed()
        self._flight = asyncio.create_task(self._load(batch))

    async def _landed(self) -> None:
        if self._flight is not None:
            await self._flight
            self._flight = None

    async def _load(self, batch: Batch) -> None:
        self._report.unchanged += batch.unchanged
        self._report.mended += batch.quirks
        for rejection in batch.rejections:
            self._reject(rejection)
        if not batch.puts:
            return
        options = self._options
        puts = list(batch.puts.values())
        for loaded in await self._scoped.load(puts, persons=options.persons, trust_consents=options.trust_consents):
            if loaded.status == "rejected":
                self._reject(Rejection(*batch.places[loaded.key], str(loaded.key), loaded.reason))
            elif loaded.status == "created":
                self._report.created += 1
            elif loaded.status == "updated":
                self._report.updated += 1
            else:
                self._report.unchanged += 1

    def _reject(self, rejection: Rejection) -> None:
        self._report.rejected += 1
        self._rejects.write(rejection)

    async def _load_late(self) -> None:
        """Store what occurs several times in the input: version after version, in the order of the input.

        Where the last of them is what is stored already, an earlier run has done so, and nothing is to be done.
        """
        for keys in self._scratch.put_off_keys(BATCH):
            stored: dict[Key, bytes] = {}
            async for records in self._scoped.scan(Query(keys=tuple(keys), bodies=False)):
                stored.update(
                    (record.key, record.digest)
                    for record in records
                    if parse_facts(record.facts).custodian == self._scoped.principal.organization
                )
            waiting: list[list[int]] = []
            for key in keys:
                occurrences = self._scratch.occurrences(key)
                if occurrences[-1][1] == stored.get(key):
                    self._report.unchanged += len(occurrences)
                    continue
                changes = [place for place, repeated in _changes(occurrences) if not repeated]
                self._report.unchanged += len(occurrences) - len(changes)
                waiting.append(changes)
            while waiting:
                await self._load_round([changes.pop(0) for changes in waiting])
                waiting = [changes for changes in waiting if changes]

    async def _load_round(self, places: list[int]) -> None:
        """One version of each of some keys."""
        batch = Batch()
        for place in places:
            late = self._scratch.occurrence(place)
            put = Put(resource=parse(late.raw), raw=late.raw, id=late.id)
            batch.add(Key(late.type, late.id), put, Place(late.source, late.line, late.entry))
            if batch.full:
                await self._load(batch)
                batch = Batch()
        await self._load(batch)


def _changes(occurrences: list[tuple[int, bytes]]) -> Iterator[tuple[int, bool]]:
    """Each place, and whether its content is that of the one before."""
    last = b""
    for place, digest in occurrences:
        yield place, digest == last
        last = digest


class _Rejects:
    """The rejects file: made when the first rejection comes, so that none is left where there are none.

    It is this run's alone: a run at the same time in the same folder has taken the name by a lock, and this one
    then writes beside it. What is there already is replaced only if an earlier run left it: a slip of the pen
    (``--rejects patients.ndjson patients.ndjson``) must not cost anybody their data.
    """

    def __init__(self, path: Path) -> None:
        """Removes what an earlier run left; raises Fault if the file could not be written."""
        self._path = path
        self._file: IO[bytes] | None = None
        self._encode = msgspec.json.Encoder().encode
        if not path.parent.is_dir() or path.is_dir():
            raise Fault(Kind.BAD_REQUEST, f"The file for rejects cannot be written: {path}.")
        try:
            self._clear()
        except OSError:
            raise Fault(Kind.BAD_REQUEST, f"The file for rejects cannot be replaced: {path}.") from None

    def _clear(self) -> None:
        if not self._path.is_file():
            return
        with self._path.open("rb") as earlier:
            if earlier.read(len(_REJECTION)) not in (_REJECTION, b""):
                reason = f"{self._path} is there and is no list of rejects; name another file for them."
                raise Fault(Kind.BAD_REQUEST, reason)
            if _locked(earlier):
                self._path.unlink(missing_ok=True)

    @property
    def written(self) -> Path | None:
        """The file's path, if there is one; what was written so far can be read."""
        if self._file is None:
            return None
        self._file.flush()
        return self._path

    def write(self, rejection: Rejection) -> None:
        if self._file is None:
            self._file = self._open()
        self._file.write(self._encode(rejection) + b"\n")

    def _open(self) -> IO[bytes]:
        """A new file; where it cannot be made, a temporary one: what is valid in the input is stored all the same."""
        if self._path.exists() and not self._path.is_file():
            return self._path.open("wb")  # such as /dev/null
        beside = self._path.with_name(f"{self._path.stem}-{os.getpid()}{self._path.suffix}")
        for path in (self._path, beside):
            with suppress(OSError):
                file = path.open("xb")
                _locked(file)
                self._path = path
                return file
        number, name = tempfile.mkstemp(prefix="ingest.rejects-", suffix=".ndjson")
        self._path = Path(name)
        return os.fdopen(number, "wb")

    def close(self) -> None:
        if self._file is not None:
            self._file.close()


_REJECTION = b'{"source":'
"""How a rejects file begins (`Rejection`)."""


def _locked(file: IO[bytes]) -> bool:
    """Take the file until it is closed; False when another run has it."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True

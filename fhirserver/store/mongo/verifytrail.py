"""The audit trail in MongoDB against its chain, one sentence for what does not fit.

Rows are read in the order of their places; the lines of the chain are put together from them. Rows of several servers
may come in another order than that of their numbers, by as much as clocks differ and inserts take: those that are ahead
wait for those that are missing, and what is missing in the end is looked for once more before it is told.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any

from bson.errors import BSONError

from fhirserver.core.model import AuditRow
from fhirserver.core.trail import canonical, event_of, link
from fhirserver.store.mongo.audit import COMMITS, Head, head_of, place_from, place_of, row_of
from fhirserver.store.mongo.client import Database, Document, again
from fhirserver.store.mongo.schema import COUNTER, MARKER

_BATCH = 500
_SHOWN = 100
_MOST_AHEAD = 5000
"""Rows that wait for one that is missing; beyond them it counts as gone."""
_LOOKED_BACK = 120_000
"""Milliseconds of places that are looked through again for what is missing."""
_LOOKS = 3
_PAUSE = 0.5

_FIELDS = frozenset({*AuditRow.__struct_fields__, "_id", "event", "chain"})


async def trail(database: Database) -> AsyncIterator[str]:
    """Every row fits the link before it, and none is missing."""
    walk = _Walk(database)
    shown = 0
    async for sentence in walk.sentences():
        yield sentence
        shown += 1
        if shown >= _SHOWN:
            return


class _Line:
    """One line, as far as it has been put together."""

    def __init__(self, name: str, dropped: Head, end: Head) -> None:
        self.name = name
        self.dropped = dropped.number
        self.number, self.link = dropped
        self.end = end
        """What it had reached when the walk began, as far as that was told."""
        self.sure = True
        """Whether ``link`` is that of the row ``number``."""
        self.ahead: dict[int, tuple[bytes, bytes, bytes]] = {}

    def take(self, number: int, row: tuple[bytes, bytes, bytes]) -> Iterator[str]:
        """``row``: its place, its canonical bytes and its link."""
        if number <= self.dropped:
            return  # retention was ended before it had removed it
        if number <= self.number or number in self.ahead:
            yield f"Row {row[0].hex()} of the audit trail has a number that another row has: one of them was put in."
            return
        self.ahead[number] = row
        if len(self.ahead) > _MOST_AHEAD:
            yield from self.pass_over()
        yield from self.go_on()

    def go_on(self) -> Iterator[str]:
        while (row := self.ahead.pop(self.number + 1, None)) is not None:
            self.number += 1
            place, content, own = row
            if self.sure and link(self.link, place_of(self.name, self.number, place), content) != own:
                yield (
                    f"Row {place.hex()} of the audit trail does not fit its link: it was changed, or put in, "
                    "or the row before it was."
                )
            self.link, self.sure = own, True
            if self.number == self.end.number and own != self.end.link:
                yield f"Row {place.hex()} of the audit trail is not the one that its server wrote."

    def pass_over(self) -> Iterator[str]:
        """What the rows ahead wait for is gone."""
        if not self.ahead:
            return
        first = min(self.ahead)
        yield self._missing(self.number + 1, first - 1, self.ahead[first][0])
        self.number, self.sure = first - 1, False

    def at_the_end(self) -> Iterator[str]:
        yield from self.go_on()
        while self.ahead:
            yield from self.pass_over()
            yield from self.go_on()
        if self.number < self.end.number:
            yield self._missing(self.number + 1, self.end.number, None)
        elif self.name == COMMITS and self.number and not self.end.number:
            yield "The commit counter does not know the end of the audit trail."

    def _missing(self, first: int, last: int, before: bytes | None) -> str:
        count = last - first + 1
        rows = f"{count} rows" if count > 1 else "A row"
        place = f"before {before.hex()}" if before is not None else "at the end"
        return f"{rows} of the audit trail {'are' if count > 1 else 'is'} missing {place} (line {self.name})."


class _Walk:
    def __init__(self, database: Database) -> None:
        self._database = database
        self._lines: dict[str, _Line] = {}

    async def sentences(self) -> AsyncIterator[str]:
        database = self._database
        counter = await again(database, lambda: database.store.find_one({"_id": COUNTER})) or {}
        marker = await again(database, lambda: database.store.find_one({"_id": MARKER})) or {}
        unlinked = bytes(marker.get("unlinked", b""))
        try:
            await self._look_up(head_of(counter.get("trail")))
        except BSONError:
            yield "The head of a line of the audit trail is damaged."
            return
        after = b""
        while found := await again(database, lambda: self._page(after)):  # noqa: B023 - awaited at once
            for document in found:
                after = document["_id"]
                if "chain" not in document and after <= unlinked:
                    continue
                for sentence in await self._of(document):
                    yield sentence
        await self._look_again()
        for line in self._lines.values():
            for sentence in line.at_the_end():
                yield sentence

    async def _look_up(self, commits: Head) -> None:
        found = await again(self._database, lambda: self._database.lines.find({}).to_list())
        for document in found:
            name, end = str(document["_id"]), head_of(document.get("head"))
            if name not in self._lines:
                dropped = head_of(document.get("dropped"))
                self._lines[name] = _Line(name, dropped, commits if name == COMMITS else end)
        self._lines.setdefault(COMMITS, _Line(COMMITS, Head(), commits))

    async def _of(self, document: Document) -> list[str]:
        name = document["_id"].hex()
        try:
            row, taken = _read(document)
        except (BSONError, KeyError, ValueError, TypeError):
            return [f"Row {name} of the audit trail cannot be read, or has no link."]
        line, number = taken[0], taken[1]
        if line not in self._lines:
            await self._look_up(Head())  # a server has begun meanwhile
        if line not in self._lines:
            return [f"Row {name} of the audit trail belongs to a line that no server has begun."]
        sentences = list(self._lines[line].take(number, (document["_id"], canonical(row), taken[2])))
        if document.get("event") != event_of(row):
            sentences.append(f"Row {name} of the audit trail is not found by its event.")
        return sentences

    async def _look_again(self) -> None:
        """What came meanwhile, with a place from before."""
        for _ in range(_LOOKS):
            waiting = [line for line in self._lines.values() if line.ahead and line.number + 1 not in line.ahead]
            places = [place for line in waiting for place, _, _ in line.ahead.values()]
            if not places:
                return
            await asyncio.sleep(_PAUSE)
            after = place_from(int.from_bytes(min(places)[:6], "big") - _LOOKED_BACK)
            while found := await again(self._database, lambda: self._page(after)):  # noqa: B023 - awaited at once
                for document in found:
                    after = document["_id"]
                    self._add(document)

    def _add(self, document: Document) -> None:
        with suppress(BSONError, KeyError, ValueError, TypeError):  # it has been told already
            name, number, _, row = _read(document)[1]
            if name in self._lines and number > self._lines[name].number:
                self._lines[name].ahead.setdefault(number, row)

    async def _page(self, after: bytes) -> list[Document]:
        bounds = {"_id": {"$gt": after}} if after else {}
        return await self._database.audit.find(bounds).sort("_id", 1).limit(_BATCH).hint("_id_").to_list()


def _read(document: Document) -> tuple[AuditRow, tuple[Any, ...]]:
    if not document.keys() <= _FIELDS:
        raise ValueError
    line, number, own = document["chain"]
    row = row_of(document)
    return row, (str(line), int(number), bytes(own), (document["_id"], canonical(row), bytes(own)))

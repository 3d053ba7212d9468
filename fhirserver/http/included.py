"""`_include` and `_revinclude`: what the matches of a page refer to, and what refers to them.

Source: R4 search §3.1.1.5.6. Every target comes through the same grant as a match. A resource stands once on a page, as
a match if it is one; included resources are not counted by `_count`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import Any

import msgspec

from fhirserver.core.definitions import SUPPORTING_TYPES
from fhirserver.core.model import REFERENCE_TERM, Key, Query, Record, parse_facts
from fhirserver.core.search import Include
from fhirserver.policy.gate import Scoped
from fhirserver.policy.search import references

MOST = 5_000
"""Resources included on one page; a page that has more says so in an OperationOutcome."""
_AT_ONCE = 200


class Included:
    """What goes along with the matches of one page."""

    def __init__(self, scoped: Scoped, includes: Sequence[Include], *, as_of: int) -> None:
        self.keys: set[Key] = set()
        """Those that were given."""
        self.incomplete = False
        self._scoped = scoped
        self._includes = tuple(includes)
        self._as_of = as_of
        self._met: set[Key] = set()
        self._wanted: dict[Key, set[str]] = {}
        """Targets of what was met, with the custodians of the resources that name them."""
        self._fresh: list[Key] = []

    async def meet(self, records: Iterable[Record], *, matches: bool = True) -> None:
        """Remember what these refer to. ``matches``: else they are included themselves, and only what is iterated
        goes on from them."""
        includes = [each for each in self._includes if matches or each.iterate]
        for record in records:
            self._met.add(record.key)
            self._fresh.append(record.key)
            forward = [each for each in includes if not each.reverse and each.source in ("*", record.type)]
            if forward:
                await asyncio.sleep(0)  # decoding takes its time, and others wait
                content = msgspec.json.decode(await self._scoped.whole(record))
                for key in _targets(content, forward):
                    self._wanted.setdefault(key, set()).add(parse_facts(record.facts).custodian)

    async def batches(self) -> AsyncIterator[list[Record]]:
        """What goes along, each once, until nothing new is named."""
        reverse = [each for each in self._includes if each.reverse]
        while (self._fresh or self._wanted) and not self.incomplete:
            fresh, self._fresh = self._fresh, []
            wanted = {key: by for key, by in self._wanted.items() if key not in self._met}
            self._wanted = {}
            async for records in self._forward(wanted):
                yield await self._taken(records)
            for each in reverse:
                async for records in self._reverse(each, fresh):
                    yield await self._taken(records)
            reverse = [each for each in reverse if each.iterate]

    async def _taken(self, records: list[Record]) -> list[Record]:
        records = [record for record in records if record.key not in self._met]
        if len(self.keys) + len(records) > MOST:
            records = records[: MOST - len(self.keys)]
            self.incomplete = True
        self.keys.update(record.key for record in records)
        await self.meet(records, matches=False)
        return records

    async def _forward(self, wanted: Mapping[Key, set[str]]) -> AsyncIterator[list[Record]]:
        keys = sorted(wanted)
        for at in range(0, len(keys), _AT_ONCE):
            some = keys[at : at + _AT_ONCE]
            supporting = [key for key in some if key.type in SUPPORTING_TYPES]
            others = tuple(key for key in some if key.type not in SUPPORTING_TYPES)
            if others:
                async for records in self._scoped.scan(Query(keys=others, as_of=self._as_of)):
                    yield records
            if supporting:
                # each by the custodians that name it: another's word for another resource is none for this one
                by: dict[frozenset[str], list[Key]] = {}
                for key in supporting:
                    by.setdefault(frozenset(wanted[key]), []).append(key)
                for custodians, those in by.items():
                    yield await self._scoped.supporting(those, custodians=custodians, patients=None, as_of=self._as_of)

    async def _reverse(self, include: Include, fresh: Sequence[Key]) -> AsyncIterator[list[Record]]:
        wanted = [key for key in fresh if include.target in ("", key.type)]
        name = REFERENCE_TERM if include.code == "*" else f"{include.source}|{include.code}="
        types = None if include.source == "*" else frozenset({include.source})
        # A general reference does not say by which link a Person was found, and its caller may not see that one.
        hidden = frozenset({"Person"}) if types is None and self._scoped.limited else frozenset[str]()
        for at in range(0, len(wanted), _AT_ONCE):
            terms = tuple(f"{name}{key}" for key in wanted[at : at + _AT_ONCE])
            async for records in self._scoped.scan(
                Query(types=types, not_types=hidden, terms=(terms,), as_of=self._as_of)
            ):
                yield records
                if self.incomplete:
                    return


def _targets(content: Mapping[str, Any], includes: Iterable[Include]) -> set[Key]:
    return {key for each in includes for key in references(content, each.code) if each.target in ("", key.type)}

"""The audit trail of what is disclosed: intent before the first byte, outcome after, both append-only rows.

Values of identifying parameters never reach a row: they are replaced by a hash under the installation's pepper, which
still lets two rows be compared.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
import os
import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, quote

from fhirserver.core.errors import Fault
from fhirserver.core.model import AuditRow
from fhirserver.policy.journal import Journal
from fhirserver.policy.principal import Principal
from fhirserver.policy.vocabulary import disclosure

Detail = Mapping[str, str | int | bool | list[str]]

MOST_NAMED = 1000
"""Patients named in one row; a row about more says so."""

REQUEST: ContextVar[str] = ContextVar("request", default="")
"""The X-Request-Id of the request that is being answered, if it is one."""

_log = logging.getLogger("fhirserver.audit")
_NAMES = re.compile(r"[.:]")


class Trail:
    """Writes the rows of one caller."""

    def __init__(self, journal: Journal, principal: Principal, *, pepper: bytes, clock: Callable[[], int]) -> None:
        self._journal = journal
        self._principal = principal
        self._pepper = pepper
        self._clock = clock

    def row(
        self,
        interaction: str,
        outcome: str,
        *,
        patients: Iterable[str] = (),
        detail: Detail | None = None,
        intent: str | None = None,
    ) -> AuditRow:
        """One row; ``detail`` may hold a query string under ``query``, everything else under parameter names."""
        who = self._principal
        named = sorted(set(patients))
        told: dict[str, str | int | bool | list[str]] = {"class": who.caller.value}
        known = (("purpose", who.purpose), ("token", who.token_id), ("request", REQUEST.get()))
        told |= {name: value for name, value in known if value}
        told |= redact(detail or {}, self._pepper)
        if len(named) > MOST_NAMED:
            told["patients"] = len(named)
        now = self._clock()
        return AuditRow(
            # Ids that begin with the time stand together in an index of them.
            id=(now.to_bytes(6, "big") + os.urandom(10)).hex(),
            at=now,
            organization=who.organization,
            subject=who.subject,
            interaction=interaction,
            outcome=outcome,
            intent=intent,
            patients=tuple(named[:MOST_NAMED]),
            detail=told,
        )

    async def append(self, row: AuditRow) -> None:
        """Durable when it returns."""
        await self._journal.append(row)

    async def follow(self, row: AuditRow) -> None:
        """The same for a row that nobody waits for."""
        await self._journal.follow(row)

    async def deny(self, interaction: str, detail: Detail) -> None:
        """One row for what was refused."""
        await self.append(self.row(interaction, "denied", detail=detail))


class Disclosure:
    """An async context around an answer: the intent is durable before the body begins, the outcome always follows.

    ``count`` is the number of resources sent so far; an answer that is not marked `complete` when the context ends
    is recorded as cut. Entering raises `Unavailable` when the intent cannot be written: nothing may be disclosed.
    """

    def __init__(
        self,
        trail: Trail,
        *,
        interaction: str,
        patients: Collection[str],
        detail: Detail,
        seen: Callable[[], Iterable[str]],
        used: Callable[[], Sequence[str]],
    ) -> None:
        """``seen`` and ``used`` tell, at the end, whose data was read, and under which Consents if ``detail`` does not
        say that."""
        self.count = 0
        self._trail = trail
        self._interaction = interaction
        self._patients = frozenset(patients)
        self._detail = detail
        self._seen = seen
        self._used = used
        self._complete = False
        self.intent = ""
        """The id of the intent's row, once it is durable."""

    def complete(self) -> None:
        """The last resource has been handed over."""
        self._complete = True

    async def __aenter__(self) -> Self:
        patients = self._patients or self._seen()
        row = self._trail.row(self._interaction, "intent", patients=patients, detail=self._detail)
        await self._trail.append(row)
        self.intent = row.id
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        outcome = "complete" if self._complete and error is None else "cut"
        used = self._used()
        row = self._trail.row(
            self._interaction,
            outcome,
            patients=self._patients.union(self._seen()),
            detail={"count": self.count, **({"consents": list(used)} if used else {})},
            intent=self.intent,
        )
        # The row is written whether or not this task is being cancelled, and its failure hides no other error.
        writing = asyncio.ensure_future(self._trail.follow(row))
        writing.add_done_callback(_report)
        try:
            await asyncio.shield(writing)
        except Fault:
            return
        except asyncio.CancelledError:
            if not writing.done():
                _pending.add(writing)
                writing.add_done_callback(_pending.discard)
            raise


_pending: set[asyncio.Future[None]] = set()
"""Outcome rows still being written for tasks that were cancelled; the loop itself holds futures only weakly."""


def _report(writing: asyncio.Future[None]) -> None:
    if not writing.cancelled() and writing.exception() is not None:
        _log.critical("an audit outcome could not be written: %s", type(writing.exception()).__name__)


def redact(detail: Detail, pepper: bytes) -> dict[str, str | int | bool | list[str]]:
    """``detail`` with the values of identifying parameters hashed, inside a ``query`` string, too."""
    told: dict[str, str | int | bool | list[str]] = {}
    for name, value in detail.items():
        if name == "query" and isinstance(value, str):
            told[name] = _query(value, pepper)
        elif identifying(name):
            values = value if isinstance(value, list) else [str(value)]
            told[name] = [keyed(item, pepper) for item in values]
        else:
            told[name] = value
    return told


def identifying(name: str) -> bool:
    """Whether a search parameter, or a part of a chain such as ``subject:Patient.birthdate``, tells who someone is."""
    return not disclosure().identifying.isdisjoint(_NAMES.split(name))


def keyed(value: str, pepper: bytes) -> str:
    """A hash that only this installation can compute."""
    return "hash:" + hmac.digest(pepper, value.encode(), "sha256").hex()[:32]


def _query(text: str, pepper: bytes) -> str:
    path, mark, query = text.partition("?")
    if not mark and "=" in text:
        path, query = "", text
    pairs = parse_qsl(query, keep_blank_values=True)
    told = "&".join(
        f"{quote(name)}={keyed(value, pepper) if identifying(name) else quote(value, safe=',:/|')}"
        for name, value in pairs
        if name != "_page"
    )
    return path + mark + told

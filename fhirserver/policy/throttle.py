"""Whoever fails to prove who they are has to wait before the next attempt: ever longer, by name and by address.

For `/oauth/token` and logins. The counts are in the ledger, so they hold for all servers, and an attempt is counted
before it is looked at: a hundred attempts at the same moment are a hundred. A store that cannot be asked fails the
attempt (503): nobody guesses while nobody counts.

A name alone must not shut its owner out: whoever knows a client's id could fail in its name for ever. Therefore the
delay by name is short at the most (`Pace.longest`), and that by address grows long. Where nothing can be guessed, as
with signatures, only failures go through here (`policy.authorization`).
"""

from __future__ import annotations

import hmac
from collections.abc import Callable
from types import TracebackType
from typing import NamedTuple, Self

import msgspec

from fhirserver.policy.rates import Throttled
from fhirserver.store.port import Ledger

_PREFIX = "throttle/"
_FORGOTTEN = 3_600_000
"""Milliseconds after the last failure at which all is forgotten."""
_RACES = 20


class Pace(NamedTuple):
    """``free`` failures cost nothing; each one more doubles the delay, from one second to ``longest`` milliseconds."""

    free: int
    longest: int

    def delay(self, failures: int) -> int:
        """Milliseconds from the last failure to the next attempt."""
        beyond = failures - self.free
        return 0 if beyond < 0 else min(self.longest, 1000 << min(beyond, 40))


BY_NAME = Pace(free=10, longest=30_000)
BY_ADDRESS = Pace(free=30, longest=900_000)


class _Count(msgspec.Struct):
    failures: int
    until: int


class Throttle:
    """The failures at one door of one installation. ``door``: its name, such as ``oauth``."""

    def __init__(
        self,
        ledger: Callable[[], Ledger],
        door: str,
        *,
        pepper: bytes,
        clock: Callable[[], int],
        by_name: Pace = BY_NAME,
        by_address: Pace = BY_ADDRESS,
    ) -> None:
        self._ledger = ledger
        self._door = door
        self._pepper = pepper
        self._clock = clock
        self._paces = {"name": by_name, "address": by_address}

    def attempt(self, *, name: str, address: str) -> Attempt:
        """One attempt, as an async context. ``name``: who it claims to be, ``address``: where it comes from; either
        may be empty, and is then not counted. Say `Attempt.succeeded` when it has: an attempt that ends otherwise is a
        failure. Entering raises Throttled (429, with ``retry_after``) while it is too early."""
        given = {"name": name, "address": address}
        return Attempt(self, {each: self._entry(each, value) for each, value in given.items() if value})

    def _entry(self, kind: str, value: str) -> str:
        told = hmac.digest(self._pepper, f"{self._door}\0{kind}\0{value}".encode(), "sha256").hex()[:32]
        return f"{_PREFIX}{self._door}/{kind}/{told}"

    async def begin(self, entries: dict[str, str]) -> None:
        """Count the attempt as failed; Throttled if it comes too early, and then it is not counted."""
        ledger, now = self._ledger(), self._clock()
        found = await ledger.several(tuple(entries.values()))
        waits = [_read(entry.value).until - now for entry in found if entry is not None]
        if (longest := max(waits, default=0)) > 0:
            raise _early(longest)
        for kind, entry in entries.items():
            await self._count(entry, self._paces[kind])

    async def _count(self, entry: str, pace: Pace) -> None:
        ledger = self._ledger()
        for _ in range(_RACES):
            now, held = self._clock(), await ledger.get(entry)
            before = _read(held.value) if held else _Count(0, 0)
            if before.until > now:
                raise _early(before.until - now)
            failures = before.failures + 1
            after = msgspec.json.encode(_Count(failures, now + pace.delay(failures)))
            if await ledger.put_if(entry, after, stamp=held.stamp if held else None, expires=now + _FORGOTTEN):
                return
        raise _early(1)

    async def forgive(self, entries: dict[str, str]) -> None:
        """The attempt has succeeded: its name is clear, its address as it was before."""
        ledger = self._ledger()
        for kind, entry in entries.items():
            for _ in range(_RACES):
                held = await ledger.get(entry)
                if held is None:
                    break
                now, failures = self._clock(), _read(held.value).failures - 1
                left = failures > 0 and kind == "address"
                value = msgspec.json.encode(_Count(failures, 0)) if left else None
                if await ledger.put_if(entry, value, stamp=held.stamp, expires=now + _FORGOTTEN if left else None):
                    break


class Attempt:
    """See `Throttle.attempt`."""

    def __init__(self, throttle: Throttle, entries: dict[str, str]) -> None:
        self._throttle = throttle
        self._entries = entries
        self._succeeded = False

    def succeeded(self) -> None:
        """Whoever tries is who they say."""
        self._succeeded = True

    async def __aenter__(self) -> Self:
        await self._throttle.begin(self._entries)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._succeeded:
            await self._throttle.forgive(self._entries)


def _read(value: bytes) -> _Count:
    return msgspec.json.decode(value, type=_Count)


def _early(milliseconds: int) -> Throttled:
    return Throttled("Too many failed attempts; try again later.", retry_after=max(1, -(-milliseconds // 1000)))

"""Key sets that others publish: fetched through the guarded client and kept for as long as they allow, ten minutes at
most.

Source: SMART Backend Services ("shall not cache longer than Cache-Control allows"), RFC 9111 §5.2.2. An unknown key
name fetches anew, once a minute and set; what cannot be had is not asked for again at once.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

import msgspec

from fhirserver.policy.jwks import VerifyingKey, read_keys
from fhirserver.policy.outbound import Answer, Outbound, Unreachable

LONGEST = 600_000
"""Milliseconds that a set is kept at most, and where nothing is said about it."""

AGAIN = 60_000
"""Milliseconds between two fetches of one set for the sake of an unknown key."""

PAUSE = 5_000
"""Milliseconds for which a failure stands."""

_MOST = 1024
"""Sets that are kept."""

_log = logging.getLogger("fhirserver.policy")


class _Held(msgspec.Struct, frozen=True):
    keys: tuple[VerifyingKey, ...]
    fetched: int
    until: int


class KeySets:
    """Key sets by their URL."""

    def __init__(self, outbound: Outbound, clock: Callable[[], int]) -> None:
        self._outbound = outbound
        self._clock = clock
        self._held: dict[str, _Held] = {}
        self._locks: dict[str, asyncio.Lock] = {}

    async def keys(self, url: str, *, unknown: bool = False) -> tuple[VerifyingKey, ...]:
        """The keys at this URL, none where they cannot be had. ``unknown``: the ones given last time did not do."""
        held = self._good(url, unknown)
        if held is not None:
            return held.keys
        async with self._locks.setdefault(url, asyncio.Lock()):
            held = self._good(url, unknown)  # another may have fetched them meanwhile
            if held is None:
                held = await self._fetch(url)
                while len(self._held) >= _MOST:
                    dropped = next(iter(self._held))
                    del self._held[dropped]
                    self._locks.pop(dropped, None)
                self._held[url] = held
        return held.keys

    def _good(self, url: str, unknown: bool) -> _Held | None:
        held, now = self._held.get(url), self._clock()
        if held is None:
            return None
        until = held.fetched + AGAIN if unknown else held.until
        return held if held.fetched <= now < until else None

    async def _fetch(self, url: str) -> _Held:
        now = self._clock()
        try:
            answer = await self._outbound.get(url, accept="application/jwk-set+json, application/json")
            if answer.status != 200:
                raise Unreachable(f"status {answer.status}")
            keys = read_keys(msgspec.json.decode(answer.body))
        except (Unreachable, ValueError, RecursionError) as error:
            _log.warning("a key set could not be had: %s", error if isinstance(error, Unreachable) else "not a key set")
            return _Held((), now, now + PAUSE)
        return _Held(keys, now, now + lifetime(answer))


def lifetime(answer: Answer) -> int:
    """Milliseconds for which an answer may be kept."""
    most = LONGEST
    for directive in answer.headers.get("cache-control", "").lower().split(","):
        name, _, value = directive.strip().partition("=")
        if name in ("no-store", "no-cache"):
            return 0
        if name == "max-age":
            seconds = value.strip('" ')
            most = min(most, int(seconds[:9]) * 1000) if seconds.isdigit() else 0
    age = answer.headers.get("age", "0")
    return max(0, most - (int(age[:9]) * 1000 if age.isdigit() else 0))

"""How many requests a client may make in a minute, whichever server and worker they come to.

A minute has a counter in the ledger. A worker takes a lease of permits from it and spends them by itself, so that the
store is asked once for many requests; what a worker has not spent when the minute ends is lost. So a client never gets
more than its limit, and may get a little less (at most a lease for each worker). Once the counter is used up a worker
asks no more until the next minute. A store that cannot be asked gives no permit: the request fails with 503.
"""

from __future__ import annotations

import asyncio
import hmac
from collections import OrderedDict
from collections.abc import Callable

import msgspec

from fhirserver.core.errors import Fault, Kind
from fhirserver.policy.principal import Principal
from fhirserver.store.port import Ledger

WINDOW = 60_000
"""Milliseconds; the windows of all servers are those of the clock."""

REMEMBERED = 10_000
"""Clients whose leases a worker remembers; one that is forgotten takes a new lease."""

_LEASES = 20
"""Leases that a limit is divided into."""

_LONGEST = 100

_PREFIX = "rate/"

Client = tuple[str, str, str]


def client_of(principal: Principal) -> Client:
    """Who counts as one client, for every limit: the class, the organisation and the subject of its tokens."""
    return principal.caller.value, principal.organization, principal.subject


class Throttled(Fault):
    """Too many requests: at most ``limit`` in a minute, and no more for ``retry_after`` seconds."""

    def __init__(self, message: str, *, retry_after: int, limit: int | None = None, first: bool = False) -> None:
        """``first``: nobody has been told yet in this minute, so the audit trail should be."""
        super().__init__(Kind.THROTTLED, message)
        self.retry_after = retry_after
        self.limit = limit
        self.first = first


class _Lease(msgspec.Struct):
    """The permits of one client in one minute; ``used_up``: the ledger has no more, ``told``: somebody was refused."""

    window: int
    left: int
    lock: asyncio.Lock
    used_up: bool = False
    told: bool = False


class Rates:
    """The limit of one installation, as one worker keeps to it."""

    def __init__(self, ledger: Callable[[], Ledger], *, per_minute: int, pepper: bytes, clock: Callable[[], int]):
        """``per_minute``: 0 is no limit, and then nothing is asked or kept."""
        self.per_minute = per_minute
        self._ledger = ledger
        self._pepper = pepper
        self._clock = clock
        self._lease = max(1, min(_LONGEST, per_minute // _LEASES))
        self._leases: OrderedDict[Client, _Lease] = OrderedDict()

    async def take(self, principal: Principal) -> None:
        """One permit; Throttled if this client has had all of this minute's."""
        if not self.per_minute:
            return
        now = self._clock()
        client, window = client_of(principal), now // WINDOW
        lease = self._leases.get(client)
        if lease is None or lease.window != window:
            lease = self._leases[client] = _Lease(window, 0, asyncio.Lock())
            while len(self._leases) > REMEMBERED:
                self._leases.popitem(last=False)
        self._leases.move_to_end(client)
        if not lease.left:
            await self._renew(client, lease)
        if not lease.left:
            first, lease.told = not lease.told, True
            wait = -(-((lease.window + 1) * WINDOW - now) // 1000)
            told = f"This client may make {self.per_minute} requests a minute."
            raise Throttled(told, retry_after=max(1, wait), limit=self.per_minute, first=first)
        lease.left -= 1

    async def _renew(self, client: Client, lease: _Lease) -> None:
        """Of requests that wait for a lease one asks for it."""
        async with lease.lock:
            if lease.left or lease.used_up:
                return
            name = _PREFIX + _named(client, self._pepper) + f"/{lease.window}"
            until = (lease.window + 2) * WINDOW
            taken = await self._ledger().incr(name, self._lease, expires=until)
            lease.left = max(0, min(self._lease, self.per_minute - (taken - self._lease)))
            lease.used_up = taken >= self.per_minute


def _named(client: Client, pepper: bytes) -> str:
    """A client's name in the ledger: nobody's user name stands there."""
    return hmac.digest(pepper, "\0".join(client).encode(), "sha256").hex()[:32]

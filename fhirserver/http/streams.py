"""How many long answers run at once, for one client and on this server; beyond that a caller is asked to come again.

An answer takes its place once it is longer than `stream.WHOLE` or has taken its time to be made, before its header:
what is refused is an ordinary error answer. It gives its place back when it ends, however it ends. The places are those
of one server process: a process that is killed holds none.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator
from contextlib import AbstractContextManager, contextmanager

from fhirserver.core.errors import Kind
from fhirserver.http.respond import Refused
from fhirserver.policy.gate import Principal, client_of

AGAIN = 5
"""Seconds after which who was refused may try again."""


class Streams:
    """The places of one server process."""

    def __init__(self, *, per_client: int, in_all: int) -> None:
        self._per_client = per_client
        self._in_all = in_all
        self._running: Counter[Hashable] = Counter()

    @property
    def running(self) -> int:
        """How many places are taken."""
        return self._running.total()

    def place(self, principal: Principal) -> AbstractContextManager[None]:
        """A place while the context lasts. Entering raises Fault THROTTLED (429) where this client has as many as it
        may have, UNAVAILABLE (503) where the server has."""
        return self._place(client_of(principal))

    @contextmanager
    def _place(self, client: Hashable) -> Iterator[None]:
        if self._running[client] >= self._per_client:
            raise _refused(Kind.THROTTLED, f"{self._per_client} long answers to this client are running already.")
        if self.running >= self._in_all:
            raise _refused(Kind.UNAVAILABLE, "The server sends as many long answers as it can; try again.")
        self._running[client] += 1
        try:
            yield
        finally:
            self._running[client] -= 1
            if not self._running[client]:
                del self._running[client]


def _refused(kind: Kind, told: str) -> Refused:
    return Refused(kind, told, headers={"Retry-After": str(AGAIN)})

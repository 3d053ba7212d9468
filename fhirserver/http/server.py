"""What every handler is given beside the request: the gate, and the few things of this installation."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import lru_cache

import msgspec
from starlette.datastructures import URL
from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.http.negotiation import prefer
from fhirserver.http.streams import Streams
from fhirserver.http.supporting import Closures
from fhirserver.policy.gate import Gate

FHIR_BASE = "/FHIR/R4"


class Server(msgspec.Struct, frozen=True, kw_only=True):
    """``base_url`` is the root without ``/FHIR/R4``, empty to take it from each request; ``clock`` gives milliseconds
    since 1970, ``nonce`` 12 fresh random bytes. ``max_body`` and ``max_binary`` are bytes: of a resource or Bundle, of
    raw content. ``streams``: the places of long answers. ``cors_origins``: whose pages may call from a browser."""

    gate: Gate
    page_key: bytes
    clock: Callable[[], int]
    nonce: Callable[[], bytes]
    closures: Closures
    streams: Streams
    base_url: str = ""
    page_minutes: int = 60
    stall_seconds: float = 60.0
    max_body: int = 32 << 20
    max_binary: int = 64 << 20
    max_entries: int = 10_000
    conditional_delete: str = "single"
    referential_integrity: str = "off"
    cors_origins: frozenset[str] = frozenset()

    def __repr__(self) -> str:
        return f"Server(base_url={self.base_url!r})"

    @property
    def tls(self) -> bool:
        """Whether clients come to a proxy by TLS."""
        return self.base_url.startswith("https:")

    def fhir_base(self, request: Request) -> str:
        """The absolute FHIR base URL without a trailing slash."""
        return self.root(request) + FHIR_BASE

    def root(self, request: Request) -> str:
        """The absolute root URL without a trailing slash."""
        scope = request.scope
        root = self.base_url.rstrip("/")
        return root or _root(scope["scheme"], scope.get("server"), request.headers.get("host"))


@lru_cache(maxsize=1024)
def _root(scheme: str, server: tuple[str, int | None] | None, host: str | None) -> str:
    """The root that these parts of a request name."""
    headers = [] if host is None else [(b"host", host.encode("latin-1"))]
    url = URL(scope={"scheme": scheme, "server": server, "path": "/", "query_string": b"", "headers": headers})
    return f"{url.scheme}://{url.netloc}"


Handler = Callable[[Request, Server], Awaitable[ASGIApp]]


def bearer(request: Request) -> str | None:
    """The bearer token of the Authorization header, or None when there is no such header."""
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    return token.strip() if scheme.lower() == "bearer" else None


def strict(request: Request) -> bool:
    """Whether the caller asked for unknown parameters to be refused (R4 search §3.1.1.3)."""
    return prefer(request).strict

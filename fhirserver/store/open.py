"""Open the store a URL names; the only place that knows which adapters there are."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from fhirserver.store.port import Store
from fhirserver.store.sqlite import SqliteStore


def open_store(url: str, *, clock: Callable[[], int], native: bool = True) -> Store:
    """The store behind ``url``, not yet started; ``clock`` gives milliseconds since 1970.

    ``sqlite:///relative.db``, ``sqlite:////absolute/file.db`` or ``mongodb://host:27017/database?replicaSet=rs0``.
    ``native``: whether a store that can shall keep native documents. ValueError with one sentence for anything else
    (the URL is not repeated: it may hold a password).
    """
    scheme = url.partition(":")[0]
    if scheme in ("mongodb", "mongodb+srv"):
        from fhirserver.store.mongo import MongoStore  # its driver takes a tenth of a second to import

        return MongoStore(url, clock=clock, native=native)
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        raise ValueError("The store's URL must begin with sqlite:/// (a file) or mongodb:// (a replica set).")
    path = unquote(parts.path[1:])
    if parts.netloc or not path or parts.query or parts.fragment:
        raise ValueError("A SQLite store's URL is sqlite:///relative.db or sqlite:////absolute/file.db.")
    return SqliteStore(path, clock=clock)

"""Open the store a URL names; the only place that knows which adapters there are."""

from __future__ import annotations

from collections.abc import Callable
from urllib.parse import unquote, urlsplit

from fhirserver.store.port import Store
from fhirserver.store.sqlite import SqliteStore


def open_store(url: str, *, clock: Callable[[], int]) -> Store:
    """The store behind ``url``, not yet started; ``clock`` gives milliseconds since 1970.

    ``sqlite:///relative.db`` and ``sqlite:////absolute/file.db``. ValueError with one sentence for anything else
    (the URL is not repeated: it may hold a password).
    """
    parts = urlsplit(url)
    if parts.scheme != "sqlite":
        raise ValueError("The store's URL must begin with sqlite:/// (a file); no other store is supported yet.")
    path = unquote(parts.path[1:])
    if parts.netloc or not path or parts.query or parts.fragment:
        raise ValueError("A SQLite store's URL is sqlite:///relative.db or sqlite:////absolute/file.db.")
    return SqliteStore(path, clock=clock)

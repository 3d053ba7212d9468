"""A client that may write whatever the operator may."""

from __future__ import annotations

import httpx

from tests.served import Served

FHIR = "application/fhir+json"
WRITER = "system/*.cruds"


def writer(server: Served, **headers: str) -> httpx.AsyncClient:
    """With the operator's token; ``headers`` go with every request."""
    return server.client(server.token(scope=WRITER), headers=headers)

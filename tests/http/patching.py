"""Patches as they are sent over HTTP, and what is answered."""

from __future__ import annotations

import json
from typing import Any

import httpx

from tests.served import Served

FULL = "system/*.cruds"

JSON_PATCH = {"Content-Type": "application/json-patch+json"}

FHIR = {"Content-Type": "application/fhir+json"}

GENDER = [{"op": "add", "path": "/gender", "value": "female"}]


def writer(server: Served, org: str = "clinic", scope: str = FULL) -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=scope))


async def changed(client: httpx.AsyncClient, url: str, operations: Any, **headers: str) -> httpx.Response:
    """A JSON Patch; header names with ``_`` for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.patch(url, content=json.dumps(operations), headers={**JSON_PATCH, **named})


def replaced(path: str, **value: Any) -> dict[str, Any]:
    """A FHIRPath Patch of one replacement."""
    parts = [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": path},
        {"name": "value", **value},
    ]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}


def issue(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    first: dict[str, Any] = body["issue"][0]
    return first


def content(answer: httpx.Response) -> dict[str, Any]:
    """The resource without what the server stamps."""
    body: dict[str, Any] = answer.json()
    body["meta"] = {name: value for name, value in body["meta"].items() if name not in ("versionId", "lastUpdated")}
    return {name: value for name, value in body.items() if value != {}}

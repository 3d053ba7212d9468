"""Native documents of made-up resources, as a commit would make them."""

from __future__ import annotations

import json
from typing import Any

from fhirserver.core.model import Facts, Key
from fhirserver.core.stamp import prepare
from fhirserver.core.validate import issues
from fhirserver.store.mongo.native import document

FACTS = Facts("org", ("party",), ("p1",), ("system|R",), ("p1", "p2"))
KEY = Key("Observation", "o1")
Document = dict[str, Any]


def content(raw: bytes, id: str = "o1") -> bytes:
    """What a commit hands over: prepared for stamping, with a stamp that does not count."""
    head, tail = prepare(raw, id=id)
    return head + b'"versionId":"0","lastUpdated":""' + tail


def made(resource: Document, key: Key = KEY) -> Document:
    """The document of a valid resource that must have one."""
    raw = json.dumps(resource).encode()
    assert issues(raw)[1] == []
    found = document(key, content(raw, key.id), FACTS)
    assert found is not None
    return found

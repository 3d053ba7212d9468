"""Ingest into a real store in a temporary folder, and read back what is there."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from fhirserver.app import Runtime, opened
from fhirserver.config import Settings
from fhirserver.core.model import Key, Query, Record
from ingest.load import Options, Progress, Report, ingest
from tests.stores import fresh, settings

Resource = dict[str, Any]


class Imports:
    """A store that files are brought into."""

    def __init__(self, runtime: Runtime, folder: Path) -> None:
        self.runtime = runtime
        self.folder = folder
        self.rejects = folder / "rejects.ndjson"

    async def ingest(
        self,
        *paths: Path,
        organization: str = "org",
        progress: Callable[[Progress], None] = lambda _: None,
        **options: Any,
    ) -> Report:
        """One run for this custodian; no Persons are made unless asked for."""
        scoped = self.runtime.gate.system(subject="test", organization=organization, purpose="ingest")
        given = Options(**{"persons": False, "rejects": self.rejects, "scratch": self.folder, **options})
        return await ingest(paths, scoped, given, progress)

    async def records(self, **query: Any) -> dict[Key, Record]:
        """What is current."""
        scoped = self.runtime.gate.system(subject="test", organization="operator", purpose="test")
        return {record.key: record async for batch in scoped.scan(Query(**query)) for record in batch}

    async def resources(self, **query: Any) -> dict[str, Resource]:
        """What is current, by ``Type/id``, without `meta`."""
        scoped = self.runtime.gate.system(subject="test", organization="operator", purpose="test")
        found: dict[str, Resource] = {}
        for key, record in (await self.records(**query)).items():
            found[str(key)] = json.loads(await scoped.whole(record))
            del found[str(key)]["meta"]
        return found

    def rejections(self) -> list[dict[str, Any]]:
        """The lines of the rejects file."""
        return [json.loads(line) for line in self.rejects.read_bytes().splitlines()]

    def write(self, name: str, *documents: Any) -> Path:
        """A file in the folder: bytes as they are, anything else as one line of JSON each."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(
            b"\n".join(item if isinstance(item, bytes) else json.dumps(item).encode() for item in documents)
        )
        return path


@asynccontextmanager
async def imports(folder: Path, kind: str = "sqlite") -> AsyncIterator[Imports]:
    """A new store of this kind; its files lie in ``folder``."""
    with fresh(kind, folder) as url:
        async with opened(msgspec.convert(settings(url, folder), Settings)) as runtime:
            yield Imports(runtime, folder)


def patient(id_: str | None = None, **more: Any) -> Resource:
    return _resource("Patient", id_, more)


def observation(subject: str, id_: str | None = None, **more: Any) -> Resource:
    content = {"status": "final", "code": {"text": "weight"}, "subject": {"reference": subject}}
    return _resource("Observation", id_, {**content, **more})


def practitioner(id_: str | None, value: str, system: str = "http://npi", **more: Any) -> Resource:
    return _resource("Practitioner", id_, {"identifier": [{"system": system, "value": value}], **more})


def _resource(type_: str, id_: str | None, content: Resource) -> Resource:
    return {"resourceType": type_, **({} if id_ is None else {"id": id_}), **content}


def entry(resource: Resource, url: str | None = None, method: str = "POST", **request: Any) -> Resource:
    """An entry of a transaction or batch."""
    type_ = resource["resourceType"]
    target = type_ if method == "POST" else f"{type_}/{resource.get('id')}"
    named = {} if url is None else {"fullUrl": url}
    return {**named, "resource": resource, "request": {"method": method, "url": target, **request}}


def bundle(*entries: Resource, kind: str = "transaction") -> Resource:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}

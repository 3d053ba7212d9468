"""Ways to make and to read histories over HTTP."""

from __future__ import annotations

from typing import Any

from fhirserver.core.model import Key
from fhirserver.core.validate import issues
from fhirserver.policy.gate import Erase
from tests.build import Resource, put
from tests.served import Served

NOW = 1_800_000_000_000


class Clock:
    """Stands still until it is moved."""

    now = NOW

    def __call__(self) -> int:
        return self.now


async def delete(server: Served, reference: str, org: str = "operator") -> None:
    await server.gate.system(subject="test", organization=org, purpose="test").write([Erase(key=Key.parse(reference))])


async def write(server: Served, *resources: Resource) -> None:
    """Store these, Consents so that they count."""
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    for resource in resources:
        await scoped.write([put(resource)])


async def history(server: Served, path: str, token: str | None = None, **options: Any) -> Resource:
    answer = await server.get(path, token, **options)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/fhir+json; charset=utf-8"
    assert issues(answer.content)[1] == []
    bundle: Resource = answer.json()
    assert bundle["type"] == "history"
    assert bundle.get("entry") != []
    return bundle


def told(bundle: Resource) -> list[str]:
    """``method Type/id/version`` of each entry."""
    return [
        f"{entry['request']['method']} {'/'.join(entry['fullUrl'].split('/')[-2:])} {entry['response']['etag'][3:-1]}"
        for entry in bundle.get("entry", [])
    ]


def link(bundle: Resource, relation: str) -> str | None:
    return next((each["url"] for each in bundle["link"] if each["relation"] == relation), None)


async def walked(server: Served, path: str, token: str | None = None) -> list[str]:
    """What all pages tell, put together."""
    found: list[str] = []
    url: str | None = path
    async with server.client(token) as client:
        while url:
            answer = await client.get(url)
            assert answer.status_code == 200, answer.text
            found += told(answer.json())
            url = link(answer.json(), "next")
    return found

"""concat(pages) = stream = set at the snapshot, whatever is written meanwhile; nothing twice, nothing missed.

A random chart (two Patients of one Person, shared and moving resources, supporting ones) is streamed, then walked in
pages of a random size with random writes, updates, moves and deletes between the pages, and compared with the stream
and with a plain dict that knows what the chart holds.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.core.model import Key
from tests.build import Resource, by, condition, load, observation, patient, person, practitioner
from tests.counts import examples
from tests.served import Served, served
from tests.stores import KINDS

PATIENTS = ("a", "b", "stranger")
DOCTORS = ("d1", "d2", "d3")
Members = dict[tuple[str, str], Resource]

_ids = st.sampled_from([f"r{number}" for number in range(8)])
_observations = st.builds(
    lambda id, of, doctors, shared: observation(
        id, of, performer=by(*doctors) + ([{"reference": "Patient/b"}] if shared else []) or by("d1")
    ),
    _ids,
    st.sampled_from(PATIENTS),
    st.lists(st.sampled_from(DOCTORS), max_size=2),
    st.booleans(),
)
_conditions = st.builds(condition, _ids, st.sampled_from(PATIENTS))
_doctors = st.builds(lambda id, gender: practitioner(id, gender=gender), st.sampled_from(DOCTORS),
                     st.sampled_from(["male", "female", "other"]))  # fmt: skip
_writes = st.lists(
    st.one_of(
        _observations,
        _conditions,
        _doctors,
        st.builds(Key, st.sampled_from(["Observation", "Condition"]), _ids),
    ),
    max_size=4,
)
_types = st.sampled_from([None, "Observation", "Observation,Practitioner", "Condition,Patient", "Person,Practitioner"])


class World:
    """The server's store and a dict of what it should hold."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.live: Members = {}
        self.scoped = server.gate.system(subject="test", organization="operator", purpose="test")

    async def apply(self, writes: list[Resource | Key]) -> set[tuple[str, str]]:
        """Write and delete; the keys that changed."""
        changed: set[tuple[str, str]] = set()
        for write in writes:
            if isinstance(write, Key):
                if tuple(write) in self.live:
                    await self.scoped.delete([write])
                    del self.live[tuple(write)]
                    changed.discard(tuple(write))
                continue
            key = (write["resourceType"], write["id"])
            if self.live.get(key) != write:
                await load(self.server.gate, [write])
                self.live[key] = write
                changed.add(key)
        return changed

    def expected(self, types: str | None) -> set[tuple[str, str]]:
        """The chart of the Person ``both`` by the definition: compartment members and what they refer to."""
        members: Members = {}
        for key, resource in self.live.items():
            text = str(resource.get("subject", "")) + str(resource.get("performer", ""))
            if "'Patient/a'" in text or "'Patient/b'" in text or key in (("Patient", "a"), ("Patient", "b")):
                members[key] = resource
        doctors = {
            ("Practitioner", item["reference"].split("/")[1])
            for resource in members.values()
            for item in resource.get("performer", ())
            if item["reference"].startswith("Practitioner/")
        }
        everything = {("Person", "both"), *members, *(doctors & self.live.keys())}
        wanted = types.split(",") if types else None
        return {key for key in everything if wanted is None or key[0] in wanted}


def entries(bundle: dict[str, Any]) -> list[tuple[str, str, str]]:
    resources = [entry["resource"] for entry in bundle.get("entry", [])]
    return [(r["resourceType"], r["id"], r["meta"]["versionId"]) for r in resources]


async def follow(client: httpx.AsyncClient, bundle: dict[str, Any]) -> dict[str, Any] | None:
    urls = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
    if not urls:
        return None
    answer = await client.get(urls[0])
    assert answer.status_code == 200, answer.text
    following: dict[str, Any] = answer.json()
    return following


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_the_stream_and_since_misses_nothing(kind: str) -> None:
    @settings(max_examples=examples(40, kind))
    @given(
        st.lists(st.one_of(_observations, _conditions), max_size=12),
        st.lists(_writes, max_size=6),
        st.integers(1, 5),
        _types,
    )
    def holds(begun: list[Resource], steps: list[list[Resource | Key]], count: int, types: str | None) -> None:
        asyncio.run(walk(kind, begun, steps, count, types))

    holds()


async def walk(
    kind: str, begun: list[Resource], steps: list[list[Resource | Key]], count: int, types: str | None
) -> None:
    """Stream, walk in pages with a step of writes between them, ask for what changed since."""
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), kind) as server, server.client() as client:
            world = World(server)
            await world.apply([*(practitioner(name) for name in DOCTORS), *map(patient, PATIENTS)])
            await world.apply([person("both", "a", "b"), *begun])
            parameters: dict[str, Any] = {"_type": types} if types else {}
            stream = (await client.get("Person/both/$everything", params=parameters)).json()
            assert {entry[:2] for entry in entries(stream)} == world.expected(types)

            page: dict[str, Any] | None
            page = (await client.get("Person/both/$everything", params={**parameters, "_count": count})).json()
            walked: list[tuple[str, str, str]] = []
            remaining = list(steps)
            changed: set[tuple[str, str]] = set()
            while page is not None:
                assert page["total"] == len(entries(stream))
                walked += entries(page)
                if remaining:
                    writes = remaining.pop(0)
                    changed -= {tuple(write) for write in writes if isinstance(write, Key)}
                    changed |= await world.apply(writes)
                page = await follow(client, page)
            assert walked == entries(stream)
            assert len(set(walked)) == len(walked)

            for writes in remaining:
                changed -= {tuple(write) for write in writes if isinstance(write, Key)}
                changed |= await world.apply(writes)
            since = {**parameters, "_since": stream["timestamp"]}
            later = (await client.get("Person/both/$everything", params=since)).json()
            found = {entry[:2] for entry in entries(later)}
            assert changed & world.expected(types) <= found <= world.expected(types)

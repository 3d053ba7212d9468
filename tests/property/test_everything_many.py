"""The charts of a type under arbitrary writes: the pages are the stream, each entry once, and all of them are there."""

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
from tests.build import Resource, load, observation, patient, practitioner
from tests.counts import examples
from tests.served import Served, served
from tests.stores import KINDS

PATIENTS = ("a", "b", "c")
BINARIES = ("x", "y", "z")
_numbers = st.integers(0, 5)


def document(number: int, of: str, binaries: list[str]) -> Resource:
    content = [{"attachment": {"url": f"Binary/{each}"}} for each in binaries]
    subject = {"reference": f"Patient/{of}"}
    return {
        "resourceType": "DocumentReference",
        "id": f"d{number}",
        "status": "current",
        "subject": subject,
        "content": content,
    }


def seen_by(number: int, of: str, doctor: str) -> Resource:
    return observation(f"o{number}", of, performer=[{"reference": f"Practitioner/{doctor}"}])


def binary(id: str, text: str = "eA==") -> Resource:
    return {"resourceType": "Binary", "id": id, "contentType": "text/plain", "data": text}


def doctor(id: str, photo: str | None) -> Resource:
    return practitioner(id, **({"photo": [{"url": f"Binary/{photo}"}]} if photo else {}))


_documents = st.builds(
    document, _numbers, st.sampled_from(PATIENTS), st.lists(st.sampled_from(BINARIES), min_size=1, max_size=4)
)
_seen = st.builds(seen_by, _numbers, st.sampled_from(PATIENTS), st.sampled_from(("d1", "d2")))
_doctors = st.builds(doctor, st.sampled_from(("d1", "d2")), st.sampled_from((None, *BINARIES)))
_binaries = st.builds(binary, st.sampled_from(BINARIES), st.sampled_from(("eA==", "eQ==")))
_gone = st.builds(Key, st.sampled_from(("DocumentReference", "Observation")), _numbers.map(str))
_writes = st.lists(st.one_of(_documents, _seen, _doctors, _binaries, _gone), max_size=4)


class World:
    """What the store holds, by key."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.live: dict[tuple[str, str], Resource] = {}

    async def apply(self, writes: list[Any]) -> set[tuple[str, str]]:
        """Carry out the writes; the keys that are new or changed."""
        changed: set[tuple[str, str]] = set()
        scoped = self.server.gate.system(subject="test", organization="operator", purpose="test")
        for write in writes:
            if isinstance(write, Key):
                key = Key(write.type, ("d" if write.type == "DocumentReference" else "o") + write.id)
                if self.live.pop(tuple(key), None):
                    await scoped.delete([key])
                changed.discard(tuple(key))
            else:
                key = Key(write["resourceType"], write["id"])
                if self.live.get(tuple(key)) != write:
                    await load(self.server.gate, [write])
                    self.live[tuple(key)] = write
                    changed.add(tuple(key))
        return changed

    def expected(self) -> set[tuple[str, str]]:
        """Members, and what they lead to, by the definition."""
        found = {key for key in self.live if key[0] in ("Patient", "DocumentReference", "Observation")}
        found |= {("Person", name) for name in PATIENTS}
        for _ in range(3):
            named = {name for key in found & self.live.keys() for name in leads_to(self.live[key])}
            found |= named & self.live.keys()
        return found


def leads_to(resource: Resource) -> list[tuple[str, str]]:
    text = [item["reference"] for item in resource.get("performer", ())]
    text += [item["attachment"]["url"] for item in resource.get("content", ())]
    text += [item["url"] for item in resource.get("photo", ())]
    return [(name.split("/")[0], name.split("/")[1]) for name in text]


def entries(bundle: dict[str, Any]) -> list[tuple[str, str]]:
    resources = [entry["resource"] for entry in bundle.get("entry", [])]
    return [(resource["resourceType"], resource["id"]) for resource in resources]


async def follow(client: httpx.AsyncClient, bundle: dict[str, Any]) -> dict[str, Any] | None:
    urls = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
    if not urls:
        return None
    answer = await client.get(urls[0])
    assert answer.status_code == 200, answer.text
    following: dict[str, Any] = answer.json()
    return following


@pytest.mark.parametrize("kind", KINDS)
def test_pages_of_a_type_are_its_stream_and_since_misses_nothing(kind: str) -> None:
    @settings(max_examples=examples(30, kind))
    @given(_writes, st.lists(_writes, max_size=5), st.integers(1, 5), st.sampled_from(["Patient", "Person"]))
    def holds(begun: list[Any], steps: list[list[Any]], count: int, type_: str) -> None:
        with pytest.MonkeyPatch.context() as patch:
            for module in ("feed", "everything"):  # else all is news, so soon after it was written
                patch.setattr(f"fhirserver.http.{module}.OVERLAP_MILLISECONDS", 0)
            asyncio.run(walk(kind, begun, steps, count, type_))

    holds()


async def walk(kind: str, begun: list[Any], steps: list[list[Any]], count: int, type_: str) -> None:
    """Stream, walk in pages with a step of writes between them, ask for what changed since."""
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), kind) as server, server.client() as client:
            world = World(server)
            await world.apply([*map(binary, BINARIES), doctor("d1", None), doctor("d2", "z"), *map(patient, PATIENTS)])
            await world.apply(begun)
            path = f"{type_}/$everything"
            stream = (await client.get(path)).json()
            assert sorted(entries(stream)) == sorted(world.expected())

            page: dict[str, Any] | None = (await client.get(path, params={"_count": count})).json()
            walked: list[tuple[str, str]] = []
            changed: set[tuple[str, str]] = set()
            remaining = list(steps)
            while page is not None:
                walked += entries(page)
                if remaining:
                    changed |= await world.apply(remaining.pop(0))
                page = await follow(client, page)
            assert walked == entries(stream)

            for writes in remaining:
                changed |= await world.apply(writes)
            later = (await client.get(path, params={"_since": stream["timestamp"]})).json()
            found = entries(later)
            assert len(found) == len(set(found))
            assert changed & world.expected() <= set(found) <= world.expected()

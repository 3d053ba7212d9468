"""concat(pages) = every version at the snapshot that the caller may see, whatever is written between the pages.

Observations that change, move between patients, gain a restricted label or a party, are deleted and come back, and
Practitioners, whom everybody may see. A list of what was written says what each caller gets: a version whose own facts
admit it, whose resource's version at the snapshot does, and whose resource's version does when the page is read.
"""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fhirserver.core.model import Facts, Key, Record, parse_facts
from fhirserver.core.validate import parse
from fhirserver.policy.gate import Erase, Put
from tests.admitted import consent, marks
from tests.build import observation, patient, practitioner, put
from tests.counts import examples
from tests.served import Served, served
from tests.stores import KINDS

MEMBER, THIRD = "clinic", "reader"
CALLERS = ("operator", "member", "third-party")
PATHS = ("Observation", "Practitioner", "Observation/o1", "")


class Write(NamedTuple):
    """One change: of ``id`` to be about ``of``; without ``of`` it is deleted."""

    id: str
    of: str | None = "p"
    label: bool = False
    custodian: str = MEMBER
    party: bool = False


_ids = st.sampled_from(["o1", "o2", "o3", "dr"])
_writes = st.builds(
    Write,
    _ids,
    st.sampled_from(["p", "p", "q", None]),
    st.booleans(),
    st.sampled_from([MEMBER, "other"]),
    st.booleans(),
)
_steps = st.lists(st.lists(_writes, max_size=3), max_size=5)


class World:
    """A server and the list of what was written to it."""

    def __init__(self, server: Served) -> None:
        self.server = server
        self.written: list[Record] = []
        self.number = 0

    async def begin(self) -> None:
        scoped = self.server.gate.system(subject="test", organization="operator", purpose="test")
        for resource in (patient("p"), patient("q"), consent("c", "p", THIRD)):
            self.written += await scoped.write([put(resource)], persons=False)

    async def apply(self, writes: list[Write]) -> None:
        for write in writes:
            type_ = "Practitioner" if write.id == "dr" else "Observation"
            now = self.now().get(Key(type_, write.id))
            if write.of is None and (now is None or now.deleted):
                continue
            self.number += 1
            keeper = write.custodian if now is None else parse_facts(now.facts).custodian
            scoped = self.server.gate.system(subject="test", organization=keeper, purpose="test")
            self.written += await scoped.write([self._change(type_, write)], persons=False)

    def _change(self, type_: str, write: Write) -> Put | Erase:
        if write.of is None:
            return Erase(key=Key(type_, write.id))
        more: dict[str, Any] = {"meta": {"security": marks("HIV")}} if write.label else {}
        name = f"{self.number}"
        resource = (
            practitioner(write.id, name=[{"family": name}])
            if type_ == "Practitioner"
            else observation(write.id, write.of, code={"text": name}, **more)
        )
        made = put(resource)
        parties = (MEMBER,) if write.party else ()
        return Put(resource=parse(made.raw), raw=made.raw, id=write.id, parties=parties)

    def now(self, seq: int | None = None) -> dict[Key, Record]:
        """The version of each resource that is current (right after ``seq``)."""
        return {record.key: record for record in self.written if seq is None or record.seq <= seq}

    def visible(self, caller: str, record: Record) -> bool:
        facts = parse_facts(record.facts)
        if caller == "operator" or record.type == "Practitioner":
            return True
        if caller == "member":
            return MEMBER in (facts.custodian, *facts.parties)
        return _open_to_reader(record.type, facts)

    def history(self, caller: str, path: str, seq: int) -> list[Record]:
        """What the caller may see at the snapshot, newest first."""
        then = self.now(seq)
        return [
            record
            for record in reversed(self.written)
            if record.seq <= seq
            and path in ("", record.type, str(record.key))
            and self.visible(caller, record)
            and self.visible(caller, then[record.key])
        ]


def _open_to_reader(type_: str, facts: Facts) -> bool:
    """One Consent opens what is about p alone and carries no restricted label; the Consent names its actor."""
    return facts.owners == ("p",) and not facts.labels and type_ in ("Observation", "Patient", "Consent")


def told(bundle: dict[str, Any]) -> list[str]:
    found = []
    for entry in bundle.get("entry", []):
        key = "/".join(entry["fullUrl"].split("/")[-2:])
        version = entry["response"]["etag"].split('"')[1]
        assert (entry["request"]["method"] == "DELETE") == ("resource" not in entry)
        if "resource" in entry:
            assert entry["resource"]["meta"]["versionId"] == version
        found.append(f"{key}/{version}")
    return found


def names(records: list[Record]) -> list[str]:
    return [f"{record.key}/{record.version}" for record in records]


@pytest.mark.parametrize("kind", KINDS)
def test_pages_are_the_history_at_the_snapshot_for_every_caller(kind: str) -> None:
    @settings(max_examples=examples(25, kind))
    @given(
        st.lists(_writes, max_size=10),
        _steps,
        st.sampled_from(CALLERS),
        st.sampled_from(PATHS),
        st.integers(1, 4),
    )
    @example([Write("o1"), Write("o1"), Write("o2"), Write("o1")], [[Write("o1", label=True)]], "third-party", "", 1)
    @example([Write("o1"), Write("o1"), Write("o1")], [[Write("o1", None)]], "member", "Observation/o1", 1)
    def holds(begun: list[Write], steps: list[list[Write]], caller: str, path: str, count: int) -> None:
        asyncio.run(walk(kind, begun, steps, caller, path, count))

    holds()


async def walk(kind: str, begun: list[Write], steps: list[list[Write]], caller: str, path: str, count: int) -> None:
    """Walk a history page by page with writes between them, and hold each page to the list."""
    org = {"operator": "operator", "member": MEMBER, "third-party": THIRD}[caller]
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), kind) as server, server.client(server.token(caller, org=org)) as client:
            world = World(server)
            await world.begin()
            await world.apply(begun)
            snapshot = world.written[-1].seq
            expected = world.history(caller, path, snapshot)
            answer = await client.get(f"{path}/_history".lstrip("/"), params={"_count": count})
            if "/" in path and not expected:
                assert answer.status_code == (403 if caller == "third-party" else 404)
                return
            # What a third party may see of a type is not counted out to it.
            total = len(expected) if caller != "third-party" or "/" in path else None
            await _hold(world, client, answer, caller, expected, total, list(steps), count)


async def _hold(
    world: World,
    client: httpx.AsyncClient,
    answer: httpx.Response,
    caller: str,
    expected: list[Record],
    total: int | None,
    steps: list[list[Write]],
    count: int,
) -> None:
    seen: list[str] = []
    left = expected
    while True:
        bundle = answer.json()
        shown = [record for record in left if world.visible(caller, world.now()[record.key])]
        assert told(bundle) == names(shown[:count])
        assert bundle.get("total") == total
        seen += told(bundle)
        urls = [link["url"] for link in bundle["link"] if link["relation"] == "next"]
        assert bool(urls) == (len(shown) > count)
        if not urls:
            break
        left = [record for record in left if record.seq < shown[count - 1].seq]
        if steps:
            await world.apply(steps.pop(0))
        answer = await client.get(urls[0])
        if answer.status_code in (403, 404):  # the one resource is hidden altogether by now
            [key] = {record.key for record in expected}
            assert not world.visible(caller, world.now()[key])
            return
        assert answer.status_code == 200, answer.text
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("kind", KINDS)
async def test_writers_beside_a_walk_change_nothing_of_it(kind: str, tmp_path: Path) -> None:
    """Writes fall inside the requests, too, not only between them."""
    async with served(tmp_path, kind) as server, server.client(server.token("member", org=MEMBER)) as client:
        world = World(server)
        await world.begin()
        await world.apply([Write(id, "p") for id in ("o1", "o2", "o3") for _ in range(10)])
        walking = True

        async def write() -> None:
            while walking:
                for id in ("o1", "o2", "o3"):
                    await world.apply([Write(id, "p"), Write(id, None)])

        writing = asyncio.create_task(write())
        try:
            for count in (1, 4):
                answer = (await client.get("Observation/_history", params={"_count": count})).json()
                seen: list[str] = []
                while True:
                    seen += told(answer)
                    urls = [link["url"] for link in answer["link"] if link["relation"] == "next"]
                    if not urls:
                        break
                    answer = (await client.get(urls[0])).json()
                assert len(seen) == answer["total"] >= 30
                snapshot = next(record.seq for record in world.written if names([record]) == seen[:1])
                assert seen == names(world.history("member", "Observation", snapshot))
        finally:
            walking = False
            await writing

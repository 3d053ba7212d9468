"""Every way to data gives each caller what a naive evaluation of scopes, custody, Consents and labels lets it see.

The evaluation (`tests/oracle/access.py`) is written apart from `policy` and works resource by resource. A case is one
caller in one random world, asked by read, vread, histories, searches, totals, includes, chains, `_has`, `$everything`,
batch entries and Binary content.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhirserver.core.model import Key
from fhirserver.policy import dossier
from tests.build import load, organization, put
from tests.counts import PROOF
from tests.oracle.access import Caller, Version, World
from tests.oracle.access_worlds import Maker, scope_text
from tests.served import Served, served
from tests.stores import KINDS

CALLERS = 7
WORLDS = 2_000 // CALLERS // 2 + 1 if PROOF else 3
"""Decided in each of two ways, over each kind of store: 2,000 cases on each kind for the proof."""
HIDDEN = {"operator": 404, "member": 404, "third-party": 403, "patient": 403}
SEARCHED = ("Patient", "Observation", "Condition", "Encounter", "DocumentReference", "Binary", "Provenance", "Consent",
            "Practitioner")  # fmt: skip
IN_CHART = {"Patient", "Observation", "Condition", "Encounter", "DocumentReference", "Consent"}

Wrong = list[tuple[Any, ...]]


async def made(server: Served, maker: Maker) -> World:
    """The world in the store, and as the oracle sees it: what the operator reads of each key."""
    system = server.gate.system(subject="test", organization="operator", purpose="test")
    await load(server.gate, [organization(name) for name in ("app", "rival", "north", "south")])
    custody: dict[str, str] = {f"Organization/{name}": "operator" for name in ("app", "rival", "north", "south")}
    for custodian, resource, deleted in maker.steps:
        key = f"{resource['resourceType']}/{resource['id']}"
        custody[key] = custodian
        if deleted:
            await system.delete([Key.parse(key)])
        else:
            await load(server.gate, [resource], organization=custodian, persons=False)
    counting = set()
    for consent, counts in maker.consents:
        key = f"Consent/{consent['id']}"
        custody[key] = maker.custody[consent["patient"]["reference"].partition("/")[2]]
        if counts:
            await system.write([put(consent)])
            counting.add(key)
        else:  # brought along by an import that does not trust it
            await load(server.gate, [consent], organization=custody[key])
    versions: dict[str, list[Version]] = {}
    async with server.client() as client:
        for key, custodian in custody.items():
            entries = (await client.get(f"{key}/_history?_count=100")).json()["entry"][::-1]
            versions[key] = []
            for number, entry in enumerate(entries, 1):
                deleted = entry["request"]["method"] == "DELETE"
                content = versions[key][-1].content if deleted else entry["resource"]
                versions[key].append(Version(custodian, number, content, deleted))
    return World(versions, counting)


def found(answer: httpx.Response, mode: str = "match") -> list[str]:
    assert answer.status_code == 200, answer.text
    entries = answer.json().get("entry", [])
    return sorted(f"{each['resource']['resourceType']}/{each['resource']['id']}" for each in entries
                  if each["search"]["mode"] == mode)  # fmt: skip


def past(answer: httpx.Response) -> list[str]:
    """The versions of a history, as ``Type/id/version``."""
    entries = answer.json().get("entry", [])
    return sorted(f"{each['fullUrl'].rpartition('/R4/')[2]}/{each['response']['etag'][3:-1]}" for each in entries)


class Case:
    """One caller in one world, way by way."""

    def __init__(self, world: World, caller: Caller, get: Callable[..., Awaitable[httpx.Response]]) -> None:
        self.world = world
        self.caller = caller
        self.get = get
        self.wrong: Wrong = []

    def same(self, way: str, got: object, expected: object) -> None:
        if got != expected:
            self.wrong.append((self.caller, way, got, expected))

    def named(self, letters: str) -> set[str]:
        """The types that the scopes name for all of these letters."""
        return {type_ for type_ in SEARCHED
                if all(any(each in ("*", type_) for each, given, _ in self.caller.scopes if letter in given)
                       for letter in letters)}  # fmt: skip

    def status(self, version: Version) -> int:
        """What reading a version by its id answers."""
        if version.type != "Organization" and version.type not in self.named("r"):
            return 403
        if version.type == "Organization" and not any(
            each == "*" for each, given, _ in self.caller.scopes if "r" in given
        ):
            return 403
        if not self.world.reads(self.caller, version, "r"):
            return HIDDEN[self.caller.kind]
        if version.deleted:
            return 410 if self.caller.kind in ("operator", "member") else 403
        return 200

    def seen(self, letters: str, type_: str = "") -> list[Version]:
        return [each for each in self.world.current()
                if type_ in ("", each.type) and self.world.sees(self.caller, each, letters)]  # fmt: skip

    def keys(self, letters: str, type_: str = "") -> list[str]:
        return sorted(each.key for each in self.seen(letters, type_))

    async def run(self, batch: Callable[[list[str]], Awaitable[list[int]]]) -> Wrong:
        await self.reading(batch)
        await self.searching()
        await self.joining()
        await self.looking_back()
        await self.charts()
        return self.wrong

    async def reading(self, batch: Callable[[list[str]], Awaitable[list[int]]]) -> None:
        current = {key: self.status(every[-1]) for key, every in self.world.versions.items()}
        for key, every in self.world.versions.items():
            self.same(f"read {key}", (await self.get(key)).status_code, current[key])
            for each in every if len(every) > 1 else ():
                path = f"{key}/_history/{each.number}"
                self.same(path, (await self.get(path)).status_code, self.status(each))
        for key in (key for key in current if key.startswith("Binary/") and current[key] == 200):
            raw = await self.get(key, headers={"Accept": "text/plain"})
            self.same(f"content {key}", raw.content, b"x")
        if any(set(letters) & set("rs") for _, letters, _ in self.caller.scopes):
            answered = dict(zip(current, await batch(list(current)), strict=True))
            self.same("batch", answered, current)

    async def searching(self) -> None:
        limited = self.caller.kind == "third-party"
        for type_ in SEARCHED:
            answer = await self.get(f"{type_}?_count=1000")
            if type_ not in self.named("s"):
                self.same(f"search {type_}", answer.status_code, 403)
                continue
            expected = self.keys("s", type_)
            self.same(f"search {type_}", found(answer), expected)
            total = (await self.get(f"{type_}?_total=accurate&_count=1")).json().get("total")
            self.same(f"total {type_}", total, None if limited else len(expected))
            if not limited:
                counted = (await self.get(f"{type_}?_summary=count")).json().get("total")
                self.same(f"count {type_}", counted, len(expected))

    async def joining(self) -> None:
        named = self.named("s")
        if "Observation" in named:
            seen = {each.key: each.content for each in self.seen("s", "Observation")}
            men = {each.key for each in self.seen("s", "Patient") if each.content["gender"] == "male"}
            sources = {key: {each["reference"] for each in content.get("derivedFrom", [])} & seen.keys()
                       for key, content in seen.items()}  # fmt: skip
            chained = await self.get("Observation?subject:Patient.gender=male&_count=1000")
            if "Patient" in named:
                expected = sorted(key for key, each in seen.items() if each["subject"]["reference"] in men)
                self.same("chain", found(chained), expected)
            included = await self.get("Observation?_include=Observation:derived-from&_id=r0,r1&_count=1000")
            matches = {key for key in seen if key in ("Observation/r0", "Observation/r1")}
            along = set().union(*(sources[key] for key in matches)) - matches
            self.same("_include", found(included, "include"), sorted(along))
            self.same("_include, matches", found(included), sorted(matches))
        if "Patient" in named and "Observation" in named:
            subjects = {each["subject"]["reference"] for each in seen.values()}
            having = await self.get("Patient?_has:Observation:patient:status=final")
            self.same("_has", found(having), sorted(subjects & set(self.keys("s", "Patient"))))
            reverse = await self.get("Patient?_revinclude=Observation:patient&_count=1000")
            shown = set(self.keys("s", "Patient"))
            along = {key for key, each in seen.items() if each["subject"]["reference"] in shown}
            self.same("_revinclude", found(reverse, "include"), sorted(along))

    async def looking_back(self) -> None:
        for type_ in sorted(self.named("s") - {"Binary"}):
            expected = [each for every in self.world.versions.values() for each in every
                        if each.type == type_ and self.world.sees(self.caller, each, "s")]  # fmt: skip
            wanted = sorted(f"{each.key}/{each.number}" for each in expected)
            answer = await self.get(f"{type_}/_history?_count=1000")
            self.same(f"history {type_}", past(answer), wanted)
        for key, every in self.world.versions.items():
            if len(every) > 1 and every[0].type in self.named("r"):
                answer = await self.get(f"{key}/_history")
                expected = [f"{key}/{each.number}" for each in every if self.world.sees(self.caller, each, "r")]
                if self.world.sees(self.caller, every[-1], "r"):
                    self.same(f"history {key}", past(answer), sorted(expected))
                else:
                    self.same(f"history {key}", answer.status_code, HIDDEN[self.caller.kind])

    async def charts(self) -> None:
        if not any(all(letter in given for letter in "rs") for _, given, _ in self.caller.scopes):
            return
        for patient in ("a", "b", "c"):
            answer = await self.get(f"Patient/{patient}/$everything?_count=1000")
            expected = sorted(each.key for each in self.seen("rs")
                              if each.type in IN_CHART and self.world.owners(each) == {patient})  # fmt: skip
            if answer.status_code == 200:
                entries = answer.json().get("entry", [])
                keys = [f"{each['resource']['resourceType']}/{each['resource']['id']}" for each in entries]
                got = sorted(key for key in keys if key.partition("/")[0] in IN_CHART)
                self.same(f"$everything {patient}", got, expected)
                beside = set(keys) - set(got)
                self.same(f"$everything {patient}, beside", {key for key in beside if not self.may(key)}, set())
            else:
                self.same(f"$everything {patient}", (answer.status_code, []), (HIDDEN[self.caller.kind], expected))

    def may(self, key: str) -> bool:
        return self.world.reads(self.caller, self.world.versions[key][-1], "rs")


async def differences(kind: str, seed: int) -> Wrong:
    maker = Maker(seed)
    wrong: Wrong = []
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), kind) as server:
            world = await made(server, maker)
            for caller in maker.callers:
                more = {"patient": caller.patient} if caller.patient else {}
                token = server.token(caller.kind, org=caller.organization, scope=scope_text(caller),
                                     purpose=caller.purpose, **more)  # fmt: skip
                async with server.client(token) as client:

                    async def batch(keys: list[str], client: httpx.AsyncClient = client) -> list[int]:
                        entries = [{"request": {"method": "GET", "url": key}} for key in keys]
                        bundle = {"resourceType": "Bundle", "type": "batch", "entry": entries}
                        answer = await client.post("", json=bundle)
                        assert answer.status_code == 200, answer.text
                        return [int(each["response"]["status"][:3]) for each in answer.json()["entry"]]

                    wrong += await Case(world, caller, client.get).run(batch)
    return [(seed, *each) for each in wrong]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("most", [dossier.MOST_LISTED, 0], ids=["listed", "wide"])
def test_every_way_gives_what_the_naive_evaluation_lets_see(
    kind: str, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dossier, "MOST_LISTED", most)
    worlds = WORLDS if PROOF or kind == "sqlite" else 1
    wrong: Wrong = []
    for seed in range(worlds):
        # Other worlds for the other way of deciding.
        wrong += asyncio.run(differences(kind, 2 * seed + (most == 0)))
        if len(wrong) > 20:
            break
    assert wrong == []

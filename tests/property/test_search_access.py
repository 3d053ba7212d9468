"""A search finds, counts, orders, pages and includes exactly what follows from the resources that its caller may read.

Random worlds of two custodians, with Consents and labels. What a caller may read is asked by id, resource by resource;
each path is evaluated naively over that and nothing else, and compared with the server's answer.
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from fhirserver.policy import dossier
from tests.build import load, observation, organization, patient, practitioner
from tests.counts import examples
from tests.http.test_consent import grant
from tests.http.test_search import link, names
from tests.served import Served, served

WORLDS = 3
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
PATIENTS = ("a", "b", "c")
CUSTODIANS = ("north", "south")
MARK = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode"}

Resource = dict[str, Any]
World = Mapping[str, Resource]
"""What a caller reads, by ``Type/id``."""


@st.composite
def worlds(draw: st.DrawFn) -> tuple[list[tuple[str, Resource]], dict[str, list[str] | None]]:
    """(custodian, resource) each, and the patients whose Consents open these types (None: everything) to the app."""
    custody = {name: draw(st.sampled_from(CUSTODIANS)) for name in PATIENTS}
    made: list[tuple[str, Resource]] = [("operator", practitioner("dr"))]
    for name in PATIENTS:
        more = {"generalPractitioner": [{"reference": "Practitioner/dr"}]} if draw(st.booleans()) else {}
        made.append((custody[name], patient(name, gender=draw(st.sampled_from(["male", "female"])), **more)))
    for at in range(draw(st.integers(4, 9))):
        of = draw(st.sampled_from(PATIENTS))
        labels = {"meta": {"security": [{**MARK, "code": "HIV"}]}} if draw(st.integers(0, 3)) == 0 else {}
        coding = {"coding": [{"system": "urn:s", "code": draw(st.sampled_from("xy"))}], "text": "words"}
        performer = {"performer": [{"reference": "Practitioner/dr"}]} if draw(st.booleans()) else {}
        made.append(
            (
                custody[of],
                observation(f"o{at}", of, code=coding, effectiveDateTime=f"2026-01-{at + 1:02}", **performer, **labels),
            )
        )
        if draw(st.booleans()):
            about = [{"reference": f"Observation/o{at}"}]
            if at and draw(st.booleans()):
                about.append({"reference": "Observation/o0"})
            agent = [{"who": {"display": "x"}}]
            made.append(
                (custody[of], {"resourceType": "Provenance", "id": f"v{at}", "target": about,
                               "recorded": "2026-02-01T00:00:00Z", "agent": agent})
            )  # fmt: skip
    entries = [
        {"item": {"reference": f"{each['resourceType']}/{each['id']}"}} for _, each in made if draw(st.booleans())
    ]
    if entries:
        roll = {"resourceType": "List", "id": "roll", "status": "current", "mode": "working", "entry": entries}
        made.append((draw(st.sampled_from(CUSTODIANS)), roll))
    opened = {name: draw(st.sampled_from([None, ["Observation"], ["Patient", "Observation"]]))
              for name in PATIENTS if draw(st.booleans())}  # fmt: skip
    return made, opened


def referred(resource: Resource) -> set[str]:
    """All references of a resource."""

    def walk(node: Any) -> Iterator[str]:
        if isinstance(node, dict):
            if isinstance(node.get("reference"), str):
                yield node["reference"]
            for each in node.values():
                yield from walk(each)
        elif isinstance(node, list):
            for each in node:
                yield from walk(each)

    return set(walk(resource))


def of(world: World, type_: str) -> list[str]:
    return [name for name in world if name.startswith(f"{type_}/")]


def to(world: World, name: str, member: str) -> list[Resource]:
    """The resources that one refers to under a member, as far as they are there."""
    found = world[name].get(member, [])
    keys = [each["reference"] for each in (found if isinstance(found, list) else [found])]
    return [world[key] for key in keys if key in world]


def coded(resource: Resource, code: str) -> bool:
    return any(each["code"] == code for each in resource["code"]["coding"])


def observed(world: World, name: str, code: str) -> list[str]:
    """The Observations of a Patient with this code."""
    return [each for each in of(world, "Observation")
            if world[each]["subject"]["reference"] == name and coded(world[each], code)]  # fmt: skip


def listed(world: World, type_: str) -> list[str]:
    named = referred(world["List/roll"]) if "List/roll" in world else set()
    return [name for name in of(world, type_) if name in named]


FOUND: dict[str, Callable[[World], list[str]]] = {
    "Patient?gender=male": lambda w: [n for n in of(w, "Patient") if w[n]["gender"] == "male"],
    "Observation?code=x": lambda w: [n for n in of(w, "Observation") if coded(w[n], "x")],
    "Observation?code=urn:s|": lambda w: of(w, "Observation"),
    "Observation?code:text=wor": lambda w: of(w, "Observation"),
    "Observation?code:not=x": lambda w: [n for n in of(w, "Observation") if not coded(w[n], "x")],
    "Observation?subject:Patient.gender=male": lambda w: [
        n for n in of(w, "Observation") if any(p["gender"] == "male" for p in to(w, n, "subject"))
    ],
    "Observation?subject.gender=male": lambda w: [
        n for n in of(w, "Observation") if any(p["gender"] == "male" for p in to(w, n, "subject"))
    ],
    "Patient?_has:Observation:patient:code=x": lambda w: [n for n in of(w, "Patient") if observed(w, n, "x")],
    "Practitioner?_has:Observation:performer:code=x": lambda w: [
        n for n in of(w, "Practitioner")
        if any(n in referred(w[o]) and coded(w[o], "x") for o in of(w, "Observation"))
    ],
    "Practitioner?_has:Patient:general-practitioner:_has:Observation:patient:code=y": lambda w: [
        n for n in of(w, "Practitioner") if any(n in referred(w[p]) and observed(w, p, "y") for p in of(w, "Patient"))
    ],
    "Observation?_has:Provenance:target:recorded=2026": lambda w: [
        n for n in of(w, "Observation") if any(n in referred(w[v]) for v in of(w, "Provenance"))
    ],
    "Provenance?target:Observation.code=x": lambda w: [
        n for n in of(w, "Provenance") if any(coded(o, "x") for o in to(w, n, "target"))
    ],
    "Observation?_list=roll": lambda w: listed(w, "Observation"),
    "Patient?_list=roll": lambda w: listed(w, "Patient"),
    "?_type=Patient,Observation,Provenance": lambda w: [
        n for type_ in ("Patient", "Observation", "Provenance") for n in of(w, type_)
    ],
}  # fmt: skip

ALONG: dict[str, Callable[[World, str], set[str]]] = {
    "_include=Observation:subject": lambda w, n: {r for r in referred(w[n]) if r.startswith("Patient/")},
    "_include=*": lambda w, n: referred(w[n]),
    "_revinclude=Provenance:target": lambda w, n: {v for v in of(w, "Provenance") if n in referred(w[v])},
}


async def everything(server: Served, world: list[tuple[str, Resource]], token: str) -> dict[str, Resource]:
    """What this caller reads by id."""
    read: dict[str, Resource] = {}
    async with server.client(token) as client:
        for _, resource in world:
            name = f"{resource['resourceType']}/{resource['id']}"
            answer = await client.get(name)
            if answer.status_code == 200:
                read[name] = answer.json()
    return read


async def walked(server: Served, query: str, token: str) -> list[str]:
    """The matches of all pages."""
    found: list[str] = []
    async with server.client(token) as client:
        answer = await client.get(query)
        while True:
            found += names(answer)
            following = link(answer, "next")
            if not following:
                return found
            answer = await client.get(following)


async def differences(
    world: list[tuple[str, Resource]], opened: dict[str, list[str] | None]
) -> list[tuple[str, str, object, object]]:
    """(caller, search, answered, expected) where they differ."""
    wrong: list[tuple[str, str, object, object]] = []
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder)) as server:
            await load(server.gate, [organization(name) for name in ("app", *CUSTODIANS)])
            for custodian, resource in world:
                await load(server.gate, [resource], organization=custodian, persons=False)
            for name, types in opened.items():
                await grant(server, name, **({"types": types} if types else {}))
            callers = {
                "operator": server.token(),
                "member": server.token("member", org="north"),
                "narrow": server.token("member", org="north", scope="system/Observation.rs system/Practitioner.rs"),
                "app": server.token("third-party", org="app"),
                "narrow app": server.token("third-party", org="app", scope="patient/Observation.rs"),
                "patient": server.token("patient", org="north", patient="a"),
            }
            for caller, token in callers.items():
                read = await everything(server, world, token)
                for query, expect in FOUND.items():
                    if "narrow" in caller and (query.startswith("?") or not query.startswith("Observation")):
                        continue
                    expected = sorted(expect(read))
                    got = {
                        "plain": names(await server.get(query, token)),
                        "paged": await walked(server, f"{query}&_count=1", token),
                        "sorted": await walked(server, f"{query}&_count=2&_sort=-_id", token),
                    }
                    for how, found in got.items():
                        if sorted(found) != expected:
                            wrong.append((caller, f"{query} ({how})", found, expected))
                    total = (await server.get(f"{query}&_total=accurate", token)).json().get("total")
                    if total != (None if caller in ("app", "narrow app") else len(expected)):
                        wrong.append((caller, f"{query} (total)", total, len(expected)))
                if "narrow" in caller:
                    continue
                for more, along in ALONG.items():
                    answer = await server.get(f"Observation?{more}", token)
                    wanted = set().union(*(along(read, name) for name in of(read, "Observation")))
                    expected = sorted(wanted & read.keys())
                    if sorted(names(answer, "include")) != expected:
                        wrong.append((caller, more, names(answer, "include"), expected))
    return wrong


@pytest.mark.parametrize("most", [dossier.MOST_LISTED, 0], ids=["listed", "wide"])
@settings(max_examples=examples(WORLDS), phases=PHASES)
@given(drawn=worlds())
def test_every_path_answers_from_what_its_caller_reads_by_id(
    most: int, drawn: tuple[list[tuple[str, Resource]], dict[str, list[str] | None]]
) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(dossier, "MOST_LISTED", most)
        assert asyncio.run(differences(*drawn)) == []

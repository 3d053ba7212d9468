"""`$everything` of a type, a Group and an Encounter over real HTTP."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import msgspec
import pytest

from fhirserver.core.model import Key
from fhirserver.http import walk as walking
from fhirserver.policy.consenting import grant_consent
from tests.build import by, condition, encounter, load, observation, organization, patient, person, practitioner, put
from tests.everything import Bundle, links, names
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof


def to(reference: str) -> dict[str, str]:
    return {"reference": reference}


def binary(id: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Binary", "id": id, "contentType": "text/plain", "data": "eA==", **more}


def document(id: str, of: str, *binaries: str, **more: Any) -> dict[str, Any]:
    content = [{"attachment": {"url": f"Binary/{each}"}} for each in binaries]
    fixed = {"resourceType": "DocumentReference", "id": id, "status": "current", "subject": to(f"Patient/{of}")}
    return {**fixed, "content": content, **more}


def device(id: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Device", "id": id, **more}


def group(id: str, *members: str, inactive: tuple[str, ...] = ()) -> dict[str, Any]:
    listed = [{"entity": to(f"Patient/{each}")} for each in members]
    listed += [{"entity": to(f"Patient/{each}"), "inactive": True} for each in inactive]
    made = {"resourceType": "Group", "id": id, "type": "person", "actual": True}
    return {**made, "member": listed} if listed else made


async def write(server: Served, *resources: dict[str, Any], **more: Any) -> None:
    """Store resources as the operator, who may write about everybody's patients."""
    scoped = server.gate.system(subject="t", organization="operator", purpose="t")
    await scoped.write([msgspec.structs.replace(put(resource), **more) for resource in resources])


async def world(server: Served) -> None:
    """Two patients of a clinic, one of another, and what their charts lead to."""
    appointment = {"resourceType": "Appointment", "id": "both", "status": "proposed"}
    actors = [{"actor": to(f"Patient/{each}"), "status": "accepted"} for each in ("a", "b")]
    photo = [{"url": "Binary/photo"}]
    role = {"resourceType": "PractitionerRole", "id": "role", "practitioner": to("Practitioner/dr")}
    clinic = [
        *map(binary, ("one", "shared", "photo", "unnamed")),
        patient("a", managingOrganization=to("Organization/clinic")),
        observation("a1", "a", performer=[to("PractitionerRole/role")], device=to("Device/free")),
        document("ad", "a", "one", "shared"),
        patient("b"),
        observation("b1", "b", device=to("Device/of-a")),
        document("bd", "b", "shared"),
        device("free"),
        device("of-a", patient=to("Patient/a")),
        device("unused"),
        {**appointment, "participant": actors},
    ]
    directory = [practitioner("dr", photo=photo), practitioner("unrelated"), role, organization("clinic")]
    await load(server.gate, [*directory, *clinic], organization="clinic")
    await load(server.gate, [patient("far"), observation("far1", "far")], organization="another")
    await load(server.gate, [person("human", "a", "b"), person("nobody"), organization("app")])


async def whole(client: httpx.AsyncClient, path: str, **parameters: Any) -> Bundle:
    answer = await client.get(path, params=parameters)
    assert answer.status_code == 200, answer.text
    bundle: Bundle = answer.json()
    assert bundle["type"] == "searchset"
    return bundle


async def paged(client: httpx.AsyncClient, path: str, **parameters: Any) -> list[str]:
    """The entries of all pages."""
    page: Bundle = await whole(client, path, **parameters)
    seen = names(page)
    while "next" in links(page):
        assert len(names(page)) == parameters["_count"]
        page = (await client.get(links(page)["next"])).json()
        seen += names(page)
    return seen


CALLERS = {
    "operator": ("operator", "operator"),
    "clinic": ("member", "clinic"),
    "another": ("member", "another"),
    "app": ("third-party", "app"),
    "nobody": ("third-party", "nobody"),
    "patient": ("patient", "clinic"),
}


def token(server: Served, name: str) -> str:
    caller, org = CALLERS[name]
    return server.token(caller, org=org, **({"patient": "a"} if caller == "patient" else {}))


@pytest.mark.parametrize("type_", ["Patient", "Person"])
@pytest.mark.parametrize("name", CALLERS)
async def test_a_type_is_the_union_of_the_charts_that_the_caller_may_open_each_once(
    server: Served, name: str, type_: str
) -> None:
    await world(server)
    await grant_consent(server.gate.system(subject="t", organization="operator", purpose="t"), ["a"], "app")
    async with server.client(token(server, name)) as client:
        found = names(await whole(client, f"{type_}/$everything"))
        assert len(found) == len(set(found))
        union: set[str] = set()
        for id in ("a", "b", "far", "human", "nobody"):
            answer = await client.get(f"{type_}/{id}/$everything")
            assert answer.status_code in (200, 403, 404)
            union |= set(names(answer.json())) if answer.status_code == 200 else set()
        if {"Patient/a", "Observation/b1"} <= union:
            union.add("Device/of-a")  # what b's chart leads to is about a, who is in this result and not in b's own
        assert set(found) == union
        bundle = await whole(client, f"{type_}/$everything", _count=0)
        assert (bundle["total"], "entry" in bundle) == (len(found), False)
        for count in (1, 3, 100):
            assert await paged(client, f"{type_}/$everything", _count=count) == found
    assert ("Observation/far1" in found) == (name in ("operator", "another"))
    assert ("Binary/shared" in found) == (name in ("operator", "clinic", "app", "patient"))
    assert "Binary/unnamed" not in found
    assert "Device/unused" not in found
    assert "Practitioner/unrelated" not in found
    assert ("Person/nobody" in found) == (name == "operator" and type_ == "Person")


@pytest.mark.parametrize("types", ["Binary", "Observation", "Practitioner,Device", "Person,Patient", "Substance"])
async def test_only_the_types_asked_for_come(server: Served, types: str) -> None:
    await world(server)
    async with server.client() as client:
        everything = names(await whole(client, "Patient/$everything"))
        found = names(await whole(client, "Patient/$everything", _type=types))
        assert found == [name for name in everything if name.split("/")[0] in types.split(",")]
        assert await paged(client, "Patient/$everything", _type=types, _count=1) == found


async def test_a_page_is_over_one_snapshot_and_links_are_bound_to_the_client(server: Served) -> None:
    await world(server)
    async with server.client() as client:
        found = names(await whole(client, "Patient/$everything"))
        page = await whole(client, "Patient/$everything", _count=2)
        assert links(page).keys() == {"self", "first", "next"}
        assert "total" not in page
        await load(server.gate, [observation("later", "a"), binary("one")], organization="clinic")
        scoped = server.gate.system(subject="test", organization="clinic", purpose="test")
        await scoped.delete([Key("DocumentReference", "ad"), Key("Observation", "b1")])
        seen = names(page)
        foreign = await server.get(links(page)["next"], server.token("member", org="clinic"))
        assert foreign.status_code == 400
        while "next" in links(page):
            page = (await client.get(links(page)["next"])).json()
            seen += names(page)
        assert seen == found
        assert names((await client.get(links(page)["previous"])).json()) == found[-4:-2] or len(found) % 2


async def test_since_is_a_feed_of_what_changed_with_what_it_leads_to(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.http.feed.OVERLAP_MILLISECONDS", 0)
    monkeypatch.setattr("fhirserver.http.everything.OVERLAP_MILLISECONDS", 0)
    await world(server)
    async with server.client() as client:
        since = (await whole(client, "Patient/$everything", _count=1))["timestamp"]
        assert names(await whole(client, "Patient/$everything", _since=since)) == []
        changes = [
            observation("b1", "b", performer=by("dr")),
            document("bd", "b", "shared", "unnamed"),
            practitioner("unrelated", gender="female"),
            organization("clinic", name="Renamed"),
            device("free", serialNumber="1"),
            binary("one", language="de"),
        ]
        await load(server.gate, changes, organization="clinic")
        feed = await whole(client, "Patient/$everything", _since=since)
        expected = {
            "Observation/b1", "DocumentReference/bd", "Practitioner/dr", "Binary/shared", "Binary/unnamed",
            "Organization/clinic", "Device/free", "Binary/one", "Binary/photo",
        }  # fmt: skip
        assert set(names(feed)) == expected
        assert len(names(feed)) == len(expected)
        assert await paged(client, "Patient/$everything", _since=since, _count=2) == names(feed)
        assert "deleted" not in links(feed)
        refused = await client.get("Patient/$everything", params={"_since": since, "_deleted": "only"})
        assert (refused.status_code, refused.json()["issue"][0]["expression"]) == (400, ["_deleted"])


async def test_a_feed_sends_a_chart_whole_that_has_been_opened_since(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.http.feed.OVERLAP_MILLISECONDS", 0)
    monkeypatch.setattr("fhirserver.http.everything.OVERLAP_MILLISECONDS", 0)
    await world(server)
    scoped = server.gate.system(subject="t", organization="operator", purpose="t")
    await grant_consent(scoped, ["b"], "app")
    async with server.client(token(server, "app")) as client:
        since = (await whole(client, "Patient/$everything", _count=1))["timestamp"]
        await asyncio.sleep(0.01)
        await grant_consent(scoped, ["a"], "app")
        feed = names(await whole(client, "Patient/$everything", _since=since))
        everything = set(names(await whole(client, "Patient/a/$everything")))
        assert everything <= set(feed)
        assert not {"Patient/b", "Observation/b1"} & set(feed)
        assert len(feed) == len(set(feed))
        for count in (1, 4):
            assert await paged(client, "Patient/$everything", _since=since, _count=count) == feed


async def test_a_type_as_ndjson_ends_with_its_count(server: Served) -> None:
    await world(server)
    answer = await server.get("Patient/$everything", headers={"Accept": "application/fhir+ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert lines[-1]["resourceType"] == "OperationOutcome"
    assert f"{len(lines) - 1} resources" in lines[-1]["issue"][0]["diagnostics"]


@pytest.mark.parametrize("few", [32, 0])
async def test_a_group_is_the_charts_of_its_active_members(
    server: Served, few: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(walking, "FEW", few)
    await world(server)
    await write(server, group("g", "b", "a", "far", inactive=("c",)), group("empty"))
    async with server.client() as client:
        found = names(await whole(client, "Group/g/$everything"))
        union = {
            name
            for id in ("a", "b", "far")
            for name in names(await whole(client, f"Patient/{id}/$everything"))
        }  # fmt: skip
        assert set(found) == union | {"Device/of-a"}, "what b's chart leads to may be about a, who is in this result"
        assert len(found) == len(set(found))
        assert "Group/g" in found
        assert found.index("Patient/b") < found.index("Patient/a") < found.index("Patient/far")
        for count in (1, 3, 50):
            page = await whole(client, "Group/g/$everything", _count=count)
            assert page["total"] == len(found)
            assert await paged(client, "Group/g/$everything", _count=count) == found
        assert (await whole(client, "Group/g/$everything", _count=0))["total"] == len(found)
        assert names(await whole(client, "Group/g/$everything", _type="Observation")) == [
            name for name in found if name.startswith("Observation/")
        ]
        assert names(await whole(client, "Group/empty/$everything")) == []
        later = await whole(client, "Group/g/$everything", _since="2999-01-01")
        assert names(later) == []


async def test_a_group_opens_no_chart_that_is_closed(server: Served) -> None:
    await world(server)
    await write(server, group("g", "a", "far"), group("of-a", "a"))
    scoped = server.gate.system(subject="t", organization="operator", purpose="t")
    await grant_consent(scoped, ["a"], "app")
    app = token(server, "app")
    assert (await server.get("Group/g/$everything", app)).status_code == 403
    assert (await server.get("Group/of-a/$everything", app)).status_code == 403, "the consent does not name Group"
    assert (await server.get("Group/none/$everything", app)).status_code == 403
    clinic = token(server, "clinic")
    assert (await server.get("Group/g/$everything", clinic)).status_code == 404, "another custodian's Group"
    assert (await server.get("Group/none/$everything")).status_code == 404
    await scoped.delete([Key("Group", "g")])
    assert (await server.get("Group/g/$everything")).status_code == 410


async def test_a_group_opens_to_a_party_its_own_patients_only(server: Served) -> None:
    await world(server)
    await write(server, group("shared", "a", "far"), parties=("clinic",))
    found = names((await server.get("Group/shared/$everything", token(server, "clinic"))).json())
    assert {"Patient/a", "Group/shared"} <= set(found)
    assert not {"Patient/far", "Observation/far1"} & set(found)


async def visit(server: Served) -> None:
    await world(server)
    concern = condition("c", "a", encounter=to("Encounter/e"))
    await load(
        server.gate,
        [
            {"resourceType": "EpisodeOfCare", "id": "ep", "status": "active", "patient": to("Patient/a")},
            condition("why", "a"),
            condition("else", "a"),
            encounter(
                "e", "a",
                episodeOfCare=[to("EpisodeOfCare/ep")],
                diagnosis=[{"condition": to("Condition/why")}],
                participant=[{"individual": to("Practitioner/dr")}],
            ),
            observation("in", "a", encounter=to("Encounter/e"), performer=[to("PractitionerRole/role")]),
            observation("out", "a"),
            concern,
            document("note", "a", "one", context={"encounter": [to("Encounter/e")]}),
            encounter("bare", "a"),
        ],
        organization="clinic",
    )  # fmt: skip


EXPECTED = [
    "Encounter/e", "Observation/in", "Condition/c", "DocumentReference/note",
    "Condition/why", "EpisodeOfCare/ep", "Patient/a",
    "Binary/one", "Binary/photo", "Organization/clinic", "Practitioner/dr", "PractitionerRole/role",
]  # fmt: skip


async def test_an_encounter_is_what_refers_to_it_and_what_those_refer_to(server: Served) -> None:
    await visit(server)
    async with server.client() as client:
        bundle = await whole(client, "Encounter/e/$everything")
        assert (names(bundle), bundle["total"]) == (EXPECTED, len(EXPECTED))
        for count in (1, 2, 5, 50):
            page = await whole(client, "Encounter/e/$everything", _count=count)
            assert page["total"] == len(EXPECTED)
            assert await paged(client, "Encounter/e/$everything", _count=count) == EXPECTED
        assert (await whole(client, "Encounter/e/$everything", _count=0))["total"] == len(EXPECTED)
        only = await whole(client, "Encounter/e/$everything", _type="Condition,Practitioner")
        assert names(only) == ["Condition/c", "Condition/why", "Practitioner/dr"]
        alone = names(await whole(client, "Encounter/bare/$everything"))
        assert alone == ["Encounter/bare", "Patient/a", "Organization/clinic"]


async def test_an_encounter_since(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhirserver.http.visit.OVERLAP_MILLISECONDS", 0)
    await visit(server)
    async with server.client() as client:
        since = (await whole(client, "Encounter/e/$everything"))["timestamp"]
        assert names(await whole(client, "Encounter/e/$everything", _since=since)) == []
        changed = [observation("in", "a", encounter=to("Encounter/e")), organization("clinic", name="New")]
        await load(server.gate, [*changed, condition("else", "a", note=[{"text": "x"}])], organization="clinic")
        found = names(await whole(client, "Encounter/e/$everything", _since=since))
        assert found == ["Observation/in", "Patient/a", "Organization/clinic"]


async def test_an_encounter_shows_nothing_its_reader_may_not_see(server: Served) -> None:
    await visit(server)
    hidden = [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]
    await load(server.gate, [condition("why", "a", meta={"security": hidden})], organization="clinic")
    scoped = server.gate.system(subject="t", organization="operator", purpose="t")
    await grant_consent(scoped, ["a"], "app")
    found = names((await server.get("Encounter/e/$everything", token(server, "app"))).json())
    assert found == [name for name in EXPECTED if name != "Condition/why"]
    table = {"clinic": (200, 404), "another": (404, 404), "nobody": (403, 403), "patient": (200, 403)}
    for name, expected in table.items():
        answers = [await server.get(f"Encounter/{id}/$everything", token(server, name)) for id in ("e", "none")]
        assert tuple(answer.status_code for answer in answers) == expected, name
    await scoped.delete([Key("Encounter", "e")])
    assert (await server.get("Encounter/e/$everything")).status_code == 410


async def test_every_form_is_audited_with_its_patients(server: Served) -> None:
    await visit(server)
    await write(server, group("g", "a", "b"))
    for path, patients in (
        ("Encounter/e/$everything", {"a"}),
        ("Group/g/$everything", {"a", "b"}),
        ("Patient/$everything", {"a", "b", "far"}),
    ):
        before = len(await server.audit())
        assert (await server.get(path)).status_code == 200
        rows = [row for row in (await server.audit())[before:] if row.intent is not None]
        assert [(row.interaction, row.outcome) for row in rows] == [("$everything", "complete")]
        assert set(rows[0].patients) == patients

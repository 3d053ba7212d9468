"""The audit trail over HTTP: AuditEvents that are valid, that each reader sees as far as it may, paged newest first."""

from __future__ import annotations

import asyncio
from base64 import b64decode
from typing import Any

import msgspec
import pytest

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Key
from fhirserver.core.validate import parse
from tests.build import load, observation, organization, patient, person
from tests.http.test_consent import grant
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof

JSON = dict[str, Any]


@pytest.fixture
async def world(server: Served) -> Served:
    """`n` is north's, `s` is south's; `app` has a Consent for `n`."""
    await load(server.gate, [organization(name) for name in ("app", "north", "south")])
    await load(server.gate, [patient("n"), observation("on", "n")], organization="north")
    await load(server.gate, [patient("s"), observation("os", "s")], organization="south")
    return server


def coded(event: JSON) -> tuple[str, str, str]:
    """Its interaction, action and outcome."""
    return event["subtype"][-1]["code"], event["action"], event["outcome"]


def whats(event: JSON) -> list[str]:
    return [each["what"]["reference"] for each in event["entity"] if "reference" in each.get("what", {})]


def who(event: JSON) -> str:
    return str(event["agent"][2]["who"]["identifier"]["value"])


async def events(server: Served, query: str, token: str | None = None) -> list[JSON]:
    """Every page; each event is valid, and is the same read by its id."""
    found: list[JSON] = []
    async with server.client(token) as client:
        url: str | None = f"AuditEvent?{query}"
        while url:
            answer = await client.get(url)
            assert answer.status_code == 200, answer.text
            bundle = answer.json()
            for entry in bundle.get("entry", ()):
                event = entry["resource"]
                parse(msgspec.json.encode(event))
                found.append(event)
            url = next((each["url"] for each in bundle["link"] if each["relation"] == "next"), None)
    return found


async def settled(server: Served) -> None:
    await server.audit()


async def test_a_read_is_one_event_with_who_what_when_why_and_under_which_consent(world: Served) -> None:
    await grant(world, "n")
    token = world.token("third-party", org="app", purpose="TREAT")
    headers = {"X-Request-Id": "asked-1"}
    async with world.client(token, headers=headers) as client:
        assert (await client.get("Observation/on")).status_code == 200
    await settled(world)
    (event,) = await events(world, "patient=n&subtype=read")
    assert coded(event) == ("read", "R", "0")
    assert event["type"]["code"] == "rest"
    assert {"Patient/n", "Observation/on"} < set(whats(event))
    assert sum(name.startswith("Consent/") for name in whats(event)) == 1
    assert event["agent"][2]["who"]["reference"] == "Organization/app"
    assert event["agent"][2]["purposeOfUse"][0]["coding"][0]["code"] == "TREAT"
    assert event["agent"][0]["who"]["identifier"]["value"] == "test"
    assert {"what": {"identifier": {"value": "asked-1"}}} in [
        {"what": each["what"]} for each in event["entity"] if each["type"]["code"] == "XrequestId"
    ]
    assert event["period"]["start"] <= event["period"]["end"] == event["recorded"]
    answer = await world.get(f"AuditEvent/{event['id']}")
    assert (answer.status_code, answer.json()) == (200, event)


async def test_every_interaction_is_told_as_what_it_is(world: Served) -> None:
    token = world.token("member", org="north", scope="system/*.cruds")
    async with world.client(token) as client:
        await client.get("Observation?patient=n&code=x")
        await client.get("Patient/n/$everything")
        await client.get("Observation/on/_history")
        await client.post("Observation", json=observation("", "n") | {"id": "ignored"})
        await client.put("Observation/new", json=observation("new", "n"))
        await client.put("Observation/new", json=observation("new", "n", status="amended"))
        await client.delete("Observation/new")
        await client.get("Observation/no")
        await client.put("Observation/os", json=observation("os", "s"))
        await client.delete("Observation/os")
    await settled(world)
    told = [coded(event) for event in await events(world, "agent=Organization/north&_sort=date")]
    assert told[-10:] == [
        ("search-type", "E", "0"),
        ("$everything", "E", "0"),
        ("history-instance", "R", "0"),
        ("create", "C", "0"),
        ("create", "C", "0"),
        ("update", "U", "0"),
        ("delete", "D", "0"),
        ("read", "R", "4"),
        ("update", "U", "4"),
        ("delete", "D", "4"),
    ]


async def test_a_query_is_told_without_what_identifies(world: Served) -> None:
    await world.get("Patient?birthdate=1970-01-01&_count=3")
    await settled(world)
    found = await events(world, "subtype=search-type&entity-role=24")
    queries = [b64decode(each["query"]).decode() for event in found for each in event["entity"] if "query" in each]
    assert any("birthdate=hash%3A" in query or "birthdate=hash:" in query for query in queries)
    assert not any("1970" in query for query in queries)


async def test_an_answer_that_has_no_outcome_is_incomplete(world: Served) -> None:
    scoped = await world.gate.admit(world.token("member", org="north"), interaction="read")
    context = scoped.disclosure(interaction="read", patients=("n",))
    await context.__aenter__()
    (event,) = await events(world, "outcome=8")
    assert (coded(event), event["outcomeDesc"][:10]) == (("read", "R", "8"), "Incomplete")
    await context.__aexit__(None, None, None)
    assert await events(world, "outcome=8") == []
    (event,) = await events(world, "outcome=4&subtype=read")
    assert event["period"]


async def test_pages_put_together_are_the_trail_newest_first(world: Served) -> None:
    for _ in range(7):
        await world.get("Observation/on", world.token("member", org="north"))
    await settled(world)
    whole = await events(world, "subtype=read&agent=Organization/north&_count=100")
    assert len(whole) == 7
    assert whole == sorted(whole, key=lambda each: each["recorded"], reverse=True)
    for count in (1, 2, 3, 7):
        assert await events(world, f"subtype=read&agent=Organization/north&_count={count}") == whole
    assert await events(world, "subtype=read&agent=Organization/north&_sort=date&_count=2") == whole[::-1]
    async with world.client() as client:
        posted = await client.post(
            "AuditEvent/_search", data={"subtype": "read", "agent": "Organization/north", "_count": "5"}
        )
        assert [each["resource"] for each in posted.json()["entry"]] == whole[:5]
        following = next(each["url"] for each in posted.json()["link"] if each["relation"] == "next")
        assert "agent" not in following
        rest = await client.get(following)
        assert rest.status_code == 200
        assert [each["resource"] for each in rest.json()["entry"]] == whole[5:]


async def test_a_time_is_asked_for_as_elsewhere(world: Served) -> None:
    await world.get("Observation/on", world.token("member", org="north"))
    await settled(world)
    (event,) = await events(world, "subtype=read&agent=Organization/north")
    when = event["recorded"]
    for query, there in (
        (f"date={when}", True), (f"date=ge{when}", True), (f"date=gt{when}", False), (f"date=le{when}", True),
        (f"date=lt{when}", False), ("date=lt2020", False), ("date=gt2020", True), (f"date={when[:10]}", True),
        (f"_lastUpdated=ge{when}", True), ("_lastUpdated=lt2020", False), (f"_id={event['id']}", True),
        ("_id=no", False), ("action=R", True), ("action=E", False), ("type=rest", True), ("subtype=read", True),
        ("entity=Observation/on", True), ("entity=Observation/os", False), ("outcome=0", True), ("patient=n", True),
        ("patient=Patient/n", True), ("patient=s", False), ("patient:Patient=n", True),
        ("agent:identifier=|test", True),
        ("action:not=R", False), ("patient=s,n", True),
    ):  # fmt: skip
        assert bool(await events(world, f"subtype=read&agent=Organization/north&{query}")) == there, query


@pytest.mark.parametrize(
    "query",
    ["date=nonsense", "agent.name=x", "_include=AuditEvent:entity", "_sort=action", "_total=accurate", "_list=x",
     "_summary=count", "_count=x", "_page=forged", "_has:Provenance:target:agent=x"],
)  # fmt: skip
async def test_what_the_trail_cannot_be_asked_is_refused_by_name(world: Served, query: str) -> None:
    answer = await world.get(f"AuditEvent?{query}")
    assert answer.status_code == 400
    assert query.split("=")[0].split(":")[0].split(".")[0] in answer.text or "_page" in answer.text


async def test_unknown_parameters_are_ignored_unless_strict(world: Served) -> None:
    answer = await world.get("AuditEvent?nonsense=1")
    assert (answer.status_code, "nonsense" in answer.text) == (200, False)
    answer = await world.get("AuditEvent?nonsense=1", headers={"Prefer": "handling=strict"})
    assert answer.status_code == 400


# -- who sees what --


async def test_a_member_sees_its_own_and_what_was_done_with_its_patients(world: Served) -> None:
    north, south = (world.token("member", org=name) for name in ("north", "south"))
    await grant(world, "n")
    await world.get("Observation/on", world.token("third-party", org="app"))
    await world.get("Observation/os", south)
    await world.get("Observation/on", south)
    await settled(world)
    assert {who(event) for event in await events(world, "subtype=read", south)} == {"south"}
    assert {who(event) for event in await events(world, "", north)} <= {"north"}
    of_app = [event for event in await events(world, "patient=n&subtype=read", north) if who(event) == "app"]
    assert len(of_app) == 1
    (seen,) = of_app
    assert "Observation/on" in whats(seen)
    assert "altId" not in seen["agent"][0]
    assert (await world.get(f"AuditEvent/{seen['id']}", north)).json() == seen
    for token in (south, world.token("third-party", org="app"), world.token("patient", org="x", patient="s")):
        assert (await world.get(f"AuditEvent/{seen['id']}", token)).status_code in (403, 404)
    assert await events(world, "patient=n&subtype=read&outcome=0", south) == []
    assert await events(world, "agent=Organization/app", south) == []


async def test_a_patient_gets_the_accounting_of_disclosures_of_its_own_chart(world: Served) -> None:
    await grant(world, "n")
    app, own = world.token("third-party", org="app", purpose="TREAT"), world.token("patient", org="x", patient="n")
    await world.get("Observation/on", app)
    await world.get("Patient/n/$everything", app)
    await world.get("Observation/os", app)
    async with world.client(world.token("member", org="north", scope="system/*.cruds")) as client:
        await client.put("Observation/on", json=observation("on", "n", status="amended"))
    await settled(world)
    found = [event for event in await events(world, "", own) if who(event) == "app"]
    assert [coded(event) for event in found] == [("$everything", "E", "0"), ("read", "R", "0")]
    for event in found:
        assert [name for name in whats(event) if name.startswith("Patient/")] == ["Patient/n"]
        assert sum(name.startswith("Consent/") for name in whats(event)) == 1
        assert event["purposeOfEvent"][0]["coding"][0]["code"] == "TREAT"
    assert not [event for event in await events(world, "", own) if event["action"] in "CUD"]
    assert await events(world, "patient=n&subtype=read", own) == found[1:]
    assert await events(world, "patient=s", own) == []


async def test_of_an_event_about_several_a_reader_learns_what_concerns_its_own(world: Served) -> None:
    await world.get("Observation?status=final&_id=on,os")
    await settled(world)
    (whole,) = await events(world, "patient=s&subtype=search-type")
    assert {"Patient/n", "Patient/s"} <= set(whats(whole))
    for query, token in (
        ("subtype=search-type", world.token("patient", org="x", patient="n")),
        ("patient=n&subtype=search-type", world.token("member", org="north")),
    ):
        (cut,) = [event for event in await events(world, query, token) if event["id"] == whole["id"]]
        assert whats(cut) == ["Patient/n"]
        assert "query" not in str(cut["entity"])
        assert "Patient/s" not in str(cut)
    other = world.token("member", org="north")
    assert not [each for each in await events(world, "entity=Patient/s", other) if each["id"] == whole["id"]]


async def test_a_third_party_sees_none(world: Served) -> None:
    await grant(world, "n")
    app = world.token("third-party", org="app")
    await world.get("Observation/on", app)
    await settled(world)
    for query in ("", "patient=n", "agent=Organization/app"):
        assert await events(world, query, app) == []


async def test_a_scope_without_the_type_is_refused(world: Served) -> None:
    token = world.token("member", org="north", scope="system/Observation.rs")
    assert (await world.get("AuditEvent", token)).status_code == 403
    assert (await world.get("AuditEvent/" + "0" * 32, token)).status_code == 403


async def test_looking_at_the_trail_is_in_the_trail(world: Served) -> None:
    await events(world, "patient=n", world.token("member", org="north"))
    await settled(world)
    told = await events(world, "agent=Organization/north&subtype=search-type")
    assert [name for event in told for name in whats(event)] == ["Patient/n"]


async def test_nobody_writes_to_the_trail(world: Served) -> None:
    await world.get("Observation/on")
    await settled(world)
    (event, *_) = await events(world, "subtype=read")
    async with world.client(world.token(scope="system/*.cruds")) as client:
        one = f"AuditEvent/{event['id']}"
        for method, path in (("POST", "AuditEvent"), ("PUT", one), ("PATCH", one), ("DELETE", one)):
            assert (await client.request(method, path, json=event)).status_code == 405


async def test_an_imported_event_is_read_and_not_searched(world: Served) -> None:
    imported = {
        "resourceType": "AuditEvent", "id": "imported", "type": {"code": "rest"}, "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"requestor": True}], "source": {"observer": {"display": "x"}},
    }  # fmt: skip
    await load(world.gate, [imported])
    assert (await world.get("AuditEvent/imported")).json()["recorded"] == "2026-01-01T00:00:00Z"
    assert await events(world, "_id=imported") == []


async def test_what_cannot_be_audited_is_not_disclosed_here_either(
    world: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await world.get("Observation/on")
    await settled(world)
    (event, *_) = await events(world, "subtype=read")
    await settled(world)

    async def fail(self: object, rows: object) -> None:
        raise Unavailable

    monkeypatch.setattr(type(world.runtime.gate._store.audit), "append", fail)
    for path in ("AuditEvent", f"AuditEvent/{event['id']}", "AuditEvent?patient=n"):
        answer = await world.get(path)
        assert (answer.status_code, "recorded" in answer.text) == (503, False)


async def test_a_batch_and_selected_elements(world: Served) -> None:
    await world.get("Observation/on")
    await settled(world)
    entry = {"request": {"method": "GET", "url": "AuditEvent?subtype=read&_elements=action&_count=1"}}
    async with world.client() as client:
        answer = await client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": [entry]})
    (inner,) = answer.json()["entry"]
    (found,) = inner["resource"]["entry"]
    assert found["resource"]["action"] == "R"
    assert "entity" not in found["resource"]


async def test_a_persons_event_names_nobody_whose_link_its_reader_was_not_shown(world: Served) -> None:
    scoped = world.gate.system(subject="test", organization="operator", purpose="test")
    await load(world.gate, [person("one", "n", "s")])
    north = world.token("member", org="north")
    for path in ("Person/one", "Person/one/_history/1", "Person?link=Patient/n", "Person/one/$everything", "Person"):
        assert "Patient/s" not in (await world.get(path, north)).text
    await scoped.delete([Key("Person", "one")])
    assert (await world.get("Person/_history", north)).status_code == 200
    await settled(world)
    told = await events(world, "agent=Organization/north", north)
    assert any("Patient/n" in whats(event) for event in told)
    assert not [event for event in told if "Patient/s" in str(event)]
    # Nor is it told to whose link it is that it was read.
    assert not [event for event in await events(world, "patient=s", world.token("member", org="south"))
                if who(event) == "north"]  # fmt: skip


async def test_whoever_gets_the_id_of_a_purged_patient_reads_nothing_of_the_earlier_one(world: Served) -> None:
    await grant(world, "n")
    app = world.token("third-party", org="app")
    await world.get("Observation/on", app)
    await settled(world)
    purge = world.gate.purge(subject="test")
    await purge.run(await purge.chart("n"))
    await asyncio.sleep(0.005)
    south = world.token("member", org="south", scope="system/*.cruds")
    async with world.client(south) as client:
        assert (await client.put("Patient/n", json=patient("n"))).status_code == 201
    own = world.token("patient", org="south", patient="n")
    await world.get("Patient/n", own)
    await settled(world)
    assert {who(event) for event in await events(world, "patient=n", south)} == {"south"}
    assert {who(event) for event in await events(world, "", own)} == {"south"}
    (read,) = [event for event in await events(world, "patient=n&subtype=read") if who(event) == "app"]
    for token in (south, own):
        assert (await world.get(f"AuditEvent/{read['id']}", token)).status_code in (403, 404)

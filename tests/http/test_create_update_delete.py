"""create, update and delete over real HTTP, plain and conditional, on every kind of store."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.build import load, observation, patient, person, practitioner
from tests.served import Served
from tests.stores import every_kind

kind = every_kind
FULL = "system/*.cruds"


def issue(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    first: dict[str, Any] = body["issue"][0]
    return first


def writer(server: Served, org: str = "clinic") -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=FULL))


def named(id: str, value: str, **more: Any) -> dict[str, Any]:
    return practitioner(id, identifier=[{"system": "urn:npi", "value": value}], **more)


async def test_create_gives_an_id_of_its_own_and_says_where(server: Served) -> None:
    async with writer(server) as client:
        sent = {**patient("mine"), "meta": {"versionId": "7", "lastUpdated": "2001-01-01T00:00:00Z"}}
        answer = await client.post("Patient", json=sent)
        made = answer.json()
        assert answer.status_code == 201
        assert made["id"] != "mine"
        assert made["meta"]["versionId"] == "1"
        assert made["name"] == sent["name"]
        assert answer.headers["location"] == f"{server.base}/Patient/{made['id']}/_history/1"
        assert answer.headers["etag"] == 'W/"1"'
        assert (await client.get(answer.headers["location"])).json() == made
        people = await client.get("Person", params={"link": f"Patient/{made['id']}"})
        assert len(people.json()["entry"]) == 1  # every Patient has a Person, whichever door it came by


async def test_update_needs_the_id_of_the_url_and_keeps_number_texts(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        raw = b'{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},' \
              b'"subject":{"reference":"Patient/p"},"valueQuantity":{"value":1.00}}'  # fmt: skip
        headers = {"Content-Type": "application/fhir+json"}
        first = await client.put("Observation/o", content=raw, headers=headers)
        assert (first.status_code, first.headers["etag"]) == (201, 'W/"1"')
        second = await client.put("Observation/o", content=raw.replace(b"1.00", b"3e2"), headers=headers)
        assert (second.status_code, second.headers["etag"]) == (200, 'W/"2"')
        assert b'"value":3e2' in (await client.get("Observation/o")).content
        for wrong in (observation("other", "p"), {**observation("o", "p"), "id": None}):
            answer = await client.put("Observation/o", json={k: v for k, v in wrong.items() if v})
            assert answer.status_code == 400
            assert issue(answer)["expression"] == ["Observation.id"]
        wrong_type = await client.put("Observation/o", json=patient("o"))
        assert wrong_type.status_code == 400


async def test_if_match_names_the_version_that_must_be_current(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        good = await client.put("Patient/p", json=patient("p", gender="male"), headers={"If-Match": 'W/"1"'})
        assert good.status_code == 200
        stale = await client.put("Patient/p", json=patient("p"), headers={"If-Match": 'W/"1"'})
        assert stale.status_code == 412
        assert (await client.delete("Patient/p", headers={"If-Match": 'W/"1"'})).status_code == 412
        odd = await client.put("Patient/p", json=patient("p"), headers={"If-Match": "yesterday"})
        assert odd.status_code == 400
        assert (await client.get("Patient/p")).json()["gender"] == "male"


async def test_a_star_asks_that_there_be_some_version_or_none(server: Served) -> None:
    """If-Match and If-None-Match with ``*`` (RFC 9110 §13.1), alone and in a transaction."""
    some, none = {"If-Match": "*"}, {"If-None-Match": "*"}
    async with writer(server) as client:
        for verb, more in (("PUT", {"json": patient("p")}), ("DELETE", {})):
            assert (await client.request(verb, "Patient/p", headers=some, **more)).status_code in (404, 412), verb
        assert (await client.get("Patient/p")).status_code == 404
        assert (await client.put("Patient/p", json=patient("p"), headers=none)).status_code == 201
        assert (await client.put("Patient/p", json=patient("p"), headers=none)).status_code == 412
        again = await client.put("Patient/p", json=patient("p"), headers=some)
        assert (again.status_code, again.headers["etag"]) == (200, 'W/"2"')
        replace = [{"op": "add", "path": "/gender", "value": "other"}]
        changed = await client.patch(
            "Patient/p", content=json.dumps(replace), headers={**some, "Content-Type": "application/json-patch+json"}
        )
        assert changed.status_code == 200
        request = {"method": "PUT", "url": "Patient/q", "ifMatch": "*"}
        bundle = {
            "resourceType": "Bundle",
            "type": "transaction",
            "entry": [{"resource": patient("q"), "request": request}],
        }
        assert (await client.post("", json=bundle)).status_code == 412
        assert (await client.delete("Patient/p", headers=some)).status_code == 204
        assert (await client.delete("Patient/p", headers=some)).status_code == 412
        assert (await client.put("Patient/p", json=patient("p"), headers=some)).status_code == 412
        assert (await client.put("Patient/p", json=patient("p"), headers=none)).status_code == 201


async def test_of_a_hundred_updates_of_one_version_one_wins(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        answers = await asyncio.gather(*(
            client.put("Patient/p", json=patient("p", language=f"x{at}"), headers={"If-Match": 'W/"1"'})
            for at in range(100)
        ))  # fmt: skip
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 99
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"2"'


async def test_two_hundred_conditional_creates_of_one_identifier_make_one_resource(server: Served) -> None:
    async with writer(server) as client:
        headers = {"If-None-Exist": "identifier=urn:npi|1"}
        answers = await asyncio.gather(
            *(client.post("Practitioner", json=named(f"x{at}", "1"), headers=headers) for at in range(200))
        )
        assert sorted({answer.status_code for answer in answers}) == [200, 201]
        assert sum(answer.status_code == 201 for answer in answers) == 1
        assert len({answer.json()["id"] for answer in answers}) == 1
        found = (await client.get("Practitioner", params={"identifier": "urn:npi|1"})).json()
        assert len(found["entry"]) == 1


async def test_delete_leaves_a_tombstone_and_a_put_brings_it_back(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Practitioner/dr", json=practitioner("dr"))
        gone = await client.delete("Practitioner/dr")
        assert (gone.status_code, gone.content, gone.headers["etag"]) == (204, b"", 'W/"2"')
        assert (await client.get("Practitioner/dr")).status_code == 410
        assert (await client.get("Practitioner/dr/_history/1")).status_code == 200
        again = await client.delete("Practitioner/dr")
        assert (again.status_code, again.headers["etag"]) == (204, 'W/"2"')
        assert (await client.delete("Practitioner/never")).status_code == 404
        back = await client.put("Practitioner/dr", json=practitioner("dr"))
        assert (back.status_code, back.headers["etag"]) == (201, 'W/"3"')


async def test_conditional_update_and_delete_follow_the_number_of_matches(server: Served) -> None:
    async with writer(server) as client:
        url = "Practitioner?identifier=urn:npi|1"
        nobody = await client.put(url, json={k: v for k, v in named("x", "1").items() if k != "id"})
        made = nobody.json()["id"]
        assert nobody.status_code == 201
        one = await client.put(url, json={**named(made, "1"), "gender": "female"})
        assert (one.status_code, one.json()["id"]) == (200, made)
        other = await client.put(url, json=named("other", "1"))
        assert other.status_code == 400
        await client.put("Practitioner/second", json=named("second", "1"))
        for method in ("PUT", "DELETE"):
            several = await client.request(method, url, json=named(made, "1") if method == "PUT" else None)
            assert several.status_code == 412
        mine = await client.put("Practitioner?identifier=urn:npi|2", json=named("own-id", "2"))
        assert (mine.status_code, mine.json()["id"]) == (201, "own-id")
        assert (await client.delete("Practitioner?identifier=urn:npi|2")).status_code == 204
        assert (await client.get("Practitioner/own-id")).status_code == 410
        assert (await client.delete("Practitioner?identifier=urn:npi|3")).status_code == 204


@pytest.mark.parametrize(
    "condition",
    ["", "_sort=name", "nonsense=1", "identifier=", "birthdate=soon", "general-practitioner.name=x", "_list=1"],
)
async def test_a_condition_that_cannot_be_understood_is_refused_by_name(server: Served, condition: str) -> None:
    async with writer(server) as client:
        answer = await client.post("Patient", json=patient("p"), headers={"If-None-Exist": condition})
        assert answer.status_code == 400
        assert condition.partition("=")[0] in issue(answer)["diagnostics"]
        for method in ("PUT", "DELETE"):
            answer = await client.request(method, f"Patient?{condition}", json=patient("p"))
            assert answer.status_code == 400


async def test_prefer_says_what_comes_back(server: Served) -> None:
    async with writer(server) as client:
        for form, expected in (("minimal", None), ("representation", "Patient"), ("OperationOutcome", None)):
            answer = await client.put("Patient/p", json=patient("p"), headers={"Prefer": f"return={form}"})
            if form == "minimal":
                assert answer.content == b""
            elif expected:
                assert answer.json()["resourceType"] == expected
            else:
                assert answer.json()["resourceType"] == "OperationOutcome"
            assert "etag" in answer.headers


async def test_what_belongs_to_another_organisation_is_neither_written_nor_shown(server: Served) -> None:
    await load(server.gate, [patient("theirs"), observation("o", "theirs")], organization="other")
    async with writer(server) as client:
        assert (await client.put("Patient/theirs", json=patient("theirs"))).status_code == 409
        about = await client.post("Observation", json=observation("n", "theirs"))
        assert about.status_code == 409
        for path in ("Patient/theirs", "Observation/o", "Observation/never"):
            assert (await client.delete(path)).status_code == 404
        condition = {"If-None-Exist": "subject=Patient/theirs"}
        made = await client.post("Observation", json={"resourceType": "Observation", "status": "final",
                                                      "code": {"text": "x"}}, headers=condition)  # fmt: skip
        assert made.status_code == 201  # the other's Observation is no match for one who may not see it
    async with server.client() as operator:
        assert (await operator.get("Patient/theirs")).headers["etag"] == 'W/"1"'


async def test_who_may_not_write_is_refused_and_nothing_changes(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    callers = [
        (server.token("member", org="clinic", scope="system/*.rs"), 403),
        (server.token("third-party", org="app", scope="patient/*.cruds"), 403),
        (server.token("patient", org="clinic", scope="patient/*.cruds", patient="p"), 403),
        ("nonsense", 401),
    ]
    for token, status in callers:
        async with server.client(token) as client:
            for method, path, body in (
                ("POST", "Patient", patient("n")), ("PUT", "Patient/p", patient("p", gender="male")),
                ("PUT", "Patient?identifier=1", patient("n")), ("DELETE", "Patient/p", None),
                ("DELETE", "Patient?identifier=1", None),
            ):  # fmt: skip
                answer = await client.request(method, path, json=body)
                assert answer.status_code == status or (method, path) == ("DELETE", "Patient?identifier=1"), (
                    method,
                    path,
                )
                assert answer.status_code < 500
    async with server.client(server.token(scope=FULL)) as operator:
        assert (await operator.get("Patient/p")).headers["etag"] == 'W/"1"'
        audit = await operator.post("AuditEvent", json={"resourceType": "AuditEvent"})
        assert audit.status_code == 405  # the server alone writes them, whatever is sent


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", "application/fhir+json", 400),
        (b"", "application/fhir+json", 400),
        (b"<Patient/>", "application/fhir+xml", 415),
        (b'{"resourceType":"Patient","active":"yes"}', "application/json", 422),
        (b'{"resourceType":"Observation"}', "application/json", 422),
        (b'{"resourceType":"Practitioner"}', "application/json", 400),
        (b"[]", "application/fhir+json", 422),
    ],
)
async def test_bad_bodies_are_refused_with_what_is_wrong(
    server: Served, body: bytes, content_type: str, status: int
) -> None:
    async with writer(server) as client:
        answer = await client.post("Patient", content=body, headers={"Content-Type": content_type})
        assert answer.status_code == status
        assert issue(answer)["diagnostics"]


async def test_a_persons_view_that_leaves_something_out_cannot_be_written_back(server: Served) -> None:
    await load(server.gate, [patient("a")], organization="clinic")
    await load(server.gate, [patient("b")], organization="other")
    async with server.client(server.token(scope=FULL)) as operator:
        assert (await operator.put("Person/human", json=person("human", "a", "b"))).status_code == 201
    async with writer(server) as client:
        view = (await client.get("Person/human")).json()
        assert len(view["link"]) == 1
        assert (await client.put("Person/human", json=view)).status_code == 400


async def test_a_conditional_create_that_shows_what_is_there_is_audited_as_a_read(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Practitioner/dr", json=named("dr", "1"))
        before = len(await server.audit())
        answer = await client.post(
            "Practitioner", json=named("x", "1"), headers={"If-None-Exist": "identifier=urn:npi|1"}
        )
        assert (answer.status_code, answer.json()["id"]) == (200, "dr")
        rows = (await server.audit())[before:]
        assert [(row.interaction, row.outcome) for row in rows] == [("create", "intent"), ("create", "complete")]
        assert rows[0].detail["resource"] == "Practitioner/dr"


async def test_a_reference_by_this_servers_own_url_is_one_to_what_is_here(server: Served) -> None:
    """Whichever interaction stores it; else it would stand in no chart."""
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        absolute = {"reference": f"{server.base}/Patient/p"}
        made = (await client.post("Observation", json=observation("x", "p", subject=absolute))).json()
        assert made["subject"] == {"reference": "Patient/p"}
        await client.put("Observation/o", json=observation("o", "p", subject=absolute))
        await client.put("Observation/patched", json=observation("patched", "never"))
        patched = [{"op": "replace", "path": "/subject", "value": absolute}]
        headers = {"Content-Type": "application/json-patch+json"}
        assert (await client.patch("Observation/patched", json=patched, headers=headers)).status_code == 200
        entry = {
            "resource": observation("t", "p", subject=absolute),
            "request": {"method": "PUT", "url": "Observation/t"},
        }
        bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
        assert (await client.post("", json=bundle)).status_code == 200
        chart = (await client.get("Patient/p/$everything")).json()["entry"]
        named = {each["resource"]["id"] for each in chart if each["resource"]["resourceType"] == "Observation"}
        assert named == {made["id"], "o", "patched", "t"}
        kept = {"fullUrl": f"{server.base}/Observation/o", "resource": observation("o", "p", subject=absolute)}
        stored = {"resourceType": "Bundle", "id": "b", "type": "collection", "entry": [kept]}
        await client.put("Bundle/b", json=stored)
        assert (await client.get("Bundle/b")).json()["entry"] == stored["entry"]

"""batch and transaction over real HTTP, on every kind of store."""

from __future__ import annotations

import asyncio
import json
from base64 import b64encode
from typing import Any

import httpx
import pytest

from tests.build import load, observation, patient, practitioner
from tests.served import Served
from tests.stores import every_kind

kind = every_kind
FULL = "system/*.cruds"
Resource = dict[str, Any]


def writer(server: Served, org: str = "clinic", scope: str = FULL) -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=scope))


def entry(method: str, url: str, resource: Resource | None = None, full: str = "", **request: str) -> Resource:
    found: Resource = {"request": {"method": method, "url": url, **request}}
    if full:
        found["fullUrl"] = full
    if resource is not None:
        found["resource"] = resource
    return found


def bundle(kind: str, *entries: Resource) -> Resource:
    return {"resourceType": "Bundle", "type": kind, **({"entry": list(entries)} if entries else {})}


async def post(client: httpx.AsyncClient, kind: str, *entries: Resource, **headers: str) -> httpx.Response:
    return await client.post("", json=bundle(kind, *entries), headers=headers)


def without_id(resource: Resource) -> Resource:
    return {name: value for name, value in resource.items() if name != "id"}


def statuses(answer: httpx.Response) -> list[str]:
    return [one["response"]["status"][:3] for one in answer.json()["entry"]]


async def test_references_between_entries_are_resolved_and_answers_stand_in_order(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Practitioner/old", json=practitioner("old"))
        note = {
            "div": '<div xmlns="http://www.w3.org/1999/xhtml"><a href="urn:uuid:aa">p</a></div>',
            "status": "generated",
        }
        answer = await post(
            client, "transaction",
            entry("GET", "Practitioner/dr"),
            entry("POST", "Observation", {**without_id(observation("x", "y")), "text": note,
                                          "subject": {"reference": "urn:uuid:aa"}}, "urn:uuid:bb"),
            entry("PUT", "Practitioner/dr", practitioner("dr"), f"{server.base}/Practitioner/dr"),
            entry("POST", "Patient", without_id(patient("x")), "urn:uuid:aa"),
            entry("DELETE", "Practitioner/old"),
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert answer.json()["type"] == "transaction-response"
        assert statuses(answer) == ["200", "201", "201", "201", "204"]
        assert answer.json()["entry"][0]["resource"]["id"] == "dr"  # a read sees what the transaction wrote
        made = answer.json()["entry"][3]["response"]["location"].split("/")[-3]
        seen = (await client.get(answer.json()["entry"][1]["response"]["location"])).json()
        assert seen["subject"] == {"reference": f"Patient/{made}"}
        assert f'href="Patient/{made}"' in seen["text"]["div"]
        assert (await client.get("Practitioner/old")).status_code == 410


async def test_one_bad_entry_stores_nothing_and_is_named(server: Served) -> None:
    await load(server.gate, [patient("theirs")], organization="other")
    async with writer(server) as client:
        bad = [
            (entry("POST", "Observation", observation("o", "theirs")), 409),
            (entry("PUT", "Patient/q", patient("other-id")), 400),
            (entry("PUT", "Patient/p", patient("p"), ifMatch='W/"9"'), 412),
            (entry("POST", "Observation", observation("o", "p", subject={"reference": "Patient?identifier=x"})), 412),
            (entry("DELETE", "Patient/never"), 404),
            (entry("POST", "Nonsense", patient("p")), 400),
            (entry("POST", "Patient"), 400),
            (entry("PUT", "Patient/good", patient("good")), 400),  # the same resource twice
        ]  # fmt: skip
        await client.put("Patient/p", json=patient("p"))
        for wrong, status in bad:
            answer = await post(client, "transaction", entry("PUT", "Patient/good", patient("good")), wrong)
            assert answer.status_code == status, (wrong, answer.text)
            outcome = answer.json()
            assert outcome["resourceType"] == "OperationOutcome"
            if status != 404:
                assert outcome["issue"][0]["expression"][0].startswith("Bundle.entry[1]"), outcome
            assert (await client.get("Patient/good")).status_code == 404
        invalid = await post(client, "transaction", entry("POST", "Patient", {**patient("x"), "active": "yes"}))
        assert invalid.status_code == 422
        assert invalid.json()["issue"][0]["expression"] == ["Bundle.entry[0].resource.active"]


async def test_conditional_entries_meet_what_is_there(server: Served) -> None:
    async with writer(server) as client:
        doctor = {**practitioner("dr"), "identifier": [{"system": "urn:npi", "value": "1"}]}
        await client.put("Practitioner/dr", json=doctor)
        fresh = {**without_id(doctor), "identifier": [{"system": "urn:npi", "value": "2"}]}
        seen = {**observation("o", "p"), "performer": [{"reference": "urn:uuid:dr"},
                                                       {"reference": "Practitioner?identifier=urn:npi|1"}]}  # fmt: skip
        answer = await post(
            client, "transaction",
            entry("POST", "Practitioner", without_id(doctor), "urn:uuid:dr", ifNoneExist="identifier=urn:npi|1"),
            entry("POST", "Practitioner", fresh, "urn:uuid:n1", ifNoneExist="identifier=urn:npi|2"),
            entry("POST", "Practitioner", fresh, "urn:uuid:n2", ifNoneExist="identifier=urn:npi|2"),
            entry("PUT", "Patient/p", patient("p")), entry("PUT", "Observation/o", seen),
        )  # fmt: skip
        assert statuses(answer) == ["200", "201", "200", "201", "201"], answer.text
        stored = (await client.get("Observation/o")).json()
        assert stored["performer"] == [{"reference": "Practitioner/dr"}] * 2
        assert len((await client.get("Practitioner?identifier=urn:npi|2")).json()["entry"]) == 1


async def test_many_transactions_with_one_condition_make_one_resource(server: Served) -> None:
    async with writer(server) as client:
        doctor = {**without_id(practitioner("x")), "identifier": [{"system": "urn:npi", "value": "7"}]}

        async def once(number: int) -> httpx.Response:
            return await post(
                client, "transaction",
                entry("POST", "Practitioner", doctor, "urn:uuid:dr", ifNoneExist="identifier=urn:npi|7"),
                entry("PUT", f"Patient/p{number}", {**patient(f"p{number}"),
                      "generalPractitioner": [{"reference": "urn:uuid:dr"}]}),
            )  # fmt: skip

        answers = await asyncio.gather(*(once(number) for number in range(30)))
        assert {answer.status_code for answer in answers} == {200}
        [one] = (await client.get("Practitioner?identifier=urn:npi|7")).json()["entry"]
        for number in range(30):
            named = (await client.get(f"Patient/p{number}")).json()["generalPractitioner"]
            assert named == [{"reference": f"Practitioner/{one['resource']['id']}"}]


async def test_a_batch_answers_each_entry_for_itself(server: Served) -> None:
    await load(server.gate, [patient("theirs")], organization="other")
    async with writer(server) as client:
        answer = await post(
            client, "batch",
            entry("GET", "Patient/p"), entry("PUT", "Patient/p", patient("p")), entry("GET", "Patient/theirs"),
            entry("POST", "Patient", {**patient("x"), "active": "yes"}), entry("DELETE", "Patient/never"),
            entry("GET", "Nonsense/1"), entry("GET", "Patient?_count=1"), entry("POST", "/", patient("x")),
        )  # fmt: skip
        assert answer.status_code == 200
        assert answer.json()["type"] == "batch-response"
        assert statuses(answer) == ["200", "201", "404", "422", "404", "404", "200", "400"]
        for one in answer.json()["entry"]:
            if one["response"]["status"] >= "400":
                assert one["response"]["outcome"]["resourceType"] == "OperationOutcome"
        assert answer.json()["entry"][6]["resource"]["type"] == "searchset"


async def test_each_entry_needs_its_own_scope(server: Served) -> None:
    async with writer(server, scope="system/Patient.cu system/Observation.rs") as client:
        answer = await post(
            client, "batch", entry("PUT", "Patient/p", patient("p")),
            entry("PUT", "Observation/o", observation("o", "p")), entry("GET", "Patient/p"),
        )  # fmt: skip
        assert statuses(answer) == ["201", "403", "403"]
        together = await post(client, "transaction", entry("PUT", "Patient/q", patient("q")),
                              entry("PUT", "Observation/o", observation("o", "q")))  # fmt: skip
        assert together.status_code == 403
        assert together.json()["issue"][0]["expression"] == ["Bundle.entry[1]"]
    async with server.client() as operator:
        assert (await operator.get("Patient/q")).status_code == 404


async def test_a_bundle_is_bounded_and_must_be_one(server: Served) -> None:
    async with writer(server) as client:
        for body, status, place in (
            ({"resourceType": "Patient"}, 422, ""), (bundle("collection"), 400, "Bundle.type"),
            ({"resourceType": "Bundle", "type": "batch", "entry": [{}]}, 422, "Bundle.entry"),
            (bundle("batch", entry("TRACE", "Patient/1")), 400, "Bundle.entry[0].request.method"),
            (bundle("batch", *[entry("GET", "Patient/1")] * 10_001), 413, "Bundle.entry"),
        ):  # fmt: skip
            answer = await client.post("", json=body)
            assert answer.status_code == status, answer.text
            assert place in json.dumps(answer.json()["issue"])
        nothing = await post(client, "transaction")
        assert (nothing.status_code, nothing.json()["type"]) == (200, "transaction-response")
        assert (await client.post("", content=b" " * (33 << 20))).status_code == 413


async def test_content_comes_back_when_it_is_asked_for(server: Served) -> None:
    async with writer(server) as client:
        answer = await post(client, "transaction", entry("PUT", "Patient/p", patient("p")),
                            Prefer="return=representation")  # fmt: skip
        assert answer.json()["entry"][0]["resource"]["id"] == "p"
        plain = await post(client, "transaction", entry("PUT", "Patient/p", patient("p")))
        assert "resource" not in plain.json()["entry"][0]
        assert plain.json()["entry"][0]["response"]["etag"] == 'W/"2"'


async def test_patches_are_part_of_a_transaction_and_of_a_batch(server: Served) -> None:
    patches = {
        "json": {"resourceType": "Binary", "contentType": "application/json-patch+json",
                 "data": b64encode(b'[{"op":"add","path":"/gender","value":"male"}]').decode()},
        "fhirpath": {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": [
            {"name": "type", "valueCode": "replace"}, {"name": "path", "valueString": "Patient.gender"},
            {"name": "value", "valueCode": "female"}]}]},
    }  # fmt: skip
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        for number, (name, gender) in enumerate((("json", "male"), ("fhirpath", "female")), 2):
            answer = await post(client, "transaction", entry("PATCH", "Patient/p", patches[name]),
                                entry("PUT", f"Patient/{name}", patient(name)))  # fmt: skip
            assert statuses(answer) == ["200", "201"], answer.text
            assert answer.json()["entry"][0]["response"]["etag"] == f'W/"{number}"'
            assert (await client.get("Patient/p")).json()["gender"] == gender
        batch = await post(client, "batch", entry("PATCH", "Patient/p", patches["json"]))
        assert statuses(batch) == ["200"]
        never = await post(client, "transaction", entry("PATCH", "Patient/never", patches["json"]),
                           entry("PUT", "Patient/new", patient("new")))  # fmt: skip
        assert never.status_code == 404
        assert (await client.get("Patient/new")).status_code == 404


async def test_a_read_that_fails_after_the_commit_is_told_in_its_entry_and_the_commit_stands(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also one that fails amid its answer: a part of it is no answer."""
    async with writer(server) as client:
        await post(client, "transaction", *(entry("PUT", f"Patient/{at}", patient(str(at))) for at in range(400)))
        monkeypatch.setattr("fhirserver.http.inner.MOST", 20_000)
        reads = [entry("GET", "Patient?_count=400"), entry("GET", "Patient/1"), entry("GET", "Patient/never")]
        for kind in ("transaction", "batch"):
            answer = await post(client, kind, *reads, entry("PUT", f"Patient/{kind}", patient(kind)))
            assert answer.status_code == 200, answer.text
            assert statuses(answer) == ["413", "200", "404", "201"]
            told = answer.json()["entry"][0]
            assert "resource" not in told
            assert told["response"]["outcome"]["resourceType"] == "OperationOutcome"
            assert (await client.get(f"Patient/{kind}")).status_code == 200

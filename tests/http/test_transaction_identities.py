"""What names mean within a transaction: fullUrls, relative and conditional references, conditions that say the same."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.build import observation, patient, practitioner
from tests.http.test_transaction import entry, post, statuses, without_id, writer
from tests.served import Served
from tests.stores import every_kind

kind = every_kind
Resource = dict[str, Any]


def doctor(number: str, id_: str = "") -> Resource:
    found = {**practitioner(id_ or "x"), "identifier": [{"system": "urn:npi", "value": number}]}
    return found if id_ else without_id(found)


def seen(subject: str, *performers: str) -> Resource:
    found = {**without_id(observation("o", "p")), "subject": {"reference": subject}}
    return {**found, "performer": [{"reference": each} for each in performers]} if performers else found


def places(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return ["/".join(one["response"]["location"].split("/")[-4:-2]) for one in answer.json()["entry"]]


async def doctors(client: httpx.AsyncClient, number: str) -> int:
    return len((await client.get(f"Practitioner?identifier=urn:npi|{number}")).json().get("entry", []))


async def test_a_relative_reference_is_one_below_the_base_of_its_own_entry(server: Served) -> None:
    async with writer(server) as client:
        answer = await post(
            client, "transaction",
            entry("POST", "Patient", without_id(patient("a")), "http://a.example/fhir/Patient/1"),
            entry("POST", "Patient", without_id(patient("b")), "http://b.example/fhir/Patient/1"),
            entry("POST", "Observation", seen("Patient/1"), "http://a.example/fhir/Observation/1"),
            entry("POST", "Observation", seen("Patient/1"), "http://b.example/fhir/Observation/1"),
        )  # fmt: skip
        at = places(answer)
        for place, subject in ((at[2], at[0]), (at[3], at[1])):
            assert (await client.get(place)).json()["subject"] == {"reference": subject}


@pytest.mark.parametrize("full", ["", "urn:uuid:6f1b5a4e-0000-4000-8000-000000000001"])
async def test_a_relative_reference_without_a_base_is_to_what_this_server_holds(server: Served, full: str) -> None:
    async with writer(server) as client:
        await client.put("Patient/ours", json=patient("ours"))
        answer = await post(
            client, "transaction",
            entry("POST", "Patient", without_id(patient("x")), "http://a.example/fhir/Patient/ours"),
            entry("POST", "Observation", seen("Patient/ours"), full),
        )  # fmt: skip
        assert (await client.get(places(answer)[1])).json()["subject"] == {"reference": "Patient/ours"}


async def test_a_conditional_reference_finds_what_the_transaction_itself_stores(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        await client.put("Practitioner/changed", json=doctor("2", "changed"))
        wanted = ("Practitioner?identifier=urn:npi|1", "Practitioner?identifier=urn:npi|3")
        answer = await post(
            client, "transaction",
            entry("POST", "Observation", seen("Patient/p", *wanted)),
            entry("POST", "Practitioner", doctor("1"), "urn:uuid:one"),
            entry("PUT", "Practitioner/changed", doctor("3", "changed")),
        )  # fmt: skip
        at = places(answer)
        stored = (await client.get(at[0])).json()
        assert stored["performer"] == [{"reference": at[1]}, {"reference": "Practitioner/changed"}]


async def test_a_conditional_reference_does_not_find_what_the_transaction_removes_or_makes_ambiguous(
    server: Served,
) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        await client.put("Practitioner/one", json=doctor("1", "one"))
        wanted = entry("POST", "Observation", seen("Patient/p", "Practitioner?identifier=urn:npi|1"))
        for other in (
            entry("DELETE", "Practitioner/one"),
            entry("PUT", "Practitioner/one", doctor("2", "one")),
            entry("POST", "Practitioner", doctor("1")),
        ):
            answer = await post(client, "transaction", other, wanted)
            assert answer.status_code == 412, (other, answer.text)
            assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[1]"]
        kept = entry("PUT", "Practitioner/one", {**doctor("1", "one"), "active": True})
        answer = await post(client, "transaction", kept, wanted)
        assert (await client.get(places(answer)[1])).json()["performer"] == [{"reference": "Practitioner/one"}]


async def test_two_conditional_creates_of_what_is_there_mean_that_resource(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Practitioner/one", json=doctor("1", "one"))
        await client.put("Patient/p", json=patient("p"))
        answer = await post(
            client, "transaction",
            entry("POST", "Practitioner", doctor("1"), "urn:uuid:a", ifNoneExist="identifier=urn:npi|1"),
            entry("POST", "Practitioner", doctor("1"), "urn:uuid:b", ifNoneExist="identifier=urn:npi|1"),
            entry("POST", "Observation", seen("Patient/p", "urn:uuid:a", "urn:uuid:b")),
        )  # fmt: skip
        assert answer.status_code == 200, answer.text
        assert statuses(answer) == ["200", "200", "201"]
        assert (await client.get(places(answer)[2])).json()["performer"] == [{"reference": "Practitioner/one"}] * 2


async def test_one_condition_in_two_spellings_makes_one_resource(server: Served) -> None:
    async with writer(server) as client:
        answer = await post(
            client, "transaction",
            entry("POST", "Practitioner", doctor("1"), ifNoneExist="identifier=urn:npi|1"),
            entry("POST", "Practitioner", doctor("1"), ifNoneExist="Practitioner?identifier=urn%3Anpi%7C1"),
        )  # fmt: skip
        assert statuses(answer) == ["201", "200"]
        assert await doctors(client, "1") == 1


@pytest.mark.parametrize("method", ["POST", "PUT"])
async def test_a_conditional_update_does_not_make_a_second_resource_of_one_condition(
    server: Served, method: str
) -> None:
    async with writer(server) as client:
        condition = "identifier=urn:npi|1"
        first = (
            entry("POST", "Practitioner", doctor("1"), ifNoneExist=condition)
            if method == "POST"
            else entry("PUT", f"Practitioner?{condition}", doctor("1"))
        )
        answer = await post(client, "transaction", first, entry("PUT", f"Practitioner?{condition}", doctor("1")))
        assert answer.status_code == 400, answer.text
        assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[1]"]
        assert await doctors(client, "1") == 0


async def test_the_url_of_an_entry_means_the_same_in_a_transaction_as_by_itself(server: Served) -> None:
    async with writer(server) as client:
        for url in ("Patient/one", "Patient/_search"):
            answer = await post(client, "transaction", entry("POST", url, without_id(patient("x"))))
            assert answer.status_code == 400, answer.text
            assert answer.json()["issue"][0]["expression"] == ["Bundle.entry[0].request.url"]
        answer = await post(client, "transaction", entry("PUT", "Patient/%6Fne", patient("one")))
        assert statuses(answer) == ["201"]
        assert (await client.get("Patient/one")).status_code == 200


@pytest.mark.parametrize(
    ("wrong", "place"),
    [
        (entry("POST", "Practitioner", doctor("1"), ifNoneExist="shoe-size=1"), "request.ifNoneExist"),
        (entry("PUT", "Practitioner?shoe-size=1", doctor("1")), "request.url"),
        (entry("DELETE", "Practitioner?shoe-size=1"), "request.url"),
        (entry("POST", "Observation", seen("Patient?shoe-size=1")), "resource"),
    ],
)
async def test_a_condition_that_cannot_be_understood_is_named_where_it_stands(
    server: Served, wrong: Resource, place: str
) -> None:
    async with writer(server) as client:
        answer = await post(client, "transaction", wrong)
        assert answer.status_code == 400, answer.text
        assert answer.json()["issue"][0]["expression"] == [f"Bundle.entry[0].{place}"]


async def test_a_bundle_that_is_stored_keeps_its_own_names_and_references(server: Served) -> None:
    async with writer(server) as client:
        name, other = (f"urn:uuid:6f1b5a4e-0000-4000-8000-00000000000{each}" for each in "12")
        inner = [
            {"fullUrl": name, "resource": patient("p")},
            {"fullUrl": other, "resource": seen(name, "Practitioner?identifier=urn:npi|1")},
        ]
        answer = await post(
            client, "transaction",
            entry("POST", "Patient", without_id(patient("p")), name),
            entry("POST", "Bundle", {"resourceType": "Bundle", "type": "collection", "entry": inner}),
        )  # fmt: skip
        assert (await client.get(places(answer)[1])).json()["entry"] == inner


async def test_what_a_patch_leaves_as_it_was_is_not_taken_for_another_servers(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Patient/1", json=patient("1"))
        await client.put("Observation/o", json=observation("o", "1"))
        change = [{"name": "type", "valueCode": "replace"}, {"name": "path", "valueString": "Observation.status"},
                  {"name": "value", "valueCode": "amended"}]  # fmt: skip
        patched = {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": change}]}
        await post(
            client, "transaction",
            entry("POST", "Patient", without_id(patient("x")), "http://a.example/fhir/Patient/1"),
            entry("PATCH", "Observation/o", patched, "http://a.example/fhir/Observation/o"),
        )  # fmt: skip
        stored = (await client.get("Observation/o")).json()
        assert (stored["status"], stored["subject"]["reference"]) == ("amended", "Patient/1")

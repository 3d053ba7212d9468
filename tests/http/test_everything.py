"""`$everything` over real HTTP: parameters, formats, refusals (HE-1 … HE-14)."""

from __future__ import annotations

import json

import httpx
import pytest

from fhirserver.core.model import Key
from tests.everything import ALL, links, names, small_chart
from tests.served import Served
from tests.stores import every_kind

kind = every_kind


async def test_he1_he2_the_whole_chart_comes_in_one_bundle(server: Served) -> None:
    await small_chart(server)
    answer = await server.get("Person/p/$everything", headers={"Accept": "application/json"})
    bundle = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert names(bundle)[0] == "Person/p"
    assert sorted(names(bundle)) == sorted(ALL)
    assert names(bundle)[-2:] == ["Organization/clinic", "Practitioner/dr"]
    assert (bundle["type"], bundle["total"]) == ("searchset", len(ALL))
    assert {entry["search"]["mode"] for entry in bundle["entry"]} == {"match"}


async def test_he3_every_full_url_is_that_of_its_resource_and_resolves(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Person/p/$everything")).json()
    async with server.client() as client:
        for entry in bundle["entry"]:
            resource = entry["resource"]
            assert entry["fullUrl"] == f"{server.base}/{resource['resourceType']}/{resource['id']}"
            assert (await client.get(entry["fullUrl"])).json() == resource


async def test_a_patient_is_an_anchor_too(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Patient/p/$everything")).json()
    assert sorted(names(bundle)) == sorted(ALL)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ("Observation", ["Observation/o1", "Observation/o2"]),
        ("Practitioner,Condition", ["Condition/c", "Practitioner/dr"]),
        ("Person", ["Person/p"]),
        ("Patient", ["Patient/p"]),
        ("Immunization", []),
    ],
)
async def test_he7_only_the_types_asked_for_come_and_supporting_ones_after_the_closure(
    server: Served, types: str, expected: list[str]
) -> None:
    await small_chart(server)
    bundle = (await server.get(f"Person/p/$everything?_type={types}")).json()
    assert names(bundle) == expected
    assert bundle["total"] == len(expected)
    paged = (await server.get(f"Person/p/$everything?_type={types}&_count=50")).json()
    assert (names(paged), paged["total"]) == (expected, len(expected))


@pytest.mark.parametrize(
    ("query", "dated"),
    [
        ("start=2024-01-01", ["Observation/o2"]),
        ("end=2020-12-31", ["Encounter/e", "Observation/o1"]),
        ("start=2020-01-02&end=2020-01-02", ["Encounter/e"]),
        ("start=2030", []),
    ],
)
async def test_care_dates_overlap_and_undated_resources_stay(server: Served, query: str, dated: list[str]) -> None:
    await small_chart(server)
    found = names((await server.get(f"Patient/p/$everything?{query}")).json())
    assert [name for name in found if name.split("/")[0] in ("Observation", "Encounter")] == dated
    assert {"Patient/p", "Condition/c"} <= set(found)


async def test_elements_cuts_each_resource_and_tags_it(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Person/p/$everything?_type=Observation&_elements=effective,status")).json()
    first = bundle["entry"][0]["resource"]
    assert first.keys() == {"resourceType", "id", "meta", "status", "code", "effectiveDateTime"}
    assert first["meta"]["tag"][0]["code"] == "SUBSETTED"


async def test_post_with_parameters_is_the_same_as_get(server: Served) -> None:
    await small_chart(server)
    parameters = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueCode": "Observation"},
            {"name": "_type", "valueCode": "Condition"},
            {"name": "_count", "valueInteger": 2},
        ],
    }
    async with server.client(headers={"Content-Type": "application/fhir+json"}) as client:
        answer = await client.post("Person/p/$everything", content=json.dumps(parameters))
        assert names(answer.json()) == ["Observation/o1", "Observation/o2"]
        following = await client.get(links(answer.json())["next"])
        assert names(following.json()) == ["Condition/c"]
        assert (await client.post("Person/p/$everything", content="{")).status_code == 400
        assert (await client.post("Person/p/$everything", content='{"resourceType":"Patient"}')).status_code == 400


async def test_ndjson_ends_with_an_outcome_that_only_a_complete_answer_has(server: Served) -> None:
    await small_chart(server)
    answer = await server.get("Person/p/$everything", headers={"Accept": "application/fhir+ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/fhir+ndjson"
    assert (lines[0]["resourceType"], lines[0]["id"]) == ("Person", "p")
    assert len(lines) == len(ALL) + 1
    assert lines[-1]["resourceType"] == "OperationOutcome"
    assert lines[-1]["issue"][0]["severity"] == "information"
    assert str(len(ALL)) in lines[-1]["issue"][0]["diagnostics"]


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_the_answer_is_compressed_when_asked(server: Served, encoding: str) -> None:
    await small_chart(server)
    answer = await server.get("Person/p/$everything", headers={"Accept-Encoding": encoding})
    assert answer.headers["content-encoding"] == encoding
    assert len(names(answer.json())) == len(ALL)


@pytest.mark.parametrize(
    "query",
    ["_type=Foo", "_since=yesterday", "_count=-1", "_offset=x", "start=2024-13", "_summary=x", "_page=forged"],
)
async def test_he9_bad_parameters_are_a_400_naming_them(server: Served, query: str) -> None:
    await small_chart(server)
    answer = await server.get(f"Person/p/$everything?{query}")
    outcome = answer.json()
    assert (answer.status_code, outcome["resourceType"]) == (400, "OperationOutcome")
    assert query.split("=")[0] in outcome["issue"][0]["diagnostics"]


async def test_he13_unknown_parameters_are_refused_only_under_strict_handling(server: Served) -> None:
    await small_chart(server)
    lenient = await server.get("Person/p/$everything?foo=bar")
    assert (lenient.status_code, "foo" in links(lenient.json())["self"]) == (200, False)
    strict = await server.get("Person/p/$everything?foo=bar", headers={"Prefer": "handling=strict"})
    assert (strict.status_code, "foo" in strict.text) == (400, True)


@pytest.mark.parametrize("anchor", ["Person", "Patient"])
async def test_an_operator_is_told_404_and_410(server: Served, anchor: str) -> None:
    await small_chart(server)
    assert (await server.get(f"{anchor}/none/$everything")).status_code == 404
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key(anchor, "p")])
    assert (await server.get(f"{anchor}/p/$everything")).status_code == 410


async def test_he9_no_token_is_a_401_with_a_challenge(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.base) as client:
        answer = await client.get("/Person/p/$everything")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["issue"][0]["code"] == "login"
    bogus = await server.get("Person/p/$everything", token="a.b.c")
    assert bogus.status_code == 401


async def test_another_methods_and_types_are_refused(server: Served) -> None:
    async with server.client() as client:
        assert (await client.delete("Person/p/$everything")).status_code == 405
        assert (await client.get("Observation/p/$everything")).status_code == 404
        assert (await client.get("Nonsense/p")).status_code == 404

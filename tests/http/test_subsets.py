"""`_summary` and `_elements`: parts of resources, and counts."""

from __future__ import annotations

from typing import Any

from tests.build import load, observation, patient, practitioner
from tests.served import Served
from tests.writer import FHIR, writer

OBSERVATION: dict[str, Any] = {
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'},
    "note": [{"text": "not in a summary"}],
    "valueQuantity": {"value": 7.2},
}


async def test_summary_and_elements_hold_for_read_vread_search_and_everything(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p", **OBSERVATION)])
    always = {"resourceType", "id", "meta", "status", "code"}
    for query, kept in (
        ("_summary=true", always | {"subject", "valueQuantity"}),
        ("_summary=text", always | {"text"}),
        ("_summary=data", always | {"subject", "valueQuantity", "note"}),
        ("_elements=note", always | {"note"}),
        ("_elements=note,Observation.subject", always | {"note", "subject"}),
        ("_elements=note&_elements=value", always | {"note", "valueQuantity"}),
        ("_elements=nonsense", always),
    ):
        for path in (
            "Observation/o",
            "Observation/o/_history/1",
            "Observation?_id=o",
            "Patient/p/$everything?_type=Observation",
        ):
            found = (await server.get(f"{path}{'&' if '?' in path else '?'}{query}")).json()
            resource = found["entry"][0]["resource"] if found["resourceType"] == "Bundle" else found
            assert resource.keys() == kept, (path, query)
            assert resource["meta"]["tag"][0]["code"] == "SUBSETTED"
            assert resource["meta"]["versionId"] == "1"
    whole = (await server.get("Observation/o?_summary=false")).json()
    assert "tag" not in whole["meta"]
    assert "note" in whole


async def test_a_subset_that_cannot_be_understood_is_a_400_naming_the_parameter(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    for query in ("_summary=nonsense", "_summary=", "_elements=", "_elements=a,,b", "_summary=count"):
        answer = await server.get(f"Practitioner/dr?{query}")
        assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (400, [query.partition("=")[0]]), query


async def test_what_a_write_gives_back_may_be_a_subset(server: Served) -> None:
    async with writer(server) as client:
        answer = await client.put("Observation/o?_elements=note", json=observation("o", "p", **OBSERVATION))
        assert answer.status_code == 201
        assert answer.json().keys() == {"resourceType", "id", "meta", "status", "code", "note"}
        assert "valueQuantity" in (await client.get("Observation/o")).json()


async def test_a_count_is_the_total_and_nothing_else(server: Served) -> None:
    await load(server.gate, [practitioner("a"), practitioner("b"), patient("p")])
    for query in ("_summary=count", "_count=0"):
        bundle = (await server.get(f"Practitioner?{query}")).json()
        assert (bundle["total"], "entry" in bundle) == (2, False)
        assert [link["relation"] for link in bundle["link"]] == ["self"]
        assert query in bundle["link"][0]["url"]
    assert (await server.get("Practitioner?_summary=count&_id=a")).json()["total"] == 1
    token = server.token("third-party", org="app")
    hidden = (await server.get("Patient?_summary=count", token)).json()
    assert not {"total", "entry"} & hidden.keys()  # how many there are of everybody is not for third parties


async def test_the_links_of_a_search_keep_how_it_was_asked_for(server: Served) -> None:
    await load(server.gate, [practitioner("a"), practitioner("b", gender="female"), practitioner("c")])
    url = "Practitioner?_count=1&_elements=gender&_format=json"
    seen = []
    async with server.client() as client:
        while url:
            bundle = (await client.get(url, headers={"Accept": "application/fhir+xml"})).json()
            seen += [sorted(entry["resource"]) for entry in bundle["entry"]]
            url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    assert seen == [
        ["id", "meta", "resourceType"],
        ["gender", "id", "meta", "resourceType"],
        ["id", "meta", "resourceType"],
    ]


async def test_a_subset_cannot_be_written_back(server: Served) -> None:
    await load(server.gate, [practitioner("dr", gender="female")])
    subset = (await server.get("Practitioner/dr?_elements=gender")).json()
    async with writer(server, **{"Content-Type": FHIR}) as client:
        assert (await client.put("Practitioner/dr", json=subset)).status_code in (400, 422)

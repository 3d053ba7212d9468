"""search (R4 search §3.1.1) over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from tests.build import load, observation, patient, practitioner
from tests.served import Served
from tests.stores import every_kind

kind = every_kind

LOINC = "http://loinc.org"
DOCTOR = {"reference": "Practitioner/dr"}


def code(value: str) -> dict[str, Any]:
    return {"coding": [{"system": LOINC, "code": value}]}


@pytest.fixture
async def clinic(server: Served) -> Served:
    resources = [
        practitioner("dr", name=[{"family": "House", "given": ["Greg"]}]),
        patient("p", name=[{"family": "Åström", "given": ["Eva", "Maria"]}], birthDate="1970-05-17", gender="female"),
        patient("q", name=[{"family": "Berg"}], birthDate="1980", generalPractitioner=[DOCTOR]),
        *(
            observation(
                f"o{at}",
                "p" if at % 2 else "q",
                code=code("a" if at % 3 else "b"),
                effectiveDateTime=f"2026-01-{at + 1:02}",
                valueQuantity={"value": at, "unit": "mg", "system": "http://unitsofmeasure.org", "code": "mg"},
                performer=[DOCTOR],
            )
            for at in range(12)
        ),
    ]
    await load(server.gate, resources, organization="clinic")
    return server


def names(answer: httpx.Response, mode: str = "match") -> list[str]:
    assert answer.status_code == 200, answer.text
    entries = answer.json().get("entry", [])
    return [
        f"{each['resource']['resourceType']}/{each['resource']['id']}"
        for each in entries
        if each["search"]["mode"] == mode
    ]


def link(answer: httpx.Response, relation: str) -> str:
    return next((each["url"] for each in answer.json()["link"] if each["relation"] == relation), "")


async def found(server: Served, query: str) -> list[str]:
    return [name.partition("/")[2] for name in names(await server.get(query))]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Patient?name=astr", ["p"]),
        ("Patient?family:exact=Åström", ["p"]),
        ("Patient?family:exact=astrom", []),
        ("Patient?given:contains=ari", ["p"]),
        ("Patient?birthdate=1980", ["q"]),
        ("Patient?birthdate=lt1975-01-01", ["p"]),
        ("Patient?gender=female", ["p"]),
        ("Patient?gender:missing=true", ["q"]),
        ("Patient?gender:not=female", ["q"]),
        ("Patient?name=eva&birthdate=1970-05-17", ["p"]),
        ("Patient?general-practitioner=dr", ["q"]),
        ("Patient?general-practitioner:Practitioner.name=hou", ["q"]),
        ("Patient?_has:Observation:patient:date=2026-01-01", ["q"]),
        ("Patient?_id=p,never", ["p"]),
        ("Observation?patient=p&code=b", ["o3", "o9"]),
        (f"Observation?code={LOINC}|b&date=ge2026-01-05", ["o6", "o9"]),
        ("Observation?subject:Patient.family=berg&code=b", ["o0", "o6"]),
        ("Observation?value-quantity=3||mg", ["o3"]),
        ("Observation?value-quantity=3000|http://unitsofmeasure.org|ug", ["o3"]),
        ("Observation?code-value-quantity=a$gt9", ["o10", "o11"]),
        ("Observation?date=sa2026-01-11", ["o11"]),
        ("Observation?_sort=-date&_count=2", ["o11", "o10"]),
        ("Patient/p/Observation?code=b", ["o3", "o9"]),
        (f"Observation?code={LOINC}|", [f"o{at}" for at in range(12)]),
    ],
)
async def test_what_a_search_finds(clinic: Served, query: str, expected: list[str]) -> None:
    assert await found(clinic, query) == expected


@pytest.mark.parametrize("query", ["Observation?code=a&_count=3", "Observation?_sort=date&_count=5",
                                   "Observation?subject:Patient.name=e&_count=4", "Observation?_count=12"])  # fmt: skip
async def test_pages_put_together_are_the_matches_whatever_is_written_meanwhile(clinic: Served, query: str) -> None:
    whole = names(await clinic.get(f"{query.partition('_count')[0]}_count=100"))
    assert len(whole) > 3
    pages: list[str] = []
    async with clinic.client() as client:
        answer = await client.get(query)
        while True:
            pages += names(answer)
            await load(clinic.gate, [observation(f"new{len(pages)}", "p", code=code("a"))], organization="clinic")
            following = link(answer, "next")
            if not following:
                break
            answer = await client.get(following)
    assert pages == whole


async def test_a_posted_search_shows_its_parameters_in_no_link(clinic: Served) -> None:
    async with clinic.client() as client:
        answer = await client.post("Patient/_search", data={"birthdate": "1970-05-17", "_count": "1"})
        assert names(answer) == ["Patient/p"]
        assert "1970" not in str(answer.json()["link"])
        answer = await client.post("Observation/_search?code=a", data={"patient": "p", "_count": "2"})
        first = names(answer)
        assert first == ["Observation/o1", "Observation/o5"]
        assert "patient" not in str(answer.json()["link"])
        assert names(await client.get(link(answer, "self"))) == first
        assert names(await client.get(link(answer, "next"))) == ["Observation/o7", "Observation/o11"]


async def test_what_is_included_comes_once_and_is_not_counted(clinic: Served) -> None:
    answer = await clinic.get("Observation?code=b&_include=Observation:patient&_include=Observation:performer&_count=3")
    assert names(answer) == ["Observation/o0", "Observation/o3", "Observation/o6"]
    assert sorted(names(answer, "include")) == ["Patient/p", "Patient/q", "Practitioner/dr"]
    answer = await clinic.get("Patient?_id=q&_revinclude=Observation:patient&_include=Patient:general-practitioner")
    assert len(names(answer, "include")) == 7


async def test_totals_are_told_when_asked_for(clinic: Served) -> None:
    assert "total" not in (await clinic.get("Observation?code=a")).json()
    assert (await clinic.get("Observation?code=a&_total=accurate&_count=1")).json()["total"] == 8
    counted = (await clinic.get("Observation?code=a&_summary=count")).json()
    assert (counted["total"], "entry" in counted) == (8, False)


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("Observation?date=yesterday", "date"),
        ("Observation?code:below=x", "code:below"),
        ("Observation?code:nonsense=x", "code:nonsense"),
        ("Observation?subject:Nobody.name=x", "subject:Nobody.name"),
        ("Observation?_sort=subject", "_sort"),
        ("Observation?_total=all", "_total"),
        ("Observation?_content=x", "_content"),
        ("Observation?_count=-1", "_count"),
    ],
)
async def test_what_cannot_be_understood_is_named(clinic: Served, query: str, named: str) -> None:
    answer = await clinic.get(query)
    assert answer.status_code == 400, answer.text
    assert answer.json()["issue"][0]["expression"] == [named]


@pytest.mark.parametrize(
    "query", ["name=&birthdate=", "_id=&_sort=&_count=", "_include=&_summary=&_total=%20", "&&_x="]
)
async def test_an_empty_parameter_is_as_if_it_were_not_there(clinic: Served, query: str) -> None:
    answer = await clinic.get(f"Patient?gender=female&{query}")
    assert names(answer) == ["Patient/p"]
    assert link(answer, "self") == f"{clinic.base}/Patient?gender=female&_count=50"
    async with clinic.client(headers={"Prefer": "handling=strict"}) as client:
        assert (await client.get(f"Patient?{query}")).status_code == 400


async def test_an_unknown_parameter_is_left_out_of_self_and_refused_where_strictness_is_asked_for(
    clinic: Served,
) -> None:
    answer = await clinic.get("Observation?code=a&favourite=red")
    assert "favourite" not in link(answer, "self")
    assert "code=a" in link(answer, "self")
    async with clinic.client(headers={"Prefer": "handling=strict"}) as client:
        assert (await client.get("Observation?favourite=red")).status_code == 400


@pytest.mark.parametrize(
    "query",
    [
        "Observation?code=a",
        "Patient?name=eva&birthdate=1970",
        "Observation?code=a&date=ge2026-01-05",
        "Patient?_has:Observation:patient:code=a",
        "Patient/p/Observation?code=a",
    ],
)
async def test_an_operator_is_told_how_a_search_is_answered(clinic: Served, query: str) -> None:
    answer = await clinic.get(f"{query}&__explain=true")
    assert answer.status_code == 200, answer.text
    told = [issue["diagnostics"] for issue in answer.json()["issue"]]
    assert answer.json()["resourceType"] == "OperationOutcome"
    store = [each for each in told if each.startswith("Store:")]
    assert store
    assert any("INDEX" in each or "PRIMARY KEY" in each for each in store)
    assert "1970" not in answer.text
    assert "eva" not in answer.text
    member = await clinic.get(f"{query}&__explain=true", clinic.token("member", org="clinic"))
    assert member.json()["resourceType"] == "Bundle"


async def test_punctuation_does_not_count_in_a_string(server: Served) -> None:
    people = [patient("a", name=[{"family": "O'Brien-Smith"}]), patient("b", name=[{"family": "-"}])]
    await load(server.gate, people)
    for asked in ("obrien", "O'BRIEN", "o\u2019brien", "o-brien-s"):
        assert names(await server.get("Patient", params={"name": asked})) == ["Patient/a"], asked
    assert names(await server.get("Patient?name:exact=-")) == ["Patient/b"]
    assert names(await server.get("Patient?family:missing=true")) == []
    assert (await server.get("Patient?name=-")).status_code == 400

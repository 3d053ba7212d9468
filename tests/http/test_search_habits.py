"""What clients in the field send, beside what the specification shows: each is understood, or refused by name."""

from __future__ import annotations

import httpx
import pytest

from tests.build import encounter, load, observation, patient
from tests.served import Served

FIRST = {"effectiveDateTime": "2024-01-01T10:00:00+02:00"}
SECOND = {"effectiveDateTime": "2024-01-02T10:00:00+02:00"}


@pytest.fixture
async def clinic(server: Served) -> Served:
    seen = {"encounter": {"reference": "Encounter/e"}}
    resources = [
        patient("p"),
        encounter("e", "p"),
        observation("a", "p", **FIRST, **seen),
        observation("b", "p", **SECOND),
    ]
    await load(server.gate, resources, organization="clinic")
    return server


async def ask(server: Served, query: str) -> httpx.Response:
    """The query as it is written, without a client's own encoding."""
    async with httpx.AsyncClient(headers={"Authorization": f"Bearer {server.token()}"}) as client:
        return await client.get(f"{server.base}/{query}")


def found(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["resource"]["id"] for each in answer.json().get("entry", ())]


def self_link(answer: httpx.Response) -> str:
    return next(
        str(each["url"]).partition("/FHIR/R4/")[2] for each in answer.json()["link"] if each["relation"] == "self"
    )


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("Observation?patient=p&", ["a", "b"]),
        ("Observation?&&patient=p&&_count=1&", ["a"]),
        ("Observation/?patient=Patient%2Fp", ["a", "b"]),
        ("Observation?patient=p&subject=Patient/p&subject:Patient=p", ["a", "b"]),
        ("Observation?patient=p,other,Patient/third", ["a", "b"]),
        ("Observation?patient=p&_sort=-_lastUpdated", ["b", "a"]),
        ("Observation?patient=p&_sort=-date&_sort=_id&_count=1", ["b"]),
        ("Observation?_lastUpdated=ge2020-01-01T00:00:00+02:00&_lastUpdated=lt2099", ["a", "b"]),
        ("Observation?date=ge2024-01-02T10:00:00+02:00", ["b"]),
        ("Observation?date=2024-01-01T10:00:00+02:00,2024-01-02T10:00:00+02:00", ["a", "b"]),
        ("Observation?date=gt2024-01-01T08:00:01.000Z", ["b"]),
        ("Observation?code=http%3A%2F%2Floinc.org%7C8480-6,http://loinc.org|0", ["a", "b"]),
        ("Observation?patient=p&_include=Observation:encounter&_include=Observation:patient", ["a", "b", "e", "p"]),
        ("Observation?patient=p&_elements=id,code&_elements=status&_summary=false&_contained=false", ["a", "b"]),
        ("Observation?patient=p&_total=accurate&_totalMethod=count&_count=2&_count=2", ["a", "b"]),
        ("Observation?patient=p&_format=application/fhir+json&_pretty=true", ["a", "b"]),
        ("Observation?patient=p&_offset=0", ["a", "b"]),
        ("Observation?patient=p&_summary=count", []),
        ("Observation?patient=p&_count=0", []),
    ],
)
async def test_what_is_understood(clinic: Served, query: str, expected: list[str]) -> None:
    answer = await ask(clinic, query)
    assert sorted(found(answer)) == sorted(expected)
    if "_sort" in query:
        assert found(answer) == expected
    again = await ask(clinic, self_link(answer))
    assert found(again) == found(answer)


async def test_counting_gives_the_total_alone(clinic: Served) -> None:
    for query in ("_summary=count", "_count=0", "_summary=count&_total=accurate", "_count=0&_total=none&_sort=date"):
        body = (await ask(clinic, f"Observation?patient=p&{query}")).json()
        assert (body["total"], "entry" in body, len(body["link"])) == (2, False, 1), query


async def test_a_plus_that_came_unencoded_is_one_in_the_links(clinic: Served) -> None:
    answer = await ask(clinic, "Observation?date=ge2024-01-01T10:00:00+02:00&_format=application/fhir+json&_count=1")
    assert self_link(answer).startswith(
        "Observation?date=ge2024-01-01T10:00:00%2B02:00&_format=application/fhir%2Bjson&_count=1"
    )
    [following] = [each["url"] for each in answer.json()["link"] if each["relation"] == "next"]
    assert found(await ask(clinic, following.partition("/FHIR/R4/")[2])) == ["b"]


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("_offset=50", "_offset"),
        ("_count=1&_count=2", "_count"),
        ("_include=Observation:encounter,Observation:patient", "_include"),
        ("_sort:desc=date", "_sort"),
        ("_sort=date:asc", "_sort"),
        ("date=>2024-01-01", "date"),
        ("date=2024-1-1", "date"),
    ],
)
async def test_what_is_refused_by_name(clinic: Served, query: str, named: str) -> None:
    answer = await ask(clinic, f"Observation?{query}")
    assert answer.status_code == 400
    assert answer.json()["issue"][0]["expression"] == [named]

"""What one search may ask for: more is refused by name, before any work is done for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from fhirserver.core.model import Query, Record
from fhirserver.core.search import parse
from fhirserver.core.search.values import escape, split, unescape
from fhirserver.http import sorted as sorted_
from fhirserver.http.asking import MOST_PAIRS
from fhirserver.http.valuesets import MOST_CODES, MOST_NAMED, NOTHING_KNOWN
from fhirserver.policy import search
from fhirserver.policy.gate import Scoped
from tests.build import load, observation, patient
from tests.served import Served

LONG = 900_000


@pytest.mark.parametrize(
    ("type_", "name", "value"),
    [
        ("Observation", "code", "a" * LONG),
        ("Patient", "name:contains", "a" * LONG),
        ("Observation", "date", "2" * LONG),
        ("Observation", "_sort", ",".join(["date"] * 100_000)),
        ("Observation", "_sort", ",".join(["date"] * 21)),
        ("Observation", "_elements", "a," * 5_000 + "a"),
        ("Observation", "code:in", ",".join(f"urn:{at}" for at in range(MOST_NAMED + 1))),
        ("Observation", "code:below", ",".join(f"urn:{at}|a" for at in range(MOST_NAMED + 1))),
        ("", "_id", ",".join(f"a{at}" for at in range(200))),
    ],
)
async def test_a_parameter_that_asks_for_too_much_is_refused_by_name(
    server: Served, type_: str, name: str, value: str
) -> None:
    async with server.client() as client:
        answer = await client.post(f"{type_}/_search".strip("/"), data={name: value})
    assert answer.status_code == 400, answer.text[:200]
    assert answer.json()["issue"][0]["expression"] == [name]


@pytest.mark.parametrize(("query", "named"), [("_sort=date", "_sort"), ("_total=accurate", "_total"),
                                              ("_summary=count", "_total")])  # fmt: skip
async def test_an_order_or_total_that_asks_too_many_one_by_one_is_refused(
    server: Served, monkeypatch: pytest.MonkeyPatch, query: str, named: str
) -> None:
    await load(server.gate, [observation(f"o{at}", "p") for at in range(12)])
    asked = f"Observation?code:text=nothing&{query}"
    assert (await server.get(asked)).status_code == 200
    monkeypatch.setattr(sorted_, "MOST", 10)
    monkeypatch.setattr(search, "MOST_COUNTED", 10)
    refused = await server.get(asked)
    assert refused.status_code == 400
    issue = refused.json()["issue"][0]
    assert (issue["code"], issue["expression"]) == ("too-costly", [named])
    assert (await server.get("Observation?code=8480-6&_total=accurate")).json()["total"] == 12


@pytest.mark.parametrize("query", ["Observation?subject:Patient.identifier=urn:x|&_count=3",
                                   "Patient?_has:Observation:patient:code=http://loinc.org|"])  # fmt: skip
async def test_a_chain_with_an_end_that_is_asked_one_by_one_finds_the_same_from_either_side(
    server: Served, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    people = [
        patient(f"p{at}", identifier=[{"system": "urn:x" if at % 2 else "urn:y", "value": "1"}]) for at in range(9)
    ]
    await load(server.gate, [*people, *(observation(f"o{at}", f"p{at}") for at in range(9))])
    led = [each["fullUrl"] for each in (await server.get(query)).json()["entry"]]
    monkeypatch.setattr(search, "MOST_SOUGHT", 2)
    asked = (await server.get(query)).json()
    assert [each["fullUrl"] for each in asked["entry"]] == led
    assert len(led) in (3, 9)


async def test_what_is_put_in_order_beside_others_is_in_the_same_order(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await load(server.gate, [observation(f"o{at}", "p", effectiveDateTime=f"20{30 - at}") for at in range(9)])
    at_once = (await server.get("Observation?_sort=date")).json()["entry"]
    monkeypatch.setattr(sorted_, "_AT_ONCE", 0)
    assert (await server.get("Observation?_sort=date")).json()["entry"] == at_once
    assert [each["resource"]["id"] for each in at_once] == [f"o{at}" for at in reversed(range(9))]


async def test_a_form_of_too_many_parameters_is_refused(server: Served) -> None:
    async with server.client() as client:
        some = await client.post("Patient/_search", data={f"x{at}": "1" for at in range(MOST_PAIRS)})
        more = await client.post("Patient/_search", data={f"x{at}": "1" for at in range(MOST_PAIRS + 1)})
    assert (some.status_code, more.status_code) == (200, 400)


async def test_a_value_set_of_too_many_codes_is_refused_and_one_named_twice_is_read_once(server: Served) -> None:
    def value_set(id: str, codes: int) -> dict[str, object]:
        concepts = [{"code": f"c{at}"} for at in range(codes)]
        include = [{"system": "urn:s", "concept": concepts}]
        return {"resourceType": "ValueSet", "id": id, "url": f"urn:{id}", "status": "active",
                "compose": {"include": include}}  # fmt: skip

    coded = observation("o", "p", code={"coding": [{"system": "urn:s", "code": "c7"}]})
    await load(server.gate, [value_set("many", MOST_CODES + 1), value_set("few", 10), coded])
    refused = await server.get("Observation?code:in=urn:many")
    assert (refused.status_code, refused.json()["issue"][0]["expression"]) == (400, ["code:in"])
    twice = await server.get("Observation?code:in=" + ",".join(["urn:few"] * (MOST_NAMED + 1)))
    assert [each["resource"]["id"] for each in twice.json()["entry"]] == ["o"]


def test_values_are_split_at_what_no_backslash_stands_before() -> None:
    assert split("a\\,b,c\\\\,d\\", ",") == ["a\\,b", "c\\\\", "d\\"]
    assert split("", ",") == [""]
    assert unescape("a\\,b\\x\\\\") == "a,b\\x\\"
    assert split(escape("a,|$\\"), "|") == [escape("a,|$\\")]


def test_a_search_of_one_type_takes_as_many_ids_as_values() -> None:
    found = parse(("Patient",), [("_id", ",".join(f"a{at}" for at in range(500)))], now=0, values=NOTHING_KNOWN)
    assert len(found.keys or ()) == 500


@pytest.mark.parametrize(
    "query",
    [
        "Observation?code=8480-6",
        "Observation?_sort=_id",
        "Observation?subject:Patient.name=f",
        "Observation?code:text=x&_summary=count",
        "DocumentReference/$docref?patient=p",
        "$meta",
        "Observation/_history",
    ],
)
async def test_a_client_that_leaves_ends_what_is_looked_for_within_a_second(
    server: Served, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    await load(server.gate, [patient("p"), observation("o", "p")])
    working = asyncio.Event()
    ended = asyncio.Event()

    async def endless(self: Scoped, query: Query, batch: int = 256, **how: bool) -> AsyncIterator[list[Record]]:
        try:
            working.set()
            await asyncio.sleep(30)
            yield []
        finally:
            ended.set()

    monkeypatch.setattr(Scoped, "scan", endless)
    monkeypatch.setattr(Scoped, "history", endless)
    async with server.client() as client:
        asking = asyncio.create_task(client.get(query))
        await asyncio.wait_for(working.wait(), 5)
        asking.cancel()
    await asyncio.wait_for(ended.wait(), 1)


async def test_a_client_that_leaves_ends_the_reads_of_its_batch(
    server: Served, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    await load(server.gate, [patient("p"), observation("o", "p")])
    working, ended = asyncio.Event(), asyncio.Event()
    begun: list[Query] = []

    async def endless(self: Scoped, query: Query, batch: int = 256, **how: bool) -> AsyncIterator[list[Record]]:
        try:
            begun.append(query)
            working.set()
            await asyncio.sleep(30)
            yield []
        finally:
            ended.set()

    monkeypatch.setattr(Scoped, "scan", endless)
    reads = [{"request": {"method": "GET", "url": "Observation?code=8480-6"}} for _ in range(3)]
    async with server.client() as client:
        asking = asyncio.create_task(client.post("", json={"resourceType": "Bundle", "type": "batch", "entry": reads}))
        await asyncio.wait_for(working.wait(), 5)
        asking.cancel()
    await asyncio.wait_for(ended.wait(), 1)
    await asyncio.sleep(0.1)
    assert len(begun) == 1
    assert "unexpected failure" not in caplog.text

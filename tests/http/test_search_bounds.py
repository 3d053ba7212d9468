"""What one search may ask for: more is refused by name, before any work is done for it."""

from __future__ import annotations

import pytest

from fhirserver.core.search import parse
from fhirserver.core.search.values import escape, split, unescape
from fhirserver.http.asking import MOST_PAIRS
from fhirserver.http.valuesets import MOST_CODES, MOST_NAMED, NOTHING_KNOWN
from tests.build import load, observation
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
    search = parse(("Patient",), [("_id", ",".join(f"a{at}" for at in range(500)))], now=0, values=NOTHING_KNOWN)
    assert len(search.keys or ()) == 500

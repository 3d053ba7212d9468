"""How an answer is written: `_pretty`, compression, and a path that ends with a slash."""

from __future__ import annotations

import json

import pytest

from tests.build import load, observation, patient, practitioner
from tests.served import Served
from tests.writer import FHIR, writer


async def test_pretty_is_indented_whole_and_streamed(server: Served) -> None:
    many = [observation(f"o{n}", "p", note=[{"text": '{[,:\\" ' + "x" * 2_000}]) for n in range(60)]
    await load(server.gate, [patient("p"), *many])
    for path in ("Patient/p", "metadata", "Patient?_id=p", "Observation?_count=60", "Patient/p/$everything"):
        mark = "&" if "?" in path else "?"
        plain, pretty = [await server.get(f"{path}{mark}_pretty={value}") for value in ("false", "true")]
        assert b"\n" not in plain.content
        assert b'\n  "resourceType"' in pretty.content or b'\n  "id"' in pretty.content
        left, right = plain.json(), pretty.json()
        for bundle in (left, right):
            bundle.pop("timestamp", None)
            bundle.pop("link", None)
        assert left == right


async def test_pretty_is_true_or_false(server: Served) -> None:
    answer = await server.get("metadata?_pretty=1")
    assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (400, ["_pretty"])


async def test_pretty_keeps_number_texts_and_ndjson_lines(server: Served) -> None:
    raw_body = (
        b'{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"valueQuantity":{"value":7.20}}'
    )
    async with writer(server, **{"Content-Type": FHIR}) as client:
        assert (await client.put("Observation/o", content=raw_body)).status_code == 201
    assert b'"value": 7.20\n' in (await server.get("Observation/o?_pretty=true")).content
    await load(server.gate, [patient("p")])
    lines = (await server.get("Patient/p/$everything?_pretty=true", headers={"Accept": "application/fhir+ndjson"})).text
    assert all(json.loads(line) for line in lines.splitlines())


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_answers_are_compressed_where_that_is_worth_it(server: Served, encoding: str) -> None:
    many = [observation(f"o{n}", "p", note=[{"text": "x" * 2_000}]) for n in range(60)]
    await load(server.gate, [patient("p"), practitioner("dr"), *many])
    for path, worth in (
        ("metadata", True),
        ("Observation/o1", True),
        ("Observation?_count=60", True),
        ("Patient/p/$everything", True),
        ("Practitioner/dr", False),
    ):
        answer = await server.get(path, headers={"Accept-Encoding": encoding})
        assert answer.headers.get("content-encoding") == (encoding if worth else None), path
        assert "accept-encoding" in answer.headers["vary"].lower()
        plain = await server.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert answer.json().keys() == plain.json().keys()
        if "content-length" in answer.headers and worth:
            assert int(answer.headers["content-length"]) < int(plain.headers["content-length"])


async def test_a_refusal_is_never_compressed_away(server: Served) -> None:
    answer = await server.get("Patient/none", headers={"Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["resourceType"]) == (404, "OperationOutcome")


async def test_a_slash_at_the_end_changes_nothing(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    for path in ("metadata/", "Practitioner/dr/", "Practitioner/?_id=dr", "Practitioner/dr/_history/1/"):
        assert (await server.get(path)).status_code == 200, path

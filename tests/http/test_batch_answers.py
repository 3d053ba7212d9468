"""What a batch makes of its entries' urls and answers."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from fhirserver.http import inner
from fhirserver.policy import journal
from tests.build import patient, practitioner
from tests.http.test_transaction import entry, post, statuses, without_id, writer
from tests.served import Served

Resource = dict[str, Any]


async def test_letters_beyond_ascii_in_a_condition_or_search_of_an_entry_are_those_letters(server: Served) -> None:
    async with writer(server) as client:
        named = {**without_id(practitioner("x")), "identifier": [{"system": "urn:npi", "value": "Zoë-1"}]}
        create = entry("POST", "Practitioner", named, ifNoneExist="identifier=urn:npi|Zoë-1")
        assert [statuses(await post(client, "batch", create)) for _ in range(2)] == [["201"], ["200"]]
        found = await post(client, "batch", entry("GET", "Practitioner?identifier=urn:npi|Zoë-1"))
        assert len(found.json()["entry"][0]["resource"]["entry"]) == 1


@pytest.mark.parametrize("kind_", ["batch", "transaction"])
async def test_an_answer_that_is_no_json_is_refused_in_its_entry(server: Served, kind_: str) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        answer = await post(
            client, kind_,
            entry("GET", "Patient/p/$everything?_format=application/fhir%2Bndjson"), entry("GET", "Patient/p"),
        )  # fmt: skip
        assert json.loads(answer.content)["resourceType"] == "Bundle"
        assert statuses(answer) == ["406", "200"]


async def test_the_answers_of_all_entries_together_are_bounded(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inner, "ALTOGETHER", 1_000)
    async with writer(server) as client:
        large: Resource = {**patient("p"), "name": [{"family": "x" * 600}]}
        await client.put("Patient/p", json=large)
        for kind_ in ("batch", "transaction"):
            answer = await post(client, kind_, *[entry("GET", "Patient/p")] * 3)
            assert statuses(answer) == ["200", "413", "413"]


async def test_what_was_done_is_told_even_where_its_content_does_not_fit(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inner, "MOST", 500)
    async with writer(server) as client:
        large: Resource = {**patient("p"), "name": [{"family": "x" * 600}]}
        answer = await post(client, "batch", entry("PUT", "Patient/p", large), Prefer="return=representation")
        assert statuses(answer) == ["201"]
        [told] = answer.json()["entry"]
        assert "resource" not in told
        assert told["response"]["location"].endswith("/Patient/p/_history/1")


@pytest.mark.parametrize(
    ("spoilt", "place"),
    [
        ('"request":{"method":"GET","url":"Patient/p"},"request":{"method":"DELETE","url":"Patient/p"}', ".request"),
        ('"request":{"method":"DELETE","url":"Patient/q","url":"Patient/p"}', ".request.url"),
        ('"request":{"method":"DELETE","url":"Patient/p"},"nonsense":1', ".nonsense"),
    ],
)
async def test_a_batch_that_can_be_read_in_two_ways_is_not_run(server: Served, spoilt: str, place: str) -> None:
    body = f'{{"resourceType":"Bundle","type":"batch","entry":[{{{spoilt}}}]}}'
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        answer = await client.post("", content=body, headers={"Content-Type": "application/fhir+json"})
        assert answer.status_code == 422
        assert answer.json()["issue"][0]["expression"] == [f"Bundle.entry[0]{place}"]
        assert (await client.get("Patient/p")).status_code == 200


async def test_an_invalid_resource_of_a_batch_fails_its_own_entry_only(server: Served) -> None:
    async with writer(server) as client:
        answer = await post(
            client, "batch",
            entry("PATCH", "Patient/p", {"resourceType": "Parameters", "nonsense": 1}),
            entry("POST", "Patient", {"resourceType": "Patient", "nonsense": 1}),
            entry("PUT", "Patient/p", patient("p")),
        )  # fmt: skip
        assert statuses(answer) == ["404", "422", "201"]


@pytest.mark.parametrize("kind_", ["batch", "transaction"])
async def test_an_entry_does_not_wait_for_the_audit_outcome_of_the_one_before(
    server: Served, monkeypatch: pytest.MonkeyPatch, kind_: str
) -> None:
    monkeypatch.setattr(journal, "LINGER", 0.5)
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        began = time.monotonic()
        answer = await post(client, kind_, *[entry("GET", "Patient/p")] * 8)
        assert time.monotonic() - began < 3
        assert statuses(answer) == ["200"] * 8
    rows = [row for row in await server.audit() if row.interaction == "read"]
    assert len([row for row in rows if row.outcome == "intent"]) == 8
    assert len([row for row in rows if row.outcome == "complete"]) == 8

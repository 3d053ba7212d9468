"""What a condition finds, what it does not, and what becomes of it while others write; on every kind of store."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import httpx
import pytest

from tests.build import observation, patient, practitioner
from tests.served import Served
from tests.stores import every_kind

kind = every_kind
FULL = "system/*.cruds"
ACTIVE = json.dumps([{"op": "add", "path": "/active", "value": True}])
JSON_PATCH = {"Content-Type": "application/json-patch+json"}


def writer(server: Served) -> httpx.AsyncClient:
    return server.client(server.token("member", org="clinic", scope=FULL))


def named(id: str, value: str, system: str = "urn:npi", **more: Any) -> dict[str, Any]:
    return practitioner(id, identifier=[{"system": system, "value": value}], **more)


def nameless(value: str, system: str = "urn:npi") -> dict[str, Any]:
    return {name: each for name, each in named("x", value, system).items() if name != "id"}


def issue(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    first: dict[str, Any] = body["issue"][0]
    return first


async def test_a_question_mark_in_a_value_is_a_part_of_the_value(server: Served) -> None:
    """The system of an identifier is a uri, which may have a query."""
    async with writer(server) as client:
        await client.put("Practitioner/other", json=named("other", "9"))
        for condition, sent in (
            ("identifier=http://ids?of=a|1", nameless("1", "http://ids?of=a")),
            ("identifier=http://ids?_id=other", nameless("http://ids?_id=other")),
        ):
            url = f"Practitioner?{condition}"
            assert (await client.delete(url)).status_code == 204
            made = await client.post("Practitioner", json=sent, headers={"If-None-Exist": condition})
            assert made.status_code == 201, condition
            again = await client.post("Practitioner", json=sent, headers={"If-None-Exist": f"Practitioner?{condition}"})
            assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])
            put = await client.put(url, json=sent)
            assert (put.status_code, put.json()["id"]) == (200, made.json()["id"])
            assert (await client.delete(url)).status_code == 204
            assert (await client.get(f"Practitioner/{made.json()['id']}")).status_code == 410
        assert (await client.get("Practitioner/other")).headers["etag"] == 'W/"1"'


@pytest.mark.parametrize("escaped", [r"a\,b\|c\$d\\e", r"a\,b\|c$d\e"])
async def test_a_value_is_found_by_its_escaped_form(server: Served, escaped: str) -> None:
    """R4 search §3.1.1.4.3; where nothing could be mistaken, also without the escapes."""
    async with writer(server) as client:
        await client.put("Practitioner/there", json=named("there", "a,b|c$d\\e"))
        await client.put("Practitioner/other", json=named("other", "b\\"))
        for condition in (f"identifier=urn:npi|{escaped}", rf"identifier=urn:npi|x\\,urn:npi|{escaped}"):
            answer = await client.post("Practitioner", json=nameless("1"), headers={"If-None-Exist": condition})
            assert (answer.status_code, answer.json()["id"]) == (200, "there"), condition


async def test_a_condition_on_a_reference_finds_it_whatever_its_version(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p"))
        await client.put("Observation/o", json=observation("o", "p"))
        for value in ("p", "Patient/p", "Patient/p/_history/1"):
            headers = {"If-None-Exist": f"subject={value}"}
            answer = await client.post("Observation", json=observation("x", "p"), headers=headers)
            assert (answer.status_code, answer.json()["id"]) == (200, "o"), value


@pytest.mark.parametrize(
    "condition",
    [
        "identifier=urn:npi|",
        "identifier=|",
        "identifier=%7C",
        "identifier=urn:npi|1,,",
        "identifier=,",
        "_id=a,",
        "_id=,",
        "Patient?identifier=urn:npi|1",
        "http://elsewhere/Patient?identifier=urn:npi|1",
    ],
)
async def test_what_could_never_find_anything_is_no_condition(server: Served, condition: str) -> None:
    """It would create once more with each request."""
    async with writer(server) as client:
        answer = await client.post("Practitioner", json=nameless("1"), headers={"If-None-Exist": condition})
        assert answer.status_code == 400
        assert (await client.get("Practitioner")).json().get("entry", []) == []
        if "?" not in condition:
            assert issue(answer)["expression"] == [condition.partition("=")[0]]
            for method in ("PUT", "DELETE"):
                answer = await client.request(method, f"Practitioner?{condition}", json=nameless("1"))
                assert answer.status_code == 400


async def test_a_condition_in_a_header_or_a_batch_may_have_letters_of_any_alphabet(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Practitioner/there", json=named("there", "Müller"))
        condition = "identifier=urn:npi|Müller"
        for header in (condition.encode(), b"identifier=urn:npi|M%C3%BCller"):
            answer = await client.post("Practitioner", json=nameless("Müller"), headers={"If-None-Exist": header})  # type: ignore[dict-item]
            assert (answer.status_code, answer.json()["id"]) == (200, "there")
        entry = {
            "resource": nameless("Müller"),
            "request": {"method": "POST", "url": "Practitioner", "ifNoneExist": condition},
        }
        for kind_ in ("batch", "transaction"):
            answer = await client.post("", json={"resourceType": "Bundle", "type": kind_, "entry": [entry]})
            assert answer.json()["entry"][0]["response"]["status"].startswith("200"), kind_
        unreadable = {"If-None-Exist": condition.encode("latin-1")}
        answer = await client.post("Practitioner", json=nameless("Müller"), headers=unreadable)  # type: ignore[arg-type]
        assert answer.status_code == 400
        assert issue(answer)["expression"] == ["If-None-Exist"]


async def test_a_conditional_update_takes_no_id_that_its_condition_does_not_find(server: Served) -> None:
    """R4 speaks of creating with the id; later releases say that one which is taken is a 409."""
    async with writer(server) as client:
        await client.put("Practitioner/taken", json=named("taken", "1"))
        answer = await client.put("Practitioner?identifier=urn:npi|2", json=named("taken", "2"))
        assert (answer.status_code, issue(answer)["expression"]) == (409, ["Practitioner.id"])
        entry = {
            "resource": named("taken", "2"),
            "request": {"method": "PUT", "url": "Practitioner?identifier=urn:npi|2"},
        }
        answer = await client.post("", json={"resourceType": "Bundle", "type": "transaction", "entry": [entry]})
        assert answer.status_code == 409
        assert (await client.get("Practitioner/taken")).json()["identifier"][0]["value"] == "1"
        await client.delete("Practitioner/taken")
        back = await client.put("Practitioner?identifier=urn:npi|2", json=named("taken", "2"))
        assert (back.status_code, back.headers["etag"]) == (201, 'W/"3"')


async def test_conditional_updates_under_one_id_of_the_clients_store_each(server: Served) -> None:
    async with writer(server) as client:
        url = "Practitioner?identifier=urn:npi|1"
        answers = await asyncio.gather(*(client.put(url, json=named("mine", "1")) for _ in range(40)))
        assert sorted(answer.status_code for answer in answers) == [200] * 39 + [201]
        assert (await client.get("Practitioner/mine")).headers["etag"] == 'W/"40"'


async def test_a_conditional_update_or_delete_knows_if_match(server: Served) -> None:
    async with writer(server) as client:
        url = "Practitioner?identifier=urn:npi|1"
        for verb, more in (("PUT", {"json": nameless("1")}), ("DELETE", {})):
            assert (await client.request(verb, url, headers={"If-Match": "*"}, **more)).status_code == 412, verb
        await client.put("Practitioner/a", json=named("a", "1"))
        for given, status in (('W/"2"', 412), ("yesterday", 400), ('W/"1"', 204)):
            assert (await client.delete(url, headers={"If-Match": given})).status_code == status
            assert (await client.get("Practitioner/a")).status_code == (410 if status == 204 else 200)


@pytest.mark.parametrize("tag", ['W/"0"', 'W/"01"', '"0"'])
async def test_what_no_version_can_have_as_its_tag_matches_none(server: Served, tag: str) -> None:
    async with writer(server) as client:
        for verb, more in (("PUT", {"json": practitioner("a")}), ("DELETE", {})):
            for _ in range(2):
                answer = await client.request(verb, "Practitioner/a", headers={"If-Match": tag}, **more)
                assert answer.status_code in (400, 404), verb
        assert (await client.get("Practitioner/a")).status_code == 404


async def test_a_conditional_create_that_finds_one_does_not_say_that_it_stored_it(server: Served) -> None:
    async with writer(server) as client:
        headers = {"If-None-Exist": "identifier=urn:npi|1", "Prefer": "return=OperationOutcome"}
        for status, said in ((201, "was stored"), (200, "nothing was stored")):
            answer = await client.post("Practitioner", json=nameless("1"), headers=headers)
            assert (answer.status_code, said in issue(answer)["diagnostics"]) == (status, True)


async def test_a_write_passes_over_no_precondition(server: Served) -> None:
    """If-None-Match with versions (RFC 9110 §13.1.2), which R4 gives no meaning for a write."""
    async with writer(server) as client:
        await client.put("Practitioner/a", json=practitioner("a"))
        tag = {"If-None-Match": 'W/"1"'}
        for verb, more in (("PUT", {"json": practitioner("a")}), ("DELETE", {}), ("PATCH", {"content": ACTIVE})):
            headers = {**tag, **(JSON_PATCH if verb == "PATCH" else {})}
            answer = await client.request(verb, "Practitioner/a", headers=headers, **more)
            assert (answer.status_code, issue(answer)["expression"]) == (400, ["If-None-Match"]), verb
        assert (await client.get("Practitioner/a")).headers["etag"] == 'W/"1"'


async def test_what_a_condition_found_may_go_meanwhile(server: Served) -> None:
    """Whoever looks again finds nothing: a create makes another one, a patch has no match."""
    url = "Practitioner?identifier=urn:npi|1"
    answers: dict[str, set[int]] = {"POST": set(), "PATCH": set()}

    async def ask(client: httpx.AsyncClient, verb: str, **more: Any) -> None:
        target = "Practitioner" if verb == "POST" else url
        for _ in range(40):
            answer = await client.request(verb, target, **more)
            if verb in answers:
                answers[verb].add(answer.status_code)

    async with writer(server) as client:
        create = {"json": nameless("1"), "headers": {"If-None-Exist": "identifier=urn:npi|1"}}
        patch = {"content": ACTIVE, "headers": JSON_PATCH}
        await asyncio.gather(
            *(ask(client, "POST", **create) for _ in range(4)),
            *(ask(client, "PATCH", **patch) for _ in range(4)),
            *(ask(client, "DELETE") for _ in range(2)),
        )
    assert answers["POST"] <= {200, 201, 409}
    assert answers["PATCH"] <= {200, 404, 409}


async def test_who_asked_for_no_version_is_never_told_that_it_is_another(server: Served) -> None:
    """Other writers may be first each time: that is a 409, and no 412."""
    statuses: set[int] = set()

    async def ask(client: httpx.AsyncClient, verb: str, **more: Any) -> None:
        for _ in range(25):
            answer = await client.request(verb, "Practitioner/a", **more)
            statuses.add(answer.status_code)

    async with writer(server) as client:
        await client.put("Practitioner/a", json=practitioner("a"))
        await asyncio.gather(
            *(ask(client, "PUT", json=practitioner("a")) for _ in range(8)),
            *(ask(client, "DELETE") for _ in range(4)),
        )
    assert statuses <= {200, 201, 204, 409}


async def test_a_patch_is_made_of_the_very_version_that_its_condition_found(server: Served) -> None:
    """Made of a later one, it would not fit, and who came second would hear of that (422) instead of no match."""
    take = json.dumps([{"op": "remove", "path": "/identifier/0"}])
    more = {"system": "urn:other", "value": "x"}
    async with writer(server) as client:
        for at in range(15):
            sent = named("a", f"{at}")
            await client.put("Practitioner/a", json={**sent, "identifier": [*sent["identifier"], more]})
            url = f"Practitioner?identifier=urn:npi|{at}"
            answers = await asyncio.gather(*(client.patch(url, content=take, headers=JSON_PATCH) for _ in range(4)))
            assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404]
            left = (await client.get("Practitioner/a")).json()["identifier"]
            assert [each["value"] for each in left] == ["x"]


async def test_a_condition_may_ask_for_whatever_the_index_answers(server: Served) -> None:
    async with writer(server) as client:
        await client.put("Patient/p", json=patient("p", birthDate="1970-05-17"))
        for condition in (
            "family=Family-p&birthdate=1970-05",
            "birthdate=lt1980&gender:missing=true",
            "name:contains=amily",
        ):
            there = await client.post("Patient", json=patient("x"), headers={"If-None-Exist": condition})
            assert (there.status_code, there.json()["id"]) == (200, "p"), condition
        made = await client.put("Patient?birthdate=gt1999", json={"resourceType": "Patient", "birthDate": "2000-01-01"})
        assert made.status_code == 201
        again = await client.put(
            "Patient?birthdate=gt1999", json={"resourceType": "Patient", "birthDate": "2000-01-01"}
        )
        assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])

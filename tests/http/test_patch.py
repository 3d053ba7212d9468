"""patch over real HTTP, both formats, plain and conditional, on every kind of store."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from fhirserver.core.model import Key
from tests.build import load, observation, patient, person, practitioner
from tests.served import Served, served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof
FULL = "system/*.cruds"
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
FHIR = {"Content-Type": "application/fhir+json"}
GENDER = [{"op": "add", "path": "/gender", "value": "female"}]


def writer(server: Served, org: str = "clinic", scope: str = FULL) -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=scope))


async def changed(client: httpx.AsyncClient, url: str, operations: Any, **headers: str) -> httpx.Response:
    """A JSON Patch; header names with ``_`` for ``-``."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await client.patch(url, content=json.dumps(operations), headers={**JSON_PATCH, **named})


def replaced(path: str, **value: Any) -> dict[str, Any]:
    """A FHIRPath Patch of one replacement."""
    parts = [
        {"name": "type", "valueCode": "replace"},
        {"name": "path", "valueString": path},
        {"name": "value", **value},
    ]
    return {"resourceType": "Parameters", "parameter": [{"name": "operation", "part": parts}]}


def issue(answer: httpx.Response) -> dict[str, Any]:
    body = answer.json()
    assert body["resourceType"] == "OperationOutcome"
    first: dict[str, Any] = body["issue"][0]
    return first


def content(answer: httpx.Response) -> dict[str, Any]:
    """The resource without what the server stamps."""
    body: dict[str, Any] = answer.json()
    body["meta"] = {name: value for name, value in body["meta"].items() if name not in ("versionId", "lastUpdated")}
    return {name: value for name, value in body.items() if value != {}}


def named(id: str, *values: str, **more: Any) -> dict[str, Any]:
    return practitioner(id, identifier=[{"system": "urn:npi", "value": value} for value in values], **more)


# -- what it does ------------------------------------------------------------------------------------------------


async def test_a_json_patch_changes_its_places_and_keeps_every_other_byte(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    raw = (
        b'{"resourceType":"Observation","id":"o","status":"preliminary","code":{"text":"\\u00e9"},'
        b'"subject":{"reference":"Patient/p"},"valueQuantity":{"value":1.00},'
        b'"component":[{"code":{"text":"x"},"valueQuantity":{"value":3e2}}]}'
    )
    async with writer(server) as client:
        await client.put("Observation/o", content=raw, headers=FHIR)
        before = (await client.get("Observation/o")).content
        answer = await changed(
            client,
            "Observation/o",
            [
                {"op": "test", "path": "/valueQuantity/value", "value": 1},
                {"op": "replace", "path": "/status", "value": "final"},
            ],
        )
        assert answer.status_code == 200
        assert answer.headers["etag"] == 'W/"2"'
        assert answer.headers["location"] == f"{server.base}/Observation/o/_history/2"
        after = (await client.get("Observation/o")).content
        assert answer.content == after
        head, _, tail = before.partition(b'"versionId"')
        assert after.startswith(head + b'"versionId":"2"')
        assert after.endswith(tail.partition(b"}")[2].replace(b"preliminary", b"final"))


async def test_a_fhirpath_patch_is_parameters_under_any_name_of_fhir_json(server: Served) -> None:
    await load(server.gate, [patient("p", birthDate="1920")], organization="clinic")
    async with writer(server) as client:
        for year, media_type in enumerate(
            ("application/fhir+json", "application/json", "text/json; charset=UTF-8"), 1930
        ):
            answer = await client.patch(
                "Patient/p",
                content=json.dumps(replaced("Patient.birthDate", valueDate=str(year))),
                headers={"Content-Type": media_type},
            )
            assert (answer.status_code, answer.json()["birthDate"]) == (200, str(year))


async def test_prefer_says_what_comes_back(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        minimal = await changed(client, "Patient/p", GENDER, Prefer="return=minimal")
        assert (minimal.status_code, minimal.content, minimal.headers["etag"]) == (200, b"", 'W/"2"')
        told = await changed(client, "Patient/p", GENDER, Prefer="return=OperationOutcome")
        assert told.json()["resourceType"] == "OperationOutcome"


async def test_what_the_server_stamps_is_not_for_a_patch_to_set(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        answer = await changed(
            client,
            "Patient/p",
            [
                {"op": "test", "path": "/meta/versionId", "value": "1"},
                {"op": "replace", "path": "/meta/versionId", "value": "77"},
                {"op": "remove", "path": "/meta/lastUpdated"},
                {"op": "add", "path": "/meta/tag", "value": [{"code": "x"}]},
            ],
        )
        meta = answer.json()["meta"]
        assert (meta["versionId"], meta["tag"]) == ("2", [{"code": "x"}])
        assert meta["lastUpdated"] > "2020"


async def test_many_random_patches_leave_what_a_model_has(tmp_path: Path) -> None:
    """A resource patched step by step, against the same steps on a plain dict."""
    random = Random(4)  # noqa: S311  a reproducible walk
    model: dict[str, Any] = {"resourceType": "Patient", "id": "p", "name": [{"family": "x"}]}
    async with served(tmp_path) as server:
        await load(server.gate, [model], organization="clinic")
        async with writer(server) as client:
            for step in range(60):
                names = model["name"]
                at = random.randrange(len(names))
                value = {"family": f"n{step}", "given": [f"g{step}"]}
                case = random.randrange(5)
                if case == 0 or len(names) == 1:
                    names.insert(at, value)
                    patch = [{"op": "add", "path": f"/name/{at}", "value": value}]
                elif case == 1:
                    del names[at]
                    patch = [{"op": "remove", "path": f"/name/{at}"}]
                elif case == 2:
                    names[at]["use"] = "usual"
                    patch = [{"op": "add", "path": f"/name/{at}/use", "value": "usual"}]
                elif case == 3:
                    to = random.randrange(len(names))
                    names.insert(to, names.pop(at))
                    patch = [{"op": "move", "from": f"/name/{at}", "path": f"/name/{to}"}]
                else:
                    names.append(json.loads(json.dumps(names[at])))
                    patch = [{"op": "copy", "from": f"/name/{at}", "path": "/name/-"}]
                answer = await changed(client, "Patient/p", patch)
                assert answer.status_code == 200, answer.text
                assert content(answer) == model
                assert answer.headers["etag"] == f'W/"{step + 2}"'


# -- what it refuses ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("operations", "status", "place"),
    [
        ([{"op": "test", "path": "/gender", "value": "female"}], 422, "Patient.gender"),
        ([{"op": "remove", "path": "/contact"}], 422, "Patient.contact"),
        ([{"op": "add", "path": "/gender", "value": "x"}], 422, "Patient.gender"),
        ([{"op": "add", "path": "/nonsense", "value": 1}], 422, "Patient.nonsense"),
        ([{"op": "add", "path": "/name", "value": []}], 422, "Patient.name"),
        ([{"op": "replace", "path": "/id", "value": "q"}], 400, "Patient.id"),
        ([{"op": "replace", "path": "/resourceType", "value": "Person"}], 400, "Patient.resourceType"),
        ([{"op": "remove", "path": "gender"}], 400, None),
        ({"op": "remove", "path": "/gender"}, 400, None),
        (replaced("Patient.gender", valueCode="female"), 400, None),
    ],
)
async def test_a_patch_that_fails_stores_nothing_and_says_where(
    server: Served, operations: Any, status: int, place: str | None
) -> None:
    await load(server.gate, [patient("p", gender="male")], organization="clinic")
    async with writer(server) as client:
        both = operations
        if isinstance(operations, list):
            both = [{"op": "add", "path": "/active", "value": True}, *operations]
        answer = await changed(client, "Patient/p", both)
        assert answer.status_code == status
        assert issue(answer).get("expression") == ([place] if place else None)
        after = await client.get("Patient/p")
        assert (after.headers["etag"], content(after)) == ('W/"1"', patient("p", gender="male"))


async def test_a_fhirpath_patch_that_fails_says_where_in_the_parameters(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        for path, status, place in (
            ("Patient.contact", 422, "Parameters.parameter[0]"),
            ("Patient.name.", 400, "Parameters.parameter[0].part[1]"),
            ("Patient.name.matches('a')", 400, "Parameters.parameter[0].part[1]"),
        ):
            answer = await client.patch("Patient/p", json=replaced(path, valueCode="female"), headers=FHIR)
            assert (answer.status_code, issue(answer)["expression"]) == (status, [place])


@pytest.mark.parametrize(
    "media_type",
    ["", "text/plain", "application/xml-patch+xml", "application/merge-patch+json", "application/fhir+xml"],
)
async def test_other_formats_are_a_415_that_names_what_is_read(server: Served, media_type: str) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        answer = await client.patch(
            "Patient/p", content=b"[]", headers={"Content-Type": media_type} if media_type else {}
        )
        assert answer.status_code == 415
        assert answer.headers["accept-patch"] == "application/json-patch+json, application/fhir+json"
        issue(answer)


@pytest.mark.parametrize(
    "body",
    [b"", b"[", b"\xff", b'[{"op":"add","op":"remove","path":"/x","value":1}]', b"[" * 100_000, b"{}", b"1"],
    ids=repr,
)
async def test_a_body_that_cannot_be_read_is_a_400(server: Served, body: bytes) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        for headers in (JSON_PATCH, FHIR):
            answer = await client.patch("Patient/p", content=body, headers=headers)
            assert answer.status_code == 400
            issue(answer)
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"1"'


async def test_nothing_is_stored_for_who_could_not_read_the_answer(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        assert (await changed(client, "Patient/p", GENDER, Accept="text/html")).status_code == 406
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"1"'


@pytest.mark.parametrize("type_", ["Binary", "AuditEvent"])
async def test_types_that_cannot_be_patched_are_a_405(server: Served, type_: str) -> None:
    async with writer(server) as client:
        for url in (f"{type_}/x", f"{type_}?_id=x"):
            answer = await changed(client, url, [])
            assert answer.status_code == 405
            assert "GET" in answer.headers["allow"]


# -- versions ----------------------------------------------------------------------------------------------------


async def test_if_match_names_the_version_that_must_be_current(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        assert (await changed(client, "Patient/p", GENDER, If_Match='W/"1"')).status_code == 200
        assert (await changed(client, "Patient/p", GENDER, If_Match='W/"1"')).status_code == 412
        assert (
            await changed(client, "Patient/p", [{"op": "remove", "path": "/x"}], If_Match='W/"1"')
        ).status_code == 412
        assert (await changed(client, "Patient/p", GENDER, If_Match="yesterday")).status_code == 400
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"2"'


async def test_of_many_patches_of_one_version_one_wins(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        answers = await asyncio.gather(
            *(
                changed(client, "Patient/p", [{"op": "add", "path": "/language", "value": f"x{at}"}], If_Match='W/"1"')
                for at in range(40)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 39
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"2"'


async def test_without_if_match_a_patch_is_made_again_of_what_another_writer_left(server: Served) -> None:
    await load(server.gate, [practitioner("dr")], organization="clinic")
    async with writer(server) as client:
        answers = await asyncio.gather(
            *(
                changed(client, "Practitioner/dr", [{"op": "add", "path": "/name/-", "value": {"family": f"n{at}"}}])
                for at in range(5)
            )
        )
        assert [answer.status_code for answer in answers] == [200] * 5
        after = (await client.get("Practitioner/dr")).json()
        assert {name["family"] for name in after["name"]} == {"Doctor-dr", *(f"n{at}" for at in range(5))}
        assert after["meta"]["versionId"] == "6"


async def test_of_more_writers_than_attempts_nobody_loses_what_was_said_to_be_stored(server: Served) -> None:
    await load(server.gate, [practitioner("dr")], organization="clinic")
    async with writer(server) as client:
        answers = await asyncio.gather(
            *(
                changed(client, "Practitioner/dr", [{"op": "add", "path": "/name/-", "value": {"family": f"n{at}"}}])
                for at in range(40)
            )
        )
        stored = {f"n{at}" for at, answer in enumerate(answers) if answer.status_code == 200}
        assert {answer.status_code for answer in answers} <= {200, 409}
        after = (await client.get("Practitioner/dr")).json()
        assert {name["family"] for name in after["name"]} == {"Doctor-dr", *stored}


# -- conditions --------------------------------------------------------------------------------------------------


async def test_a_conditional_patch_follows_the_number_of_matches(server: Served) -> None:
    await load(server.gate, [named("a", "1", "3"), named("b", "2", "3")], organization="clinic")
    async with writer(server) as client:
        one = await changed(client, "Practitioner?identifier=urn:npi|1", GENDER)
        assert (one.status_code, one.json()["id"], one.json()["gender"]) == (200, "a", "female")
        none = await changed(client, "Practitioner?identifier=urn:npi|9", GENDER)
        assert (none.status_code, issue(none)["code"]) == (404, "not-found")
        assert (await changed(client, "Practitioner?identifier=urn:npi|3", GENDER)).status_code == 412
        stale = await changed(client, "Practitioner?identifier=urn:npi|1", GENDER, If_Match='W/"1"')
        assert stale.status_code == 412
        fresh = await changed(client, "Practitioner?identifier=urn:npi|1", GENDER, If_Match='W/"2"')
        assert fresh.status_code == 200
        for query in ("", "?", "?nonsense=1", "?identifier="):
            assert (await changed(client, f"Practitioner{query}", GENDER)).status_code == 400
        assert (await client.get("Practitioner/b")).headers["etag"] == 'W/"1"'


async def test_a_conditional_patch_may_end_its_own_condition(server: Served) -> None:
    await load(server.gate, [named("a", "1")], organization="clinic")
    async with writer(server) as client:
        new = [{"op": "replace", "path": "/identifier/0/value", "value": "2"}]
        assert (await changed(client, "Practitioner?identifier=urn:npi|1", new)).status_code == 200
        assert (await changed(client, "Practitioner?identifier=urn:npi|1", new)).status_code == 404


async def test_of_conditional_patches_that_take_a_mark_away_one_finds_it(server: Served) -> None:
    await load(server.gate, [named("a", "1", "2")], organization="clinic")
    async with writer(server) as client:
        take = [{"op": "remove", "path": "/identifier/0"}]
        answers = await asyncio.gather(*(changed(client, "Practitioner?identifier=urn:npi|1", take) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404, 404]
        assert [each["value"] for each in (await client.get("Practitioner/a")).json()["identifier"]] == ["2"]


# -- who may -----------------------------------------------------------------------------------------------------

PROBES = [
    [{"op": "test", "path": "/birthDate", "value": "1950-01-01"}],
    [{"op": "test", "path": "/birthDate", "value": "1951-01-01"}],
    [{"op": "remove", "path": "/birthDate"}],
    [{"op": "remove", "path": "/contact"}],
    [],
    "no patch",
]


async def test_what_is_not_to_be_seen_answers_every_patch_alike(server: Served) -> None:
    """Tests, failures and unreadable patches tell nothing of a resource that its caller may not read."""
    await load(server.gate, [patient("p", birthDate="1950-01-01", identifier=[{"value": "1"}])], organization="clinic")
    async with writer(server) as client:
        await client.put("Patient/gone", json=patient("gone"))
        await client.delete("Patient/gone")
    callers = {
        "other organisation": (server.token("member", org="elsewhere", scope=FULL), 404),
        "writes, reads nothing": (server.token("member", org="clinic", scope="system/*.cud"), 404),
        "third party": (server.token("third-party", org="x", scope="patient/*.cruds"), 403),
        "other patient": (server.token("patient", org="clinic", patient="q", scope="patient/*.cruds"), 403),
        "no write scope": (server.token("member", org="clinic", scope="system/*.rs"), 403),
    }
    for name, (token, status) in callers.items():
        async with server.client(token) as client:
            answers = [
                await changed(client, f"Patient/{id}", probe) for id in ("p", "gone", "none") for probe in PROBES
            ]
            assert {answer.status_code for answer in answers} == {status}, name
            bodies = {answer.text.replace("/gone", "/p").replace("/none", "/p") for answer in answers}
            assert len(bodies) == 1, name
            if status == 404:
                queries = [await changed(client, "Patient?identifier=1", probe) for probe in PROBES[:-1]]
                missing = [await changed(client, "Patient?identifier=2", probe) for probe in PROBES[:-1]]
                assert {answer.text for answer in queries} == {answer.text for answer in missing}, name
    async with writer(server) as client:
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"1"'


async def test_a_deleted_resource_is_gone_and_an_unknown_one_not_found(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key("Practitioner", "dr")])
    async with server.client(server.token(scope=FULL)) as client:
        assert (await changed(client, "Practitioner/dr", GENDER)).status_code == 410
        assert (await changed(client, "Practitioner/none", GENDER)).status_code == 404


async def test_who_may_read_but_not_write_is_refused_and_nothing_changes(server: Served) -> None:
    await load(server.gate, [practitioner("dr")], organization="clinic")
    other = server.token("member", org="elsewhere", scope=FULL)
    async with server.client(other) as client:
        answer = await changed(client, "Practitioner/dr", GENDER)
        assert answer.status_code in (403, 409)
        assert (await client.get("Practitioner/dr")).headers["etag"] == 'W/"1"'


async def test_a_person_that_is_seen_in_part_cannot_be_patched(server: Served) -> None:
    await load(server.gate, [patient("a")], organization="clinic", persons=False)
    await load(server.gate, [patient("b")], organization="elsewhere", persons=False)
    await load(server.gate, [person("both", "a", "b")])
    async with writer(server) as client:
        seen = (await client.get("Person/both")).json()
        assert [link["target"]["reference"] for link in seen["link"]] == ["Patient/a"]
        for operations in (GENDER, [{"op": "test", "path": "/link/1/target/reference", "value": "Patient/b"}], []):
            answer = await changed(client, "Person/both", operations)
            assert answer.status_code == 403
            assert "Patient/b" not in answer.text
    async with server.client(server.token(scope=FULL)) as client:
        assert (await changed(client, "Person/both", GENDER)).status_code == 200
        assert len((await client.get("Person/both")).json()["link"]) == 2


async def test_a_patch_is_audited_and_so_is_one_that_fails(server: Served) -> None:
    await load(server.gate, [patient("p", birthDate="1950-01-01")], organization="clinic")
    async with writer(server) as client:
        await changed(client, "Patient/p", [{"op": "test", "path": "/birthDate", "value": "1999-12-31"}])
        await changed(client, "Patient/p", GENDER)
    rows = [row for row in await server.audit() if row.organization == "clinic" and row.subject == "test"]
    told = [(row.interaction, row.outcome, row.patients) for row in rows if row.interaction in ("patch", "update")]
    assert ("patch", "intent", ("p",)) in told
    assert told.count(("patch", "complete", ("p",))) == 2
    assert "1999-12-31" not in str(rows)


async def test_the_observation_of_another_custodians_patient_cannot_be_made_by_a_patch(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    await load(server.gate, [patient("q")], organization="elsewhere")
    await load(server.gate, [observation("o", "p")], organization="clinic")
    async with writer(server) as client:
        answer = await changed(
            client, "Observation/o", [{"op": "replace", "path": "/subject/reference", "value": "Patient/q"}]
        )
        assert answer.status_code in (403, 409)
        assert (await client.get("Observation/o")).json()["subject"]["reference"] == "Patient/p"

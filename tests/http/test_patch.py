"""patch over real HTTP, both formats, on every kind of store: what it does and what it refuses."""

from __future__ import annotations

import json
from base64 import b64encode
from pathlib import Path
from random import Random
from typing import Any

import pytest

from tests.build import load, observation, patient
from tests.http.patching import FHIR, GENDER, JSON_PATCH, changed, content, issue, replaced, writer
from tests.served import Served, served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof


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


async def test_a_patch_makes_no_resource_that_could_not_be_sent(tmp_path: Path, kind: str) -> None:
    """A few copies of a large element are a small patch."""
    note = {"op": "add", "path": "/note", "value": [{"text": "x" * 1_000}]}
    copies = [note, *({"op": "copy", "from": "/note/0", "path": "/note/-"} for _ in range(60))]
    entry = {
        "resource": {
            "resourceType": "Binary",
            "contentType": "application/json-patch+json",
            "data": b64encode(json.dumps(copies).encode()).decode(),
        },
        "request": {"method": "PATCH", "url": "Observation/o"},
    }
    async with served(tmp_path, kind, max_body=50_000) as server, writer(server) as client:
        await load(server.gate, [patient("p"), observation("o", "p")], organization="clinic")
        assert (await changed(client, "Observation/o", copies)).status_code == 413
        for form in ("batch", "transaction"):
            answer = (await client.post("", json={"resourceType": "Bundle", "type": form, "entry": [entry]})).json()
            issues = answer["entry"][0]["response"]["outcome"]["issue"] if form == "batch" else answer["issue"]
            assert issues[0]["code"] == "too-long", form
        assert (await changed(client, "Observation/o", copies[:20])).status_code == 200

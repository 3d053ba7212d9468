"""`$meta`, `$meta-add` and `$meta-delete` over real HTTP."""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import pytest

from fhirserver.core.validate import issues
from fhirserver.http import meta as module
from fhirserver.policy.consenting import grant_consent
from tests.build import load, observation, organization, patient, person
from tests.served import Served

FULL = "system/*.cruds"
A, B = {"system": "urn:s", "code": "a"}, {"system": "urn:s", "code": "b"}
SECRET = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}


def asking(**meta: Any) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": meta}]}


def told(answer: httpx.Response) -> dict[str, Any]:
    """The Meta of an answer, without what is there of any resource."""
    assert answer.status_code == 200, answer.text
    assert issues(answer.content)[1] == []
    [parameter] = answer.json()["parameter"]
    assert parameter["name"] == "return"
    return {name: value for name, value in parameter["valueMeta"].items() if name in ("profile", "tag", "security")}


@pytest.fixture
async def clinic(server: Served) -> Served:
    resources = [
        patient("p", meta={"tag": [A], "profile": ["urn:p"]}),
        observation("o", "p", meta={"security": [SECRET]}),
    ]
    await load(server.gate, [*resources, observation("plain", "p")], organization="clinic")
    await load(server.gate, [patient("far", meta={"tag": [B]})], organization="another")
    return server


def member(server: Served, scope: str = FULL, org: str = "clinic") -> httpx.AsyncClient:
    return server.client(server.token("member", org=org, scope=scope))


async def test_the_meta_of_a_resource_and_of_its_versions(clinic: Served) -> None:
    async with member(clinic) as client:
        answer = await client.get("Patient/p/$meta")
        assert told(answer) == {"tag": [A], "profile": ["urn:p"]}
        assert answer.headers["etag"] == 'W/"1"'
        whole = (await client.get("Patient/p")).json()["meta"]
        assert answer.json()["parameter"][0]["valueMeta"] == whole
        await client.post("Patient/p/$meta-delete", json=asking(tag=[A]))
        assert told(await client.get("Patient/p/_history/1/$meta")) == {"tag": [A], "profile": ["urn:p"]}
        assert told(await client.get("Patient/p/_history/2/$meta")) == {"profile": ["urn:p"]}
        assert (await client.get("Patient/p/_history/3/$meta")).status_code == 404


async def test_a_type_and_the_whole_show_what_is_in_use_on_what_the_caller_may_see(clinic: Served) -> None:
    async with member(clinic) as client:
        assert told(await client.get("Patient/$meta")) == {"tag": [A], "profile": ["urn:p"]}
        assert told(await client.get("Observation/$meta")) == {"security": [SECRET]}
        assert told(await client.get("Device/$meta")) == {}
        assert told(await client.post("$meta")) == {"tag": [A], "profile": ["urn:p"], "security": [SECRET]}
    assert told(await clinic.get("$meta"))["tag"] == [A, B]
    await load(clinic.gate, [organization("app")])
    app = clinic.token("third-party", org="app")
    assert told(await clinic.get("$meta", app)) == {}
    await grant_consent(clinic.gate.system(subject="test", organization="operator", purpose="test"), ["p"], "app")
    assert told(await clinic.get("$meta", app)).keys() == {"tag", "profile"}, "R is not opened by this consent"


async def test_a_summary_of_too_much_is_refused(clinic: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST", 2)
    answer = await clinic.get("$meta")
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (400, "too-costly")
    assert told(await clinic.get("Patient/$meta"))["tag"] == [A, B]


async def test_adding_and_deleting_make_a_version_each_and_nothing_makes_none(clinic: Served) -> None:
    async with member(clinic) as client:
        added = await client.post("Patient/p/$meta-add", json=asking(tag=[B, A], security=[SECRET]))
        assert told(added) == {"tag": [A, B], "profile": ["urn:p"], "security": [SECRET]}
        assert added.headers["etag"] == 'W/"2"'
        resource = (await client.get("Patient/p")).json()
        assert (resource["meta"]["versionId"], resource["name"]) == ("2", patient("p")["name"])
        again = await client.post("Patient/p/$meta-add", json=asking(tag=[B]))
        assert (told(again)["tag"], again.headers["etag"]) == ([A, B], 'W/"2"')
        gone = await client.post("Patient/p/$meta-delete", json=asking(tag=[A, B], profile=["urn:p", "urn:none"]))
        assert (told(gone), gone.headers["etag"]) == ({"security": [SECRET]}, 'W/"3"')


async def test_a_change_that_changes_nothing_shows_the_labels_and_is_audited_as_a_read(clinic: Served) -> None:
    async with clinic.client(clinic.token("member", org="clinic", scope=FULL)) as client:
        before = len(await clinic.audit())
        assert told(await client.post("Patient/p/$meta-add", json=asking(tag=[A])))["tag"] == [A]
        rows = (await clinic.audit())[before:]
        assert [(row.interaction, row.outcome) for row in rows] == [("$meta-add", "intent"), ("$meta-add", "complete")]
        assert rows[0].detail["resource"] == "Patient/p"


async def test_labels_decide_from_the_next_request_on(clinic: Served) -> None:
    await load(clinic.gate, [organization("app")])
    await grant_consent(clinic.gate.system(subject="test", organization="operator", purpose="test"), ["p"], "app")
    app = clinic.token("third-party", org="app")
    assert (await clinic.get("Observation/plain", app)).status_code == 200
    async with member(clinic) as client:
        await client.post("Observation/plain/$meta-add", json=asking(security=[SECRET]))
    assert (await clinic.get("Observation/plain", app)).status_code == 403
    assert (await clinic.get("Observation/plain/_history/1/$meta", app)).status_code == 403


async def test_of_many_at_once_none_is_lost(clinic: Served) -> None:
    async with member(clinic) as client:
        tags = [{"system": "urn:n", "code": str(number)} for number in range(4)]
        answers = await asyncio.gather(
            *(client.post("Observation/plain/$meta-add", json=asking(tag=[tag])) for tag in tags)
        )
        assert {answer.status_code for answer in answers} == {200}
        found = told(await client.get("Observation/plain/$meta"))["tag"]
        assert sorted(tag["code"] for tag in found) == ["0", "1", "2", "3"]


async def test_if_match_holds(clinic: Served) -> None:
    async with member(clinic) as client:
        for version, status in (("7", 412), ("1", 200), ("1", 412)):
            headers = {"If-Match": f'W/"{version}"'}
            answer = await client.post("Patient/p/$meta-add", json=asking(tag=[B]), headers=headers)
            assert answer.status_code == status


@pytest.mark.parametrize(
    ("body", "status"),
    [
        ({"resourceType": "Parameters"}, 400),
        (asking(tag="x"), 422),
        (asking(tag=[]), 422),
        (asking(profile=["not a uri"]), 422),
        (asking(nonsense=1), 422),
        ({"resourceType": "Parameters", "parameter": [{"name": "meta", "valueString": "x"}]}, 422),
        ({"resourceType": "Patient"}, 400),
        ({**asking(tag=[A]), "parameter": asking(tag=[A])["parameter"] * 2}, 400),
    ],
)
async def test_what_is_no_meta_is_refused_and_changes_nothing(
    clinic: Served, body: dict[str, Any], status: int
) -> None:
    async with member(clinic) as client:
        for name in ("$meta-add", "$meta-delete"):
            answer = await client.post(f"Patient/p/{name}", json=body)
            assert (answer.status_code, answer.json()["resourceType"]) == (status, "OperationOutcome")
        assert (await client.get("Patient/p/$meta")).headers["etag"] == 'W/"1"'


async def test_who_may_not_write_may_not_label(clinic: Served) -> None:
    for scope in ("system/*.rs", "system/*.crds", "system/Observation.cruds"):
        async with member(clinic, scope) as client:
            answer = await client.post("Patient/p/$meta-add", json=asking(tag=[A]))
            assert answer.status_code in (403, 404), scope
    async with member(clinic, "system/*.cud") as client:
        assert (await client.post("Patient/p/$meta-add", json=asking(tag=[B]))).status_code == 403
    async with member(clinic, org="another") as client:
        assert (await client.post("Patient/p/$meta-add", json=asking(tag=[B]))).status_code == 404
        assert (await client.get("Patient/p/$meta")).status_code == 404
    own = clinic.token("patient", org="clinic", patient="p", scope="patient/*.cruds")
    async with clinic.client(own) as client:
        assert (await client.post("Patient/p/$meta-add", json=asking(tag=[B]))).status_code == 403
    assert (await clinic.get("Patient/p/$meta")).headers["etag"] == 'W/"1"'


async def test_a_person_is_labelled_only_by_one_who_sees_all_of_it(clinic: Served) -> None:
    await load(clinic.gate, [person("human", "p", "far")])
    subsetted = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "SUBSETTED"}
    async with member(clinic) as client:
        assert told(await client.get("Person/human/$meta"))["tag"] == [subsetted]
        answer = await client.post("Person/human/$meta-delete", json=asking(tag=[subsetted]))
        assert answer.status_code == 403
    assert len((await clinic.get("Person/human")).json()["link"]) == 2
    async with clinic.client(clinic.token(scope=FULL)) as client:
        assert told(await client.post("Person/human/$meta-add", json=asking(tag=[A])))["tag"] == [A]
        assert (await client.post("Person/human/$meta-add", json=asking(tag=[subsetted]))).status_code == 400

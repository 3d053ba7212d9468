"""patch over real HTTP, on every kind of store: who may, and what its answers tell of the rest."""

from __future__ import annotations

from fhirserver.core.model import Key
from tests.build import load, observation, patient, person, practitioner
from tests.http.patching import FULL, GENDER, changed, writer
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof

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
    denied = [row.detail["resource"] for row in await server.audit() if row.outcome == "denied"]
    assert denied == ["Person/both"] * 3
    async with server.client(server.token(scope=FULL)) as client:
        assert (await changed(client, "Person/both", GENDER)).status_code == 200
        assert len((await client.get("Person/both")).json()["link"]) == 2


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

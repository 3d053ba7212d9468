"""One table: what each class of caller is answered, for what is there and open to it, there and not, deleted, never.

What a caller may not see is told apart from what is not there by nothing: not by status, not by body. The one way an id
in use shows is that it cannot be given away again: a PUT under it is a 409 for another organisation.
"""

from __future__ import annotations

import json
from typing import Any, NamedTuple

import httpx
import pytest

from fhirserver.http.routes import ROUTES
from tests.build import load, observation, patient
from tests.served import Served

FULL = "system/*.cruds"
JSON_PATCH = "application/json-patch+json"
STATES = ("open", "closed", "deleted", "never")
"""``open`` is the caller's own organisation's, ``closed`` another's, and so was ``deleted``."""


class Ask(NamedTuple):
    """One interaction on one resource; ``path`` with ``{id}``."""

    name: str
    method: str
    path: str
    body: Any = None
    content_type: str = "application/fhir+json"
    headers: tuple[tuple[str, str], ...] = ()


def of(id: str) -> dict[str, Any]:
    return observation(id, "open" if id == "open" else id, identifier=[{"system": "urn:x", "value": id}])


PATCH = [{"op": "test", "path": "/status", "value": "nonsense"}]
META = {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": {"tag": [{"code": "x"}]}}]}
KEYED = (
    Ask("read", "GET", "Observation/{id}"),
    Ask("head", "HEAD", "Observation/{id}"),
    Ask("vread", "GET", "Observation/{id}/_history/1"),
    Ask("history", "GET", "Observation/{id}/_history"),
    Ask("patch", "PATCH", "Observation/{id}", PATCH, JSON_PATCH),
    Ask("patch of a version", "PATCH", "Observation/{id}", PATCH, JSON_PATCH, (("If-Match", 'W/"7"'),)),
    Ask("delete of a version", "DELETE", "Observation/{id}", headers=(("If-Match", 'W/"7"'),)),
    Ask("meta", "GET", "Observation/{id}/$meta"),
    Ask("meta-add", "POST", "Observation/{id}/$meta-add", META),
    Ask("meta-delete", "POST", "Observation/{id}/$meta-delete", META),
    Ask("everything", "GET", "Patient/{id}/$everything"),
    Ask("read of the patient", "GET", "Patient/{id}"),
    Ask("history of the patient", "GET", "Patient/{id}/_history"),
)
"""Interactions whose refusal must not tell a closed resource from one that never was."""

CONDITIONAL = (
    Ask("patch", "PATCH", "Observation?identifier=urn:x|{id}", PATCH, JSON_PATCH),
    Ask("delete", "DELETE", "Observation?identifier=urn:x|{id}&subject=Patient/{id}"),
    Ask("search by patient", "GET", "Patient?_id={id}"),
    Ask("docref", "GET", "DocumentReference/$docref?patient={id}"),
)
OPEN = {
    "read": 200, "head": 200, "vread": 200, "history": 200, "patch": 422, "patch of a version": 412,
    "delete of a version": 412, "meta": 200, "meta-add": 200, "meta-delete": 200, "everything": 200,
    "read of the patient": 200, "history of the patient": 200,
}  # fmt: skip
"""What the custodian is answered about what is its own."""


async def ask(client: httpx.AsyncClient, one: Ask, id: str) -> tuple[int, str]:
    """The status, and the body without what names the resource that was asked for."""
    headers = {"Content-Type": one.content_type, **dict(one.headers)} if one.body is not None else dict(one.headers)
    content = None if one.body is None else json.dumps(one.body)
    answer = await client.request(one.method, one.path.replace("{id}", id), content=content, headers=headers)
    assert answer.status_code < 500, (one, id, answer.text)
    return answer.status_code, answer.text.replace(f"/{id}", "/…").replace(f"|{id}", "|…").replace(f"%7C{id}", "|…")


@pytest.fixture
async def filled(server: Served) -> Served:
    """The clinic has ``open``; another organisation has ``closed``, and had ``deleted``."""
    await load(server.gate, [patient("open"), of("open")], organization="clinic")
    for id in ("closed", "deleted"):
        await load(server.gate, [patient(id), of(id)], organization="other")
    async with server.client(server.token("member", org="other", scope=FULL)) as other:
        for path in ("Observation/deleted", "Patient/deleted"):
            assert (await other.delete(path)).status_code == 204
    return server


@pytest.mark.parametrize("one", KEYED, ids=lambda one: one.name)
async def test_the_custodian_is_answered_and_its_neighbour_learns_nothing(filled: Served, one: Ask) -> None:
    async with filled.client(filled.token("member", org="clinic", scope=FULL)) as client:
        assert (await ask(client, one, "open"))[0] == OPEN[one.name]
        answers = {id: await ask(client, one, id) for id in ("closed", "deleted", "never")}
        assert answers["closed"] == answers["never"] == answers["deleted"]
        assert answers["never"][0] == 404


@pytest.mark.parametrize("one", KEYED, ids=lambda one: one.name)
@pytest.mark.parametrize("caller", ["third-party", "patient"])
async def test_whom_consent_does_not_let_in_is_refused_alike_whatever_there_is(
    filled: Served, caller: str, one: Ask
) -> None:
    token = filled.token(
        caller, org="app", scope="patient/*.cruds", patient="somebody" if caller == "patient" else None
    )
    async with filled.client(token) as client:
        answers = {await ask(client, one, id) for id in STATES}
        assert len(answers) == 1
        assert answers.pop()[0] == 403


@pytest.mark.parametrize("one", CONDITIONAL, ids=lambda one: one.name)
async def test_a_condition_finds_what_its_caller_sees_and_nothing_else(filled: Served, one: Ask) -> None:
    async with filled.client(filled.token("member", org="clinic", scope=FULL)) as client:
        answers = {id: await ask(client, one, id) for id in ("closed", "deleted", "never")}
        times = [json.loads(text).pop("timestamp", "") for _, text in answers.values() if text.startswith("{")]
        plain = {(status, text if not any(times) else "") for status, text in answers.values()}
        assert len(plain) == 1, answers
        assert plain.pop()[0] == {"patch": 404, "delete": 204, "search by patient": 200, "docref": 200}[one.name]


async def test_a_conditional_create_and_update_do_not_tell_of_what_is_closed(filled: Served) -> None:
    fresh = {name: value for name, value in of("open").items() if name not in ("id", "subject")}
    async with filled.client(filled.token("member", org="clinic", scope=FULL)) as client:
        for id in ("closed", "deleted", "never"):
            sent = {**fresh, "identifier": [{"system": "urn:x", "value": id}]}
            made = await client.post("Observation", json=sent, headers={"If-None-Exist": f"identifier=urn:x|{id}"})
            assert made.status_code == 201
            again = await client.put(f"Observation?identifier=urn:x|{id}", json=sent)
            assert (again.status_code, again.json()["id"]) == (200, made.json()["id"])


@pytest.mark.parametrize("caller", ["third-party", "patient", "member"])
@pytest.mark.parametrize("letters", ["u", "c", "rs", "rus"])
async def test_no_narrow_scope_tells_what_there_is_by_how_a_write_is_refused(
    filled: Served, caller: str, letters: str
) -> None:
    """A write needs another letter for what is there than for what is not; for what is not the caller's it is one."""
    token = filled.token(
        caller,
        org="clinic",
        scope=f"{'system' if caller == 'member' else 'patient'}/*.{letters}",
        patient="open" if caller == "patient" else None,
    )
    consent = {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"text": "x"},
        "category": [{"text": "x"}],
        "patient": {"reference": "Patient/closed"},
        "policyRule": {"text": "x"},
    }
    async with filled.client(filled.token(scope=FULL)) as operator:
        for id in ("closed", "deleted"):
            await load(filled.gate, [{**consent, "id": id}], organization="other")
        await operator.delete("Consent/deleted", headers={"Authorization": f"Bearer {filled.token(scope=FULL)}"})
    sent: tuple[dict[str, Any], ...] = (observation("x", "open"), {**consent, "patient": {"reference": "Patient/open"}})
    async with filled.client(token) as client:
        for resource in sent:
            answers = {}
            for id in ("closed", "deleted", "never"):
                body, url = {**resource, "id": id}, f"{resource['resourceType']}/{id}"
                entry = {"resource": body, "request": {"method": "PUT", "url": url}}
                bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
                given = (await client.put(url, json=body), await client.post("", json=bundle))
                answers[id] = [(answer.status_code, answer.text.replace(url, "…")) for answer in given]
            assert answers["closed"] == answers["deleted"]
            if letters != "c":  # whoever may create has to be told that an id is taken
                assert answers["closed"] == answers["never"]
                assert {status for status, _ in answers["never"]} == {403}


async def test_an_id_in_use_is_refused_by_the_one_sentence_that_has_to_be_said(filled: Served) -> None:
    async with filled.client(filled.token("member", org="clinic", scope=FULL)) as client:
        for id in ("closed", "deleted"):
            answer = await client.put(f"Patient/{id}", json=patient(id), headers={"If-Match": 'W/"9"'})
            assert answer.status_code == 409
            [issue] = answer.json()["issue"]
            assert issue["diagnostics"] == f"Patient/{id} belongs to another organisation."
        assert (await client.put("Patient/never", json=patient("never"))).status_code == 201


async def test_the_operator_sees_what_is_gone(filled: Served) -> None:
    async with filled.client(filled.token(scope=FULL)) as client:
        for id, status in (("open", 200), ("closed", 200), ("deleted", 410), ("never", 404)):
            assert (await client.get(f"Observation/{id}")).status_code == status
            assert (await client.get(f"Patient/{id}/$everything")).status_code == status


def test_every_protected_interaction_is_in_this_table_or_in_one_of_its_own() -> None:
    """A new interaction must come in here, or say here where its table is."""
    here = {"read", "vread", "history-instance", "patch", "delete", "$meta", "$meta-add", "$meta-delete", "$everything",
            "create", "update", "search-type", "$docref"}  # fmt: skip
    elsewhere = {
        "search-system": "test_search", "history-type": "test_history_access", "history-system": "test_history_access",
        "transaction": "test_transaction", "$validate": "test_validate_operation",
    }  # fmt: skip
    assert {row.interaction for row in ROUTES if not row.public} == here | elsewhere.keys()

"""Introspection and revocation: who is told about a token, who may end it, and that it has ended everywhere at once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhirserver.policy.gate import CallerClass
from tests.build import load, patient
from tests.clients import ask, assertion, form, post, registered, token
from tests.served import Served, served
from tests.stores import every_kind

kind = every_kind

MEMBER = {"organization": "operator", "caller": CallerClass.MEMBER}
INACTIVE = {"active": False}


@pytest.fixture
async def ready(server: Served) -> Served:
    """A server with a client of a member and one of another organisation."""
    await load(server.gate, [patient("p")])
    await server.gate.clients.add(registered(**MEMBER))
    await server.gate.clients.add(registered("other", organization="reader"))
    return server


def proof(server: Served, id: str, path: str = "/oauth/token", **more: str) -> dict[str, str]:
    return form(assertion(server.url + path, server.runtime.clock(), id=id), **more)


async def told(server: Served, token: str, bearer: str) -> Any:
    answer = await post(server, "/oauth/introspect", {"token": token}, headers={"Authorization": f"Bearer {bearer}"})
    assert answer.status_code == 200, answer.text
    assert answer.headers["cache-control"] == "no-store"
    return answer.json()


async def revoke(server: Served, token: str, bearer: str) -> int:
    headers = {"Authorization": f"Bearer {bearer}"}
    return (await post(server, "/oauth/revoke", {"token": token}, headers=headers)).status_code


async def test_its_client_its_organisation_and_operators_are_told_what_a_token_is(ready: Served) -> None:
    given = await token(ready, scope="system/Patient.rs")
    answers = [
        await told(ready, given, given),
        await told(ready, given, ready.token("member", org="operator", subject="colleague")),
        await told(ready, given, ready.token()),
    ]
    for path in ("/oauth/token", "/oauth/introspect"):
        answers.append((await post(ready, "/oauth/introspect", proof(ready, "bulk", path, token=given))).json())
    now = ready.runtime.clock() // 1000
    for answer in answers:
        assert answer["active"] is True
        assert (answer["client_id"], answer["sub"], answer["scope"]) == ("bulk", "bulk", "system/Patient.rs")
        assert now < answer["exp"] <= now + 300
        assert answer["iss"] == answer["aud"] == ready.runtime.keys.issuer


async def test_a_patients_token_names_its_patient_to_its_own_bearer_only(ready: Served) -> None:
    app = ready.token("patient", org="operator", patient="p", subject="app")
    assert (await told(ready, app, app))["patient"] == "p"
    for bearer in (
        ready.token("patient", org="operator", patient="other", subject="app"),
        ready.token("patient", org="operator", patient="p", subject="another app"),
        ready.token("member", org="operator"),
    ):
        assert await told(ready, app, bearer) == INACTIVE
        assert await told(ready, bearer, app) == INACTIVE


async def test_others_are_told_of_no_token_of_somebody_elses(ready: Served) -> None:
    given, other = await token(ready), await token(ready, id="other")
    assert await told(ready, given, other) == INACTIVE
    assert (await post(ready, "/oauth/introspect", proof(ready, "other", token=given))).json() == INACTIVE


async def test_what_is_no_good_token_is_inactive_and_nothing_else(ready: Served) -> None:
    given = await token(ready)
    assert await told(ready, "bogus", given) == INACTIVE
    assert await told(ready, given[:-6] + "AAAAAA", given) == INACTIVE
    mine = ready.token("member", org="operator")
    await ready.gate.clients.enable("bulk", False)
    assert await told(ready, given, mine) == INACTIVE


@pytest.mark.parametrize("path", ["/oauth/introspect", "/oauth/revoke"])
async def test_nobody_is_told_or_ends_anything_without_a_proof(ready: Served, path: str) -> None:
    given = await token(ready)
    used = proof(ready, "bulk", token=given)
    assert (await post(ready, "/oauth/introspect", used)).status_code == 200
    for fields, headers in (
        ({"token": given}, {}),
        ({"token": given}, {"Authorization": "Bearer bogus"}),
        ({"token": given}, {"Authorization": f"Basic {given}"}),
        ({"token": given, "client_id": "bulk"}, {}),
        (used, {}),
        (proof(ready, "nobody", token=given), {}),
        (proof(ready, "bulk", "/oauth/other", token=given), {}),
    ):
        answer = await post(ready, path, fields, headers=headers)
        assert (answer.status_code, answer.json()["error"]) == (401, "invalid_client")
        assert answer.headers["www-authenticate"] == "Bearer"
    assert (await ready.get("Patient/p", given)).status_code == 200
    headers = {"Authorization": f"Bearer {given}", "Content-Type": "application/x-www-form-urlencoded"}
    assert (await post(ready, path, {}, headers=headers)).json()["error"] == "invalid_request"


async def test_a_revoked_token_ends_at_once_on_every_server(ready: Served, tmp_path: Path, kind: str) -> None:
    settings = ready.runtime.settings
    given, kept = await token(ready), await token(ready)
    async with served(tmp_path, kind, store=settings.store, keys_file=str(settings.keys_path)) as other:
        assert (await other.get("Patient/p", given)).status_code == 200
        answer = await post(ready, "/oauth/revoke", proof(ready, "bulk", token=given))
        assert (answer.status_code, answer.content) == (200, b"")
        assert (await other.get("Patient/p", given)).status_code == 401
        assert (await ready.get("Patient/p", given)).status_code == 401
        assert (await other.get("Patient/p", kept)).status_code == 200
    assert await told(ready, given, kept) == INACTIVE
    assert await revoke(ready, given, kept) == 200  # it has ended already, which is no error
    assert await revoke(ready, "bogus", kept) == 200


async def test_nobody_ends_a_token_of_another_organisation(ready: Served) -> None:
    given, other = await token(ready), await token(ready, id="other")
    assert await revoke(ready, given, other) == 400
    assert (await ready.get("Patient/p", given)).status_code == 200
    assert await revoke(ready, other, ready.token()) == 200
    assert (await ready.get("Patient/p", other)).status_code == 401


async def test_both_are_in_the_audit_trail_by_the_tokens_name(ready: Served) -> None:
    given, other = await token(ready), await token(ready, id="other")
    await told(ready, given, given)
    await revoke(ready, given, other)
    await revoke(ready, given, given)
    await post(ready, "/oauth/revoke", {"token": given})
    rows = [row for row in await ready.audit() if row.interaction in ("introspect", "revoke")]
    assert [(row.interaction, row.outcome, row.subject) for row in rows] == [
        ("introspect", "complete", "bulk"),
        ("revoke", "denied", "other"),
        ("revoke", "complete", "bulk"),
        ("revoke", "denied", "unknown"),
    ]
    assert given not in str(rows)
    assert rows[0].detail["asked"] == rows[2].detail["asked"] != ""


async def test_a_client_cannot_use_an_assertion_twice_for_two_endpoints(ready: Served) -> None:
    signed = assertion(ready.url + "/oauth/token", ready.runtime.clock())
    fields = form(signed, grant_type="client_credentials", scope="system/*.rs")
    assert (await post(ready, "/oauth/token", fields)).status_code == 200
    assert (await post(ready, "/oauth/introspect", form(signed, token="x"))).status_code == 401
    assert (await ask(ready)).status_code == 200

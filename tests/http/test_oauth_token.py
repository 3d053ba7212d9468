"""`POST /oauth/token`: a registered client that proves itself gets a short token; whatever is wrong is one answer."""

from __future__ import annotations

import asyncio
import base64
import json
from pathlib import Path
from typing import Any

import httpx
import jwt
import pytest

from fhirserver.policy.gate import CallerClass
from tests.build import load, patient
from tests.clients import ALGORITHMS, ask, assertion, form, jwk, jwks, post, private, registered, token
from tests.served import Served, served
from tests.stores import every_kind

kind = every_kind

MEMBER = {"organization": "operator", "caller": CallerClass.MEMBER}


@pytest.fixture
async def ready(server: Served) -> Served:
    """A server with a registered client, a member, who may read one patient."""
    await load(server.gate, [patient("p")])
    await server.gate.clients.add(registered(**MEMBER))
    return server


def refused(answer: httpx.Response) -> None:
    """The one answer to whoever is not proven."""
    assert answer.status_code == 401, answer.text
    assert answer.json() == {
        "error": "invalid_client",
        "error_description": "The client could not be authenticated.",
    }
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
async def test_a_proven_client_gets_a_token_that_opens_what_it_may_see(ready: Served, algorithm: str) -> None:
    answer = await ask(ready, algorithm)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "application/json"
    assert (answer.headers["cache-control"], answer.headers["pragma"]) == ("no-store", "no-cache")
    body = answer.json()
    assert body.keys() == {"access_token", "token_type", "expires_in", "scope"}
    assert (body["token_type"], body["scope"]) == ("bearer", "system/*.rs")
    assert 0 < body["expires_in"] <= 300
    assert (await ready.get("Patient/p", body["access_token"])).status_code == 200


async def test_a_third_party_sees_nothing_without_consent_whatever_its_scopes(ready: Served) -> None:
    await ready.gate.clients.add(registered("other", organization="reader"))
    assert (await ready.get("Patient/p", await token(ready, id="other"))).status_code == 403


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "other"},
        {"sub": "other"},
        {"sub": None},
        {"iss": None},
        {"aud": "https://elsewhere.example.org/oauth/token"},
        {"aud": None},
        {"aud": []},
        {"exp": None},
        {"exp": "soon"},
        {"exp": 1},
        {"jti": None},
        {"jti": ""},
        {"jti": 7},
        {"jti": "x" * 300},
        {"header": {"kid": None}},
        {"header": {"kid": "unknown"}},
        {"header": {"kid": "RS384"}},
        {"header": {"typ": "at+jwt"}},
        {"header": {"jku": "https://elsewhere.example.org/jwks"}},
        {"header": {"crit": ["exp"]}},
    ],
    ids=str,
)
async def test_an_assertion_that_is_wrong_is_refused(ready: Served, changed: dict[str, Any]) -> None:
    refused(await ask(ready, **changed))


@pytest.mark.parametrize("more", [{"exp": 310}, {"exp": 0}, {"nbf": 60}, {"iat": 60}], ids=str)
async def test_an_assertion_of_another_time_is_refused(ready: Served, more: dict[str, int]) -> None:
    now = ready.runtime.clock() // 1000
    refused(await ask(ready, **{name: now + seconds for name, seconds in more.items()}))


async def test_an_assertion_for_others_too_is_refused(ready: Served) -> None:
    here = ready.url + "/oauth/token"
    refused(await ask(ready, aud=[here, "https://elsewhere.example.org"]))
    assert (await ask(ready, aud=[here])).status_code == 200


async def test_a_host_header_does_not_decide_the_audience_where_a_base_url_is_set(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path, kind, base_url="https://fhir.example.org") as server:
        await server.gate.clients.add(registered(**MEMBER))
        elsewhere = "https://elsewhere.example.org"
        for root, status in ((elsewhere, 401), (server.url, 401), ("https://fhir.example.org", 200)):
            signed = assertion(root + "/oauth/token", server.runtime.clock())
            fields = form(signed, grant_type="client_credentials", scope="system/*.rs")
            headers = {"Host": root.removeprefix("https://").removeprefix("http://")}
            assert (await post(server, "/oauth/token", fields, headers=headers)).status_code == status


async def test_only_the_listed_algorithms_count(ready: Served) -> None:
    await ready.gate.clients.add(
        registered("weak", jwks={"keys": [jwk("RS384"), jwk("ES384"), jwk("ES256"), jwk("RS256")]}, **MEMBER)
    )
    for algorithm in ("ES256", "RS256"):
        refused(await ask(ready, algorithm, id="weak"))
    public = jwk("RS384")["n"].encode()
    for forged, key in (("HS256", public), ("HS384", public), ("none", "")):
        now = ready.runtime.clock() // 1000
        claims = {"iss": "weak", "sub": "weak", "aud": ready.url + "/oauth/token", "exp": now + 60, "jti": forged}
        signed = jwt.encode(claims, key or None, algorithm=forged, headers={"kid": "RS384"})
        refused(await post(ready, "/oauth/token", form(signed, grant_type="client_credentials", scope="system/*.rs")))


async def test_a_signature_of_another_key_is_refused(ready: Served) -> None:
    refused(await ask(ready, "ES384", key=private("ES384x"), header={"kid": "ES384"}))
    signed = assertion(ready.url + "/oauth/token", ready.runtime.clock())
    head, body, mark = signed.split(".")
    claims = json.loads(base64.urlsafe_b64decode(body + "=="))
    changed = base64.urlsafe_b64encode(json.dumps({**claims, "jti": "other"}).encode()).rstrip(b"=").decode()
    fields = form(f"{head}.{changed}.{mark}", grant_type="client_credentials", scope="system/*.rs")
    refused(await post(ready, "/oauth/token", fields))


@pytest.mark.parametrize("text", ["x", "a.b.c", "e30.e30.", "ä.b.c", "x" * 20_000, "[" * 9_000])
async def test_garbage_is_refused(ready: Served, text: str) -> None:
    refused(await post(ready, "/oauth/token", form(text, grant_type="client_credentials", scope="system/*.rs")))


async def test_an_assertion_counts_once_on_all_servers(ready: Served, tmp_path: Path, kind: str) -> None:
    audience = ready.url + "/oauth/token"
    fields = form(assertion(audience, ready.runtime.clock()), grant_type="client_credentials", scope="system/*.rs")
    settings = ready.runtime.settings
    async with served(
        tmp_path, kind, store=settings.store, keys_file=str(settings.keys_path), base_url=ready.url
    ) as other:
        assert (await post(other, "/oauth/token", fields)).status_code == 200
        refused(await post(other, "/oauth/token", fields))
        refused(await post(ready, "/oauth/token", fields))


async def test_the_same_jti_of_two_clients_is_two(ready: Served) -> None:
    await ready.gate.clients.add(registered("other", **MEMBER))
    assert (await ask(ready, jti="same")).status_code == 200
    assert (await ask(ready, jti="same", id="other")).status_code == 200
    refused(await ask(ready, jti="same"))


@pytest.mark.parametrize(
    ("asked", "given"),
    [
        ("system/Patient.rs", "system/Patient.rs"),
        ("system/Patient.read system/Nonsense.rs launch openid", "system/Patient.read"),
        ("system/*.cruds", "system/*.rs"),
        ("system/*.write patient/*.rs", None),
        ("openid", None),
        ("", None),
    ],
)
async def test_scopes_are_what_was_asked_as_far_as_registered(ready: Served, asked: str, given: str | None) -> None:
    answer = await ask(ready, scope=asked)
    if given is None:
        assert (answer.status_code, answer.json()["error"]) == (400, "invalid_scope")
    else:
        assert (answer.status_code, answer.json()["scope"]) == (200, given)


async def test_disabling_ends_the_tokens_of_a_client_at_once_on_every_server(
    ready: Served, tmp_path: Path, kind: str
) -> None:
    settings = ready.runtime.settings
    given = await token(ready)
    async with served(tmp_path, kind, store=settings.store, keys_file=str(settings.keys_path)) as other:
        assert (await other.get("Patient/p", given)).status_code == 200
        await ready.gate.clients.enable("bulk", False)
        assert (await other.get("Patient/p", given)).status_code == 401
        assert (await ready.get("Patient/p", given)).status_code == 401
    refused(await ask(ready))
    await ready.gate.clients.enable("bulk", True)
    assert (await ready.get("Patient/p", given)).status_code == 401
    assert (await ready.get("Patient/p", await token(ready))).status_code == 200


async def test_a_client_that_is_removed_and_added_again_is_another(ready: Served) -> None:
    given = await token(ready)
    await ready.gate.clients.remove("bulk")
    assert (await ready.get("Patient/p", given)).status_code == 401
    refused(await ask(ready))
    await ready.gate.clients.add(registered(**MEMBER))
    assert (await ready.get("Patient/p", given)).status_code == 401


async def test_a_client_registered_anew_is_what_it_is_then(ready: Served) -> None:
    given = await token(ready)
    with pytest.raises(ValueError, match="already"):
        await ready.gate.clients.add(registered(jwks=jwks("RS384")))
    await ready.gate.clients.add(registered(jwks=jwks("RS384"), **MEMBER), replace=True)
    assert (await ready.get("Patient/p", given)).status_code == 401
    refused(await ask(ready, "ES384"))
    assert (await ask(ready, "RS384")).status_code == 200


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({}, "invalid_request"),
        ({"grant_type": "password"}, "unsupported_grant_type"),
        ({"grant_type": "client_credentials"}, "invalid_client"),
        ({"grant_type": "client_credentials", "client_assertion": "x"}, "invalid_client"),
    ],
)
async def test_a_form_that_is_incomplete_gets_an_error_of_oauth(
    ready: Served, fields: dict[str, str], error: str
) -> None:
    answer = await post(ready, "/oauth/token", fields, headers={"Content-Type": "application/x-www-form-urlencoded"})
    assert answer.json()["error"] == error
    assert answer.status_code == (401 if error == "invalid_client" else 400)


@pytest.mark.parametrize(
    ("content", "kind_of", "status"),
    [
        (b"{}", "application/json", 400),
        (b"grant_type=client_credentials&grant_type=client_credentials", "application/x-www-form-urlencoded", 400),
        (b"\xff=1", "application/x-www-form-urlencoded", 400),
        (b"a=%ff", "application/x-www-form-urlencoded", 400),
        (b"&".join(b"a%d=1" % n for n in range(40)), "application/x-www-form-urlencoded", 400),
        (b"a=" + b"x" * 70_000, "application/x-www-form-urlencoded", 413),
    ],
)
async def test_what_is_no_form_is_an_invalid_request(ready: Served, content: bytes, kind_of: str, status: int) -> None:
    async with httpx.AsyncClient(base_url=ready.url) as client:
        answer = await client.post("/oauth/token", content=content, headers={"Content-Type": kind_of})
    assert (answer.status_code, answer.json()["error"]) == (status, "invalid_request")


async def test_tokens_and_refusals_are_in_the_audit_trail_without_the_assertion(ready: Served) -> None:
    signed = assertion(ready.url + "/oauth/token", ready.runtime.clock(), jti="secret-jti", aud="https://wrong")
    await post(ready, "/oauth/token", form(signed, grant_type="client_credentials", scope="system/*.rs"))
    await post(ready, "/oauth/token", form("x", grant_type="client_credentials", scope="system/*.rs"))
    await ask(ready, scope="openid")
    await token(ready)
    rows = [row for row in await ready.audit() if row.interaction == "token"]
    told = [(row.subject, row.organization, row.outcome, row.detail.get("reason")) for row in rows]
    assert told == [
        ("bulk", "operator", "denied", "audience"),
        ("unknown", "operator", "denied", "assertion"),
        ("bulk", "operator", "denied", "scope"),
        ("bulk", "operator", "complete", None),
    ]
    assert signed not in str(rows)
    assert "secret-jti" not in str(rows)


async def test_whoever_fails_again_and_again_has_to_wait_and_the_client_never(tmp_path: Path, kind: str) -> None:
    now = 1_800_000_000_000
    async with served(tmp_path, kind, clock=lambda: now) as server:
        await server.gate.clients.add(registered(**MEMBER))
        answers = [(await ask(server, header={"kid": "unknown"})) for _ in range(15)]
        for answer in answers[:10]:
            refused(answer)
        early = answers[-1]
        assert (early.status_code, early.json()["error"]) == (429, "temporarily_unavailable")
        assert 1 <= int(early.headers["retry-after"]) <= 30
        # A signature is not guessed: what others did in its name, or behind its proxy, does not shut a client out.
        assert (await ask(server)).status_code == 200
        assert (await ask(server, header={"kid": "unknown"})).status_code == 429
        now += 30_000
        refused(await ask(server, header={"kid": "unknown"}))


async def test_what_names_no_client_has_to_wait_by_its_address(ready: Served) -> None:
    fields = form("x", grant_type="client_credentials", scope="system/*.rs")
    statuses = [(await post(ready, "/oauth/token", fields)).status_code for _ in range(35)]
    assert (statuses[0], statuses[-1]) == (401, 429)
    assert len([row for row in await ready.audit() if row.outcome == "denied"]) < 35
    assert (await ask(ready)).status_code == 200


async def test_many_workers_of_one_client_ask_at_the_same_moment(ready: Served) -> None:
    answers = await asyncio.gather(*(ask(ready) for _ in range(25)))
    assert {answer.status_code for answer in answers} == {200}

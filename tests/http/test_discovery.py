"""`smart-configuration` and the JWKS: always JSON, true of this server, and enough to verify its tokens by."""

from __future__ import annotations

from pathlib import Path

import httpx
import jwt
import pytest

from fhirserver.app import wall_clock
from fhirserver.core.validate import issues
from fhirserver.policy.keys import rotate
from tests.build import load, patient
from tests.served import Served, served

SMART = "/.well-known/smart-configuration"
YEAR = 365 * 24 * 3600 * 1000


async def fetched(server: Served, path: str, **options: object) -> httpx.Response:
    async with httpx.AsyncClient(base_url=server.url) as client:
        return await client.get(path, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [SMART, "/FHIR/R4" + SMART])
@pytest.mark.parametrize("accept", ["application/json", "application/fhir+json", "text/html", "application/xml"])
async def test_the_configuration_is_json_whatever_is_accepted(server: Served, path: str, accept: str) -> None:
    answer = await fetched(server, path, headers={"Accept": accept})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/json")
    told = answer.json()
    assert told["token_endpoint"] == server.url + "/oauth/token"
    assert told["token_endpoint_auth_methods_supported"] == ["private_key_jwt"]
    assert set(told["token_endpoint_auth_signing_alg_values_supported"]) == {"RS384", "ES384", "EdDSA"}
    assert told["grant_types_supported"] == ["client_credentials"]
    assert told["code_challenge_methods_supported"] == ["S256"]
    assert {"client-confidential-asymmetric", "permission-v1", "permission-v2"} <= set(told["capabilities"])


async def test_every_endpoint_that_is_named_answers(server: Served) -> None:
    told = (await fetched(server, SMART)).json()
    async with httpx.AsyncClient() as client:
        for name in ("token_endpoint", "introspection_endpoint", "revocation_endpoint"):
            assert (await client.post(told[name], data={"x": "y"})).json()["error"].startswith("invalid_")
        assert (await client.get(told["jwks_uri"])).json()["keys"]


async def test_the_endpoints_are_below_the_base_url_that_is_set(tmp_path: Path) -> None:
    async with served(tmp_path, base_url="https://fhir.example.org/root/") as server:
        told = (await fetched(server, SMART)).json()
        assert told["token_endpoint"] == "https://fhir.example.org/root/oauth/token"
        statement = (await fetched(server, "/FHIR/R4/metadata")).json()
        assert "https://fhir.example.org/root/oauth/token" in str(statement["rest"][0]["security"])


async def test_the_capability_statement_names_the_endpoints(server: Served) -> None:
    statement = await fetched(server, "/FHIR/R4/metadata")
    security = statement.json()["rest"][0]["security"]
    assert security["service"][0]["coding"][0]["code"] == "SMART-on-FHIR"
    (extension,) = security["extension"]
    assert extension["url"] == "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
    places = {each["url"]: each["valueUri"] for each in extension["extension"]}
    assert places == {name: f"{server.url}/oauth/{name}" for name in ("token", "introspect", "revoke")}
    assert issues(statement.content)[1] == []


async def test_tokens_can_be_verified_by_the_published_keys(server: Served) -> None:
    answer = await fetched(server, "/.well-known/jwks.json")
    assert answer.headers["content-type"] == "application/json"
    keys = jwt.PyJWKSet.from_dict(answer.json())
    token = server.token()
    key = keys[jwt.get_unverified_header(token)["kid"]]
    issuer = server.runtime.keys.issuer
    assert jwt.decode(token, key, algorithms=["ES256"], audience=issuer, issuer=issuer)["org"] == "operator"
    assert not any({"d", "k"} & each.keys() for each in answer.json()["keys"])


async def test_a_running_server_takes_a_rotation_up_and_earlier_tokens_stay_good(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await load(server.gate, [patient("p")])
        before = server.token()
        path = server.runtime.settings.keys_path
        fresh = rotate(path, wall_clock(), keep=YEAR)
        keys = {each["kid"] for each in (await fetched(server, "/.well-known/jwks.json")).json()["keys"]}
        assert keys == {fresh.kid, server.runtime.keys.kid}
        assert (await server.get("Patient/p", before)).status_code == 200
        async with served(tmp_path, store=server.runtime.settings.store) as other:
            after = other.token()
            assert jwt.get_unverified_header(after)["kid"] == fresh.kid
            assert (await server.get("Patient/p", after)).status_code == 200
            assert (await other.get("Patient/p", before)).status_code == 200


async def test_a_key_that_is_dropped_ends_its_tokens_within_a_second(tmp_path: Path) -> None:
    now = wall_clock()
    async with served(tmp_path, clock=lambda: now) as server:
        await load(server.gate, [patient("p")])
        before = server.token()
        assert (await server.get("Patient/p", before)).status_code == 200
        rotate(server.runtime.settings.keys_path, now, keep=0)
        now += 1_000
        assert (await server.get("Patient/p", before)).status_code == 401
        assert len((await fetched(server, "/.well-known/jwks.json")).json()["keys"]) == 1

"""Tokens of outside issuers: what the configuration says of them counts, and nothing else does."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest

from fhirserver.app import wall_clock
from fhirserver.policy.issuers import load_issuers
from tests.build import load, observation, patient
from tests.clients import jwks, post, private
from tests.provider import Provider, provider
from tests.served import Served, served

Json = dict[str, Any]
AUDIENCE = "https://fhir.example.org"


def entry(there: Provider, **more: Any) -> Json:
    return {"issuer": there.url, "audience": AUDIENCE, "organization": "north", "class": "patient", **more}


class World:
    """A server, an issuer, and the charts of two organisations."""

    def __init__(self, there: Provider, folder: Path) -> None:
        self.there = there
        self.folder = folder
        self.now = wall_clock()
        self.server: Served

    def settings(self, *entries: Json) -> Json:
        file = self.folder / "issuers.json"
        file.write_text(json.dumps(entries))
        return {"issuers_file": str(file), "outbound_loopback": True, "outbound_ca": str(self.there.ca_file)}

    def publish(self, algorithm: str = "RS256", **changed: Any) -> None:
        """The issuer's discovery document and keys."""
        place = self.there.tell("/keys", jwks(algorithm))
        told = {"issuer": self.there.url, "jwks_uri": place, **changed}
        self.there.tell("/.well-known/openid-configuration", told)

    def token(self, algorithm: str = "RS256", **changed: Any) -> str:
        """A good one of the issuer's, but for what is ``changed`` (None: left out)."""
        header = {"kid": algorithm, **changed.pop("header", {})}
        key = changed.pop("key", None) or private(algorithm)
        seconds = self.now // 1000
        claims: Json = {"iss": self.there.url, "sub": "someone", "aud": AUDIENCE, "iat": seconds, "exp": seconds + 600}
        claims |= {"jti": "1", "patient": "mine", "scope": "patient/*.rs", **changed}
        given = {name: value for name, value in claims.items() if value is not None}
        return jwt.encode(given, key, algorithm=algorithm, headers=header)

    async def status(self, path: str, token: str) -> int:
        return (await self.server.get(path, token)).status_code


@pytest.fixture
async def world(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[World]:
    async with provider(tmp_path) as there:
        made = World(there, tmp_path)
        made.publish()
        settings = made.settings(entry(there, **getattr(request, "param", {})))
        async with served(tmp_path, clock=lambda: made.now, **settings) as server:
            made.server = server
            await load(server.gate, [patient("mine"), observation("o", "mine"), patient("other")], organization="north")
            await load(server.gate, [patient("elsewhere")], organization="south")
            yield made


async def test_a_patients_token_opens_its_own_chart_and_no_other(world: World) -> None:
    token = world.token()
    assert [await world.status(path, token) for path in ("Patient/mine", "Observation/o")] == [200, 200]
    assert await world.status("Patient/other", token) in (403, 404)
    assert await world.status("Patient/mine", world.token(patient="Patient/mine")) == 200
    assert await world.status("Patient/mine", world.token(aud=["other", AUDIENCE])) == 200
    assert await world.status("Patient/mine", world.server.token()) == 200


async def test_an_issuer_speaks_for_the_patients_of_its_own_custodian_only(world: World) -> None:
    assert await world.status("Patient/elsewhere", world.token(patient="elsewhere")) == 401
    assert await world.status("Patient/nobody", world.token(patient="nobody")) == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"iss": "https://elsewhere.example.org"}, {"iss": None}, {"aud": "someone else"}, {"aud": None}, {"aud": []},
        {"sub": ""}, {"sub": None}, {"exp": None}, {"exp": "soon"}, {"patient": None}, {"patient": ""},
        {"patient": "a/b"}, {"patient": ["mine"]}, {"patient": "Person/mine"},
        {"header": {"kid": "unknown"}}, {"header": {"typ": "client-authentication+jwt"}}, {"header": {"crit": ["exp"]}},
        {"key": private("RS384")},
    ],
    ids=lambda changed: next(iter(changed)),
)  # fmt: skip
async def test_a_token_that_is_wrong_is_refused(world: World, changed: Json) -> None:
    assert await world.status("Patient/mine", world.token(**changed)) == 401


async def test_a_token_of_another_time_is_refused(world: World) -> None:
    seconds = world.now // 1000
    for changed in ({"exp": seconds}, {"exp": seconds + 90_000}, {"nbf": seconds + 60}, {"iat": seconds + 60}):
        assert await world.status("Patient/mine", world.token(**changed)) == 401
    token = world.token()
    assert await world.status("Patient/mine", token) == 200
    world.now += 600_000
    assert await world.status("Patient/mine", token) == 401


async def test_a_key_of_ours_or_an_algorithm_that_is_not_listed_signs_nothing_of_theirs(world: World) -> None:
    world.publish("EdDSA")
    assert await world.status("Patient/mine", world.token("EdDSA")) == 401
    ours = world.server.runtime.keys
    assert (
        await world.status("Patient/mine", world.token("ES256", key=ours.signing_key, header={"kid": ours.kid})) == 401
    )


async def test_scopes_narrow_and_an_outside_token_is_never_more_than_its_class(world: World) -> None:
    assert await world.status("Observation/o", world.token(scope="patient/Patient.rs")) == 403
    assert await world.status("Patient/mine", world.token(scope=["patient/Patient.rs", "openid"])) == 200
    assert await world.status("Patient/mine", world.token(scope=None)) == 403
    greedy = world.token(scope="system/*.cruds user/*.cruds", role="ORG_ADMIN", org="south", purpose="BTG")
    assert await world.status("Patient/mine", greedy) == 403
    fields = {"token": world.token(org="south", role="ORG_ADMIN", **{"class": "operator"})}
    headers = {"Authorization": f"Bearer {world.server.token()}"}
    told = (await post(world.server, "/oauth/introspect", fields, headers=headers)).json()
    assert (told["active"], told["organization"], told["patient"]) == (True, "north", "mine")
    assert (told["iss"], told["sub"]) == (world.there.url, f"{world.there.url}#someone")
    assert "jti" not in told


MEMBERS = {
    "class": "member",
    "scope": "scp",
    "organizations": {"claim": "tenant", "values": {"t-north": "north", "t-south": "south"}},
    "role": {"claim": "groups", "values": {"admins": "ORG_ADMIN"}},
    "purpose": {"claim": "pou", "values": {"care": "TREAT"}},
}


@pytest.mark.parametrize("world", [MEMBERS], indirect=True)
async def test_a_member_acts_for_the_organisation_that_the_table_names(world: World) -> None:
    north = world.token(scp=["user/*.rs"], tenant="t-north", patient=None, groups=["x", "admins"], pou="care")
    south = world.token(scp="user/*.rs", tenant="t-south", patient=None, jti="2", groups="operators", pou="BTG")
    assert [await world.status(f"Patient/{id}", north) for id in ("mine", "elsewhere")] == [200, 404]
    assert [await world.status(f"Patient/{id}", south) for id in ("mine", "elsewhere")] == [404, 200]
    for tenant in ("north", "t-west", None, 1, ["x"]):
        assert await world.status("Patient/mine", world.token(scp="user/*.rs", tenant=tenant)) == 401
    first, second = await world.server.gate.known(north), await world.server.gate.known(south)
    assert (first.role, first.purpose) == ("ORG_ADMIN", "TREAT")
    assert (second.role, second.purpose) == (None, None)


async def test_an_outside_token_can_be_revoked_on_every_server(world: World, tmp_path: Path) -> None:
    token, kept = world.token(), world.token(jti="2")
    settings = world.settings(entry(world.there))
    store = world.server.runtime.settings.store
    async with served(tmp_path, clock=lambda: world.now, store=store, **settings) as other:
        assert (await other.get("Patient/mine", token)).status_code == 200
        headers = {"Authorization": f"Bearer {token}"}
        assert (await post(world.server, "/oauth/revoke", {"token": token}, headers=headers)).status_code == 200
        assert (await other.get("Patient/mine", token)).status_code == 401
        assert (await other.get("Patient/mine", kept)).status_code == 200


async def test_keys_are_fetched_once_and_a_new_one_is_found(world: World) -> None:
    for jti in "123":
        assert await world.status("Patient/mine", world.token(jti=jti)) == 200
    assert sorted(world.there.asked) == ["/.well-known/openid-configuration", "/keys"]
    world.publish("ES256")
    assert await world.status("Patient/mine", world.token("ES256")) == 401
    world.now += 60_000
    assert await world.status("Patient/mine", world.token("ES256")) == 200


async def test_a_withdrawn_key_ends_what_it_signed_within_ten_minutes(world: World) -> None:
    token = world.token(exp=world.now // 1000 + 3600)
    assert await world.status("Patient/mine", token) == 200
    world.publish("ES256")
    world.now += 600_000
    assert await world.status("Patient/mine", token) == 401


@pytest.mark.parametrize(
    "changed",
    [
        {"issuer": "https://elsewhere.example.org"},
        {"jwks_uri": "http://localhost/keys"},
        {"jwks_uri": 1},
        {"issuer": None},
    ],
    ids=str,
)
async def test_a_discovery_document_that_is_not_the_issuers_own_does_not_count(world: World, changed: Json) -> None:
    world.publish(**changed)
    assert await world.status("Patient/mine", world.token()) == 401
    assert "/keys" not in world.there.asked


async def test_an_issuer_that_is_away_is_a_refusal_and_asked_again_soon(world: World) -> None:
    world.there.answers.clear()
    assert [await world.status("Patient/mine", world.token()) for _ in range(3)] == [401] * 3
    assert len(world.there.asked) == 1
    world.publish()
    world.now += 5_000
    assert await world.status("Patient/mine", world.token()) == 200


async def test_without_the_setting_no_outside_token_counts(world: World, tmp_path: Path) -> None:
    asked = len(world.there.asked)
    async with served(tmp_path, store=world.server.runtime.settings.store) as other:
        assert (await other.get("Patient/mine", world.token())).status_code == 401
    assert len(world.there.asked) == asked


@pytest.mark.parametrize(
    "entries",
    [
        {},
        [{}],
        [{"issuer": "https://a", "audience": "b", "organization": "c"}],
        [{"issuer": "https://a", "audience": "b", "organization": "c", "class": "operator"}],
        [{"issuer": "https://a", "audience": "b", "organization": "c", "class": "third-party"}],
        [{"issuer": "https://a", "audience": "b", "organization": "operator", "class": "member"}],
        [{"issuer": "https://a", "audience": "", "organization": "c", "class": "member"}],
        [{"issuer": "http://a", "audience": "b", "organization": "c", "class": "member"}],
        [{"issuer": "https://a", "audience": "b", "organization": "c", "class": "member", "extra": 1}],
        [{"issuer": "https://a", "audience": "b", "organization": "c", "class": "member", "algorithms": ["none"]}],
        [{"issuer": "https://a", "audience": "b", "organization": "c", "class": "member", "algorithms": ["HS256"]}],
        [{"issuer": "https://a", "audience": "b", "organization": "c", "class": "member"}] * 2,
        [
            {"issuer": "https://a", "audience": "b", "organization": "c", "class": "member",
             "organizations": {"claim": "x", "values": {"y": "operator"}}}
        ],
        [
            {"issuer": "https://a", "audience": "b", "organization": "c", "class": "member",
             "purpose": {"claim": "x", "values": {"y": "CURIOSITY"}}}
        ],
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_is_refused_in_a_sentence(tmp_path: Path, entries: object) -> None:
    file = tmp_path / "issuers.json"
    file.write_text(json.dumps(entries))
    with pytest.raises(ValueError, match=r"issuers\.json.*\.$"):
        load_issuers(file)

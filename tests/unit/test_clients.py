"""The register of clients: who cannot be in it, and that each change gives an epoch that no client ever had."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt import get_algorithm_by_name

from fhirserver.core.errors import Conflict
from fhirserver.policy.clients import stands
from fhirserver.policy.gate import CallerClass
from fhirserver.policy.jwks import read_keys
from tests.admitted import World, world
from tests.clients import jwk, jwks, private, registered
from tests.stores import every_kind

kind = every_kind


@pytest.fixture
async def here(tmp_path: Path, kind: str) -> AsyncIterator[World]:
    async with world(tmp_path, kind) as made:
        yield made


async def test_a_client_comes_back_as_it_was_added(here: World) -> None:
    added = [await here.gate.clients.add(registered(id, purpose="TREAT")) for id in ("b", "a.1_x-y")]
    assert await here.gate.clients.get("b") == added[0]
    assert [client async for client in here.gate.clients.every()] == [added[1], added[0]]
    assert await here.gate.clients.get("c") is None
    assert await here.gate.clients.get("") is None


async def test_no_epoch_comes_twice(here: World) -> None:
    clients = here.gate.clients
    epochs = [(await clients.add(registered())).epoch]
    epochs.append((await clients.enable("bulk", False)).epoch)
    epochs.append((await clients.enable("bulk", True)).epoch)
    epochs.append((await clients.add(registered(), replace=True)).epoch)
    await clients.remove("bulk")
    epochs.append((await clients.add(registered())).epoch)
    epochs.append((await clients.add(registered("other"))).epoch)
    assert sorted(set(epochs)) == epochs
    assert 0 not in epochs


async def test_an_entry_stands_for_its_own_epoch_while_it_is_enabled(here: World) -> None:
    client = await here.gate.clients.add(registered())
    assert stands(await here.store.ledger.get("client/bulk"), client.epoch)
    assert not stands(await here.store.ledger.get("client/bulk"), client.epoch + 1)
    disabled = await here.gate.clients.enable("bulk", False)
    assert not stands(await here.store.ledger.get("client/bulk"), disabled.epoch)
    assert not stands(None, 1)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"id": "not an id"}, "client id"),
        ({"id": "../x"}, "client id"),
        ({"id": ""}, "client id"),
        ({"id": "x" * 65}, "client id"),
        ({"caller": CallerClass.OPERATOR}, "member or third-party"),
        ({"caller": CallerClass.PATIENT}, "member or third-party"),
        ({"scope": ""}, "allows nothing"),
        ({"scope": "system/*.rs openid"}, "'openid' allows nothing"),
        ({"scope": "patient/*.rs", "caller": CallerClass.MEMBER}, "allows nothing to a member"),
        ({"purpose": "CURIOSITY"}, "CURIOSITY"),
        ({"jwks": None}, "needs its keys"),
        ({"jwks": jwks(), "jwks_url": "https://example.org/jwks"}, "needs its keys"),
        ({"jwks_url": "http://example.org/jwks"}, "https://"),
        ({"jwks_url": "https://user:secret@example.org/jwks"}, "https://"),
        ({"jwks": {}}, "JWK Set"),
        ({"jwks": {"keys": []}}, "No key"),
        ({"jwks": {"keys": [{**jwk("ES384"), "kid": ""}]}}, "No key"),
        ({"jwks": {"keys": [jwk("ES384"), jwk("ES384")]}}, "same kid"),
        ({"jwks": {"keys": [jwk("RS384", d="AQAB")]}}, "private key"),
        ({"jwks": {"keys": [jwk("ES384"), {"kty": "oct", "kid": "x", "k": "AQAB"}]}}, "private key"),
    ],
)
async def test_a_client_that_cannot_be_is_refused(here: World, changed: dict[str, Any], told: str) -> None:
    with pytest.raises(ValueError, match=told) as refused:
        await here.gate.clients.add(registered(**{"id": "bulk", **changed}))
    assert "secret" not in str(refused.value)
    assert [client async for client in here.gate.clients.every()] == []


async def test_what_is_not_there_cannot_be_changed(here: World) -> None:
    for doing in (here.gate.clients.enable("nobody", True), here.gate.clients.remove("nobody")):
        with pytest.raises(ValueError, match="no client 'nobody'"):
            await doing


async def test_of_two_who_change_one_client_at_once_one_is_told(here: World, monkeypatch: pytest.MonkeyPatch) -> None:
    clients = here.gate.clients
    await clients.add(registered())
    incr = here.store.ledger.incr

    async def meanwhile(name: str) -> int:
        monkeypatch.undo()
        await clients.enable("bulk", False)
        return await incr(name)

    monkeypatch.setattr(type(here.store.ledger), "incr", lambda _, name: meanwhile(name))
    with pytest.raises(Conflict):
        await clients.enable("bulk", True)


def small() -> dict[str, Any]:
    key = rsa.generate_private_key(65537, 1024)  # noqa: S505  that it is too small is the point
    return {**get_algorithm_by_name("RS384").to_jwk(key.public_key(), as_dict=True), "kid": "small"}


@pytest.mark.parametrize(
    "key",
    [
        small(),
        jwk("RS384", use="enc"),
        jwk("RS384", key_ops=["encrypt"]),
        jwk("RS384", alg="RSA-OAEP"),
        jwk("RS384", e="AA"),
        jwk("RS384", n="!"),
        jwk("ES384", x="AA"),
        jwk("ES384", crv="P-521"),
        jwk("ES384", crv="secp256k1"),
        jwk("EdDSA", x="AA"),
        jwk("EdDSA", crv="X25519"),
        {"kty": "RSA", "kid": "x"},
        {"kid": "x"},
        {},
    ],
)
def test_a_key_that_cannot_verify_a_signature_here_is_left_out(key: dict[str, Any]) -> None:
    assert read_keys({"keys": [key]}) == ()
    assert [each.kid for each in read_keys({"keys": [key, jwk("ES384", "good")]})] == ["good"]


def test_a_key_verifies_what_it_says_and_no_more() -> None:
    by_kid = {key.kid: key.algorithms for key in read_keys({"keys": [jwk("RS384"), jwk("RS256", "only", alg="RS256")]})}
    assert by_kid == {"RS384": {"RS256", "RS384"}, "only": {"RS256"}}
    assert private("ES256") is private("ES256")

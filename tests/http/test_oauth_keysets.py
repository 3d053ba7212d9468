"""Clients whose keys are at a URL: fetched through the guarded client, kept no longer than they allow, asked for again
once a minute at most."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fhirserver.app import wall_clock
from fhirserver.policy.gate import CallerClass
from tests.clients import ask, jwk, jwks, registered
from tests.provider import Provider, provider
from tests.served import Served, served


class World:
    """A server with a client whose keys are somewhere else, and a clock that is moved by hand."""

    def __init__(self, there: Provider) -> None:
        self.there = there
        self.now = wall_clock()
        self.server: Served

    async def status(self, algorithm: str = "ES384", **changed: object) -> int:
        return (await ask(self.server, algorithm, **changed)).status_code

    @property
    def fetched(self) -> int:
        return len(self.there.asked)

    def later(self, seconds: float) -> None:
        self.now += int(seconds * 1000)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    async with provider(tmp_path) as there:
        made = World(there)
        settings = {"outbound_loopback": True, "outbound_ca": str(there.ca_file)}
        async with served(tmp_path, clock=lambda: made.now, **settings) as server:
            made.server = server
            url = there.tell("/jwks", jwks("ES384"))
            member = {"organization": "operator", "caller": CallerClass.MEMBER}
            await server.gate.clients.add(registered(jwks_url=url, **member))
            yield made


async def test_a_set_is_fetched_once_for_ten_minutes(world: World) -> None:
    for _ in range(3):
        assert await world.status() == 200
    assert world.fetched == 1
    world.later(599)
    assert (await world.status(), world.fetched) == (200, 1)
    world.later(1)
    assert (await world.status(), world.fetched) == (200, 2)


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"Cache_Control": "max-age=60"}, 60),
        ({"Cache_Control": 'public, max-age="60"'}, 60),
        ({"Cache_Control": "max-age=60", "Age": "20"}, 40),
        ({"Cache_Control": "max-age=86400"}, 600),
    ],
)
async def test_a_set_is_kept_as_long_as_it_allows_and_ten_minutes_at_most(
    world: World, headers: dict[str, str], seconds: int
) -> None:
    world.there.tell("/jwks", jwks("ES384"), **headers)
    await world.status()
    world.later(seconds - 1)
    assert (await world.status(), world.fetched) == (200, 1)
    world.later(1)
    assert (await world.status(), world.fetched) == (200, 2)


@pytest.mark.parametrize("told", ["no-store", "no-cache", "max-age=0", "max-age=x"])
async def test_a_set_that_may_not_be_kept_is_not(world: World, told: str) -> None:
    world.there.tell("/jwks", jwks("ES384"), Cache_Control=told)
    assert [await world.status(), await world.status()] == [200, 200]
    assert world.fetched == 2


async def test_a_key_that_was_withdrawn_ends_with_the_set(world: World) -> None:
    assert await world.status() == 200
    world.there.tell("/jwks", jwks("RS384"))
    world.later(600)
    assert await world.status() == 401
    assert await world.status("RS384") == 200


async def test_an_unknown_key_fetches_anew_once_a_minute(world: World) -> None:
    assert await world.status() == 200
    world.there.tell("/jwks", {"keys": [jwk("ES384"), jwk("RS384")]})
    assert await world.status("RS384") == 401  # fetched a moment ago
    world.later(60)
    assert (await world.status("RS384"), world.fetched) == (200, 2)
    for _ in range(5):
        assert await world.status(header={"kid": "unknown"}) == 401
    assert world.fetched == 2
    world.later(60)
    for _ in range(4):  # with those before the ten that cost nothing
        assert await world.status(header={"kid": "unknown"}) == 401
    assert world.fetched == 3


async def test_a_set_that_cannot_be_had_is_one_refusal_and_asked_for_again_soon(world: World) -> None:
    for broken in ({"keys": 1}, [], {"keys": [jwk("ES384"), jwk("ES384")]}):
        world.there.tell("/jwks", broken)
        assert [await world.status(), await world.status()] == [401, 401]
        world.later(600)
    world.there.tell("/jwks", jwks("ES384"), status=302, Location=world.there.url + "/other")
    assert await world.status() == 401
    assert "/other" not in world.there.asked
    world.there.tell("/jwks", jwks("ES384"))
    world.later(5)
    assert await world.status() == 200


async def test_the_header_may_name_the_registered_url_and_no_other(world: World) -> None:
    assert await world.status(header={"jku": world.there.url + "/jwks"}) == 200
    other = world.there.tell("/other", jwks("ES384"))
    assert await world.status(header={"jku": other}) == 401
    assert "/other" not in world.there.asked


async def test_this_machine_is_not_asked_unless_that_is_set(tmp_path: Path) -> None:
    async with provider(tmp_path) as there, served(tmp_path, outbound_ca=str(there.ca_file)) as server:
        await server.gate.clients.add(registered(jwks_url=there.tell("/jwks", jwks("ES384"))))
        assert (await ask(server)).status_code == 401
        assert there.asked == []

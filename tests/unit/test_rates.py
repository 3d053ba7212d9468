"""Leases of a minute's permits, and waiting after failures: shared by all servers, and closed where nobody counts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from fhirserver.core.errors import Fault, Kind, Unavailable
from fhirserver.policy.principal import CallerClass, Principal
from fhirserver.policy.rates import Rates, Throttled
from fhirserver.policy.scopes import Scopes
from fhirserver.policy.throttle import Pace, Throttle
from fhirserver.store.open import open_store
from fhirserver.store.port import Ledger
from tests.admitted import World, world
from tests.stores import every_kind

kind = every_kind
PEPPER = bytes(32)


def caller(subject: str = "app") -> Principal:
    return Principal(
        subject=subject, organization="org", caller=CallerClass.MEMBER, scopes=Scopes("system/*.rs"), until=1 << 60
    )


def rates(world_: World, per_minute: int) -> Rates:
    return Rates(lambda: world_.store.ledger, per_minute=per_minute, pepper=PEPPER, clock=lambda: world_.now)


async def permits(*workers: Rates, asked: int, subject: str = "app") -> int:
    """How many of so many requests, in turn to each worker and all at once, are let in."""

    async def one(number: int) -> bool:
        try:
            await workers[number % len(workers)].take(caller(subject))
        except Throttled:
            return False
        return True

    return sum(await asyncio.gather(*[one(number) for number in range(asked)]))


async def test_all_servers_together_give_no_more_than_the_limit(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        three = [rates(here, 100) for _ in range(3)]
        assert await permits(*three, asked=400) == 100
        assert await permits(*three, asked=200, subject="another") == 100
        here.now += 60_000
        assert await permits(three[0], asked=400) == 100


async def test_the_store_is_asked_once_for_many_requests_and_not_again_when_all_is_spent(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        asked: list[str] = []
        ledger = here.store.ledger
        incr = ledger.incr

        async def counted(name: str, by: int = 1, *, expires: int | None = None) -> int:
            asked.append(name)
            return await incr(name, by, expires=expires)

        ledger.incr = counted  # type: ignore[method-assign]
        assert await permits(rates(here, 1_000), asked=5_000) == 1_000
        assert len(asked) == 20
        assert not any("app" in name or "org" in name for name in asked)


async def test_without_a_limit_nothing_is_asked() -> None:
    def nothing() -> Ledger:
        raise AssertionError("the ledger was asked")

    free = Rates(nothing, per_minute=0, pepper=PEPPER, clock=lambda: 0)
    assert await permits(free, asked=10) == 10


async def test_a_store_that_cannot_be_asked_lets_nobody_in(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/gone.db", clock=lambda: 0)
    limited = Rates(lambda: store.ledger, per_minute=10, pepper=PEPPER, clock=lambda: 0)
    with pytest.raises(Unavailable):
        await limited.take(caller())
    throttle = Throttle(lambda: store.ledger, "login", pepper=PEPPER, clock=lambda: 0)
    with pytest.raises(Unavailable):
        async with throttle.attempt(name="a", address="b"):
            raise AssertionError("an attempt was let in")


# -- failures


def door(world_: World, name: Pace = Pace(3, 8_000), address: Pace = Pace(5, 64_000)) -> Throttle:  # noqa: B008
    return Throttle(
        lambda: world_.store.ledger, "test", pepper=PEPPER, clock=lambda: world_.now, by_name=name, by_address=address
    )


async def fail(throttle: Throttle, name: str = "who", address: str = "where") -> int:
    """Seconds to wait that a failing attempt was told; 0 if it was looked at."""
    try:
        async with throttle.attempt(name=name, address=address):
            raise Fault(Kind.UNAUTHENTICATED, "wrong")
    except Throttled as early:
        return early.retry_after
    except Fault:
        return 0


async def test_each_failure_beyond_the_free_ones_doubles_the_delay_up_to_the_longest(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        throttle = door(here, address=Pace(1_000, 1_000))
        assert [await fail(throttle) for _ in range(4)] == [0, 0, 0, 1]
        waits = []
        for _ in range(6):
            here.now += 1_000 * (await fail(throttle))
            assert await fail(throttle) == 0
            waits.append(await fail(throttle))
        assert waits == [2, 4, 8, 8, 8, 8]
        assert await fail(throttle, name="another") == 0
        here.now += 3_600_000
        assert [await fail(throttle) for _ in range(4)] == [0, 0, 0, 1]


async def test_an_address_that_tries_many_names_waits_too(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        throttle = door(here)
        assert [await fail(throttle, name=f"n{at}") for at in range(6)] == [0, 0, 0, 0, 0, 1]
        assert await fail(throttle, name="n9", address="elsewhere") == 0


async def test_success_clears_the_name_and_takes_back_only_itself_from_the_address(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        throttle = door(here)
        assert [await fail(throttle) for _ in range(2)] == [0, 0]
        for _ in range(20):
            async with throttle.attempt(name="who", address="where") as attempt:
                attempt.succeeded()
        assert [await fail(throttle) for _ in range(4)] == [0, 0, 0, 1]
        assert await fail(throttle, name="x") == 1  # five failures came from there, whoever succeeded in between


async def test_attempts_at_the_same_moment_are_counted_each(tmp_path: Path, kind: str) -> None:
    async with world(tmp_path, kind) as here:
        looked_at = 0

        async def guess(throttle: Throttle) -> None:
            nonlocal looked_at
            try:
                async with throttle.attempt(name="who", address=""):
                    looked_at += 1
                    await asyncio.sleep(0.01)
            except Throttled:
                pass

        await asyncio.gather(*[guess(door(here)) for _ in range(40)])
        assert looked_at == 3


async def test_the_gate_has_a_throttle_for_each_door(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        for _ in range(10):
            assert await fail(here.gate.throttle("oauth"), address="") == 0
        assert await fail(here.gate.throttle("oauth"), address="") == 1
        assert await fail(here.gate.throttle("staff"), address="") == 0


async def test_no_name_and_no_address_stands_in_the_ledger(tmp_path: Path) -> None:
    async with world(tmp_path) as here:
        await fail(door(here), name="dr.smith", address="192.0.2.7")
        names = [name async for name, _ in here.store.ledger.scan("")]
        assert len([name for name in names if name.startswith("throttle/test/")]) == 2
        assert not any("smith" in name or "192.0.2.7" in name for name in names)

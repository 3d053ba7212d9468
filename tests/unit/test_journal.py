"""Rows that nobody waits for go along with the next that somebody does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import AuditRow
from fhirserver.policy import journal
from fhirserver.policy.journal import Journal
from fhirserver.store.port import Store
from tests.admitted import world


@pytest.fixture
async def store(tmp_path: Path) -> AsyncIterator[Store]:
    async with world(tmp_path) as w:
        yield w.store


def row(id: str) -> AuditRow:
    return AuditRow(id=id, at=1, organization="o", subject="s", interaction="read", outcome="intent")


async def written(store: Store) -> list[str]:
    return [each.id async for batch in store.audit.scan() for each in batch]


async def following(log: Journal, id: str) -> asyncio.Task[None]:
    task = asyncio.create_task(log.follow(row(id)))
    await asyncio.sleep(0)
    return task


async def test_a_late_row_goes_before_the_next_that_is_waited_for(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LINGER", 3600)
    log = Journal(store)
    late = [await following(log, name) for name in ("a", "b")]
    await log.append(row("c"))
    await asyncio.gather(*late)
    assert await written(store) == ["a", "b", "c"]


async def test_a_late_row_without_company_is_written_soon(store: Store) -> None:
    await asyncio.wait_for(Journal(store).follow(row("a")), 10)
    assert await written(store) == ["a"]


async def test_late_rows_are_written_although_the_caller_they_went_with_has_left(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "LINGER", 3600)
    log = Journal(store)
    late = await following(log, "a")
    leaving = asyncio.create_task(log.append(row("b")))
    await asyncio.sleep(0)
    leaving.cancel()
    await asyncio.wait_for(late, 10)
    assert await written(store) == ["a", "b"]


async def test_a_log_that_cannot_be_written_fails_whoever_waits(store: Store) -> None:
    log = Journal(store)
    await store.close()
    late = await following(log, "a")
    with pytest.raises(Unavailable):
        await log.append(row("b"))
    with pytest.raises(Unavailable):
        await late
    with pytest.raises(Unavailable):
        await log.follow(row("c"))

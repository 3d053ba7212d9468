"""Search parameters of an installation's own: stored as resources, in force from `reindex` on (R4 SearchParameter)."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhirserver.app import opened
from fhirserver.core.definitions import Edition, edition, put_in_force
from fhirserver.core.errors import Unavailable
from fhirserver.policy.indexing import REBUILDING, STALE, State, read, write
from tests.build import load, observation, patient
from tests.served import Served, served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof

NICKNAME: dict[str, Any] = {
    "resourceType": "SearchParameter",
    "id": "nickname",
    "url": "http://example.org/SearchParameter/nickname",
    "name": "nickname",
    "status": "active",
    "description": "A patient's nickname.",
    "code": "nickname",
    "base": ["Patient"],
    "type": "string",
    "expression": "Patient.name.where(use = 'nickname').given",
}


@pytest.fixture(autouse=True)
def published_alone() -> Iterator[None]:
    yield
    put_in_force(Edition())


def called(id: str, nickname: str) -> dict[str, Any]:
    return patient(id, name=[{"use": "nickname", "given": [nickname]}])


async def reindex(server: Served) -> list[str]:
    told: list[str] = []
    await server.gate.upkeep(subject="test").reindex(lambda *_: None, lambda left: told.append(left.reason))
    return told


def found(answer: Any) -> list[str]:
    assert answer.status_code == 200, answer.text
    return [each["resource"]["id"] for each in answer.json().get("entry", [])]


async def test_a_stored_definition_counts_from_reindex_on(server: Served) -> None:
    await load(server.gate, [NICKNAME, called("p", "Bob"), called("q", "Liz")])
    async with server.client(headers={"Prefer": "handling=strict"}) as client:
        assert (await client.get("Patient?nickname=bo")).status_code == 400
        assert await reindex(server) == []
        assert found(await client.get("Patient?nickname=bo")) == ["p"]
        await load(server.gate, [called("r", "Bobby")])
        assert found(await client.get("Patient?nickname=bo")) == ["p", "r"]
        stated = next(
            each for each in (await client.get("metadata")).json()["rest"][0]["resource"] if each["type"] == "Patient"
        )
        assert {"name": "nickname", "type": "string", "definition": NICKNAME["url"]} in stated["searchParam"]


async def test_a_definition_that_cannot_be_used_is_told_and_left_out(server: Served) -> None:
    taken = {**NICKNAME, "id": "taken", "url": "http://example.org/taken", "code": "name"}
    await load(server.gate, [taken, called("p", "Bob")])
    [reason] = await reindex(server)
    assert "name" in reason
    assert found(await server.get("Patient?name=bob")) == ["p"]


async def test_only_the_operators_definitions_count(server: Served) -> None:
    await load(server.gate, [NICKNAME, called("p", "Bob")], organization="clinic")
    assert await reindex(server) == []
    async with server.client(headers={"Prefer": "handling=strict"}) as client:
        assert (await client.get("Patient?nickname=bo")).status_code == 400


async def test_a_server_that_knows_other_parameters_stops_answering(server: Served) -> None:
    await load(server.gate, [NICKNAME, called("p", "Bob")])
    await reindex(server)
    put_in_force(Edition())  # as a process has it that was started before
    assert (await server.get("Patient/p")).status_code == 503
    async with opened(server.runtime.settings):
        assert edition() != Edition(), "a server that starts now knows them"
    assert (await server.get("Patient/p")).status_code == 200


async def test_an_index_made_under_other_definitions_is_refused_at_the_start(tmp_path: Path, kind: str) -> None:
    async with served(tmp_path, kind) as server:
        await load(server.gate, [patient("p")])
        store = server.gate._store
        state = await read(store)
        assert state is not None
        await write(store, msgspec.structs.replace(state, fingerprint="older"))
        with pytest.raises(Unavailable, match="reindex"):
            async with opened(server.runtime.settings):
                pass
        assert "reindex" in STALE
        async with opened(server.runtime.settings, upkeep=True) as runtime:
            await runtime.gate.upkeep(subject="test").reindex(lambda *_: None)
        async with opened(server.runtime.settings):
            pass


async def test_while_the_index_is_made_again_searches_wait_and_reads_do_not(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p")])
    store = server.gate._store
    state = await read(store)
    assert state is not None
    await write(store, msgspec.structs.replace(state, complete=False, after=1))
    async with opened(server.runtime.settings) as runtime:
        other = Served(runtime, server.url)
        assert other.gate is not server.gate
        with pytest.raises(Unavailable, match=REBUILDING):
            await runtime.gate.must_be_indexed()
        seen: list[int] = []
        await runtime.gate.upkeep(subject="test").reindex(lambda done, _: seen.append(done))
        assert seen[-1] < 3, "it goes on where it was"
        await runtime.gate.must_be_indexed()
    assert isinstance(await read(store), State)
    assert (await server.get("Observation?patient=p")).status_code == 200

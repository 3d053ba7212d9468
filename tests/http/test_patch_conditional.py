"""patch over real HTTP, on every kind of store: of a version, of what criteria find, and by several at once."""

from __future__ import annotations

import asyncio
from typing import Any

from tests.build import load, patient, practitioner
from tests.http.patching import GENDER, changed, issue, writer
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof


def named(id: str, *values: str, **more: Any) -> dict[str, Any]:
    return practitioner(id, identifier=[{"system": "urn:npi", "value": value} for value in values], **more)


async def test_if_match_names_the_version_that_must_be_current(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        assert (await changed(client, "Patient/p", GENDER, If_Match='W/"1"')).status_code == 200
        assert (await changed(client, "Patient/p", GENDER, If_Match='W/"1"')).status_code == 412
        assert (
            await changed(client, "Patient/p", [{"op": "remove", "path": "/x"}], If_Match='W/"1"')
        ).status_code == 412
        assert (await changed(client, "Patient/p", GENDER, If_Match="yesterday")).status_code == 400
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"2"'


async def test_of_many_patches_of_one_version_one_wins(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="clinic")
    async with writer(server) as client:
        answers = await asyncio.gather(
            *(
                changed(client, "Patient/p", [{"op": "add", "path": "/language", "value": f"x{at}"}], If_Match='W/"1"')
                for at in range(40)
            )
        )
        assert sorted(answer.status_code for answer in answers) == [200] + [412] * 39
        assert (await client.get("Patient/p")).headers["etag"] == 'W/"2"'


async def test_without_if_match_a_patch_is_made_again_of_what_another_writer_left(server: Served) -> None:
    await load(server.gate, [practitioner("dr")], organization="clinic")
    async with writer(server) as client:
        answers = await asyncio.gather(
            *(
                changed(client, "Practitioner/dr", [{"op": "add", "path": "/name/-", "value": {"family": f"n{at}"}}])
                for at in range(5)
            )
        )
        assert [answer.status_code for answer in answers] == [200] * 5
        after = (await client.get("Practitioner/dr")).json()
        assert {name["family"] for name in after["name"]} == {"Doctor-dr", *(f"n{at}" for at in range(5))}
        assert after["meta"]["versionId"] == "6"


async def test_of_more_writers_than_attempts_nobody_loses_what_was_said_to_be_stored(server: Served) -> None:
    await load(server.gate, [practitioner("dr")], organization="clinic")
    async with writer(server) as client:
        answers = await asyncio.gather(
            *(
                changed(client, "Practitioner/dr", [{"op": "add", "path": "/name/-", "value": {"family": f"n{at}"}}])
                for at in range(40)
            )
        )
        stored = {f"n{at}" for at, answer in enumerate(answers) if answer.status_code == 200}
        assert {answer.status_code for answer in answers} <= {200, 409}
        after = (await client.get("Practitioner/dr")).json()
        assert {name["family"] for name in after["name"]} == {"Doctor-dr", *stored}


async def test_a_conditional_patch_follows_the_number_of_matches(server: Served) -> None:
    await load(server.gate, [named("a", "1", "3"), named("b", "2", "3")], organization="clinic")
    async with writer(server) as client:
        one = await changed(client, "Practitioner?identifier=urn:npi|1", GENDER)
        assert (one.status_code, one.json()["id"], one.json()["gender"]) == (200, "a", "female")
        none = await changed(client, "Practitioner?identifier=urn:npi|9", GENDER)
        assert (none.status_code, issue(none)["code"]) == (404, "not-found")
        assert (await changed(client, "Practitioner?identifier=urn:npi|3", GENDER)).status_code == 412
        stale = await changed(client, "Practitioner?identifier=urn:npi|1", GENDER, If_Match='W/"1"')
        assert stale.status_code == 412
        fresh = await changed(client, "Practitioner?identifier=urn:npi|1", GENDER, If_Match='W/"2"')
        assert fresh.status_code == 200
        for query in ("", "?", "?nonsense=1", "?identifier="):
            assert (await changed(client, f"Practitioner{query}", GENDER)).status_code == 400
        assert (await client.get("Practitioner/b")).headers["etag"] == 'W/"1"'


async def test_a_conditional_patch_may_end_its_own_condition(server: Served) -> None:
    await load(server.gate, [named("a", "1")], organization="clinic")
    async with writer(server) as client:
        new = [{"op": "replace", "path": "/identifier/0/value", "value": "2"}]
        assert (await changed(client, "Practitioner?identifier=urn:npi|1", new)).status_code == 200
        assert (await changed(client, "Practitioner?identifier=urn:npi|1", new)).status_code == 404


async def test_of_conditional_patches_that_take_a_mark_away_one_finds_it(server: Served) -> None:
    await load(server.gate, [named("a", "1", "2")], organization="clinic")
    async with writer(server) as client:
        take = [{"op": "remove", "path": "/identifier/0"}]
        answers = await asyncio.gather(*(changed(client, "Practitioner?identifier=urn:npi|1", take) for _ in range(5)))
        assert sorted(answer.status_code for answer in answers) == [200, 404, 404, 404, 404]
        assert [each["value"] for each in (await client.get("Practitioner/a")).json()["identifier"]] == ["2"]

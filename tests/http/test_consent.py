"""Consent decides what third parties see: on the next request, the next page, and inside a running stream (HE-9, HE-10,
HE-15), and no path tells what it hides."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhirserver.core.model import Key
from fhirserver.policy.consenting import grant_consent, revoke_consent
from tests.build import by, condition, load, observation, organization, patient, person, practitioner
from tests.everything import links, names
from tests.http.test_streaming import outcome
from tests.served import Served
from tests.stores import environment, every_kind_for_proof

CANARY = "CANARY-7f3a"
kind = every_kind_for_proof


def clinical(bundle: dict[str, Any]) -> list[str]:
    """The entries without the Consent that opens them and the organisation it names."""
    return [name for name in names(bundle) if not name.startswith(("Consent/", "Organization/"))]


def permit(patient: str, organization: str) -> dict[str, Any]:
    """A Consent that opens this patient's chart to this organisation."""
    actor = {"role": {"coding": [{"code": "IRCP"}]}, "reference": {"reference": f"Organization/{organization}"}}
    scope = {"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}
    return {
        "resourceType": "Consent",
        "status": "active",
        "scope": {"coding": [scope]},
        "category": [{"text": "x"}],
        "patient": {"reference": f"Patient/{patient}"},
        "policy": [{"uri": "urn:x:general"}],
        "provision": {"type": "permit", "actor": [actor]},
    }


async def grant(server: Served, *patients: str, org: str = "app", **how: Any) -> None:
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await grant_consent(scoped, patients, org, **how)


async def revoke(server: Served, *patients: str, org: str = "app", **how: Any) -> None:
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await revoke_consent(scoped, patients, org, **how)


@pytest.fixture
async def world(server: Served) -> Served:
    """A Person with a Patient at each of two hospitals, and a patient who shares nothing."""
    await load(server.gate, [organization(name) for name in ("app", "other", "north", "south")])
    await load(server.gate, [practitioner("dr")])
    await load(server.gate, [patient("n"), observation("on", "n", performer=by("dr"))], organization="north")
    await load(server.gate, [patient("s"), observation("os", "s"), condition("cs", "s")], organization="south")
    hidden = [
        patient("hidden", name=[{"text": CANARY}]),
        observation("oh", "hidden", note=[{"text": CANARY}], performer=by("dr")),
        observation("both", "n", performer=[{"reference": "Patient/hidden"}], note=[{"text": "about n"}]),
    ]
    await load(server.gate, hidden[:2], organization="south")
    await load(server.gate, [person("one", "n", "s")])
    return server


async def test_he9_without_consent_everything_is_one_and_the_same_403(world: Served) -> None:
    token = world.token("third-party", org="app")
    answers = [
        await world.get(f"{name}/$everything", token)
        for name in ("Person/one", "Person/none", "Patient/n", "Patient/hidden", "Patient/nobody")
    ]
    assert {answer.status_code for answer in answers} == {403}
    assert len({answer.content for answer in answers}) == 1
    assert answers[0].json()["issue"][0]["code"] == "forbidden"


async def test_he10_a_deleted_patient_is_the_same_403_for_a_third_party(world: Served) -> None:
    token = world.token("third-party", org="app")
    await load(world.gate, [patient("short")])
    await grant(world, "short")
    assert (await world.get("Patient/short", token)).status_code == 200
    scoped = world.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key("Patient", "short")])
    gone = await world.get("Patient/short", token)
    never = await world.get("Patient/never", token)
    assert (gone.status_code, gone.content) == (403, never.content)


async def test_consent_for_one_patient_shows_that_chart_and_cuts_the_person(world: Served) -> None:
    await grant(world, "n")
    token = world.token("third-party", org="app")
    bundle = (await world.get("Person/one/$everything", token)).json()
    assert clinical(bundle) == ["Person/one", "Patient/n", "Observation/on", "Practitioner/dr"]
    seen = bundle["entry"][0]["resource"]
    assert [link["target"]["reference"] for link in seen["link"]] == ["Patient/n"]
    assert seen["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert bundle["total"] == len(bundle["entry"])
    whole = await world.get("Person/one")
    cut = await world.get("Person/one", token)
    assert cut.json() == seen
    assert cut.headers["etag"] != whole.headers["etag"]


async def test_he15_access_is_the_union_over_projects_and_an_opt_out_closes_its_own(world: Served) -> None:
    await grant(world, "n", project="a", types=["Observation"])
    await grant(world, "n", project="b", types=["Patient"])
    token = world.token("third-party", org="app")
    assert names((await world.get("Patient/n/$everything", token)).json()) == [
        "Patient/n", "Observation/on", "Practitioner/dr",
    ]  # fmt: skip
    await revoke(world, "n", project="a")
    assert names((await world.get("Patient/n/$everything", token)).json()) == ["Patient/n"]
    await revoke(world, "n")
    assert (await world.get("Patient/n/$everything", token)).status_code == 403
    await grant(world, "n")
    assert (await world.get("Patient/n/$everything", token)).status_code == 200


async def test_consent_given_to_one_organisation_opens_nothing_to_another(world: Served) -> None:
    await grant(world, "n")
    assert (await world.get("Patient/n/$everything", world.token("third-party", org="other"))).status_code == 403


async def test_of_consents_given_at_once_one_stays_active(world: Served) -> None:
    """Two that open the same would have to be taken back one by one."""
    async with world.client(world.token("member", org="north", scope="system/*.cruds")) as client:
        for org in ("app", "other", "third"):
            given = permit("n", org)
            answers = await asyncio.gather(*(client.post("Consent", json=given) for _ in range(2)))
            assert {answer.status_code for answer in answers} == {201}
            held = [(await client.get(f"Consent/{answer.json()['id']}")).json()["status"] for answer in answers]
            assert sorted(held) == ["active", "inactive"]
            withdrawn = answers[held.index("active")].json()
            assert (await client.put(f"Consent/{withdrawn['id']}", json={**withdrawn, "status": "inactive"})).is_success
            assert (await world.get("Patient/n", world.token("third-party", org=org))).status_code == 403


async def test_an_expired_consent_is_a_withdrawn_one(world: Served) -> None:
    await grant(world, "n", until="2020-01-01")
    assert (await world.get("Patient/n/$everything", world.token("third-party", org="app"))).status_code == 403


async def test_a_resource_about_two_patients_needs_both(world: Served) -> None:
    group = {
        "resourceType": "Communication",
        "id": "talk",
        "status": "completed",
        "subject": {"reference": "Patient/s"},
        "recipient": [{"reference": "Patient/s"}],
    }
    appointment = {
        "resourceType": "Appointment",
        "id": "joint",
        "status": "booked",
        "start": "2024-01-01T10:00:00Z",
        "end": "2024-01-01T11:00:00Z",
        "participant": [
            {"actor": {"reference": "Patient/s"}, "status": "accepted"},
            {"actor": {"reference": "Patient/hidden"}, "status": "accepted"},
        ],
    }
    await load(world.gate, [group, appointment], organization="south")
    await grant(world, "s")
    token = world.token("third-party", org="app")
    found = names((await world.get("Patient/s/$everything", token)).json())
    assert "Communication/talk" in found
    assert "Appointment/joint" not in found
    await grant(world, "hidden")
    assert (await world.get("Appointment/joint", token)).status_code == 200
    await load(world.gate, [person("two", "s", "hidden")])
    assert "Appointment/joint" in names((await world.get("Person/two/$everything", token)).json())


async def test_members_see_their_own_charts_and_nobody_elses(world: Served) -> None:
    north = world.token("member", org="north")
    assert sorted(names((await world.get("Patient/n/$everything", north)).json())) == [
        "Observation/on", "Patient/n", "Person/n", "Person/one", "Practitioner/dr",
    ]  # fmt: skip
    assert (await world.get("Patient/s/$everything", north)).status_code == 404
    assert (await world.get("Observation/os", north)).status_code == 404
    assert (await world.get("Practitioner/dr", north)).status_code == 200
    bundle = (await world.get("Person/one/$everything", north)).json()
    assert names(bundle) == ["Person/one", "Patient/n", "Observation/on", "Practitioner/dr"]


async def test_a_patients_app_sees_that_patient_alone(world: Served) -> None:
    token = world.token("patient", org="north", patient="n")
    assert names((await world.get("Patient/n/$everything", token)).json())[0] == "Patient/n"
    assert (await world.get("Patient/s/$everything", token)).status_code == 403
    assert (await world.get("Observation/os", token)).status_code == 403


async def test_withdrawal_bites_on_the_next_request_and_the_next_page(world: Served) -> None:
    await grant(world, "n", "s")
    token = world.token("third-party", org="app")
    async with world.client(token) as client:
        page = (await client.get("Person/one/$everything?_count=2")).json()
        following = links(page)["next"]
        assert (await client.get(following)).status_code == 200
        await revoke(world, "n")
        changed = await client.get(following)
        assert (changed.status_code, changed.json()["issue"][0]["code"]) == (410, "expired")
        await revoke(world, "s")
        assert (await client.get(following)).status_code == 403
        assert (await client.get("Patient/s")).status_code == 403
        await grant(world, "n", "s")
        assert (await client.get(following)).status_code == 200


async def test_another_clients_page_is_refused(world: Served) -> None:
    await grant(world, "n")
    await grant(world, "n", org="other")
    page = (await world.get("Patient/n/$everything?_count=1", world.token("third-party", org="app"))).json()
    stolen = await world.get(links(page)["next"], world.token("third-party", org="other"))
    assert stolen.status_code == 400
    assert (await world.get(links(page)["next"], world.token("third-party", org="north"))).status_code == 403


async def slowly(pieces: AsyncIterator[bytes], *, until: float) -> bytes:
    """What still comes, read with pauses."""
    received = b""
    async for piece in pieces:
        received += piece
        await asyncio.sleep(0.0005)
        assert time.monotonic() < until
    return received


async def test_a_consent_from_another_process_and_its_withdrawal_reach_a_running_stream(
    server: Served, tmp_path: Path
) -> None:
    await load(server.gate, [organization("app"), patient("p")])
    for at in range(0, 2_500, 500):
        await load(server.gate, [observation(f"o{n}", "p", note=[{"text": "x" * 9_000}]) for n in range(at, at + 500)])

    async def command(*words: str) -> None:
        arguments = [sys.executable, "-m", "fhirserver", *words]
        variables = environment(server.runtime.settings.store, tmp_path)
        how = {"check": False, "capture_output": True, "text": True, "env": variables}
        done = await asyncio.to_thread(subprocess.run, arguments, **how)
        assert done.returncode == 0, done.stderr

    token = server.token("third-party", org="app")
    assert (await server.get("Person/p/$everything", token)).status_code == 403
    await command("consent", "grant", "--person", "p", "--org", "app")
    plain = {"Accept-Encoding": "identity"}
    received = b""
    async with server.client(token, headers=plain) as client, client.stream("GET", "Person/p/$everything") as answer:
        assert answer.status_code == 200
        pieces = answer.aiter_raw(4096)
        received += await anext(pieces)
        await command("consent", "revoke", "--person", "p", "--org", "app")
        withdrawn = time.monotonic()
        assert (await outcome(server, within=1)).outcome == "cut"
        with pytest.raises(httpx.RemoteProtocolError):
            received += await slowly(pieces, until=withdrawn + 15)
    with pytest.raises(json.JSONDecodeError):
        json.loads(received)
    assert (await server.get("Person/p/$everything", token)).status_code == 403


async def test_the_canary_never_sings(world: Served) -> None:
    await grant(world, "n", "s")
    tokens = [
        world.token("third-party", org="app"),
        world.token("third-party", org="other"),
        world.token("member", org="north"),
        world.token("patient", org="north", patient="n"),
    ]
    paths = [
        "Person/one/$everything", "Patient/n/$everything", "Patient/s/$everything", "Person/one/$everything?_count=2",
        "Patient/hidden/$everything", "Patient/hidden", "Observation/oh", "Observation/oh/_history/1", "Observation",
        "Patient", "Person", "Patient?_id=hidden", "Person?link=Patient/hidden", "Person/hidden",
    ]  # fmt: skip
    for token in tokens:
        for path in paths:
            answer = await world.get(path, token)
            assert CANARY not in answer.text, path
            if answer.status_code == 200 and "?link" in path:
                assert "entry" not in answer.json()


async def test_type_level_search_shows_what_is_open_and_has_no_total(world: Served) -> None:
    await grant(world, "n", "s")
    token = world.token("third-party", org="app")
    assert sorted(names((await world.get("Observation", token)).json())) == ["Observation/on", "Observation/os"]
    bundle = (await world.get("Person?link=Patient/n", token)).json()
    assert "Person/one" in names(bundle)
    assert "total" not in bundle


RESTRICTED = {
    "meta": {"security": [{"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}]}
}


async def pages(server: Served, token: str, path: str, *, meanwhile: Callable[[], Awaitable[None]]) -> list[str]:
    """The entries of all pages; ``meanwhile`` happens after the first."""
    found: list[str] = []
    async with server.client(token) as client:
        following: str | None = path
        while following:
            answer = await client.get(following)
            assert answer.status_code == 200, answer.text
            if not found:
                await meanwhile()
            found += names(answer.json())
            following = links(answer.json()).get("next")
    return found


async def test_what_is_hidden_during_a_walk_takes_nothing_else_out_of_its_pages(server: Served) -> None:
    resources = [patient("a"), patient("b"), *(observation(f"a{n}", "a") for n in range(9)), observation("b0", "b")]
    await load(server.gate, [organization("app"), *resources, person("x", "a", "b")])
    await grant(server, "a", "b", types=["Observation"])
    token = server.token("third-party", org="app")

    async def relabel() -> None:
        await load(server.gate, [observation("a4", "a", **RESTRICTED)])

    left = [f"Observation/{name}" for name in ("a0", "a1", "a2", "a3", "a5", "a6", "a7", "a8", "b0")]
    assert await pages(server, token, "Person/x/$everything?_count=3", meanwhile=relabel) == left
    await load(server.gate, [observation("a4", "a")])
    assert await pages(server, token, "Observation?_count=3", meanwhile=relabel) == [
        *(f"Observation/a{n}" for n in range(4)),
        *(f"Observation/a{n}" for n in range(5, 9)),
        "Observation/b0",
    ]


async def test_a_snapshot_does_not_show_what_was_hidden_and_then_deleted(server: Served) -> None:
    await load(server.gate, [organization("app"), patient("a"), *(observation(f"a{n}", "a") for n in range(6))])
    await grant(server, "a", types=["Observation"])
    token = server.token("third-party", org="app")

    async def relabel_and_delete() -> None:
        await load(server.gate, [observation("a3", "a", **RESTRICTED)])
        scoped = server.gate.system(subject="test", organization="operator", purpose="test")
        await scoped.delete([Key("Observation", "a3"), Key("Observation", "a5")])

    found = await pages(server, token, "Patient/a/$everything?_count=2", meanwhile=relabel_and_delete)
    # a5 was merely deleted: the snapshot of the walk still has it.
    assert found == [f"Observation/a{n}" for n in (0, 1, 2, 4, 5)]


async def test_a_binary_that_is_hidden_during_a_walk_is_left_out_of_its_page(server: Served) -> None:
    def document(id: str) -> dict[str, Any]:
        content = [{"attachment": {"url": f"Binary/{id}"}}]
        subject = {"reference": "Patient/a"}
        return {
            "resourceType": "DocumentReference", "id": id, "status": "current", "subject": subject, "content": content
        }  # fmt: skip

    def binary(id: str, **more: Any) -> dict[str, Any]:
        return {"resourceType": "Binary", "id": id, "contentType": "text/plain", "data": "aGVsbG8=", **more}

    await load(server.gate, [organization("app"), patient("a"), binary("b1"), binary("b2")])
    await load(server.gate, [document("b1"), document("b2")])
    await grant(server, "a", types=["DocumentReference", "Binary"])
    token = server.token("third-party", org="app")

    async def relabel() -> None:
        await load(server.gate, [binary("b1", **RESTRICTED)])

    found = await pages(server, token, "Patient/a/$everything?_count=2", meanwhile=relabel)
    assert found == ["DocumentReference/b1", "DocumentReference/b2", "Binary/b2"]


async def test_a_walk_whose_view_has_widened_meanwhile_starts_again(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("walk", "everything", "departures"):
        monkeypatch.setattr(f"fhirserver.http.{module}.OVERLAP_MILLISECONDS", 0)
    await load(server.gate, [organization("app"), patient("a"), *(observation(f"a{n}", "a") for n in range(4))])
    await grant(server, "a", types=["Patient", "Observation"])
    token = server.token("third-party", org="app")
    since = (await server.get("Patient/a/$everything", token)).json()["timestamp"]
    await load(server.gate, [observation(f"a{n}", "a", note=[{"text": "new"}]) for n in range(3)])
    async with server.client(token) as client:
        first = (await client.get("Patient/a/$everything", params={"_since": since, "_count": "1"})).json()
        assert first["total"] == 3
        # The same consent again: nothing else is open, but since then the chart is to be sent whole.
        await grant(server, "a", types=["Patient", "Observation"])
        assert (await client.get(links(first)["next"])).status_code == 410
        again = (await client.get("Patient/a/$everything", params={"_since": since, "_count": "1"})).json()
        assert again["total"] == 5


async def test_a_persons_view_that_changed_with_the_grant_is_never_a_304(world: Served) -> None:
    await grant(world, "n", "s")
    token = world.token("third-party", org="app")
    first = await world.get("Person/one", token)
    copy = {"If-None-Match": first.headers["etag"]}, {"If-Modified-Since": first.headers["last-modified"]}
    assert (await world.get("Person/one", token, headers=copy[0])).status_code == 304
    await revoke(world, "s")
    for headers in copy:
        answer = await world.get("Person/one", token, headers=headers)
        assert (answer.status_code, len(answer.json()["link"])) == (200, 1)

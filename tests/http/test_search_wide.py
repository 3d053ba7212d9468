"""A third party that more Consents name than are read for each search: decided batch by batch, and no less strictly."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from fhirserver.app import wall_clock
from fhirserver.core.errors import Fault
from fhirserver.core.model import HistoryQuery, Key, Query
from fhirserver.core.stamp import instant
from fhirserver.policy import dossier, wide
from fhirserver.policy.gate import Grant, Scoped
from fhirserver.policy.wide import Wide
from tests.build import by, load, observation, organization, patient, person, practitioner
from tests.http.test_consent import grant, revoke
from tests.http.test_search import link, names
from tests.served import Served, served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof

PATIENTS = 30
OPEN = 7
"""Every so manieth patient consents."""


@pytest.fixture
async def world(server: Served, monkeypatch: pytest.MonkeyPatch) -> Served:
    """Thirty patients with two Observations each; five of them, one in seven, have consented."""
    monkeypatch.setattr(dossier, "MOST_LISTED", 3)
    monkeypatch.setattr(wide, "FIRST", 4)
    await load(server.gate, [organization("app"), organization("other"), practitioner("dr")])
    for number in range(PATIENTS):
        name = f"p{number}"
        about: list[dict[str, Any]] = [patient(name)]
        about += [observation(f"o{number}{which}", name, performer=by("dr")) for which in "ab"]
        await load(server.gate, about, organization="north")
    await grant(server, *(f"p{number}" for number in range(0, PATIENTS, OPEN)))
    return server


def app(world: Served, **more: Any) -> str:
    return world.token("third-party", org="app", **more)


async def over_everybody(world: Served, interaction: str = "search-type") -> Scoped:
    scoped = await world.gate.admit(app(world), interaction=interaction)
    return await scoped.everyone()


async def found(scoped: Scoped, query: Query) -> list[str]:
    return [str(record.key) async for records in scoped.scan(query) for record in records]


EXPECTED = [f"Observation/o{number}{which}" for number in range(0, PATIENTS, OPEN) for which in "ab"]
OBSERVATIONS = Query(types=frozenset({"Observation"}))


async def test_few_consents_are_read_and_many_are_asked_for_batch_by_batch(world: Served) -> None:
    assert isinstance(await over_everybody(world), Wide)
    await revoke(world, "p7", "p14")
    await grant(world, "p1", org="other")
    scoped = await world.gate.admit(world.token("third-party", org="other"), interaction="search-type")
    few = await scoped.everyone()
    assert not isinstance(few, Wide)
    assert await found(few, OBSERVATIONS) == ["Observation/o1a", "Observation/o1b"]


@pytest.mark.parametrize("limit", [None, 1, 2, 3, 9, 10, 11])
@pytest.mark.parametrize("bodies", [True, False])
async def test_what_is_not_admitted_takes_nobodys_place(world: Served, limit: int | None, bodies: bool) -> None:
    query = Query(types=frozenset({"Observation"}), limit=limit, bodies=bodies)
    assert await found(await over_everybody(world), query) == EXPECTED[:limit]


async def test_everything_of_a_type_is_counted_as_it_is_found(world: Served) -> None:
    scoped = await over_everybody(world)
    assert await scoped.count(OBSERVATIONS) == len(EXPECTED)
    assert await scoped.count(Query(types=frozenset({"Observation"}), limit=3)) == 3
    assert sum(each.count for each in await scoped.tally(OBSERVATIONS)) == len(EXPECTED)
    assert await scoped.count_history(HistoryQuery(types=frozenset({"Observation"}))) == len(EXPECTED)


async def test_pages_are_full_and_put_together_the_whole(world: Served) -> None:
    answer = await world.get("Observation?_count=3", app(world))
    given, sizes = names(answer), [len(names(answer))]
    while following := link(answer, "next"):
        answer = await world.get(following, app(world))
        given += names(answer)
        sizes.append(len(names(answer)))
    assert given == EXPECTED
    assert sizes == [3, 3, 3, 1]


async def test_consents_given_and_withdrawn_between_pages_hold_from_the_next_page_on(world: Served) -> None:
    first = await world.get("Observation?_count=3", app(world))
    await revoke(world, "p14")
    await grant(world, "p22")
    second = await world.get(link(first, "next"), app(world))
    assert names(second) == ["Observation/o7b", "Observation/o21a", "Observation/o21b"]
    third = await world.get(link(second, "next"), app(world))
    assert names(third) == ["Observation/o22a", "Observation/o22b", "Observation/o28a"]


async def test_what_has_been_shown_must_stay_open_while_the_answer_runs(world: Served) -> None:
    scoped = await over_everybody(world)
    assert len(await found(scoped, Query(types=frozenset({"Observation"}), limit=4))) == 4
    await grant(world, "p1")
    await revoke(world, "p28")
    await scoped.still_admitted()  # of nobody who was shown
    await revoke(world, "p7")
    with pytest.raises(Fault):
        await scoped.still_admitted()


async def test_what_is_decided_while_the_rest_is_decided_again_is_not_forgotten(
    world: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    await found(await over_everybody(world), OBSERVATIONS)  # what is known of all Consents
    scoped = await over_everybody(world)
    assert await found(scoped, Query(types=frozenset({"Observation"}), keys=(Key("Observation", "o0a"),)))
    await revoke(world, "p7")
    deciding = world.gate.grant

    seen: list[str] = []

    async def meanwhile(principal: Any, types: Any, patients: frozenset[str], epoch: int) -> Grant:
        if patients == {"p0"} and not seen:
            seen.append("p7")
            query = Query(types=frozenset({"Observation"}), keys=(Key("Observation", "o7a"),))
            assert await found(scoped, query) == ["Observation/o7a"]  # by what was known a moment ago
        return await deciding(principal, types, patients, epoch)

    monkeypatch.setattr(world.gate, "grant", meanwhile)
    await scoped.still_admitted()
    assert seen
    with pytest.raises(Fault):
        await scoped.still_admitted()


async def test_a_persons_link_that_closes_ends_a_running_answer(world: Served) -> None:
    await load(world.gate, [person("one", "p0", "p7")])
    scoped = await over_everybody(world)
    assert await found(scoped, Query(types=frozenset({"Person"}), keys=(Key("Person", "one"),))) == ["Person/one"]
    await revoke(world, "p7")
    with pytest.raises(Fault):
        await scoped.still_admitted()


async def test_a_consent_that_ends_by_itself_ends_a_running_answer(tmp_path: Path, kind: str) -> None:
    now = wall_clock()
    async with served(tmp_path, kind, clock=lambda: now) as world:
        await load(world.gate, [organization("app"), patient("p"), observation("o", "p")])
        await grant(world, "p", until=instant(now + 60_000))
        scoped = await over_everybody(world)
        assert await found(scoped, OBSERVATIONS) == ["Observation/o"]
        now += 59_000
        await scoped.still_admitted()
        now += 2_000
        with pytest.raises(Fault):
            await scoped.still_admitted()


async def test_the_audit_names_whom_was_shown_and_by_which_consents(world: Served) -> None:
    answer = await world.get("Observation?_count=1", app(world))
    assert names(answer) == EXPECTED[:1]
    (row,) = [row for row in await world.audit() if row.interaction == "search-type" and row.intent is not None]
    assert row.patients == ("p0",)
    assert row.detail["consents"] == await consents_of(world, "p0")


async def consents_of(world: Served, name: str) -> list[str]:
    return names(await world.get(f"Consent?patient=Patient/{name}"))


async def test_a_person_is_cut_and_found_by_its_open_links_alone(world: Served) -> None:
    await load(world.gate, [person("one", "p0", "p1")])
    for query in ("Person?_id=one", "Person?link=Patient/p0", "Person?patient=p0"):
        answer = await world.get(query, app(world))
        assert [each["target"]["reference"] for each in answer.json()["entry"][0]["resource"]["link"]] == ["Patient/p0"]
    assert names(await world.get("Person?link=Patient/p1", app(world))) == []
    assert names(await world.get("Person?_id=p1", app(world))) == []


async def test_what_goes_along_is_what_its_patients_opened(world: Served) -> None:
    document = {"resourceType": "DocumentReference", "status": "current", "subject": {"reference": "Patient/p0"}}
    content = [{"attachment": {"url": "Binary/b"}}, {"attachment": {"url": "Binary/b1"}}]
    await load(
        world.gate,
        [
            {"resourceType": "Binary", "id": "b", "contentType": "text/plain", "data": "eA=="},
            {"resourceType": "Binary", "id": "b1", "contentType": "text/plain", "data": "eA==",
             "securityContext": {"reference": "Patient/p1"}},
            {**document, "id": "d", "content": content},
        ],
        organization="north",
    )  # fmt: skip
    answer = await world.get("DocumentReference?_include=*", app(world))
    assert names(answer) == ["DocumentReference/d"]
    assert sorted(names(answer, "include")) == ["Patient/p0"]
    answer = await world.get("Observation?_id=o0a,o1a&_include=*", app(world))
    assert names(answer) == ["Observation/o0a"]
    assert sorted(names(answer, "include")) == ["Patient/p0", "Practitioner/dr"]


async def test_a_resource_about_two_patients_needs_both(world: Served) -> None:
    await load(world.gate, [joint("p0", "p1"), joint("p0", "p7")], organization="north")
    assert names(await world.get("Appointment?_id=p0p1,p0p7", app(world))) == ["Appointment/p0p7"]


def joint(*patients: str) -> dict[str, Any]:
    """An Appointment of these patients."""
    actors = [{"actor": {"reference": f"Patient/{name}"}, "status": "accepted"} for name in patients]
    times = {"start": "2024-01-01T10:00:00Z", "end": "2024-01-01T11:00:00Z"}
    return {"resourceType": "Appointment", "id": "".join(patients), "status": "booked", **times, "participant": actors}


async def test_its_history_is_of_what_is_open_now(world: Served) -> None:
    changed = [observation(f"o{number}a", f"p{number}", note=[{"text": "again"}]) for number in (0, 1, 7)]
    await load(world.gate, changed, organization="north")
    await load(world.gate, [observation("o7b", "p1")], organization="north")  # it was about somebody else
    answer = await world.get("Observation/_history?_count=100", app(world))
    told = [entry["fullUrl"].rpartition("/")[2] for entry in answer.json()["entry"]]
    assert told[:2] == ["o7a", "o0a"]
    assert sorted(told) == sorted([*(name.partition("/")[2] for name in EXPECTED if name != EXPECTED[3]), "o7a", "o0a"])
    assert "total" not in answer.json()


async def with_a_device(world: Served) -> None:
    """An Observation of `p0` that was made with the Device of `p7`."""
    device = {"resourceType": "Device", "id": "pump", "patient": {"reference": "Patient/p7"}}
    made = observation("made", "p0", device={"reference": "Device/pump"})
    await load(world.gate, [device, made], organization="north")


@pytest.mark.parametrize("most", [0, 4_000], ids=["wide", "listed"])
async def test_the_audit_names_whom_was_included(world: Served, monkeypatch: pytest.MonkeyPatch, most: int) -> None:
    monkeypatch.setattr(dossier, "MOST_LISTED", most)
    await with_a_device(world)
    answer = await world.get("Observation?_id=made&_include=Observation:device", app(world))
    assert names(answer, "include") == ["Device/pump"]
    (row,) = [row for row in await world.audit() if row.interaction == "search-type" and row.intent is not None]
    assert row.patients == ("p0", "p7")


async def test_what_has_been_included_must_stay_open_while_the_answer_runs(world: Served) -> None:
    await with_a_device(world)
    scoped = await over_everybody(world)
    key = Key("Device", "pump")
    assert await scoped.supporting([key], custodians=frozenset({"north"}), patients=None)
    await revoke(world, "p7")
    with pytest.raises(Fault):
        await scoped.still_admitted()


@pytest.mark.parametrize("most", [0, 4_000], ids=["wide", "listed"])
@pytest.mark.parametrize(
    ("query", "patients"),
    [
        ("Patient?_count=1", ("p0",)),  # though the next one was looked at to see whether there is one
        ("Patient?_count=1&_sort=-_id", ("p7",)),
        ("Observation?code:text=nothing", ()),
        ("Practitioner?_has:Observation:performer:code=8480-6", ()),
    ],
)
async def test_the_audit_names_nobody_who_was_looked_at_and_not_shown(
    world: Served, monkeypatch: pytest.MonkeyPatch, query: str, patients: tuple[str, ...], most: int
) -> None:
    monkeypatch.setattr(dossier, "MOST_LISTED", most)
    assert (await world.get(query, app(world))).status_code == 200
    (row,) = [row for row in await world.audit() if row.interaction == "search-type" and row.intent is not None]
    assert row.patients == patients
    if not most:
        assert row.detail.get("consents", []) == [name for each in patients for name in await consents_of(world, each)]

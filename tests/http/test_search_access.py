"""What a search finds, counts, orders, pages and includes is what its caller may see, on every path."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.core.model import Key
from fhirserver.policy import dossier
from tests.build import by, load, observation, organization, patient, person, practitioner
from tests.http.test_consent import grant, revoke
from tests.http.test_search import link, names
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof

HIV = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "HIV"}
SECRET = "Zzyzx"


def dated(id: str, of: str, day: int, **more: Any) -> dict[str, Any]:
    return observation(id, of, effectiveDateTime=f"2026-01-{day:02}", **more)


@pytest.fixture(params=["listed", "wide"], autouse=True)
def decided(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How a third party's searches over everybody are decided: under the Consents of all, or batch by batch."""
    if request.param == "wide":
        monkeypatch.setattr(dossier, "MOST_LISTED", 0)
    return str(request.param)


@pytest.fixture
async def world(server: Served) -> Served:
    """`n` at the hospital north, `s` at south, who are one Person; `hidden`, of south, shares nothing."""
    to_hidden = [{"reference": "Patient/hidden"}]
    listed = [{"item": {"reference": f"Patient/{id}"}} for id in ("n", "s", "hidden")]
    roll = {"resourceType": "List", "id": "roll", "status": "current", "mode": "working", "entry": listed}
    aunt = {"resourceType": "RelatedPerson", "id": "aunt", "patient": {"reference": "Patient/s"}}
    await load(server.gate, [organization(name) for name in ("app", "north", "south")])
    await load(server.gate, [practitioner("dr")])
    await load(server.gate, [patient("n", generalPractitioner=[{"reference": "Practitioner/dr"}]), roll])
    await load(server.gate, [patient("n2")], organization="north")
    north = [dated(f"on{day}", "n2", day, performer=by("dr")) for day in range(1, 7)]
    await load(server.gate, north, organization="north")
    await load(server.gate, [patient("s", birthDate="1950-02-03"), dated("os", "s", 8), aunt], organization="south")
    unseen = [
        patient("hidden", name=[{"family": SECRET}], generalPractitioner=[{"reference": "Practitioner/dr"}]),
        dated("oh", "hidden", 9, performer=by("dr"), code={"text": SECRET, "coding": [{"code": SECRET}]}),
        dated("both", "s", 10, performer=to_hidden, code={"coding": [{"code": "both"}]}),
    ]
    await load(server.gate, unseen, organization="south")
    linked = person("one", "n2", "s", "hidden")
    linked["link"][2]["target"]["identifier"] = {"system": "urn:mrn", "value": "42"}
    linked["link"].append({"target": {"reference": "RelatedPerson/aunt"}})
    await load(server.gate, [linked])
    return server


def north(server: Served) -> str:
    return server.token("member", org="north")


@pytest.mark.parametrize(
    "criterion",
    [
        "link=Patient/hidden",
        "link=hidden",
        "patient=hidden",
        "link:Patient=hidden",
        "link:identifier=urn:mrn|42",
        "link:identifier=42",
        "link:identifier=urn:mrn|",
        "relatedperson=aunt",
        "link=RelatedPerson/aunt",
        "link:Patient.birthdate=1950",
        "link.birthdate=1950",
        "patient.name=zzy",
    ],
)
async def test_a_person_is_not_found_by_a_link_that_its_view_lacks(world: Served, criterion: str) -> None:
    token = north(world)
    assert "Person/one" in names(await world.get("Person?link=Patient/n2", token))
    assert names(await world.get(f"Person?{criterion}", token)) == []
    assert (await world.get(f"Person?{criterion}&_summary=count", token)).json()["total"] == 0
    assert names(await world.get(f"Person?{criterion}&_sort=-_id", token)) == []
    assert "Person/one" in names(await world.get(f"Person?{criterion}"))


@pytest.mark.parametrize("criterion", ["link:identifier=urn:mrn|42", "relatedperson=aunt", "link=hidden"])
async def test_a_condition_does_not_find_a_person_by_a_link_that_its_view_lacks(world: Served, criterion: str) -> None:
    async with world.client(world.token("member", org="north", scope="system/*.cruds")) as client:
        made = await client.post("Person", json={"resourceType": "Person"}, headers={"If-None-Exist": criterion})
    assert made.status_code == 201, made.text


@pytest.mark.parametrize(
    "query",
    [
        "Patient?name=zzy",
        f"Observation?code={SECRET}",
        "Observation?code:text=zzy",
        "Observation?subject:Patient.name=zzy",
        "Observation?subject.name=zzy",
        "Observation?patient=hidden",
        "Practitioner?_has:Patient:general-practitioner:name=zzy",
        f"Practitioner?_has:Observation:performer:code={SECRET}",
        f"Practitioner?_has:Patient:general-practitioner:_has:Observation:patient:code={SECRET}",
        "Patient?_list=roll&_id=hidden",
        "?_type=Patient,Observation&_id=hidden,oh",
        "Observation?performer:Patient.name=zzy",
    ],
)
@pytest.mark.parametrize("caller", ["member", "third-party", "patient"])
async def test_no_path_of_a_search_leads_to_or_over_what_is_hidden(world: Served, caller: str, query: str) -> None:
    await grant(world, "n2", "s")
    token = {
        "member": north(world),
        "third-party": world.token("third-party", org="app"),
        "patient": world.token("patient", org="north", patient="n2"),
    }[caller]
    assert names(await world.get(query))
    for form in (query, f"{query}&_sort=_id", f"{query}&_total=accurate&_include=*&_revinclude=*"):
        answer = await world.get(form, token)
        assert names(answer) == []
        assert answer.json().get("total", 0) == 0


@pytest.mark.parametrize("more", ["_include=*", "_revinclude=*", "_revinclude=Observation:performer",
                                  "_revinclude=Patient:general-practitioner",
                                  "_revinclude:iterate=*&_include:iterate=*"])  # fmt: skip
async def test_nothing_hidden_goes_along(world: Served, more: str) -> None:
    await grant(world, "n2", "s")
    for token in (north(world), world.token("third-party", org="app")):
        answer = await world.get(f"Practitioner?_id=dr&{more}", token)
        assert SECRET not in answer.text
        for name in names(answer, "include"):
            assert (await world.get(name, token)).status_code == 200, name


async def test_a_search_by_a_third_party_over_everybody_never_says_how_many(world: Served) -> None:
    await grant(world, "n2")
    token = world.token("third-party", org="app")
    everybody = ("Observation?_total=accurate", "Observation?_summary=count", "Observation?_count=0", "?_summary=count")
    for query in everybody:
        assert "total" not in (await world.get(query, token)).json()
    assert (await world.get("Patient/n2/Observation?_summary=count", token)).json()["total"] == 6


@pytest.mark.parametrize("query", ["Observation?_count=2", "Observation?_count=2&_sort=-date",
                                   "Observation?_count=2&subject:Patient.name=fam"])  # fmt: skip
async def test_a_page_token_is_no_right(world: Served, query: str, decided: str) -> None:
    await grant(world, "n2", "s")
    token = world.token("third-party", org="app")
    following = link(await world.get(query, token), "next")
    apart = world.token("third-party", org="app", subject="b")
    for other in (world.token("third-party", org="other"), north(world), apart):
        assert (await world.get(following, other)).status_code in (400, 403)
    assert (await world.get(following, token)).status_code == 200
    await revoke(world, "n2")
    answer = await world.get(following, token)
    if decided == "wide":  # what others decide meanwhile does not end a walk over very many
        assert [name for name in names(answer) if "/on" in name] == []
    else:
        assert answer.status_code in (403, 410)


@pytest.mark.parametrize(("query", "hide"), [("_sort=-date", "on6"), ("_sort=-date", "on5"), ("_sort=-date", "on3"),
                                             ("code:text=x", "on2"), ("", "on2"), ("", "on3")])  # fmt: skip
async def test_what_is_labelled_between_two_pages_is_not_shown_and_nothing_else_is_lost(
    world: Served, query: str, hide: str
) -> None:
    await grant(world, "n2")
    if "text" in query:
        texts = [dated(f"on{day}", "n2", day, code={"text": "x y"}) for day in range(1, 7)]
        await load(world.gate, texts, organization="north")
    token = world.token("third-party", org="app")
    first = await world.get(f"Observation?_count=2&{query}", token)
    given = names(first)
    changed = dated(hide, "n2", int(hide[2:]), meta={"security": [HIV]}, code={"text": "x y"})
    await load(world.gate, [changed], organization="north")
    answer = first
    while following := link(answer, "next"):
        answer = await world.get(following, token)
        if answer.status_code == 410:  # told to start again
            return
        given += names(answer)
    assert sorted({*given, f"Observation/{hide}"}) == [f"Observation/on{day}" for day in range(1, 7)]
    assert len(given) == len(set(given))
    assert f"Observation/{hide}" not in given or f"Observation/{hide}" in names(first)


async def test_what_is_deleted_between_sorted_pages_loses_no_match(world: Served) -> None:
    token = north(world)
    first = await world.get("Observation?_count=2&_sort=-date", token)
    scoped = world.gate.system(subject="test", organization="north", purpose="test")
    await scoped.delete([Key("Observation", "on6")])
    second = await world.get(link(first, "next"), token)
    assert names(first) + names(second) == [f"Observation/on{day}" for day in (6, 5, 4, 3)]


async def test_the_pages_of_a_posted_search_are_of_that_search_however_they_are_asked_for(world: Served) -> None:
    async with world.client(north(world)) as client:
        first = await client.post("Observation/_search", data={"date": "le2026-01-04", "_count": "2"})
        sealed = link(first, "next").partition("_page=")[2]
        again = await client.post("Observation/_search", data={"_page": sealed})
        assert names(again) == ["Observation/on3", "Observation/on4"]
        assert link(again, "next") == ""
        for mixed in ({"_page": sealed, "date": "ge2026-01-05"}, {"_page": sealed, "_count": "50"}):
            refused = await client.post("Observation/_search", data=mixed)
            assert refused.status_code == 400
            assert refused.json()["issue"][0]["expression"] == ["_page"]


async def test_what_only_looks_like_a_reference_brings_nothing_along(world: Served) -> None:
    await load(world.gate, [observation("odd", "n2", identifier=[{"value": "Practitioner/dr"}])], organization="north")
    answer = await world.get("Observation?_id=odd&_include=*", north(world))
    assert names(answer, "include") == ["Patient/n2"]


async def test_a_device_comes_by_its_own_custodians_word_alone(world: Served) -> None:
    """The Device of north is named by south alone, while north names another on the same page."""
    device = {"resourceType": "Device", "id": "pump"}
    other = {"resourceType": "Device", "id": "scale"}
    await load(world.gate, [device, other], organization="north")
    await load(world.gate, [dated("by-s", "s", 11, device={"reference": "Device/pump"})], organization="south")
    await load(world.gate, [dated("by-n", "n2", 12, device={"reference": "Device/scale"})], organization="north")
    await grant(world, "n2", "s")
    token = world.token("third-party", org="app")
    answer = await world.get("Observation?_id=by-n,by-s&_include=Observation:device", token)
    assert names(answer) == ["Observation/by-s", "Observation/by-n"]
    read = {id: (await world.get(f"Device/{id}", token)).status_code for id in ("pump", "scale")}
    assert set(names(answer, "include")) == {f"Device/{id}" for id, status in read.items() if status == 200}

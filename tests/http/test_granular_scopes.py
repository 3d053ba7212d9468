"""Granular scopes over HTTP: one kind of Observation or Condition, on every way to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.build import load, organization, patient
from tests.http.test_consent import grant
from tests.http.test_search import names
from tests.served import Served, served

JSON = dict[str, Any]
CONDITION = "http://terminology.hl7.org/CodeSystem/condition-category"
US_CORE = "http://hl7.org/fhir/us/core/CodeSystem"
OBSERVATION = "http://terminology.hl7.org/CodeSystem/observation-category"
KINDS = {
    "Condition": [
        f"{US_CORE}/condition-category|health-concern",
        f"{CONDITION}|encounter-diagnosis",
        f"{CONDITION}|problem-list-item",
    ],
    "Observation": [
        f"{US_CORE}/us-core-category|sdoh",
        *(f"{OBSERVATION}|{code}" for code in ("social-history", "laboratory", "survey", "vital-signs")),
    ],
}
"""What US Core 7 asks of a server, as (type, category)."""


def of_kind(type_: str, id: str, *kinds: str, **more: Any) -> JSON:
    pairs = [zip(("system", "code"), kind.split("|"), strict=True) for kind in kinds]
    codings = [{name: value for name, value in pair if value} for pair in pairs]
    category = {"category": [{"coding": [coding]} for coding in codings]} if codings else {}
    own = {"status": "final"} if type_ == "Observation" else {}
    return {
        "resourceType": type_, "id": id, **own, **category, "code": {"text": "x"},
        "subject": {"reference": "Patient/p"}, **more,
    }  # fmt: skip


async def world(server: Served) -> None:
    await load(server.gate, [organization("app"), organization("north")])
    made = [of_kind(type_, f"k{at}", kind) for type_, kinds in KINDS.items() for at, kind in enumerate(kinds)]
    made += [
        of_kind("Observation", "two", KINDS["Observation"][2], KINDS["Observation"][4]),
        of_kind("Observation", "none"),
        of_kind("Observation", "bare", "|laboratory"),
        of_kind("Observation", "panel", KINDS["Observation"][2], hasMember=[{"reference": "Observation/k4"}]),
    ]
    await load(server.gate, [patient("p"), *made], organization="north")
    await grant(server, "p")


CALLERS = {"member": ("north", "system"), "third-party": ("app", "patient"), "patient": ("north", "patient")}


def token(server: Served, caller: str, *scopes: str) -> str:
    organization_, context = CALLERS[caller]
    more = {"patient": "p"} if caller == "patient" else {}
    return server.token(caller, org=organization_, scope=" ".join(f"{context}/{each}" for each in scopes), **more)


@pytest.mark.parametrize("caller", CALLERS)
async def test_each_category_opens_what_carries_it_and_nothing_else(tmp_path: Path, caller: str) -> None:
    async with served(tmp_path) as server:
        await world(server)
        for type_, kinds in KINDS.items():
            for at, kind in enumerate(kinds):
                only = token(server, caller, f"{type_}.rs?category={kind}")
                found = names(await server.get(f"{type_}", only))
                more = [f"{type_}/two"] if type_ == "Observation" and at in (2, 4) else []
                more += ["Observation/panel"] if (type_, at) == ("Observation", 2) else []
                assert sorted(found) == sorted([f"{type_}/k{at}", *more]), kind
                for other in range(len(kinds)):
                    answer = await server.get(f"{type_}/k{other}", only)
                    refused = 404 if caller == "member" else 403
                    assert answer.status_code == (200 if other == at else refused), (kind, other)
                wrong = await server.get("Patient/p", only)
                assert wrong.status_code == 403, "no scope for Patient at all"


async def test_a_code_without_a_system_is_found_under_any(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await world(server)
        for scope, expected in (
            ("Observation.rs?category=laboratory", ["bare", "k2", "panel", "two"]),
            ("Observation.rs?category=|laboratory", ["bare"]),
            (f"Observation.rs?category={OBSERVATION}|laboratory", ["k2", "panel", "two"]),
        ):
            found = names(await server.get("Observation", token(server, "member", scope)))
            assert sorted(found) == [f"Observation/{each}" for each in expected], scope


@pytest.mark.parametrize("caller", CALLERS)
async def test_no_way_leads_past_a_granular_scope(tmp_path: Path, caller: str) -> None:
    """Includes, reverse includes, chains, `_has`, counts, histories and `$everything` show what reading shows."""
    async with served(tmp_path) as server:
        await world(server)
        lab = token(server, caller, f"Observation.rs?category={KINDS['Observation'][2]}", "Patient.rs")
        open_ = ["Observation/k2", "Observation/panel", "Observation/two"]
        assert sorted(names(await server.get("Observation?patient=p", lab))) == open_
        assert names(await server.get("Observation?_include=Observation:has-member", lab), "include") == []
        assert names(await server.get("Observation?_id=k4&_revinclude=Observation:has-member", lab)) == []
        assert names(await server.get("Observation?has-member=Observation/k4", lab)) == ["Observation/panel"]
        assert names(await server.get("Observation?has-member:Observation.status=final", lab)) == []
        assert names(await server.get("Patient?_has:Observation:patient:_id=k4", lab)) == []
        assert names(await server.get("Patient?_has:Observation:patient:_id=k2", lab)) == ["Patient/p"]
        included = names(await server.get("Patient?_id=p&_revinclude=Observation:patient", lab), "include")
        assert sorted(included) == open_
        everything = await server.get("Patient/p/$everything", lab)
        assert sorted(names(everything)) == sorted([*open_, "Patient/p"])
        past = await server.get("Observation/_history", lab)
        assert sorted(f"Observation/{each['resource']['id']}" for each in past.json()["entry"]) == open_
        for path in ("Observation/k4/_history", "Observation/k4/_history/1"):
            assert (await server.get(path, lab)).status_code in (403, 404), path
        assert (await server.get("Observation/k2/_history/1", lab)).status_code == 200
        if caller != "third-party":
            assert (await server.get("Observation?_summary=count", lab)).json()["total"] == 3


async def test_each_entry_of_a_batch_decides_for_itself(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await world(server)
        lab = token(server, "member", "Observation.rs?category=laboratory")
        asked = ["Observation/k2", "Observation/k4", "Observation?_id=k4", "Condition/k0"]
        batch = {"resourceType": "Bundle", "type": "batch",
                 "entry": [{"request": {"method": "GET", "url": url}} for url in asked]}  # fmt: skip
        async with server.client(lab) as client:
            answer = await client.post("", json=batch)
        entries = answer.json()["entry"]
        assert [each["response"]["status"][:3] for each in entries] == ["200", "404", "200", "403"]
        assert "entry" not in entries[2]["resource"]


async def test_a_granular_scope_does_not_let_write(tmp_path: Path) -> None:
    async with served(tmp_path) as server:
        await world(server)
        scope = token(server, "member", "Observation.cruds?category=laboratory")
        async with server.client(scope) as client:
            made = await client.put("Observation/new", json=of_kind("Observation", "new", KINDS["Observation"][2]))
            assert made.status_code == 403
            assert (await client.delete("Observation/k2")).status_code == 403


async def test_a_version_of_another_kind_stays_hidden(tmp_path: Path) -> None:
    """What is laboratory now and was not is hidden as it was; what was and is not any more is hidden altogether."""
    async with served(tmp_path) as server:
        await world(server)
        lab, vital = KINDS["Observation"][2], KINDS["Observation"][4]
        await load(server.gate, [of_kind("Observation", "k2", vital), of_kind("Observation", "k4", lab)],
                   organization="north")  # fmt: skip
        only = token(server, "member", f"Observation.rs?category={lab}")
        for path, status in (
            ("Observation/k4", 200), ("Observation/k4/_history/2", 200), ("Observation/k4/_history/1", 404),
            ("Observation/k2", 404), ("Observation/k2/_history/1", 404), ("Observation/k2/_history/2", 404),
        ):  # fmt: skip
            assert (await server.get(path, only)).status_code == status, path

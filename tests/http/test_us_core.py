"""What US Core 7 has a server search by, over the shared development data, held to a plain reading of the files.

A combination is asked with values of resources that have them all, in every form that the guide names: references as an
id and as Type/id, tokens as a code and as system|code, dates to the day and to the second with an offset under each of
gt, lt, ge and le; by GET, and the first and the last by POST.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import AsyncIterator, Iterator
from itertools import product
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
import pytest_asyncio

from fhirserver.core.sensitive import lists
from fhirserver.policy.consenting import grant_consent
from ingest.load import Options, ingest
from tests.counts import PROOF
from tests.served import served
from tests.shared import shared
from tests.stores import KINDS
from tests.us_core import COMBINATIONS, REVINCLUDED, Asked, Combination, Resource, World, questions, read, values

pytestmark = pytest.mark.asyncio(loop_scope="module")

FOLDERS = ("us-core-7.0.0-examples", "synthea-bulk-ndjson", "synthea-transaction")
READER = "app"
EXAMPLE = "example"
"""The patient that most of US Core's examples are about."""
TARGETED = 2
"""Resources of each type that a Provenance is about."""


class Site(NamedTuple):
    """``everything`` and ``reader``: clients with the operator's token, and with that of a third party to whom the
    charts of ``opened`` are open."""

    everything: httpx.AsyncClient
    reader: httpx.AsyncClient
    world: World
    opened: frozenset[str]


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=KINDS if PROOF else ("sqlite",))
async def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Site]:
    """A server that holds the files, with a Provenance of two resources of each type, read into it as files are."""
    folders = [shared(f"data/dev/{name}") for name in FOLDERS]
    world = World(each for folder in folders for each in read(folder))
    scratch = tmp_path_factory.mktemp("us-core")
    added = scratch / "added.ndjson"
    added.write_text("\n".join(json.dumps(each) for each in additions(world)))
    async with served(scratch, request.param) as server:
        scoped = server.gate.system(subject="test", organization="operator", purpose="test")
        for path in (*folders, added):
            options = Options(rejects=scratch / "rejects.ndjson", as_resources=path.name.startswith("us-core"))
            report = await ingest([path], scoped, options, lambda _: None)
            assert (report.rejected, report.unresolved) == (0, 0)
        for each in read_lines(added):
            world.types[each["resourceType"]][each["id"]] = each
        opened = frozenset({EXAMPLE, *list(world.types["Patient"])[::2]})
        await grant_consent(scoped, sorted(opened), READER, labels=["NORMAL", *lists().topics])  # charts have topics
        token = server.token("third-party", org=READER)
        async with server.client() as everything, server.client(token) as reader:
            yield Site(everything, reader, world, opened)


def additions(world: World) -> Iterator[Resource]:
    """What the files have none of."""
    doctor = next(iter(world.types["Practitioner"]))
    yield {"resourceType": "Organization", "id": READER, "name": "Reader"}
    response = {"status": "completed", "subject": {"reference": f"Patient/{EXAMPLE}"}}
    tag = {"system": "http://example.org/tags", "code": "tagged"}
    yield {"resourceType": "QuestionnaireResponse", "id": "tagged", "meta": {"tag": [tag]}, **response}
    yield {"resourceType": "PractitionerRole", "id": "role", "practitioner": {"reference": f"Practitioner/{doctor}"}}
    for type_ in REVINCLUDED:
        targets = [{"reference": f"{type_}/{each['id']}"} for each in world.of(type_)[:TARGETED]]
        assert targets, type_
        yield {
            "resourceType": "Provenance",
            "id": f"of-{type_.lower()}",
            "target": targets,
            "recorded": "2026-01-01T00:00:00Z",
            "agent": [{"who": {"reference": f"Practitioner/{doctor}"}}],
        }


def read_lines(path: Path) -> list[Resource]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def found(client: httpx.AsyncClient, type_: str, asked: Asked, method: str = "GET") -> dict[str, set[str]]:
    """search.mode -> what a search finds on all its pages."""
    pairs = [*asked, ("_count", "1000")]
    if method == "GET":
        answer = await client.get(type_, params=pairs)
    else:
        answer = await client.post(f"{type_}/_search", data=dict(pairs))
    entries: dict[str, set[str]] = defaultdict(set)
    while True:
        assert answer.status_code == 200, answer.text
        body = answer.json()
        for each in body.get("entry", ()):
            name = f"{each['resource']['resourceType']}/{each['resource']['id']}"
            assert name not in entries[each["search"]["mode"]]
            entries[each["search"]["mode"]].add(name)
        following = [each["url"] for each in body["link"] if each["relation"] == "next"]
        if not following:
            return entries
        answer = await client.get(following[0])


def ids(entries: dict[str, set[str]], type_: str) -> set[str]:
    assert all(each.startswith(f"{type_}/") for each in entries["match"])
    return {each.partition("/")[2] for each in entries["match"]}


def named(combination: Combination) -> str:
    return f"{combination.type}-{'+'.join(combination.codes)}"


@pytest.mark.parametrize("combination", COMBINATIONS, ids=named)
async def test_a_search_finds_what_a_plain_reading_of_the_files_finds(site: Site, combination: Combination) -> None:
    some = 0
    client = site.everything
    asked_of_all = [*dict.fromkeys(questions(site.world, combination))]
    for asked in asked_of_all:
        expected = site.world.expected(combination.type, asked)
        some += bool(expected)
        for method in ("GET", "POST") if asked in (asked_of_all[0], asked_of_all[-1]) else ("GET",):
            entries = await found(client, combination.type, asked, method)
            assert ids(entries, combination.type) == expected, (asked, method)
    assert some


@pytest.mark.parametrize("combination", COMBINATIONS, ids=named)
async def test_a_third_party_finds_the_same_of_its_patients_alone(site: Site, combination: Combination) -> None:
    def open_to(resource: Resource) -> bool:
        if resource["resourceType"] == "Patient":
            return resource["id"] in site.opened
        owners = [each["reference"].partition("/")[2] for each in values(resource, "patient") if "reference" in each]
        return site.opened.issuperset(owners)

    client = site.reader
    asked_of_one = [*dict.fromkeys(questions(site.world, combination))][::3]
    of_any = (tuple(pair for pair in asked if pair[0] != "patient") for asked in asked_of_one)
    for asked in dict.fromkeys([*asked_of_one, *of_any]):
        expected = site.world.expected(combination.type, asked, open_to)
        assert ids(await found(client, combination.type, asked), combination.type) == expected, asked


async def test_patients_that_are_not_open_are_in_the_data(site: Site) -> None:
    closed = set(site.world.types["Patient"]) - site.opened
    assert len(closed) > 2
    client = site.reader
    for each in closed:
        for type_ in ("Observation", "Encounter", "DocumentReference"):
            assert ids(await found(client, type_, (("patient", each),)), type_) == set()


@pytest.mark.parametrize("type_", REVINCLUDED)
async def test_the_provenance_of_matches_goes_along(site: Site, type_: str) -> None:
    name = f"Provenance/of-{type_.lower()}"
    for at, each in enumerate(site.world.types[type_]):
        entries = await found(site.everything, type_, (("_id", each), ("_revinclude", "Provenance:target")))
        assert (name in entries["include"]) is (at < TARGETED), each
        if at == TARGETED:
            break
    first = ",".join([*site.world.types[type_]][:TARGETED])
    entries = await found(site.everything, type_, (("_id", first), ("_revinclude", "Provenance:target")))
    assert entries["include"] == {name}


async def test_the_medication_of_a_request_goes_along(site: Site) -> None:
    asked = (("patient", EXAMPLE), ("intent", "order"), ("_include", "MedicationRequest:medication"))
    expected = site.world.expected("MedicationRequest", asked[:2])
    referred = {
        each["medicationReference"]["reference"]
        for each in site.world.of("MedicationRequest")
        if each["id"] in expected and each.get("medicationReference", {}).get("reference", "#")[0] != "#"
    }
    assert referred
    for client, method in product((site.everything, site.reader), ("GET", "POST")):
        entries = await found(client, "MedicationRequest", asked, method)
        assert ids(entries, "MedicationRequest") == expected
        assert entries["include"] == referred


async def test_what_is_required_is_what_is_stated(site: Site) -> None:
    [rest] = (await site.everything.get("metadata")).json()["rest"]
    stated = {each["type"]: each for each in rest["resource"]}
    for combination in COMBINATIONS:
        known = {each["name"] for each in stated[combination.type]["searchParam"]}
        assert known.issuperset(combination.codes), combination
    for type_ in REVINCLUDED:
        assert "Provenance:target" in stated[type_]["searchRevInclude"]
    assert "MedicationRequest:medication" in stated["MedicationRequest"]["searchInclude"]
    operation = {"name": "docref", "definition": "http://hl7.org/fhir/us/core/OperationDefinition/docref"}
    assert operation.items() <= stated["DocumentReference"]["operation"][0].items()

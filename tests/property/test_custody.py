"""Two organisations import colliding ids, at the same time and in any order: no chart ever mixes."""

from __future__ import annotations

import asyncio
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.core.model import Query, Record, parse_facts
from tests.build import Resource, condition, observation, patient, person, put
from tests.counts import examples
from tests.served import Served, served

_patients = st.sampled_from(["p1", "p2", "p3"])
_ids = st.sampled_from(["r1", "r2", "r3", "r4"])
_resources = st.one_of(
    st.builds(patient, _patients),
    st.builds(condition, _ids, _patients),
    st.builds(
        lambda id, of, also: observation(id, of, performer=[{"reference": f"Patient/{also}"}]),
        _ids,
        _patients,
        _patients,
    ),
    st.builds(person, _ids, _patients, _patients),
)
_batches = st.lists(st.lists(_resources, max_size=5), max_size=4)


async def bring(server: Served, organization: str, batches: list[list[Resource]]) -> None:
    scoped = server.gate.system(subject="test", organization=organization, purpose="test")
    for batch in batches:
        await scoped.load([put(resource) for resource in batch])


async def everything(server: Served) -> list[Record]:
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    return [record async for batch in scoped.scan(Query()) for record in batch]


@settings(max_examples=examples(60))
@given(_batches, _batches, st.booleans())
async def test_no_chart_holds_what_another_organisation_brought(
    north: list[list[Resource]], south: list[list[Resource]], at_once: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder)) as server:
            if at_once:
                await asyncio.gather(bring(server, "north", north), bring(server, "south", south))
            else:
                await bring(server, "north", north)
                await bring(server, "south", south)
            records = await everything(server)
            custodians = {
                record.id: parse_facts(record.facts).custodian for record in records if record.type == "Patient"
            }
            for record in records:
                facts = parse_facts(record.facts)
                for chart in {*facts.compartments, *facts.owners} & custodians.keys():
                    assert facts.custodian == custodians[chart], (record.key, chart)
            for organization in ("north", "south"):
                token = server.token("member", org=organization)
                for name, custodian in custodians.items():
                    answer = await server.get(f"Patient/{name}/$everything", token)
                    assert answer.status_code == (200 if custodian == organization else 404)


@settings(max_examples=examples(15))
@given(_batches, _batches)
async def test_every_patient_has_a_person_whichever_way_it_came(
    north: list[list[Resource]], south: list[list[Resource]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder)) as server:
            await asyncio.gather(bring(server, "north", north), bring(server, "south", south))
            records = await everything(server)
            linked = {owner for r in records if r.type == "Person" for owner in parse_facts(r.facts).owners}
            assert {record.id for record in records if record.type == "Patient"} <= linked

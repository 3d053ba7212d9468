"""Two organisations import colliding ids, at the same time and in any order: no chart ever mixes.

Each comes through a server of its own: two committers over one store, as when two server processes write.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fhirserver.app import opened
from fhirserver.core.model import Query, Record, parse_facts
from fhirserver.policy.gate import Gate
from tests.build import Resource, condition, observation, patient, person, put
from tests.counts import PROOF, examples
from tests.served import Served, served
from tests.stores import KINDS, environment, fresh

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
Batches = list[list[Resource]]
_batches = st.lists(st.lists(_resources, max_size=5), max_size=4)


async def bring(gate: Gate, organization: str, batches: Batches) -> None:
    scoped = gate.system(subject="test", organization=organization, purpose="test")
    for batch in batches:
        await scoped.load([put(resource) for resource in batch])


async def everything(gate: Gate) -> list[Record]:
    scoped = gate.system(subject="test", organization="operator", purpose="test")
    return [record async for batch in scoped.scan(Query()) for record in batch]


def not_mixed(records: list[Record]) -> dict[str, str]:
    """The custodian of each patient, after a look at every record: nobody else's stands in that chart."""
    custodians = {record.id: parse_facts(record.facts).custodian for record in records if record.type == "Patient"}
    for record in records:
        facts = parse_facts(record.facts)
        for chart in {*facts.compartments, *facts.owners} & custodians.keys():
            assert facts.custodian == custodians[chart], (record.key, chart)
    return custodians


@pytest.mark.parametrize("kind", KINDS)
def test_no_chart_holds_what_another_organisation_brought(kind: str) -> None:
    @settings(max_examples=examples(60, kind))
    @given(_batches, _batches, st.booleans())
    def holds(north: Batches, south: Batches, at_once: bool) -> None:
        asyncio.run(collide(kind, north, south, at_once=at_once))

    holds()


async def collide(kind: str, north: Batches, south: Batches, *, at_once: bool) -> None:
    """Both import; then each chart is one organisation's, and shown to it alone."""
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), kind) as server, opened(server.runtime.settings) as other:
            if at_once:
                await asyncio.gather(bring(server.gate, "north", north), bring(other.gate, "south", south))
            else:
                await bring(server.gate, "north", north)
                await bring(other.gate, "south", south)
            custodians = not_mixed(await everything(server.gate))
            await shown_to_its_own(server, custodians)


async def shown_to_its_own(server: Served, custodians: dict[str, str]) -> None:
    for organization in ("north", "south"):
        token = server.token("member", org=organization)
        for name, custodian in custodians.items():
            answer = await server.get(f"Patient/{name}/$everything", token)
            assert answer.status_code == (200 if custodian == organization else 404)


@pytest.mark.parametrize("kind", KINDS)
def test_every_patient_has_a_person_whichever_way_it_came(kind: str) -> None:
    @settings(max_examples=examples(15, kind))
    @given(_batches, _batches)
    def holds(north: Batches, south: Batches) -> None:
        asyncio.run(persons(kind, north, south))

    holds()


async def persons(kind: str, north: Batches, south: Batches) -> None:
    """Both import at once; then every Patient is linked by a Person."""
    with tempfile.TemporaryDirectory() as folder:
        async with served(Path(folder), kind) as server, opened(server.runtime.settings) as other:
            await asyncio.gather(bring(server.gate, "north", north), bring(other.gate, "south", south))
            records = await everything(server.gate)
            linked = {owner for r in records if r.type == "Person" for owner in parse_facts(r.facts).owners}
            assert {record.id for record in records if record.type == "Patient"} <= linked


@pytest.mark.parametrize("kind", KINDS)
async def test_two_processes_that_import_colliding_charts_at_once_never_mix_them(kind: str, tmp_path: Path) -> None:
    """The same ids, shuffled against each other, from two commands that run side by side."""
    count = 400 if PROOF else 60
    with fresh(kind, tmp_path) as url:
        variables = environment(url, tmp_path)
        async with served(tmp_path, store=url) as server:
            for organization in ("north", "south"):
                content = {"resourceType": "Organization", "id": organization, "name": organization}
                await server.gate.system(subject="test", organization="operator", purpose="test").load([put(content)])
            importing = []
            for organization in ("north", "south"):
                order = range(count) if organization == "north" else reversed(range(count))
                lines = [
                    json.dumps(one) for at in order for one in (patient(f"p{at}"), observation(f"o{at}", f"p{at}"))
                ]
                file = tmp_path / f"{organization}.ndjson"
                await asyncio.to_thread(file.write_text, "\n".join(lines))
                importing.append(_import(file, organization, variables))
            done = [await asyncio.to_thread(process.communicate) for process in importing]
            assert {process.returncode for process in importing} <= {0, 1}, done  # 1: some were rejected
            custodians = not_mixed(await everything(server.gate))
            assert len(custodians) == count
            await shown_to_its_own(server, dict(list(custodians.items())[:10]))


def _import(file: Path, organization: str, variables: dict[str, str]) -> subprocess.Popen[str]:
    words = ["ingest", str(file), "--organization", organization, "--rejects", str(file.with_suffix(".rejects"))]
    return subprocess.Popen(
        [sys.executable, "-m", "fhirserver", *words],
        cwd=file.parent,
        env=variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )

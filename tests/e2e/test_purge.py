"""Legal erasure: a chart that was purged was never there, for anybody, and others' charts stand as they stood."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from fhirserver.core.errors import Unavailable
from fhirserver.core.model import Key
from tests.build import load, observation, organization, patient
from tests.served import Served, served
from tests.stores import environment, every_kind, fresh

kind = every_kind

NAME = "Quillfeather"
MRN = "MRN7731990042"
WRITES = "system/*.cruds"


def document(id: str, of: str, *binaries: str) -> dict[str, Any]:
    content = [{"attachment": {"url": f"Binary/{name}"}} for name in binaries]
    subject = {"reference": f"Patient/{of}"}
    return {"resourceType": "DocumentReference", "id": id, "status": "current", "subject": subject, "content": content}


def binary(id: str, size: int = 30) -> dict[str, Any]:
    return {"resourceType": "Binary", "id": id, "contentType": "text/plain", "data": "UXVpbGxm" * size}


def appointment(id: str, *patients: str) -> dict[str, Any]:
    actors = [{"actor": {"reference": f"Patient/{name}"}, "status": "accepted"} for name in patients]
    return {"resourceType": "Appointment", "id": id, "status": "proposed", "participant": actors}


async def fill(server: Served) -> None:
    """Charts of p and q, what both share, history, something deleted, and something that moved."""
    named = {"identifier": [{"system": "urn:mrn", "value": MRN}], "name": [{"family": NAME}]}
    await load(server.gate, [organization("app"), patient("p", **named), patient("q"), *map(binary, ("one", "both"))])
    await load(server.gate, [binary("large", 400_000), document("d", "p", "one", "both", "large")])
    await load(server.gate, [document("e", "q", "both"), appointment("shared", "p", "q")])
    await load(server.gate, [observation(f"o{n}", "p", note=[{"text": NAME}]) for n in range(5)])
    await load(server.gate, [observation(f"n{n}", "q") for n in range(30)])
    async with server.client(server.token(scope=WRITES)) as client:
        for n in range(3):
            put = observation("o1", "p", note=[{"text": f"{NAME} {n}"}])
            assert (await client.put("Observation/o1", json=put)).status_code == 200
        assert (await client.put("Observation/o2", json=observation("o2", "q"))).status_code == 200
        assert (await client.delete("Observation/o3")).status_code == 204
        relative = {"resourceType": "RelatedPerson", "id": "r", "patient": {"reference": "Patient/p"}}
        assert (await client.put("RelatedPerson/r", json=relative)).status_code == 201


@pytest.fixture
async def filled(server: Served) -> Served:
    await fill(server)
    return server


async def problems(server: Served) -> list[str]:
    return [sentence async for sentence in server.gate.upkeep(subject="test").verify()]


async def entries(server: Served, url: str) -> list[str]:
    """The keys of all pages from this one on."""
    found: list[str] = []
    next_: str | None = url
    while next_:
        bundle = (await server.get(next_)).json()
        assert bundle["resourceType"] == "Bundle", bundle
        found += [f"{each['resource']['resourceType']}/{each['resource']['id']}" for each in bundle.get("entry", [])]
        next_ = {link["relation"]: link["url"] for link in bundle["link"]}.get("next")
    return found


async def test_what_goes_and_what_is_told(filled: Served) -> None:
    found = await filled.gate.purge(subject="test").chart("p")
    assert found.types == {
        "Binary": 2, "DocumentReference": 1, "Observation": 4, "Patient": 1, "Person": 1, "RelatedPerson": 1,
    }  # fmt: skip
    assert found.keys[-1] == Key("Patient", "p")
    assert list(map(str, found.kept)) == ["Appointment/shared", "Binary/both", "Observation/o2"]
    assert list(map(str, found.referring)) == ["Appointment/shared"]


async def test_a_purged_chart_was_never_there(filled: Served) -> None:
    third = filled.token("third-party", org="app")
    pages = {}
    for path in (
        "Observation?_count=2",
        "Observation?_count=2&_sort=_id",
        "_history?_count=5",
        "Patient/$everything?_count=3",
    ):
        bundle = (await filled.get(path)).json()
        pages[path] = {link["relation"]: link["url"] for link in bundle["link"]}["next"]
    never = (await filled.get("Patient/p", third)).status_code, (await filled.get("Patient/never", third)).status_code
    purging = filled.gate.purge(subject="test")
    progress: list[tuple[int, int]] = []
    versions = await purging.run(await purging.chart("p"), lambda done, total: progress.append((done, total)))
    assert versions == 14
    assert progress == [(10, 10)]
    gone = (
        "Patient/p",
        "Person/p",
        "Observation/o1",
        "Observation/o3",
        "DocumentReference/d",
        "Binary/one",
        "Binary/large",
    )
    for path in gone:
        assert (await filled.get(path)).status_code == 404, path
        assert (await filled.get(f"{path}/_history")).status_code == 404, path
        assert (await filled.get(f"{path}/_history/1")).status_code == 404, path
    for path in ("Patient/p/$everything", "Person/p/$everything", "Patient/p/Observation"):
        assert (await filled.get(path)).status_code == 404, path
    assert (await filled.get("Patient/p", third)).status_code == never[0] == never[1]
    for path in (f"Patient?identifier={MRN}", f"Patient?name={NAME}", "Observation?subject=Patient/p"):
        assert "entry" not in (await filled.get(path)).json(), path
    everything = (await filled.get("_history?_count=1000")).text + (await filled.get("Patient/$everything")).text
    assert MRN not in everything
    for path, next_ in pages.items():
        rest = await entries(filled, next_)
        assert not {"Patient/p", "Observation/o1", "Observation/o4"} & set(rest), path
        assert "Observation/n29" in rest, path
    assert len(await entries(filled, "Observation?subject=Patient/q&_count=7")) == 31
    assert (await filled.get("Binary/both")).status_code == 200
    assert await problems(filled) == []


async def test_the_trail_tells_of_it_without_anything_personal(filled: Served) -> None:
    purging = filled.gate.purge(subject="command:somebody")
    await purging.run(await purging.chart("p"))
    intent, outcome = [row for row in await filled.audit() if row.interaction == "purge"]
    assert (intent.outcome, outcome.outcome, outcome.intent) == ("intent", "complete", intent.id)
    assert (outcome.subject, outcome.patients, outcome.detail["count"]) == ("command:somebody", ("p",), 10)
    assert not await purging.due
    text = msgspec.json.encode([intent, outcome]).decode()
    assert NAME not in text
    assert MRN not in text


async def test_a_consent_that_is_purged_opens_nothing_any_more(filled: Served) -> None:
    from fhirserver.policy.consenting import grant_consent

    scoped = filled.gate.system(subject="test", organization="operator", purpose="test")
    await grant_consent(scoped, ["q"], "app")
    third = filled.token("third-party", org="app")
    assert (await filled.get("Observation/n1", third)).status_code == 200
    [consent] = (await filled.get("Consent?patient=q")).json()["entry"]
    key = Key("Consent", consent["resource"]["id"])
    purging = filled.gate.purge(subject="test")
    await purging.run(await purging.resource(key))
    assert (await filled.get("Observation/n1", third)).status_code in (403, 404)
    assert (await filled.get("Observation/n1")).status_code == 200
    assert await problems(filled) == []


async def test_an_interrupted_purge_is_finished_by_the_next(filled: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhirserver.policy.purge.AT_ONCE", 3)
    purging = filled.gate.purge(subject="test")

    def die(done: int, _: int) -> None:
        if done >= 6:
            raise Unavailable("killed")

    with pytest.raises(Unavailable):
        await purging.run(await purging.chart("p"), die)
    assert await purging.due
    left = await purging.chart("p")
    assert sum(left.types.values()) == 4
    await purging.run(left)
    assert not await purging.due
    assert (await purging.chart("p")).keys == ()
    assert (await filled.get("Patient/p")).status_code == 404
    assert await problems(filled) == []


def command(url: str, folder: Path, *words: str, typed: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "fhirserver", *words],
        check=False, capture_output=True, text=True, input=typed, env=environment(url, folder), timeout=60,
    )  # fmt: skip


async def test_the_command_asks_first_and_leaves_no_byte(kind: str, tmp_path: Path) -> None:
    with fresh(kind, tmp_path) as url:
        async with served(tmp_path, kind, store=url) as server:
            await fill(server)
        for words in ((), ("--patient", "p", "--resource", "Patient/p"), ("--resource", "Nothing/1")):
            assert command(url, tmp_path, "purge", *words).returncode == 2
        assert command(url, tmp_path, "purge", "--patient", "nobody", "--yes").returncode == 1
        asked = command(url, tmp_path, "purge", "--patient", "p", typed="q\n")
        assert (asked.returncode, "4 Observation" in asked.stderr) == (130, True)
        done = command(url, tmp_path, "purge", "--patient", "p", "--json", typed="p\n")
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["kept"] == ["Appointment/shared", "Binary/both", "Observation/o2"]
        assert "Appointment/shared refers to it still." in done.stderr
        assert NAME not in done.stderr + done.stdout
        assert json.loads(command(url, tmp_path, "check", "--json").stdout) == {"ok": True, "problems": []}
        assert command(url, tmp_path, "purge", "--resource", "Observation/o2", "--yes").returncode == 0
        if kind == "sqlite":
            for name in os.listdir(tmp_path):
                content = (tmp_path / name).read_bytes()
                assert MRN.encode() not in content, name
                assert NAME.encode() not in content, name

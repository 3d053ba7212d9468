"""history of a resource, of a type and of the store, over real HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.build import load, observation, patient, practitioner
from tests.histories import Clock, delete, history, link, told, walked
from tests.served import Served, served
from tests.stores import every_kind

kind = every_kind
MINUTE = 60_000


async def test_a_resource_s_history_has_every_version_and_the_deletion(tmp_path: Path, kind: str) -> None:
    clock = Clock()
    async with served(tmp_path, kind, clock=clock) as server:
        for gender in ("male", "female"):
            await load(server.gate, [practitioner("dr", gender=gender)])
            clock.now += 1_000
        await delete(server, "Practitioner/dr")
        clock.now += 1_000
        await load(server.gate, [practitioner("dr", gender="other"), practitioner("else")])
        bundle = await history(server, "Practitioner/dr/_history")
        assert bundle["total"] == 4
        assert told(bundle) == [
            "PUT Practitioner/dr 4", "DELETE Practitioner/dr 3", "PUT Practitioner/dr 2", "POST Practitioner/dr 1",
        ]  # fmt: skip
        latest, deletion, _, first = bundle["entry"]
        assert latest["resource"] == (await server.get("Practitioner/dr")).json()
        assert first["resource"] == (await server.get("Practitioner/dr/_history/1")).json()
        assert first["request"] == {"method": "POST", "url": "Practitioner"}
        assert first["response"] == {
            "status": "201 Created", "etag": 'W/"1"', "lastModified": first["resource"]["meta"]["lastUpdated"],
        }  # fmt: skip
        assert latest["request"] == {"method": "PUT", "url": "Practitioner/dr"}
        assert latest["response"]["status"] == "200 OK"
        assert {entry["fullUrl"] for entry in bundle["entry"]} == {f"{server.base}/Practitioner/dr"}
        assert "resource" not in deletion
        assert deletion["request"] == {"method": "DELETE", "url": "Practitioner/dr"}
        assert deletion["response"] == {
            "status": "204 No Content", "etag": 'W/"3"', "lastModified": "2027-01-15T08:00:02.000Z",
        }  # fmt: skip


async def test_what_is_deleted_still_has_its_history(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    await delete(server, "Practitioner/dr")
    assert (await server.get("Practitioner/dr")).status_code == 410
    bundle = await history(server, "Practitioner/dr/_history")
    assert told(bundle) == ["DELETE Practitioner/dr 2", "POST Practitioner/dr 1"]


async def test_the_history_of_a_type_and_of_the_store_are_newest_first(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p")])
    await load(server.gate, [patient("p", gender="male"), practitioner("dr")])
    await delete(server, "Observation/o")
    assert told(await history(server, "Patient/_history")) == ["PUT Patient/p 2", "POST Patient/p 1"]
    assert told(await history(server, "Observation/_history")) == ["DELETE Observation/o 2", "POST Observation/o 1"]
    everything = await history(server, "_history")
    assert everything["total"] == len(everything["entry"]) == 6
    assert told(everything)[0] == "DELETE Observation/o 2"
    assert {"POST Person/p 1", "POST Practitioner/dr 1"} <= set(told(everything))
    updated = [entry["response"]["lastModified"] for entry in everything["entry"]]
    assert updated == sorted(updated, reverse=True)
    nothing = await history(server, "Immunization/_history")
    assert nothing.keys() == {"resourceType", "type", "total", "link"}
    assert (nothing["total"], link(nothing, "self")) == (0, f"{server.base}/Immunization/_history?_count=50")


async def test_pages_put_together_are_the_history_at_the_snapshot(server: Served) -> None:
    for gender in ("male", "female", "other", "unknown"):
        await load(server.gate, [practitioner("dr", gender=gender), practitioner("too", gender=gender)])
    for path in ("Practitioner/_history", "Practitioner/dr/_history", "_history"):
        whole = told(await history(server, f"{path}?_count=1000"))
        for count in (1, 3, len(whole) - 1, len(whole), len(whole) + 1):
            assert await walked(server, f"{path}?_count={count}") == whole
    first = await history(server, "Practitioner/_history?_count=3")
    whole = told(await history(server, "Practitioner/_history"))
    found, url = told(first), link(first, "next")
    for at in range(10):
        if url is None:
            break
        await load(server.gate, [practitioner("dr", active=bool(at % 2)), practitioner(f"new-{at}")])
        bundle = (await server.get(url)).json()
        assert bundle["total"] == 8
        found, url = found + told(bundle), link(bundle, "next")
    assert found == whole
    assert told((await server.get(str(link(first, "first")))).json()) == whole[:3]
    assert len(await walked(server, "Practitioner/_history?_count=3")) == 12


async def test_since_is_an_instant_that_is_included(tmp_path: Path, kind: str) -> None:
    clock = Clock()
    async with served(tmp_path, kind, clock=clock) as server:
        for gender in ("male", "female", "other"):
            await load(server.gate, [practitioner("dr", gender=gender)])
            clock.now += MINUTE
        for since, versions in (
            ("2027-01-15T08:01:00Z", ["3", "2"]),
            ("2027-01-15T10:01:00+02:00", ["3", "2"]),
            ("2027-01-15T10:01:00%2B02:00", ["3", "2"]),
            ("2027-01-15T08:01:00.001Z", ["3"]),
            ("2027-01-15T08:02:00.001Z", []),
            ("2027-01-15", ["3", "2", "1"]),
            ("2027-01-16", []),
        ):
            bundle = await history(server, f"Practitioner/dr/_history?_since={since}")
            assert [one.rpartition(" ")[2] for one in told(bundle)] == versions, since
            assert bundle["total"] == len(versions)
        bundle = await history(server, "Practitioner/dr/_history?_since=2027-01-15T10:01:00+02:00")
        assert "_since=2027-01-15T10:01:00%2B02:00" in (link(bundle, "self") or "")
        newest = (await history(server, "_history"))["entry"][0]["response"]["lastModified"]
        await load(server.gate, [practitioner("next")])
        assert "POST Practitioner/next 1" in told(await history(server, f"_history?_since={newest}"))


async def test_at_is_what_was_current_at_some_time_of_the_period(tmp_path: Path, kind: str) -> None:
    clock = Clock()
    async with served(tmp_path, kind, clock=clock) as server:
        for gender in ("male", "female"):  # at 08:00 and at 08:01; deleted at 08:02
            await load(server.gate, [practitioner("dr", gender=gender)])
            clock.now += MINUTE
        await delete(server, "Practitioner/dr")
        for at, versions in (
            ("2027-01-15T07:59:59Z", []),
            ("2027-01-15T08:00:00Z", ["1"]),
            ("2027-01-15T08:00:59Z", ["1"]),
            ("2027-01-15T08:01:00Z", ["2", "1"]),  # 1 was current until that very millisecond
            ("2027-01-15T08:01:01Z", ["2"]),
            ("2027-01-15T08:01:30Z", ["2"]),
            ("2027-01-15T08:02:00Z", ["3", "2"]),
            ("2027-01-15T08:02:01Z", []),  # it is deleted: nothing is current
            ("2027-01-15T08:00Z", ["1"]),
            ("2027-01-15", ["3", "2", "1"]),
            ("2027", ["3", "2", "1"]),
            ("2026", []),
            ("2028", []),
        ):
            for path in ("Practitioner/dr/_history", "Practitioner/_history", "_history"):
                bundle = await history(server, f"{path}?_at={at}")
                assert [one.rpartition(" ")[2] for one in told(bundle)] == versions, (path, at)
        both = await history(server, "Practitioner/_history?_at=2027-01-15&_since=2027-01-15T08:01:00Z")
        assert told(both) == ["DELETE Practitioner/dr 3", "PUT Practitioner/dr 2"]


BAD = {
    "_since=yesterday": "_since",
    "_since=2027-02-30": "_since",
    "_since=": "_since",
    "_since=2027&_since=2028": "_since",
    "_at=2027-13": "_at",
    "_at=ge2027": "_at",
    "_count=-1": "_count",
    "_count=ten": "_count",
    "_count=1&_count=2": "_count",
    "_summary=some": "_summary",
    "_elements=id,,name": "_elements",
    "_page=forged": "_page",
    "_list=List/1": "_list",
}


async def test_what_cannot_be_understood_is_a_400_that_names_it(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    async with server.client() as client:
        for query, named in BAD.items():
            for path in ("Practitioner/dr/_history", "Practitioner/_history", "_history"):
                answer = await client.get(f"{path}?{query}")
                assert answer.status_code == 400, (path, query)
                assert named in answer.json()["issue"][0]["diagnostics"]


async def test_unknown_parameters_are_left_out_or_refused_as_asked(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    for query in ("name=x", "_sort=_lastUpdated", "_sort=name", "_include=x"):
        bundle = await history(server, f"Practitioner/_history?{query}")
        assert link(bundle, "self") == f"{server.base}/Practitioner/_history?_count=50"
        strictly = await server.get(f"Practitioner/_history?{query}", headers={"Prefer": "handling=strict"})
        assert strictly.status_code == 400
    sorted_ = await history(server, "_history?_sort=-_lastUpdated", headers={"Prefer": "handling=strict"})
    assert link(sorted_, "self") == f"{server.base}/_history?_sort=-_lastUpdated&_count=50"


async def test_a_page_is_as_large_as_asked_and_never_larger_than_a_thousand(server: Served) -> None:
    await load(server.gate, [practitioner(f"dr-{at}") for at in range(60)])
    assert len((await history(server, "_history"))["entry"]) == 50
    bundle = await history(server, "_history?_count=5000")
    assert len(bundle["entry"]) == 60
    assert "_count=1000" in (link(bundle, "self") or "")
    for query in ("_count=0", "_summary=count"):
        bundle = await history(server, f"_history?{query}")
        assert (bundle["total"], bundle.get("entry")) == (60, None)
        assert link(bundle, "next") is None


async def test_the_total_of_much_is_told_only_when_asked_for(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fhirserver.http.history.MOST_COUNTED", 5)
    await load(server.gate, [practitioner(f"dr-{at}") for at in range(5)])
    assert (await history(server, "_history"))["total"] == 5
    await load(server.gate, [practitioner("dr-6")])
    assert "total" not in await history(server, "_history")
    assert "total" not in await history(server, "Practitioner/_history")
    assert (await history(server, "Practitioner/_history?_summary=count"))["total"] == 6
    for gender in ("male", "female") * 3:
        await load(server.gate, [practitioner("dr-6", gender=gender)])
    assert (await history(server, "Practitioner/dr-6/_history"))["total"] == 7


async def test_elements_and_summary_cut_each_version(server: Served) -> None:
    await load(server.gate, [practitioner("dr", gender="male", birthDate="1970-01-01")])
    await delete(server, "Practitioner/dr")
    bundle = await history(server, "Practitioner/dr/_history?_elements=gender&_count=1")
    assert link(bundle, "self") == f"{server.base}/Practitioner/dr/_history?_elements=gender&_count=1"
    assert "resource" not in bundle["entry"][0]
    answer = await server.get(str(link(bundle, "next")))
    resource = answer.json()["entry"][0]["resource"]
    assert resource.keys() == {"resourceType", "id", "meta", "gender"}
    assert resource["meta"]["tag"][0]["code"] == "SUBSETTED"
    text = (await history(server, "Practitioner/_history?_summary=text"))["entry"][1]["resource"]
    assert "gender" not in text


async def test_forged_foreign_and_expired_pages_are_refused(tmp_path: Path) -> None:
    clock = Clock()
    async with served(tmp_path, clock=clock) as server:
        await load(server.gate, [practitioner(name) for name in ("a", "b", "c")])
        url = str(link(await history(server, "Practitioner/_history?_count=1"), "next"))
        assert (await server.get(url, server.token(subject="another"))).status_code == 400
        assert (await server.get(url.replace("Practitioner/_history", "_history"))).status_code == 400
        assert (await server.get(url.replace("_page=", "_since=2000&_page="))).status_code == 400
        clock.now += 61 * MINUTE
        assert (await server.get(url)).status_code == 410


async def test_a_large_body_and_its_tombstone_come_streamed(server: Served) -> None:
    data = "QUFB" * 600_000
    binary = {"resourceType": "Binary", "id": "large", "contentType": "text/plain", "data": data}
    await load(server.gate, [binary, practitioner("dr")])
    await delete(server, "Binary/large")
    bundle = await history(server, "_history")
    assert bundle["entry"][2]["resource"]["data"] == data
    assert "resource" not in bundle["entry"][0]


async def test_a_history_is_read_and_nothing_else(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    async with server.client() as client:
        for method in ("POST", "PUT", "DELETE", "PATCH"):
            for path in ("Practitioner/dr/_history", "Practitioner/_history", "_history"):
                assert (await client.request(method, path)).status_code == 405, (method, path)

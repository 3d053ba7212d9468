"""Who is told of which versions: the Answers table, scopes, and what is hidden now."""

from __future__ import annotations

from tests.admitted import consent, marks
from tests.build import load, observation, patient, person, put
from tests.histories import delete, history, link, told, write
from tests.served import Served
from tests.stores import every_kind_for_proof

kind = every_kind_for_proof


async def test_the_answers_for_what_is_not_there_and_what_may_not_be_seen(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p"), observation("gone", "p")], organization="a")
    await delete(server, "Observation/gone", "a")
    tokens = {
        "operator": server.token(),
        "own": server.token("member", org="a"),
        "other": server.token("member", org="b"),
        "third": server.token("third-party", org="x"),
        "patient": server.token("patient", org="a", patient="nobody"),
    }
    wanted = {
        "Observation/none": {"operator": 404, "own": 404, "other": 404, "third": 403, "patient": 403},
        "Observation/o": {"operator": 200, "own": 200, "other": 404, "third": 403, "patient": 403},
        "Observation/gone": {"operator": 200, "own": 200, "other": 404, "third": 403, "patient": 403},
    }
    for resource, statuses in wanted.items():
        for name, token in tokens.items():
            assert (await server.get(f"{resource}/_history", token)).status_code == statuses[name], (resource, name)
    for name in ("third", "patient"):
        bodies = {(await server.get(f"{resource}/_history", tokens[name])).content for resource in wanted}
        assert len(bodies) == 1
    found = [(await server.get(f"Observation/{id}/_history", tokens["other"])).text for id in ("o", "none")]
    assert found[0] == found[1].replace("/none", "/o")
    assert told(await history(server, "Observation/_history", tokens["other"])) == []
    assert told(await history(server, "_history", tokens["third"])) == []


async def test_scopes_open_histories_as_smart_says(server: Served) -> None:
    """r: of an instance; s: of a type and of the system."""
    await load(server.gate, [patient("p"), observation("o", "p")])
    for scope, statuses in (
        ("system/*.rs", (200, 200, 200)),
        ("system/*.r", (200, 403, 403)),
        ("system/*.s", (403, 200, 200)),
        ("system/Patient.rs", (403, 403, 200)),
        ("system/Observation.read", (200, 200, 200)),
        ("system/*.cud", (403, 403, 403)),
    ):
        token = server.token("member", org="operator", scope=scope)
        paths = ("Observation/o/_history", "Observation/_history", "_history")
        assert tuple([(await server.get(path, token)).status_code for path in paths]) == statuses, scope
    only = server.token("member", org="operator", scope="system/Patient.rs")
    assert told(await history(server, "_history", only)) == ["POST Patient/p 1"]


async def test_what_is_hidden_now_is_hidden_in_its_past(server: Served) -> None:
    """The current version has a label that the Consent does not open, so no older one is shown."""
    third = server.token("third-party", org="reader")
    await load(server.gate, [patient("p"), observation("o", "p"), observation("x", "p"), patient("other")])
    await write(server, consent("c", "p"))
    assert told(await history(server, "Observation/o/_history", third)) == ["POST Observation/o 1"]
    await load(server.gate, [observation("o", "p", meta={"security": marks("HIV")})])
    assert (await server.get("Observation/o/_history", third)).status_code == 403
    assert told(await history(server, "Observation/_history", third)) == ["POST Observation/x 1"]
    assert "total" not in await history(server, "Observation/_history?_summary=count", third)
    assert not any("Observation/o" in one for one in told(await history(server, "_history", third)))
    await delete(server, "Observation/o")
    assert (await server.get("Observation/o/_history", third)).status_code == 403
    await load(server.gate, [observation("o", "p")])  # it may be seen again, but for the version that had the label
    assert told(await history(server, "Observation/o/_history", third)) == [
        "PUT Observation/o 4", "POST Observation/o 1",
    ]  # fmt: skip
    await delete(server, "Observation/o")
    assert told(await history(server, "Observation/_history", third))[0] == "DELETE Observation/o 5"


async def test_a_version_about_somebody_else_is_shown_to_who_may_see_both(server: Served) -> None:
    third = server.token("third-party", org="reader")
    await load(server.gate, [patient("p"), patient("q"), observation("o", "q")])
    await load(server.gate, [observation("o", "p")])
    await write(server, consent("c", "p"))
    assert told(await history(server, "Observation/o/_history", third)) == ["PUT Observation/o 2"]
    await write(server, consent("d", "q"))
    assert len(told(await history(server, "Observation/o/_history", third))) == 2
    own = server.token("patient", org="operator", patient="p")
    assert told(await history(server, "Observation/o/_history", own)) == ["PUT Observation/o 2"]


async def test_what_is_hidden_between_two_pages_is_left_out_and_nothing_comes_twice(server: Served) -> None:
    member = server.token("member", org="a")
    for at in range(6):
        await load(server.gate, [patient(f"p{at}")], organization="a", persons=False)
    first = await history(server, "Patient/_history?_count=2", member)
    assert (told(first), first["total"]) == (["POST Patient/p5 1", "POST Patient/p4 1"], 6)
    await server.gate.system(subject="t", organization="operator", purpose="t").write(
        [put(patient("p2", gender="male"))]
    )
    url = link(first, "next")
    found: list[str] = []
    while url:
        bundle = (await server.get(url, member)).json()
        found, url = found + told(bundle), link(bundle, "next")
    assert found == ["POST Patient/p3 1", "POST Patient/p2 1", "POST Patient/p1 1", "POST Patient/p0 1"]


async def test_each_version_of_a_person_is_cut_to_the_links_the_caller_may_follow(server: Served) -> None:
    await load(server.gate, [patient("p")], organization="a", persons=False)
    await load(server.gate, [patient("q")], organization="b", persons=False)
    await write(server, person("both", "p"), person("both", "p", "q"), person("both", "p", "q", gender="male"))
    own = server.token("patient", org="a", patient="p")
    bundle = await history(server, "Person/both/_history", own)
    assert [entry["resource"].get("gender") for entry in bundle["entry"]] == ["male", None, None]
    assert b"Patient/q" not in (await server.get("Person/both/_history", own)).content
    assert b"Patient/q" in (await server.get("Person/both/_history")).content
    tags = [entry["response"]["etag"] for entry in bundle["entry"]]
    assert tags[0] == (await server.get("Person/both", own)).headers["etag"]
    assert tags[2] == 'W/"1"'
    assert "-" in tags[1]
    assert told(await history(server, "Person/_history", own)) == told(bundle)


async def test_a_binary_has_a_history_for_who_reads_it_through_what_names_it(server: Served) -> None:
    binary = {"resourceType": "Binary", "id": "scan", "contentType": "text/plain", "data": "YQ=="}
    document = {
        "resourceType": "DocumentReference", "id": "d", "status": "current", "subject": {"reference": "Patient/p"},
        "content": [{"attachment": {"url": "Binary/scan"}}],
    }  # fmt: skip
    await load(server.gate, [patient("p"), binary, document])
    await load(server.gate, [{**binary, "data": "Yg=="}])
    own = server.token("patient", org="operator", patient="p")
    assert (await server.get("Binary/scan", own)).status_code == 200
    bundle = await history(server, "Binary/scan/_history", own)
    assert [entry["resource"]["data"] for entry in bundle["entry"]] == ["Yg==", "YQ=="]
    assert bundle["total"] == 2
    assert told(await history(server, "Binary/_history", own)) == []
    stranger = server.token("patient", org="operator", patient="q")
    assert (await server.get("Binary/scan/_history", stranger)).status_code == 403


async def test_a_history_is_audited_with_those_it_told_of(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p"), patient("q")])
    await delete(server, "Observation/o")
    await history(server, "Observation/o/_history")
    await server.get("Observation/o/_history", server.token("third-party", org="x"))
    rows = [row for row in await server.audit() if row.interaction == "history-instance"]
    assert [(row.outcome, row.patients, row.detail.get("count")) for row in rows] == [
        ("intent", (), None), ("complete", ("p",), 2), ("denied", (), None),
    ]  # fmt: skip
    assert rows[0].detail["resource"] == "Observation/o"

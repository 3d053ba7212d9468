"""`$everything` over real HTTP: members, parameters, paging, errors (HE-1 … HE-14)."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from fhirserver.core.model import Key
from fhirserver.policy.consenting import grant_consent
from tests.build import by, condition, encounter, load, observation, organization, patient, person, practitioner
from tests.served import Served
from tests.stores import every_kind

Bundle = dict[str, Any]
kind = every_kind


def names(bundle: Bundle) -> list[str]:
    """``Type/id`` of every entry, in order."""
    return [f"{entry['resource']['resourceType']}/{entry['resource']['id']}" for entry in bundle.get("entry", [])]


def links(bundle: Bundle) -> dict[str, str]:
    return {link["relation"]: link["url"] for link in bundle["link"]}


async def small_chart(server: Served) -> None:
    await load(
        server.gate,
        [
            practitioner("dr"),
            organization("clinic"),
            patient("p", managingOrganization={"reference": "Organization/clinic"}),
            encounter("e", "p", period={"start": "2020-01-01", "end": "2020-01-02"}),
            observation("o1", "p", performer=by("dr"), effectiveDateTime="2020-01-01T10:00:00Z"),
            observation("o2", "p", effectiveDateTime="2024-05-05"),
            condition("c", "p"),
            patient("other"),
            observation("foreign", "other", performer=by("dr")),
            practitioner("unrelated"),
        ],
    )


ALL = [
    "Person/p", "Patient/p", "Encounter/e", "Observation/o1", "Observation/o2", "Condition/c",
    "Organization/clinic", "Practitioner/dr",
]  # fmt: skip


async def test_he1_he2_the_whole_chart_comes_in_one_bundle(server: Served) -> None:
    await small_chart(server)
    answer = await server.get("Person/p/$everything", headers={"Accept": "application/json"})
    bundle = answer.json()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("application/json")
    assert names(bundle)[0] == "Person/p"
    assert sorted(names(bundle)) == sorted(ALL)
    assert names(bundle)[-2:] == ["Organization/clinic", "Practitioner/dr"]
    assert (bundle["type"], bundle["total"]) == ("searchset", len(ALL))
    assert {entry["search"]["mode"] for entry in bundle["entry"]} == {"match"}


async def test_he3_every_full_url_is_that_of_its_resource_and_resolves(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Person/p/$everything")).json()
    async with server.client() as client:
        for entry in bundle["entry"]:
            resource = entry["resource"]
            assert entry["fullUrl"] == f"{server.base}/{resource['resourceType']}/{resource['id']}"
            assert (await client.get(entry["fullUrl"])).json() == resource


async def test_a_patient_is_an_anchor_too(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Patient/p/$everything")).json()
    assert sorted(names(bundle)) == sorted(ALL)


async def test_he5_paging_in_the_seeds_form(server: Served) -> None:
    await small_chart(server)
    async with server.client() as client:
        page = (await client.get("Person/p/$everything?_count=3")).json()
        assert links(page)["self"].startswith(f"{server.base}/Person/p/$everything?_count=3&_offset=0")
        assert links(page).keys() == {"self", "first", "next", "last"}
        assert "_offset=6&" in links(page)["last"]
        seen = names(page)
        while "next" in links(page):
            before = page
            page = (await client.get(links(page)["next"])).json()
            assert page["total"] == len(ALL)
            assert names((await client.get(links(page)["previous"])).json()) == names(before)
            seen += names(page)
        assert sorted(seen) == sorted(ALL)
        assert links(page).keys() == {"self", "first", "previous", "last"}
        assert names((await client.get(links(page)["last"])).json()) == names(page)
        assert names((await client.get(links(page)["first"])).json()) == seen[:3]


@pytest.mark.parametrize("offset", range(10))
async def test_he5_a_bare_offset_counts_entries_off(server: Served, offset: int) -> None:
    await small_chart(server)
    whole = names((await server.get("Person/p/$everything")).json())
    page = (await server.get(f"Person/p/$everything?_count=2&_offset={offset}")).json()
    assert names(page) == whole[offset : offset + 2]
    assert ("next" in links(page)) == (offset + 2 < len(whole))
    assert page["total"] == len(whole)
    rest = (await server.get(f"Person/p/$everything?_offset={offset}")).json()
    assert names(rest) == whole[offset:]


async def test_he13_count_zero_is_the_total_alone(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Person/p/$everything?_count=0")).json()
    assert (bundle["total"], "entry" in bundle) == (len(ALL), False)
    assert (await server.get("Person/p/$everything?_summary=count")).json()["total"] == len(ALL)


@pytest.mark.parametrize(
    ("types", "expected"),
    [
        ("Observation", ["Observation/o1", "Observation/o2"]),
        ("Practitioner,Condition", ["Condition/c", "Practitioner/dr"]),
        ("Person", ["Person/p"]),
        ("Patient", ["Patient/p"]),
        ("Immunization", []),
    ],
)
async def test_he7_only_the_types_asked_for_come_and_supporting_ones_after_the_closure(
    server: Served, types: str, expected: list[str]
) -> None:
    await small_chart(server)
    bundle = (await server.get(f"Person/p/$everything?_type={types}")).json()
    assert names(bundle) == expected
    assert bundle["total"] == len(expected)
    paged = (await server.get(f"Person/p/$everything?_type={types}&_count=50")).json()
    assert (names(paged), paged["total"]) == (expected, len(expected))


@pytest.mark.parametrize(
    ("query", "dated"),
    [
        ("start=2024-01-01", ["Observation/o2"]),
        ("end=2020-12-31", ["Encounter/e", "Observation/o1"]),
        ("start=2020-01-02&end=2020-01-02", ["Encounter/e"]),
        ("start=2030", []),
    ],
)
async def test_care_dates_overlap_and_undated_resources_stay(server: Served, query: str, dated: list[str]) -> None:
    await small_chart(server)
    found = names((await server.get(f"Patient/p/$everything?{query}")).json())
    assert [name for name in found if name.split("/")[0] in ("Observation", "Encounter")] == dated
    assert {"Patient/p", "Condition/c"} <= set(found)


async def test_he8_since_sends_what_changed_and_what_it_refers_to(
    server: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fhirserver.http.walk.OVERLAP_MILLISECONDS", 0)
    monkeypatch.setattr("fhirserver.http.everything.OVERLAP_MILLISECONDS", 0)
    await small_chart(server)
    before = (await server.get("Person/p/$everything")).json()["timestamp"]
    await load(server.gate, [observation("o2", "p", performer=by("dr")), observation("o3", "p")])
    bundle = (await server.get("Person/p/$everything", params={"_since": before})).json()
    assert names(bundle) == ["Observation/o2", "Observation/o3", "Practitioner/dr"]
    assert links(bundle)["deleted"].startswith(f"{server.base}/Person/p/$everything?_since=")


async def test_post_with_parameters_is_the_same_as_get(server: Served) -> None:
    await small_chart(server)
    parameters = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "_type", "valueCode": "Observation"},
            {"name": "_type", "valueCode": "Condition"},
            {"name": "_count", "valueInteger": 2},
        ],
    }
    async with server.client(headers={"Content-Type": "application/fhir+json"}) as client:
        answer = await client.post("Person/p/$everything", content=json.dumps(parameters))
        assert names(answer.json()) == ["Observation/o1", "Observation/o2"]
        following = await client.get(links(answer.json())["next"])
        assert names(following.json()) == ["Condition/c"]
        assert (await client.post("Person/p/$everything", content="{")).status_code == 400
        assert (await client.post("Person/p/$everything", content='{"resourceType":"Patient"}')).status_code == 400


async def test_ndjson_ends_with_an_outcome_that_only_a_complete_answer_has(server: Served) -> None:
    await small_chart(server)
    answer = await server.get("Person/p/$everything", headers={"Accept": "application/fhir+ndjson"})
    lines = [json.loads(line) for line in answer.text.splitlines()]
    assert answer.headers["content-type"] == "application/fhir+ndjson"
    assert (lines[0]["resourceType"], lines[0]["id"]) == ("Person", "p")
    assert len(lines) == len(ALL) + 1
    assert lines[-1]["resourceType"] == "OperationOutcome"
    assert lines[-1]["issue"][0]["severity"] == "information"
    assert str(len(ALL)) in lines[-1]["issue"][0]["diagnostics"]


async def test_pages_of_ndjson_have_their_links_in_the_header(server: Served) -> None:
    await small_chart(server)
    lines: list[str] = []
    url: str | None = "Person/p/$everything?_count=3"
    async with server.client(headers={"Accept": "application/fhir+ndjson"}) as client:
        while url:
            answer = await client.get(url)
            lines += [json.loads(line)["id"] for line in answer.text.splitlines()[:-1]]
            url = answer.links["next"]["url"] if "next" in answer.links else None
    assert sorted(lines) == sorted(name.split("/")[1] for name in ALL)


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_the_answer_is_compressed_when_asked(server: Served, encoding: str) -> None:
    await small_chart(server)
    answer = await server.get("Person/p/$everything", headers={"Accept-Encoding": encoding})
    assert answer.headers["content-encoding"] == encoding
    assert len(names(answer.json())) == len(ALL)


@pytest.mark.parametrize(
    "query",
    ["_type=Foo", "_since=yesterday", "_count=-1", "_offset=x", "start=2024-13", "_summary=x", "_page=forged"],
)
async def test_he9_bad_parameters_are_a_400_naming_them(server: Served, query: str) -> None:
    await small_chart(server)
    answer = await server.get(f"Person/p/$everything?{query}")
    outcome = answer.json()
    assert (answer.status_code, outcome["resourceType"]) == (400, "OperationOutcome")
    assert query.split("=")[0] in outcome["issue"][0]["diagnostics"]


async def test_he13_unknown_parameters_are_refused_only_under_strict_handling(server: Served) -> None:
    await small_chart(server)
    lenient = await server.get("Person/p/$everything?foo=bar")
    assert (lenient.status_code, "foo" in links(lenient.json())["self"]) == (200, False)
    strict = await server.get("Person/p/$everything?foo=bar", headers={"Prefer": "handling=strict"})
    assert (strict.status_code, "foo" in strict.text) == (400, True)


async def test_elements_cuts_each_resource_and_tags_it(server: Served) -> None:
    await small_chart(server)
    bundle = (await server.get("Person/p/$everything?_type=Observation&_elements=effective,status")).json()
    first = bundle["entry"][0]["resource"]
    assert first.keys() == {"resourceType", "id", "meta", "status", "code", "effectiveDateTime"}
    assert first["meta"]["tag"][0]["code"] == "SUBSETTED"


async def test_a_resource_in_two_charts_comes_once_with_the_first(server: Served) -> None:
    await load(
        server.gate,
        [
            patient("a"),
            patient("b"),
            person("both", "b", "a"),
            observation("of-a", "a"),
            observation("of-b", "b"),
            observation("shared", "a", performer=[{"reference": "Patient/b"}]),
        ],
    )
    found = names((await server.get("Person/both/$everything")).json())
    assert found == [
        "Person/both",
        "Patient/b",
        "Observation/of-b",
        "Observation/shared",
        "Patient/a",
        "Observation/of-a",
    ]
    paged: list[str] = []
    async with server.client() as client:
        page = (await client.get("Person/both/$everything?_count=2")).json()
        paged += names(page)
        while "next" in links(page):
            page = (await client.get(links(page)["next"])).json()
            paged += names(page)
    assert paged == found


async def test_supporting_resources_are_followed_to_depth_three_and_never_to_other_people(server: Served) -> None:
    await load(
        server.gate,
        [
            *(organization(f"o{n}", partOf={"reference": f"Organization/o{n + 1}"}) for n in range(1, 5)),
            organization("o5"),
            patient("p", managingOrganization={"reference": "Organization/o1"}),
            patient("stranger"),
            {
                "resourceType": "Device",
                "id": "theirs",
                "patient": {"reference": "Patient/stranger"},
            },
            {"resourceType": "Device", "id": "own", "patient": {"reference": "Patient/p"}},
            observation("x", "p", device={"reference": "Device/theirs"}, focus=[{"reference": "Patient/stranger"}]),
            observation("y", "p", device={"reference": "Device/own"}),
        ],
    )
    found = names((await server.get("Patient/p/$everything")).json())
    members, supporting = found[:4], found[4:]
    assert sorted(members) == ["Observation/x", "Observation/y", "Patient/p", "Person/p"]
    assert supporting == ["Device/own", "Organization/o1", "Organization/o2", "Organization/o3"]


async def test_what_the_person_itself_names_comes_with_the_stream_and_with_the_pages(server: Served) -> None:
    managed = person("x", "p", managingOrganization={"reference": "Organization/keeper"})
    await load(server.gate, [organization("keeper"), patient("p"), managed])
    whole = names((await server.get("Person/x/$everything")).json())
    assert whole == ["Person/x", "Patient/p", "Organization/keeper"]
    page = (await server.get("Person/x/$everything?_count=50")).json()
    assert (names(page), page["total"]) == (whole, 3)
    assert names((await server.get("Person/x/$everything?_type=Organization")).json()) == ["Organization/keeper"]


async def test_audit_events_are_never_members(server: Served) -> None:
    event = {
        "resourceType": "AuditEvent",
        "id": "audit",
        "type": {"system": "http://dicom.nema.org/resources/ontology/DCM", "code": "110100"},
        "recorded": "2020-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "x"}},
        "entity": [{"what": {"reference": "Patient/p"}}],
    }
    await load(server.gate, [patient("p"), event])
    assert names((await server.get("Patient/p/$everything")).json()) == ["Patient/p", "Person/p"]


async def test_deleted_only_names_what_left_the_chart(server: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("walk", "everything", "departures"):
        monkeypatch.setattr(f"fhirserver.http.{module}.OVERLAP_MILLISECONDS", 0)
    await small_chart(server)
    before = (await server.get("Person/p/$everything")).json()["timestamp"]
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key("Condition", "c")])
    await load(server.gate, [observation("o2", "other"), observation("o1", "p")])
    bundle = (await server.get("Person/p/$everything", params={"_since": before, "_deleted": "only"})).json()
    assert bundle["type"] == "history"
    assert sorted(entry["request"]["url"] for entry in bundle["entry"]) == ["Condition/c", "Observation/o2"]
    assert {entry["request"]["method"] for entry in bundle["entry"]} == {"DELETE"}
    assert not any("resource" in entry for entry in bundle["entry"])


async def departed(server: Served, anchor: str, since: str, token: str | None = None) -> list[str]:
    """What `_deleted=only` names, in order of name; nothing twice."""
    bundle = (await server.get(f"{anchor}/$everything", token, params={"_since": since, "_deleted": "only"})).json()
    urls = [entry["request"]["url"] for entry in bundle.get("entry", [])]
    assert bundle["total"] == len(urls) == len(set(urls))
    return sorted(urls)


async def test_what_came_just_before_a_clients_snapshot_and_left_after_it_is_named(server: Served) -> None:
    # Within the overlap of `_since`: what a client has just pulled must not stay with it for ever.
    await small_chart(server)
    since = (await server.get("Person/p/$everything")).json()["timestamp"]
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key("Condition", "c")])
    await load(server.gate, [observation("o2", "other"), observation("o1", "p", note=[{"text": "new"}])])
    for anchor in ("Person/p", "Patient/p"):
        assert await departed(server, anchor, since) == ["Condition/c", "Observation/o2"]


async def test_everyone_who_sees_an_unlinked_chart_is_told_what_left_with_it(server: Served) -> None:
    await load(server.gate, [organization("app"), organization("north")])
    await load(server.gate, [patient("n"), patient("s"), observation("on", "n"), observation("os", "s")])
    await load(server.gate, [person("one", "n", "s"), person("other", "n")])
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await grant_consent(scoped, ["n", "s"], "app", types=["Person", "Patient", "Observation"])
    callers = [None, server.token("third-party", org="app"), server.token("member", org="operator")]
    since = (await server.get("Person/one/$everything")).json()["timestamp"]
    await load(server.gate, [person("one", "n"), person("other", "s")])
    for token in callers:
        left = await departed(server, "Person/one", since, token)
        assert [name for name in left if not name.startswith("Consent/")] == ["Observation/os", "Patient/s"]
    only_n = server.token("patient", org="operator", patient="n")
    assert await departed(server, "Person/one", since, only_n) == []


@pytest.mark.parametrize("anchor", ["Person", "Patient"])
async def test_an_operator_is_told_404_and_410(server: Served, anchor: str) -> None:
    await small_chart(server)
    assert (await server.get(f"{anchor}/none/$everything")).status_code == 404
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    await scoped.delete([Key(anchor, "p")])
    assert (await server.get(f"{anchor}/p/$everything")).status_code == 410


async def test_he9_no_token_is_a_401_with_a_challenge(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.base) as client:
        answer = await client.get("/Person/p/$everything")
    assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert answer.json()["issue"][0]["code"] == "login"
    bogus = await server.get("Person/p/$everything", token="a.b.c")
    assert bogus.status_code == 401


async def test_another_methods_and_types_are_refused(server: Served) -> None:
    async with server.client() as client:
        assert (await client.delete("Person/p/$everything")).status_code == 405
        assert (await client.get("Observation/p/$everything")).status_code == 404
        assert (await client.get("Nonsense/p")).status_code == 404

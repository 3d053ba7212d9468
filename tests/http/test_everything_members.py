"""Who belongs to a chart: members of two charts, supporting resources, and what is never a member."""

from __future__ import annotations

from tests.build import load, observation, organization, patient, person
from tests.everything import links, names
from tests.served import Served
from tests.stores import every_kind

kind = every_kind


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

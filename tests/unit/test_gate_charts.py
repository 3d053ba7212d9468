"""Which charts open at a Person or a Patient, and what a chart shows of an earlier moment."""

from __future__ import annotations

import msgspec
import pytest

from fhirserver.core.errors import Fault
from fhirserver.core.model import Key, Query
from tests.admitted import World, classes, consent, observation, patient, person, put, seen
from tests.hospitals import two_hospitals_and_a_human

w = two_hospitals_and_a_human


async def test_a_chart_opens_for_the_patients_that_are_open(w: World) -> None:
    scoped = await w.caller("third-party", "reader", interaction="$everything", type="Person")
    for anchor in ("Person/human", "Person/none", "Patient/n", "Patient/none"):
        with pytest.raises(Fault) as refused:
            await scoped.chart(Key.parse(anchor))
        assert (refused.value.status, refused.value.message) == (403, "You may not see this."), anchor
    await w.consent(consent("c", "s"))
    scoped = await w.caller("third-party", "reader", interaction="$everything", type="Person")
    opened = await scoped.chart(Key("Person", "human"))
    assert opened.patients == ("s",)
    assert opened.shown
    assert await seen(opened.scoped, "Observation") == ["Observation/s1"]
    assert opened.scoped.grant.basis == {"s": ("Consent/c",)}
    assert set(opened.scoped.grant.widened_at) == {"s"}
    everything = await (await w.caller("operator", "operator")).chart(Key("Person", "human"))
    assert everything.patients == ("n", "s")


async def test_a_chart_opens_though_its_anchor_may_not_be_shown(w: World) -> None:
    await w.consent(consent("c", "n", **{"class": classes("Observation")}))
    scoped = await w.caller("third-party", "reader", interaction="$everything")
    opened = await scoped.chart(Key("Person", "human"))
    assert (opened.patients, opened.shown) == (("n",), False)
    assert await seen(opened.scoped) == ["Observation/n1", "Practitioner/dr"]
    narrow = await w.caller("member", "north", "system/Observation.rs", interaction="$everything", type="Person")
    assert not (await narrow.chart(Key("Person", "n"))).shown


async def test_charts_answer_members_and_operators_as_the_table_says(w: World) -> None:
    await w.system("north").delete([Key("Patient", "n")])
    for caller, org, anchor, expected in (
        ("member", "north", "Patient/n", 410),
        ("member", "south", "Patient/n", 404),
        ("member", "south", "Patient/none", 404),
        ("operator", "operator", "Patient/n", 410),
        ("operator", "operator", "Patient/none", 404),
        ("patient", "north", "Patient/n", 403),
    ):
        scoped = await w.caller(
            caller, org, interaction="$everything", **({"patient": "n"} if caller == "patient" else {})
        )
        with pytest.raises(Fault) as refused:
            await scoped.chart(Key.parse(anchor))
        assert refused.value.status == expected, (caller, org, anchor)
    assert (await (await w.caller("operator", "operator")).chart(Key("Person", "human"))).patients == ("s",)


async def test_the_links_of_an_earlier_moment_are_those_of_that_moment(w: World) -> None:
    operator = await w.caller("operator", "operator")
    before = (await operator.high_water()).seq
    await w.system().write([put(person("human", "s"))])
    assert await operator.linked(Key("Person", "human"), as_of=before) == ("n", "s")
    assert await operator.linked(Key("Person", "human")) == ("s",)
    assert await (await w.caller("member", "north")).linked(Key("Person", "human"), as_of=before) == ("n",)
    assert await operator.linked(Key("Person", "none")) == ()


async def test_a_snapshot_does_not_show_what_the_current_version_hides(w: World) -> None:
    await w.consent(consent("c", "s"))
    scoped = await w.caller("third-party", "reader", interaction="$everything")
    chart = await scoped.chart(Key("Patient", "s"))
    await w.load("south", observation("s9", "s"), observation("s8", "s"), patient("t"))
    as_of = (await scoped.high_water()).seq
    await w.load("south", observation("s1", "s", "R"), observation("s9", "t"))
    await w.system("south").delete([Key("Observation", "s8")])
    query = Query(types=frozenset({"Observation"}), within="s", as_of=as_of)
    assert [each.id async for batch in chart.scoped.scan(query) for each in batch] == ["s8"]
    member = await w.caller("member", "south", interaction="search-type")
    assert len([each async for batch in member.scan(query) for each in batch]) == 4
    left = msgspec.structs.replace(query, as_of=(await scoped.high_water()).seq, departed_since=as_of, bodies=False)
    assert [each.id async for batch in chart.scoped.scan(left) for each in batch] == ["s9", "s8"]


async def test_a_hidden_patients_chart_does_not_tell_who_is_linked_to_it(w: World) -> None:
    north = await w.caller("member", "north", interaction="search-system")
    assert [each.id async for batch in north.scan(Query(within="s")) for each in batch] == []
    assert await north.count(Query(within="n", types=frozenset({"Person"}))) == 2

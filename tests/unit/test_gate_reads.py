"""Reading through the gate: who sees what, and what a refusal gives away."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import EVERYTHING, Clause, Key, Query, Visible
from fhirserver.policy.gate import Scoped, view_tag
from tests.admitted import (
    JSON,
    START,
    World,
    classes,
    condition,
    consent,
    content,
    marks,
    observation,
    patient,
    person,
    put,
    seen,
    status_of,
    world,
)


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    """Two hospitals with a patient each, a directory, and one human who is a patient of both."""
    async with world(tmp_path) as made:
        await made.load("operator", {"resourceType": "Practitioner", "id": "dr"})
        await made.load("north", patient("n"), observation("n1", "n"), condition("n2", "n"), task("n3", "n"))
        await made.load("south", patient("s"), observation("s1", "s"), observation("s2", "s", "R", "HIV"))
        await made.load("operator", person("human", "n", "s"))
        yield made


def task(id: str, of: str, **more: object) -> JSON:
    about = {"reference": f"Patient/{of}"}
    return {"resourceType": "Task", "id": id, "status": "requested", "intent": "order", "for": about, **more}


def document(id: str, of: str, binary: str, *labels: str) -> JSON:
    security = {"meta": observation("x", of, *labels)["meta"]} if labels else {}
    return {
        "resourceType": "DocumentReference",
        "id": id,
        **security,
        "status": "current",
        "subject": {"reference": f"Patient/{of}"},
        "content": [{"attachment": {"url": f"Binary/{binary}"}}],
    }


def binary(id: str, *labels: str, **more: object) -> JSON:
    security = {"meta": observation("x", "x", *labels)["meta"]} if labels else {}
    return {"resourceType": "Binary", "id": id, **security, "contentType": "text/plain", "data": "eA==", **more}


NORTH = ["Condition/n2", "Observation/n1", "Patient/n", "Person/human", "Person/n", "Practitioner/dr", "Task/n3"]
SOUTH = ["Observation/s1", "Observation/s2", "Patient/s", "Person/human", "Person/s", "Practitioner/dr"]


async def searching(w: World, caller: str, org: str, scope: str | None = None, **more: str) -> list[str]:
    scoped = await w.caller(caller, org, scope, interaction="search-system", **more)
    return await seen(await scoped.everyone())


async def test_each_class_sees_its_reach_and_nothing_else(w: World) -> None:
    assert await searching(w, "operator", "operator") == sorted({*NORTH, *SOUTH})
    assert await searching(w, "member", "north") == NORTH
    assert await searching(w, "member", "south") == SOUTH
    assert await searching(w, "member", "nobody") == ["Practitioner/dr"]
    assert await searching(w, "third-party", "reader") == ["Practitioner/dr"]
    assert await searching(w, "patient", "south", patient="s") == SOUTH
    assert await searching(w, "patient", "south", patient="unknown") == ["Practitioner/dr"]


async def test_a_third_party_sees_what_consents_open(w: World) -> None:
    await w.consent(consent("c", "n"))
    opened = ["Condition/n2", "Consent/c", "Observation/n1", "Patient/n", "Person/human", "Person/n", "Practitioner/dr"]
    assert await searching(w, "third-party", "reader") == opened
    assert await searching(w, "third-party", "another") == ["Practitioner/dr"]


async def test_scopes_narrow_every_class(w: World) -> None:
    await w.consent(consent("c", "n"))
    for caller, context in (("operator", "system"), ("member", "user"), ("third-party", "system")):
        org = "reader" if caller == "third-party" else "north"
        assert await searching(w, caller, org, f"{context}/Condition.rs") == ["Condition/n2"], caller
    assert await searching(w, "patient", "north", "patient/Condition.rs", patient="n") == ["Condition/n2"]


@pytest.mark.parametrize(
    ("caller", "scope"),
    [
        ("operator", ""),
        ("operator", "patient/*.rs"),
        ("member", "patient/*.cruds"),
        ("patient", "system/*.rs"),
        ("patient", "user/*.rs"),
        ("third-party", "openid"),
        ("third-party", "patient/Observation.rs?category=laboratory"),
    ],
)
async def test_scopes_that_do_not_fit_the_class_allow_nothing(w: World, caller: str, scope: str) -> None:
    with pytest.raises(Fault) as refused:
        await w.caller(caller, "north", scope, **({"patient": "n"} if caller == "patient" else {}))
    assert refused.value.kind is Kind.FORBIDDEN


@pytest.mark.parametrize(
    ("scope", "interaction", "type_", "allowed"),
    [
        ("system/Observation.r", "read", "Observation", True),
        ("system/Observation.r", "vread", "Observation", True),
        ("system/Observation.r", "read", "Condition", False),
        ("system/Observation.r", "search-type", "Observation", False),
        ("system/Observation.s", "read", "Observation", False),
        ("system/Observation.s", "search-type", "Observation", True),
        ("system/Observation.r", "$everything", "Patient", False),
        ("system/Observation.s", "$everything", "Patient", False),
        ("system/Observation.rs", "$everything", "Patient", True),
        ("system/Observation.rs", "create", "Observation", False),
        ("system/Observation.c", "create", "Observation", True),
        ("system/Observation.c", "update", "Observation", False),
        ("system/Observation.u", "patch", "Observation", True),
        ("system/Observation.d", "delete", "Observation", True),
        ("system/Observation.d", "transaction", None, True),
        ("system/Observation.r", "anything-new", "Observation", False),
    ],
)
async def test_an_interaction_needs_its_scope(
    w: World, scope: str, interaction: str, type_: str | None, allowed: bool
) -> None:
    if allowed:
        assert await w.caller("member", "north", scope, interaction=interaction, type=type_)
        return
    with pytest.raises(Fault) as refused:
        await w.caller("member", "north", scope, interaction=interaction, type=type_)
    assert refused.value.kind is Kind.FORBIDDEN


async def test_the_answers_table(w: World) -> None:
    await w.system("north").delete([Key("Condition", "n2")])
    await w.consent(consent("c", "n", **{"class": classes("Observation", "Condition")}))
    table = {
        ("operator", "operator"): (404, 410, 200, 200),
        ("member", "north"): (404, 410, 200, 404),
        ("member", "south"): (404, 404, 404, 200),
        ("third-party", "reader"): (403, 403, 200, 403),
        ("third-party", "another"): (403, 403, 403, 403),
    }
    asked = ("Condition/nothing", "Condition/n2", "Observation/n1", "Observation/s1")
    for (caller, org), expected in table.items():
        scoped = await w.caller(caller, org)
        assert tuple([await status_of(scoped, each) for each in asked]) == expected, (caller, org)
    own = await w.caller("patient", "north", patient="n")
    assert [await status_of(own, each) for each in asked] == [403, 403, 200, 403]


async def test_a_third_party_learns_nothing_from_a_refusal(w: World) -> None:
    await w.system("north").delete([Key("Condition", "n2")])
    await w.load("north", binary("b"))
    scoped = await w.caller("third-party", "reader")
    told = set()
    for key in ("Observation/n1", "Observation/none", "Condition/n2", "Binary/b", "Binary/none", "Person/human"):
        with pytest.raises(Fault) as refused:
            await scoped.read(Key.parse(key))
        told.add((refused.value.kind, refused.value.message, refused.value.issues))
    assert len(told) == 1


async def test_an_old_version_is_admitted_only_if_it_and_the_current_one_are(w: World) -> None:
    await w.consent(consent("c", "s"))
    await w.load("south", observation("s1", "s", "R"), observation("s2", "s"))
    scoped = await w.caller("third-party", "reader")
    assert await status_of(scoped, "Observation/s1", 1) == 403, "the current version hides what the old one shows"
    assert await status_of(scoped, "Observation/s2", 1) == 403, "the old version was hidden"
    assert await status_of(scoped, "Observation/s2", 2) == 200
    member = await w.caller("member", "south")
    assert [await status_of(member, "Observation/s2", version) for version in (1, 2, 3)] == [200, 200, 404]


async def test_a_resource_about_two_patients_needs_both(w: World) -> None:
    group = {
        "resourceType": "Group",
        "id": "g",
        "type": "person",
        "actual": True,
        "member": [{"entity": {"reference": f"Patient/{each}"}} for each in ("a", "b")],
    }
    await w.load("north", patient("a"), patient("b"), group)
    scoped = await w.caller("third-party", "reader")
    await w.consent(consent("1", "a", **{"class": classes("Group", "Observation")}))
    assert await status_of(scoped, "Group/g") == 403
    await w.consent(consent("2", "b"))
    assert await status_of(scoped, "Group/g") == 403, "the second Consent does not name Group"
    await w.consent(consent("3", "b", project="x", **{"class": classes("Group")}))
    scoped = await w.caller("third-party", "reader")
    assert await status_of(scoped, "Group/g") == 200


async def test_a_clinical_resource_about_nobody_is_closed(w: World) -> None:
    questionnaire = {"resourceType": "Questionnaire", "id": "q", "status": "active"}
    await w.load("north", questionnaire)
    await w.consent(consent("c", "n"))
    assert await status_of(await w.caller("third-party", "reader"), "Questionnaire/q") == 403
    assert await status_of(await w.caller("patient", "north", patient="n"), "Questionnaire/q") == 403
    assert await status_of(await w.caller("member", "north"), "Questionnaire/q") == 200


async def test_a_consent_is_shown_to_whom_it_names_only(w: World) -> None:
    await w.consent(consent("c", "n"))
    await w.consent(consent("d", "n", "another"))
    assert await status_of(await w.caller("third-party", "reader"), "Consent/c") == 200
    assert await status_of(await w.caller("third-party", "reader"), "Consent/d") == 403


async def test_a_binary_is_read_through_an_admitted_resource_that_names_it(w: World) -> None:
    await w.load("north", binary("b"), document("d", "n", "b"), binary("unnamed"))
    scoped = await w.caller("third-party", "reader")
    assert await status_of(scoped, "Binary/b") == 403
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader")
    assert [await status_of(scoped, f"Binary/{id}") for id in ("b", "unnamed")] == [200, 403]
    own = await w.caller("patient", "north", patient="n")
    assert [await status_of(own, f"Binary/{id}") for id in ("b", "unnamed")] == [200, 403]
    assert await status_of(await w.caller("patient", "south", patient="s"), "Binary/b") == 403


async def test_a_restricted_binary_needs_the_label_too(w: World) -> None:
    await w.load("north", binary("b", "R", "HIV"), document("d", "n", "b"))
    await w.consent(consent("c", "n"))
    assert await status_of(await w.caller("third-party", "reader"), "Binary/b") == 403
    await w.consent(consent("c", "n", securityLabel=marks("N", "HIV")))
    assert await status_of(await w.caller("third-party", "reader"), "Binary/b") == 200


async def test_naming_anothers_binary_does_not_open_it(w: World) -> None:
    assert (
        await w.load("north", binary("b"), binary("own", securityContext={"reference": "Patient/n"})) == ["created"] * 2
    )
    loaded = await w.load("south", document("d", "s", "b"))
    assert loaded == ["rejected: refers to Binary/b, which belongs to another organisation"]
    assert await w.load("south", document("e", "s", "later")) == ["created"]
    assert await w.load("north", binary("later")) == ["created"]
    await w.consent(consent("c", "s"))
    scoped = await w.caller("third-party", "reader")
    assert [await status_of(scoped, f"Binary/{id}") for id in ("b", "later", "own")] == [403, 403, 403]
    assert await status_of(await w.caller("member", "south"), "Binary/later") == 404


async def test_a_provenance_is_open_only_through_all_its_targets(w: World) -> None:
    def provenance(id: str, *targets: str) -> JSON:
        return {
            "resourceType": "Provenance",
            "id": id,
            "target": [{"reference": each} for each in targets],
            "recorded": "2027-01-01T00:00:00Z",
            "agent": [{"who": {"reference": "Practitioner/dr"}}],
        }

    await w.load("north", patient("m"), observation("m1", "m"), observation("n9", "n", "R", "HIV"))
    await w.load(
        "north",
        provenance("one", "Observation/n1"),
        provenance("two", "Observation/n1", "Observation/m1"),
        provenance("lost", "Observation/n1", "Observation/nowhere"),
        provenance("far", "https://elsewhere.example/Observation/1"),
        provenance("labelled", "Observation/n9"),
    )
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader")
    answers = [await status_of(scoped, f"Provenance/{id}") for id in ("one", "two", "lost", "far", "labelled")]
    assert answers == [200, 403, 403, 403, 403]
    assert await w.load(
        "north", observation("nowhere", "n"), provenance("lost", "Observation/n1", "Observation/nowhere")
    ) == [
        "created",
        "unchanged",
    ]
    assert await status_of(scoped, "Provenance/lost") == 200, "understood once its target is there"


async def test_a_person_is_cut_to_the_links_that_may_be_followed(w: World) -> None:
    await w.consent(consent("c", "n"))
    key = Key("Person", "human")
    whole = await (await w.caller("operator", "operator")).read(key)
    assert view_tag(whole) is None
    for scoped in (
        await w.caller("third-party", "reader"),
        await w.caller("member", "north"),
        await w.caller("patient", "north", patient="n"),
    ):
        view = await scoped.read(key)
        body = await content(scoped, view)
        assert body["link"] == [{"target": {"reference": "Patient/n"}}]
        assert [tag["code"] for tag in body["meta"]["tag"]] == ["SUBSETTED"]
        assert (view.version, view.seq) == (whole.version, whole.seq)
        assert view_tag(view)
        (found,) = [each async for batch in scoped.scan(Query(keys=(key,))) for each in batch] or [view]
        assert found.body == view.body, "a search shows the same view"
        opened = await scoped.chart(key)
        assert (opened.patients, opened.anchor.body) == (("n",), view.body)


async def test_cutting_touches_nothing_else(w: World) -> None:
    raw = (
        b'{"resourceType":"Person","id":"odd","name":[{"family":"\\u00e9\\/"}],"link":'
        b'[{"target":{"reference":"Patient/s"}},{"assurance":"level2","target":{"reference":"Patient/n"}},'
        b'{"target":{"reference":"https://elsewhere.example/Patient/1"}}],"extension":'
        b'[{"url":"urn:x","valueDecimal":1.00},{"url":"urn:y","valueDecimal":3e2}]}'
    )
    given = put(msgspec.json.decode(raw))
    await w.system().write([msgspec.structs.replace(given, raw=raw)])
    view = await (await w.caller("member", "north")).read(Key("Person", "odd"))
    body = view.body or b""
    assert b'"family":"\\u00e9\\/"' in body
    assert b'"link":[{"assurance":"level2","target":{"reference":"Patient/n"}}]' in body
    assert body.endswith(b'"valueDecimal":1.00},{"url":"urn:y","valueDecimal":3e2}]}')
    assert b"elsewhere" not in body
    assert b"Patient/s" not in body


async def test_a_person_cannot_be_found_by_a_link_that_is_cut(w: World) -> None:
    north = await w.caller("member", "north", interaction="search-type")

    async def found(term: str) -> int:
        return await north.count(Query(types=frozenset({"Person"}), terms=((term,),)))

    assert await found("Person|link=Patient/n") == 2
    assert await found("Person|link=Patient/s") == 0
    assert await found("*reference=Patient/n") == 2
    assert await found("*reference=Patient/s") == 0
    assert await north.count(Query(terms=(("*reference=Patient/n", "*reference=Patient/s"),))) > 0


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
    assert opened.scoped.grant.basis == ("Consent/c",)
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


async def test_withdrawal_bites_on_the_next_request_and_in_a_running_answer(w: World) -> None:
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader", interaction="$everything")
    running = (await scoped.chart(Key("Patient", "n"))).scoped
    await running.still_admitted()
    await w.load("north", patient("unrelated"))
    await running.still_admitted()
    await w.consent({**consent("c", "n"), "status": "inactive"})
    with pytest.raises(Fault) as refused:
        await running.still_admitted()
    assert refused.value.kind is Kind.FORBIDDEN
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 403
    await w.consent(consent("c", "n"))
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 200


async def test_a_consent_ends_by_itself(w: World) -> None:
    await w.consent(consent("c", "n", period={"end": "2027-01-15"}))
    token = w.token("third-party", "reader", seconds=7 * 86_400)
    scoped = await w.gate.admit(token, interaction="$everything")
    running = (await scoped.chart(Key("Patient", "n"))).scoped
    await running.still_admitted()
    w.now = START + 2 * 86_400_000
    with pytest.raises(Fault):
        await running.still_admitted()
    assert await status_of(await w.gate.admit(token, interaction="read"), "Observation/n1") == 403


async def test_a_token_ends_in_a_running_answer(w: World) -> None:
    running = await w.caller("member", "north", seconds=10)
    await running.still_admitted()
    w.now += 10_000
    with pytest.raises(Fault) as refused:
        await running.still_admitted()
    assert refused.value.kind is Kind.UNAUTHENTICATED


async def test_a_revoked_token_is_refused_at_once(w: World) -> None:
    token = w.token("member", "north", token_id="stolen")
    running = await w.gate.admit(token, interaction="read")
    await w.gate.revoke("stolen", w.now + 3_600_000)
    await w.gate.revoke("stolen", w.now + 3_600_000)
    with pytest.raises(Fault):
        await running.still_admitted()
    with pytest.raises(Fault) as refused:
        await w.gate.admit(token, interaction="read")
    assert refused.value.kind is Kind.UNAUTHENTICATED
    assert await w.gate.admit(w.token("member", "north", token_id="other"), interaction="read")


async def test_one_callers_answer_is_never_anothers(w: World) -> None:
    await w.consent(
        consent("c", "n", purpose=[{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}])
    )
    for purpose, expected in (("TREAT", 200), ("HPAYMT", 403), (None, 403), ("T-TRTMNT", 200)):
        scoped = await w.caller("third-party", "reader", purpose=purpose)
        assert await status_of(scoped, "Observation/n1") == expected, purpose
    assert await status_of(await w.caller("third-party", "another", purpose="TREAT"), "Observation/n1") == 403


async def test_a_handlers_own_idea_of_what_is_visible_counts_for_nothing(w: World) -> None:
    scoped = await w.caller("member", "north", interaction="search-system")
    query = Query(visible=EVERYTHING)
    assert [str(each.key) async for batch in scoped.scan(query) for each in batch] != []
    assert await scoped.count(query) == len(NORTH)
    assert sum(tally.count for tally in await scoped.tally(query)) == len(NORTH)
    assert sorted([str(each.key) async for batch in scoped.scan(query) for each in batch]) == NORTH


async def test_a_store_that_gives_too_much_is_an_alarm_and_no_answer(
    w: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scoped = await w.caller("member", "north", interaction="search-system")
    scan = w.store.scan

    def careless(query: Query, batch: int = 256) -> object:
        return scan(msgspec.structs.replace(query, visible=Visible((Clause(),))), batch)

    monkeypatch.setattr(w.store, "scan", careless)
    with pytest.raises(Fault) as failed:
        await seen(scoped)
    assert failed.value.kind is Kind.INTERNAL
    assert "withheld" in caplog.text
    assert "Observation" not in caplog.text


async def test_supporting_resources_are_never_about_somebody_else(w: World) -> None:
    def device(id: str, of: str | None) -> JSON:
        return {"resourceType": "Device", "id": id, **({"patient": {"reference": f"Patient/{of}"}} if of else {})}

    await w.load("north", device("dn", "n"), device("d0", None), binary("b"))
    await w.load("south", device("ds", "s"), device("d9", None))
    await w.load("operator", device("shared", None))
    keys = [Key.parse(each) for each in ("Practitioner/dr", "Device/dn", "Device/ds", "Device/d0", "Device/d9")]
    keys += [Key.parse(each) for each in ("Device/shared", "Binary/b", "Binary/none", "Observation/n1", "Patient/n")]

    async def given(scoped: Scoped, custodian: str, *patients: str) -> list[str]:
        found = await scoped.supporting(keys, custodians=frozenset({custodian}), patients=frozenset(patients))
        return [str(record.key) for record in found]

    north = ["Practitioner/dr", "Device/dn", "Device/d0", "Device/shared", "Binary/b"]
    assert await given(await w.caller("operator", "operator"), "north", "n") == north
    assert await given(await w.caller("member", "north"), "north", "n") == north
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader", interaction="$everything")
    assert await given((await scoped.chart(Key("Patient", "n"))).scoped, "north", "n") == north
    assert await given(scoped, "north", "n") == ["Practitioner/dr"], "a third party without a patient has no more"
    bare = await (await w.caller("operator", "operator")).supporting(
        keys, custodians=frozenset({"north"}), patients=frozenset({"n"}), bodies=False
    )
    assert [record.body for record in bare] == [None] * len(north)


async def test_what_a_permit_opens_by_label_is_found_by_a_scan_too(w: World) -> None:
    await w.load("south", observation("s3", "s", "R"), observation("s4", "s", "MH"), observation("s5", "s", "HIV"))
    await w.consent(consent("c", "s", securityLabel=marks("N", "HIV"), **{"class": classes("Observation")}))
    shown = ["Observation/s1", "Observation/s2", "Observation/s5", "Practitioner/dr"]
    assert await searching(w, "third-party", "reader") == shown
    await w.consent(consent("c", "s", securityLabel=marks("HIV"), **{"class": classes("Observation")}))
    assert await searching(w, "third-party", "reader") == ["Observation/s2", "Observation/s5", "Practitioner/dr"]


async def test_a_body_is_given_only_for_what_was_admitted(w: World) -> None:
    hidden = await (await w.caller("operator", "operator")).read(Key("Observation", "s1"))
    scoped = await w.caller("member", "north")
    with pytest.raises(Fault) as failed:
        await content(scoped, msgspec.structs.replace(hidden, body=None))
    assert failed.value.kind is Kind.INTERNAL


async def test_an_ingested_consent_is_data_unless_it_was_trusted(w: World) -> None:
    assert await w.load("north", consent("c", "n")) == ["created"]
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 403
    assert await w.load("north", consent("c", "n"), trust_consents=True) == ["updated"]
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 200
    assert await w.load("north", consent("c", "n")) == ["unchanged"]
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 200
    loaded = await w.load("north", {**consent("c", "n"), "status": "inactive"})
    assert loaded == ["rejected: decides access here and is not replaced by imported data"]
    assert await w.load("north", {**consent("c", "n"), "status": "inactive"}, trust_consents=True) == ["updated"]
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 403


async def test_a_consent_in_a_strangers_custody_opens_nothing(w: World) -> None:
    # Written before its patient came, so that no guard was in the way.
    assert await w.load("south", consent("c", "later"), trust_consents=True) == ["created"]
    loaded = await w.load("north", patient("later"), observation("l1", "later"))
    assert loaded[0] == "rejected: another organisation holds resources about this Patient"
    assert await status_of(await w.caller("third-party", "reader"), "Observation/l1") == 403


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


async def test_only_system_work_imports(w: World) -> None:
    for caller in ("member", "third-party"):
        scoped = await w.writer("north", caller)
        with pytest.raises(Fault) as refused:
            await scoped.load([put(patient("x"))])
        assert refused.value.kind is Kind.FORBIDDEN

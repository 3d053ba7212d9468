"""What Consents open to third parties, and which Consents count."""

from __future__ import annotations

from tests.admitted import World, classes, consent, marks, observation, patient, status_of
from tests.hospitals import searching, two_hospitals_and_a_human

w = two_hospitals_and_a_human


async def test_a_third_party_sees_what_consents_open(w: World) -> None:
    await w.consent(consent("c", "n"))
    opened = ["Condition/n2", "Consent/c", "Observation/n1", "Patient/n", "Person/human", "Person/n", "Practitioner/dr"]
    assert await searching(w, "third-party", "reader") == opened
    assert await searching(w, "third-party", "another") == ["Practitioner/dr"]


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


async def test_one_callers_answer_is_never_anothers(w: World) -> None:
    await w.consent(
        consent("c", "n", purpose=[{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}])
    )
    for purpose, expected in (("TREAT", 200), ("HPAYMT", 403), (None, 403), ("T-TRTMNT", 200)):
        scoped = await w.caller("third-party", "reader", purpose=purpose)
        assert await status_of(scoped, "Observation/n1") == expected, purpose
    assert await status_of(await w.caller("third-party", "another", purpose="TREAT"), "Observation/n1") == 403


async def test_what_a_permit_opens_by_label_is_found_by_a_scan_too(w: World) -> None:
    await w.load("south", observation("s3", "s", "R"), observation("s4", "s", "MH"), observation("s5", "s", "HIV"))
    await w.consent(consent("c", "s", securityLabel=marks("N", "HIV"), **{"class": classes("Observation")}))
    shown = ["Observation/s1", "Observation/s2", "Observation/s5", "Practitioner/dr"]
    assert await searching(w, "third-party", "reader") == shown
    await w.consent(consent("c", "s", securityLabel=marks("HIV"), **{"class": classes("Observation")}))
    assert await searching(w, "third-party", "reader") == ["Observation/s2", "Observation/s5", "Practitioner/dr"]


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

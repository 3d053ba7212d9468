"""Who may write and delete what: scopes, classes of caller, and what decides access."""

from __future__ import annotations

from fhirserver.core.errors import Kind
from fhirserver.core.model import Key
from fhirserver.policy.gate import Scoped
from tests.admitted import JSON, World, condition, consent, observation, patient, person, put, status_of
from tests.hospitals import binary, facts_of, refusal, two_hospitals

w = two_hospitals


async def test_each_letter_is_needed(w: World) -> None:
    reading = await w.caller("member", "north", "system/*.rs")
    assert await refusal(reading.write([put(observation("x", "n"))])) is Kind.FORBIDDEN
    creating = await w.caller("member", "north", "system/Observation.c", interaction="create")
    assert await refusal(creating.write([put(observation("n1", "n"))])) is Kind.FORBIDDEN
    assert await refusal(creating.write([put(condition("x", "n"))])) is Kind.FORBIDDEN
    assert await creating.write([put(observation("x", "n"))])
    assert await refusal((await w.caller("member", "north")).delete([Key("Observation", "n1")])) is Kind.FORBIDDEN


async def test_a_third_party_writes_nothing(w: World) -> None:
    scoped = await w.writer("reader", "third-party")
    await w.consent(consent("c", "n"))
    for resource in (observation("x", "n"), patient("mine"), consent("own", "n"), consent("c", "n")):
        assert await refusal(scoped.write([put(resource)])) is Kind.FORBIDDEN
    assert await refusal(scoped.delete([Key("Consent", "c")])) is Kind.FORBIDDEN


async def test_a_beneficiary_does_not_write_its_own_consent(w: World) -> None:
    member = await w.writer("reader")
    assert await refusal(member.write([put(consent("c", "n"))])) is Kind.CONFLICT
    assert await w.load("reader", consent("c", "n"), trust_consents=True) != ["created"]
    assert await status_of(await w.caller("third-party", "reader"), "Observation/n1") == 403


async def test_the_custodian_the_operator_and_the_patient_give_consent(w: World) -> None:
    writers: list[tuple[Scoped, str]] = [
        (await w.writer("north"), "n"),
        (await w.writer("operator", "operator"), "n"),
        (await w.writer("elsewhere", "patient", patient="n"), "n"),
    ]
    for at, (scoped, of) in enumerate(writers):
        await scoped.write([put(consent(f"c{at}", of, f"reader{at}"))])
        assert (await facts_of(w, f"Consent/c{at}")).custodian == "north", "its patient's custodian keeps it"
        assert await status_of(await w.caller("third-party", f"reader{at}"), "Observation/n1") == 200
        await scoped.delete([Key("Consent", f"c{at}")])
        assert await status_of(await w.caller("third-party", f"reader{at}"), "Observation/n1") == 403


async def test_a_patient_writes_consents_about_itself_and_nothing_else(w: World) -> None:
    own = await w.writer("north", "patient", patient="n")
    for resource in (observation("x", "n"), patient("n"), consent("c", "s"), person("n", "n")):
        assert await refusal(own.write([put(resource)])) is Kind.FORBIDDEN
    assert await refusal(own.delete([Key("Observation", "n1")])) is Kind.FORBIDDEN
    await w.consent(consent("theirs", "s"))
    assert await refusal(own.write([put(consent("theirs", "n"))])) is Kind.FORBIDDEN
    assert await refusal(own.delete([Key("Consent", "theirs")])) is Kind.FORBIDDEN


async def test_a_patients_consent_does_not_open_what_is_read_by_being_named(w: World) -> None:
    """It is kept by the custodian, whose resources open the Binaries that they name."""
    await w.load("north", binary("secret"), {"resourceType": "Device", "id": "pump"})
    own = await w.writer("elsewhere", "patient", patient="n")
    named: tuple[JSON, ...] = (
        {"sourceAttachment": {"url": "Binary/secret"}},
        {"extension": [{"url": "urn:x", "valueReference": {"reference": "Device/pump"}}]},
        {"sourceAttachment": {"url": "Binary/yet-to-come"}},
    )
    for more in named:
        assert await refusal(own.write([put({**consent("c", "n"), **more})])) is Kind.FORBIDDEN
    scanned = {**consent("c", "n"), **named[0]}
    await (await w.writer("north")).write([put(scanned)])
    assert await own.write([put({**scanned, "status": "inactive"})]), "what its custodian named may stay"
    assert await refusal(own.write([put({**scanned, **named[1]})])) is Kind.FORBIDDEN


async def test_labels_are_taken_from_a_patients_consent_by_its_custodian_alone(w: World) -> None:
    north, own = await w.writer("north"), await w.writer("elsewhere", "patient", patient="n")
    labelled = {**consent("c", "n"), "meta": observation("x", "n", "R", "HIV")["meta"]}
    await north.write([put(labelled)])
    assert await own.write([put({**labelled, "status": "inactive"})])
    assert await refusal(own.write([put(consent("c", "n"))])) is Kind.FORBIDDEN
    await own.delete([Key("Consent", "c")])
    assert await refusal(own.write([put(consent("c", "n"))])) is Kind.FORBIDDEN, "nor by way of its deletion"
    assert await north.write([put(consent("c", "n"))])


async def test_audit_events_are_written_by_the_server_alone(w: World) -> None:
    event: JSON = {
        "resourceType": "AuditEvent",
        "id": "e",
        "type": {"code": "rest"},
        "recorded": "2027-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "x"}},
    }
    operator = await w.writer("operator", "operator")
    assert await refusal(operator.write([put(event)])) is Kind.METHOD_NOT_ALLOWED
    assert await w.load("north", event) == ["created"]
    assert await refusal(operator.delete([Key("AuditEvent", "e")])) is Kind.METHOD_NOT_ALLOWED


async def test_deletion_is_for_the_custodian_and_the_operator(w: World) -> None:
    await w.system("north").write([put(observation("n1", "n"), parties=("south",))])
    south = await w.writer("south")
    assert await refusal(south.delete([Key("Observation", "n1")])) is Kind.FORBIDDEN, "a party sees it only"
    assert await refusal(south.delete([Key("Patient", "n")])) is Kind.NOT_FOUND, "and learns nothing of the rest"
    north = await w.writer("north")
    assert await refusal(north.delete([Key("Observation", "n1"), Key("Observation", "none")])) is Kind.NOT_FOUND
    (tombstone,) = await north.delete([Key("Observation", "n1")])
    assert tombstone.deleted
    assert await north.delete([Key("Observation", "n1")]) == [tombstone], "a second time changes nothing"

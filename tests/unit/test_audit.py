"""The audit trail: intent before, outcome after, denials, and no identifying value in any row."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from fhirserver.core.errors import Fault, Kind, Unavailable
from fhirserver.core.model import AuditRow, Key
from fhirserver.policy.audit import identifying, redact
from fhirserver.policy.gate import CallerClass, Principal, Scoped
from fhirserver.policy.scopes import Scopes
from tests.admitted import World, consent, observation, patient, put, seen, status_of, world


@pytest.fixture
async def w(tmp_path: Path) -> AsyncIterator[World]:
    async with world(tmp_path) as made:
        await made.load("north", patient("n"), observation("n1", "n"))
        yield made


async def rows(w: World, interaction: str) -> list[AuditRow]:
    return [row for row in await w.audit() if row.interaction == interaction]


async def break_off(scoped: Scoped, interaction: str, before: Callable[[], None] = lambda: None) -> None:
    async with scoped.disclosure(interaction=interaction) as note:
        note.count = 1
        before()
        raise RuntimeError("the socket broke")


async def test_the_intent_is_durable_before_the_body_and_the_outcome_follows(w: World) -> None:
    await w.consent(consent("c", "n"))
    scoped = await w.caller("third-party", "reader", interaction="$everything", purpose="TREAT")
    chart = await scoped.chart(Key("Patient", "n"))
    async with chart.scoped.disclosure(
        interaction="$everything", patients=chart.patients, detail={"query": ""}
    ) as note:
        (intent,) = await rows(w, "$everything")
        note.count = 3
        note.complete()
    _, outcome = await rows(w, "$everything")
    assert (intent.outcome, intent.patients, intent.organization, intent.subject) == (
        "intent",
        ("n",),
        "reader",
        "client",
    )
    assert intent.detail["purpose"] == "TREAT"
    assert intent.detail["consents"] == ["Consent/c"]
    assert intent.detail["class"] == "third-party"
    assert (outcome.outcome, outcome.intent, outcome.detail["count"]) == ("complete", intent.id, 3)


async def test_an_answer_that_ends_early_is_cut_and_its_error_is_not_hidden(w: World) -> None:
    scoped = await w.caller("member", "north")
    with pytest.raises(RuntimeError, match="the socket broke"):
        await break_off(scoped, "search-type")
    async with scoped.disclosure(interaction="search-type"):
        pass
    assert [row.outcome for row in await rows(w, "search-type")] == ["intent", "cut", "intent", "cut"]


async def test_a_cancelled_answer_leaves_its_outcome(w: World) -> None:
    scoped = await w.caller("member", "north")
    entered = asyncio.Event()

    async def answer() -> None:
        async with scoped.disclosure(interaction="search-type") as note:
            note.count = 7
            entered.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(answer())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    _, outcome = await rows(w, "search-type")
    assert (outcome.outcome, outcome.detail["count"]) == ("cut", 7)


async def test_a_second_cancellation_does_not_lose_the_outcome(w: World) -> None:
    scoped = await w.caller("member", "north")
    entered, release = asyncio.Event(), asyncio.Event()
    append = w.store.audit.append

    class Slow:
        async def append(self, rows: list[AuditRow]) -> None:
            if rows[0].outcome == "cut":
                await release.wait()
            await append(rows)

    scoped._trail._log = Slow()  # type: ignore[assignment]  # the store's own log, held up

    async def answer() -> None:
        async with scoped.disclosure(interaction="search-type"):
            entered.set()
            await asyncio.sleep(3600)

    task = asyncio.create_task(answer())
    await entered.wait()
    task.cancel()
    await asyncio.sleep(0.01)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    release.set()
    for _ in range(100):
        if len(await rows(w, "search-type")) == 2:
            break
        await asyncio.sleep(0.01)
    assert [row.outcome for row in await rows(w, "search-type")] == ["intent", "cut"]


async def test_what_cannot_be_audited_is_not_disclosed(w: World, monkeypatch: pytest.MonkeyPatch) -> None:
    scoped = await w.caller("member", "north")

    async def fail(rows: object) -> None:
        raise Unavailable

    monkeypatch.setattr(w.store.audit, "append", fail)
    disclosed = False
    with pytest.raises(Unavailable):
        async with scoped.disclosure(interaction="read"):
            disclosed = True
    assert not disclosed


async def test_an_outcome_that_cannot_be_written_is_an_alarm(
    w: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scoped = await w.caller("member", "north")

    async def fail(rows: object) -> None:
        raise Unavailable

    with pytest.raises(RuntimeError, match="the socket broke"):
        await break_off(scoped, "read", lambda: monkeypatch.setattr(w.store.audit, "append", fail))
    await asyncio.sleep(0)
    assert "could not be written" in caplog.text


async def test_a_refusal_is_one_row(w: World) -> None:
    scoped = await w.caller("third-party", "reader")
    await status_of(scoped, "Observation/n1")
    await status_of(scoped, "Observation/none")
    with pytest.raises(Fault):
        await w.caller("third-party", "reader", "patient/Observation.c", type="Observation")
    denied = [row for row in await w.audit() if row.outcome == "denied"]
    assert [row.detail.get("resource") or row.detail["reason"] for row in denied] == [
        "Observation/n1",
        "Observation/none",
        "scope",
    ]


async def test_a_bad_token_leaves_no_row(w: World) -> None:
    before = len(await w.audit())
    with pytest.raises(Fault):
        await w.gate.admit("bogus", interaction="read")
    assert len(await w.audit()) == before


async def test_a_write_and_its_row_are_one_commit(w: World) -> None:
    writer = await w.writer("north")
    before = len(await w.audit())
    await writer.write([put(observation("x", "n"))])
    await writer.delete([Key("Observation", "x")])
    with pytest.raises(Fault) as refused:
        await (await w.writer("south")).write([put(observation("y", "n"))])
    assert refused.value.kind is Kind.CONFLICT
    told = [(row.interaction, row.outcome, row.patients) for row in (await w.audit())[before:]]
    assert told == [("create", "complete", ("n",)), ("delete", "complete", ("n",)), ("create", "denied", ())]


async def test_whose_data_was_read_is_told_where_the_caller_did_not_ask_for_a_patient(w: World) -> None:
    scoped = await w.caller("member", "north", interaction="search-type")
    async with scoped.disclosure(interaction="search-type") as note:
        await seen(scoped, "Observation")
        note.complete()
    assert [row.patients for row in await rows(w, "search-type")] == [(), ("n",)]
    await scoped.read(Key("Observation", "n1"))


async def test_issuing_a_token_is_audited(w: World) -> None:
    principal = Principal(
        subject="me",
        organization="operator",
        caller=CallerClass.OPERATOR,
        scopes=Scopes("system/*.rs"),
        until=w.now + 60_000,
        purpose="support",
    )
    token = await w.gate.issue(principal)
    scoped = await w.gate.admit(token, interaction="read")
    (row,) = await rows(w, "token")
    assert row.detail["token"] == scoped.principal.token_id
    assert row.detail["purpose"] == "support"
    assert token not in str(row)


@pytest.mark.parametrize(
    "name",
    ["identifier", "name", "birthdate", "phone", "email", "address-city", "name:exact", "subject:Patient.birthdate",
     "patient.identifier", "patient:identifier", "_has:Observation:patient:identifier", "_content", "_filter"],
)  # fmt: skip
def test_identifying_parameters_are_recognised_wherever_they_stand(name: str) -> None:
    assert identifying(name)


@pytest.mark.parametrize("name", ["code", "date", "_id", "status", "patient", "_lastUpdated", "resource", "reason"])
def test_other_parameters_are_kept(name: str) -> None:
    assert not identifying(name)


def test_values_are_hashed_under_the_pepper_and_equal_values_stay_equal() -> None:
    told = redact({"identifier": ["mrn|123", "mrn|9"], "code": "8480-6"}, b"pepper")
    assert told["code"] == "8480-6"
    assert "123" not in str(told)
    assert told == redact({"identifier": ["mrn|123", "mrn|9"], "code": "8480-6"}, b"pepper")
    assert told != redact({"identifier": ["mrn|123", "mrn|9"], "code": "8480-6"}, b"other")


@pytest.mark.parametrize("prefix", ["", "?", "Patient?"])
def test_a_query_string_is_redacted_parameter_by_parameter(prefix: str) -> None:
    told = str(
        redact({"query": f"{prefix}birthdate=1970-01-01&_type=Patient&name=M%C3%BCller&_page=sealed"}, b"pepper")[
            "query"
        ]
    )
    assert told.startswith(f"{prefix}birthdate=hash:")
    assert "1970" not in told
    assert "ller" not in told
    assert "_type=Patient" in told
    assert "sealed" not in told

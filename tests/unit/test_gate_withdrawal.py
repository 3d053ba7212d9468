"""A Consent withdrawn or ended, a token ended or revoked: it holds on the next request, and in a running answer."""

from __future__ import annotations

import pytest

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.model import Key
from tests.admitted import START, World, consent, patient, status_of
from tests.hospitals import two_hospitals_and_a_human

w = two_hospitals_and_a_human


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

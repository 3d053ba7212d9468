"""`explain` tells what the gate decides, and which rule it was."""

from __future__ import annotations

from typing import Any

import pytest

from fhirserver.core.errors import Fault
from fhirserver.core.model import MAX_TIME, Key
from fhirserver.policy.explain import Explanation
from fhirserver.policy.gate import CallerClass
from fhirserver.policy.principal import Principal
from fhirserver.policy.scopes import Scopes
from tests.admitted import World, actor_of, classes, consent, marks, observation, patient, status_of
from tests.hospitals import two_hospitals_and_a_human

w = two_hospitals_and_a_human
OBSERVATION = Key("Observation", "x")
TREAT = [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActReason", "code": "TREAT"}]


async def explained(
    w: World, key: Key = OBSERVATION, *, caller: str = "third-party", org: str = "reader", scope: str = "", **more: Any
) -> Explanation:
    usual = "patient/*.rs" if caller == "third-party" else "system/*.rs"
    asker = Principal(
        subject="x", organization=org, caller=CallerClass(caller), scopes=Scopes(scope or usual), until=MAX_TIME, **more
    )
    return await w.gate.explain(key, asker, w.system())


@pytest.mark.parametrize(
    ("provision", "reason"),
    [
        ({}, "Consent/c opens it."),
        ({"class": classes("Condition")}, "Consent/c does not open it because of its class."),
        ({"actor": [actor_of("other")]}, "Consent/c does not open it because of its actor."),
        ({"purpose": TREAT}, "Consent/c does not open it because of its purpose."),
        ({"period": {"end": "2020"}}, "Consent/c does not open it because of its period."),
        ({"dataPeriod": {"end": "2020"}}, "Consent/c does not open it because of its dataPeriod."),
        (
            {"data": [{"meaning": "instance", "reference": {"reference": "Observation/y"}}]},
            "Consent/c does not open it because of its data.",
        ),
        ({"provision": [{"type": "deny"}]}, "Consent/c does not open it because of its nested deny 1."),
        ({"type": "deny"}, "Consent/c does not open it; it refuses."),
        ({"code": [{"text": "?"}]}, "Consent/c does not open it."),
    ],
)
async def test_the_rule_that_decides_is_named(w: World, provision: dict[str, Any], reason: str) -> None:
    await w.load("north", patient("p"), observation("x", "p", effectiveDateTime="2026-01-01"))
    await w.consent(consent("c", "p", **provision))
    found = await explained(w)
    assert reason in found.reasons
    assert found.shown == (await status_of(await w.caller("third-party", "reader"), "Observation/x") == 200)
    assert found.shown == (provision == {})


async def test_a_refusal_is_named_beside_what_it_closes(w: World) -> None:
    await w.load("north", patient("p"), observation("x", "p"))
    await w.consent(consent("c", "p", project="a"))
    await w.consent(consent("d", "p", project="a", type="deny", **{"class": classes("Observation")}))
    await w.consent(consent("e", "p", "other", type="deny"))
    found = await explained(w)
    assert not found.shown
    assert any(reason.startswith("Patient/p: closed; Consents that count: ") for reason in found.reasons)


async def test_labels_scopes_and_custody_are_told(w: World) -> None:
    await w.load("north", patient("p"), observation("x", "p", "HIV"))
    await w.consent(consent("c", "p"))
    found = await explained(w)
    assert not found.shown
    assert "Consent/c does not open it because of its securityLabel." in found.reasons
    assert any("restricted are" in reason and "HIV" in reason for reason in found.reasons)
    await w.consent(consent("c", "p", securityLabel=marks("N", "HIV")))
    assert (await explained(w)).shown
    narrow = await explained(w, scope="patient/Condition.rs")
    assert not narrow.shown
    assert "The scopes do not let see Observation." in narrow.reasons
    granular = await explained(w, scope="patient/Observation.rs?category=x")
    assert "The scopes do not let see this category of Observation." in granular.reasons
    for org, shown in (("north", True), ("south", False)):
        assert (await explained(w, caller="member", org=org)).shown == shown


async def test_it_is_recorded_and_for_operators_only(w: World) -> None:
    await w.load("north", patient("p"), observation("x", "p"))
    await explained(w, purpose="TREAT")
    row = (await w.audit())[-1]
    assert (row.interaction, row.patients) == ("explain", ("p",))
    assert row.detail == {"resource": "Observation/x", "for": "reader", "purpose": "TREAT"} | {
        name: value for name, value in row.detail.items() if name not in ("resource", "for", "purpose")
    }
    asker = (await w.caller("third-party", "reader")).principal
    with pytest.raises(Fault) as refused:
        await w.gate.explain(OBSERVATION, asker, await w.caller("member", "north"))
    assert refused.value.status == 403
    with pytest.raises(Fault) as absent:
        await explained(w, Key("Observation", "nothing"))
    assert absent.value.status == 404

"""Break-glass: an emergency is declared by a member, is told apart everywhere, and opens nothing by itself."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from fhirserver.core.errors import Fault
from fhirserver.core.model import Key
from fhirserver.policy.gate import CallerClass
from fhirserver.policy.principal import BREAK_GLASS, Principal
from fhirserver.policy.scopes import Scopes
from tests.admitted import World, consent, observation, patient, seen, world


def principal(here: World, caller: str = "member", **more: object) -> Principal:
    given = {
        "subject": "client",
        "organization": "a",
        "caller": CallerClass(caller),
        "scopes": Scopes("patient/*.rs system/*.rs"),
        "until": here.now + 3_600_000,
        "purpose": BREAK_GLASS,
        **more,
    }
    return Principal(**given)  # type: ignore[arg-type]


async def test_a_members_emergency_is_audited_with_its_reason_and_alarmed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(tmp_path) as here:
        await here.load("a", patient("p"), observation("o", "p", "HIV"))
        await here.load("b", patient("q"))
        with caplog.at_level(logging.CRITICAL, logger="fhirserver.policy"):
            token = await here.gate.issue(principal(here), reason="INC-4711")
            scoped = await here.gate.admit(token, interaction="read")
        assert await seen(scoped) == ["Observation/o", "Patient/p", "Person/p"]
        issued = next(row for row in await here.audit() if row.interaction == "token")
        assert (issued.detail["purpose"], issued.detail["reason"]) == (BREAK_GLASS, "INC-4711")
        jti = issued.detail["token"]
        assert [record.getMessage() for record in caplog.records] == [
            f"break-glass: organisation a gets token {jti}",
            f"break-glass: organisation a, token {jti}, read",
        ]
        async with scoped.disclosure(interaction="read", patients=("p",)) as note:
            await scoped.read(Key("Observation", "o"))
            note.complete()
        row = (await here.audit())[-1]
        assert (row.detail["purpose"], row.detail["token"]) == (BREAK_GLASS, jti)


@pytest.mark.parametrize(
    ("caller", "reason", "more"),
    [
        ("member", "", {}),
        ("member", "she is called Amara", {}),
        ("member", "x" * 65, {}),
        ("member", "INC-1", {"purpose": "TREAT"}),
        ("member", "INC-1", {"until": 10**15}),
        ("third-party", "INC-1", {}),
        ("operator", "INC-1", {}),
        ("patient", "INC-1", {"patient": "p"}),
    ],
)
async def test_no_such_token_is_issued(tmp_path: Path, caller: str, reason: str, more: dict[str, object]) -> None:
    async with world(tmp_path) as here:
        with pytest.raises(ValueError, match=r"BTG|hour"):
            await here.gate.issue(principal(here, caller, **more), reason=reason)
        assert await here.audit() == []


async def test_a_third_party_breaks_no_glass_whoever_signed_its_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another way to a token might let it through: the gate looks at each request, too."""
    async with world(tmp_path) as here:
        await here.load("a", patient("p"))
        await here.consent(consent("c", "p", "a"))
        token = here.token("third-party", "a")
        known = here.gate._authenticator.authenticate

        def forged(bearer: str | None, now: int) -> Principal:
            found = known(bearer, now)
            return principal(here, "third-party", token_id=found.token_id)

        monkeypatch.setattr(here.gate._authenticator, "authenticate", forged)
        with pytest.raises(Fault) as refused:
            await here.gate.admit(token, interaction="read")
        assert refused.value.status == 403
        assert (await here.audit())[-1].detail["reason"] == "break-glass"

"""Tokens: what is exactly ours and still good is admitted; everything else gets the same harmless refusal."""

from __future__ import annotations

from typing import Any

import jwt
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from fhirserver.core.errors import Fault, Kind
from fhirserver.policy.keys import Keys, make_keys
from fhirserver.policy.principal import Authenticator, CallerClass, Principal, authenticate, issue_token
from fhirserver.policy.scopes import Scopes

NOW = 1_800_000_000_000
HOUR = 3_600_000
KEYS = make_keys()


def principal(**more: Any) -> Principal:
    given = {
        "subject": "app",
        "organization": "reader",
        "caller": CallerClass.THIRD_PARTY,
        "scopes": Scopes("patient/*.rs"),
        "until": NOW + HOUR,
        "purpose": "TREAT",
        "role": "ORG_ADMIN",
        "token_id": "t1",
        **more,
    }
    return Principal(**given)


def claims(**more: Any) -> dict[str, Any]:
    """The claims of a good token."""
    return {
        "iss": KEYS.issuer,
        "aud": KEYS.issuer,
        "sub": "app",
        "org": "reader",
        "class": "third-party",
        "scope": "patient/*.rs",
        "jti": "t1",
        "iat": NOW // 1000,
        "exp": NOW // 1000 + 3600,
        **more,
    }


def sign(given: dict[str, Any], keys: Keys = KEYS, **header: Any) -> str:
    headers = {"kid": keys.kid, "typ": "at+jwt", **header}
    return jwt.encode(given, keys.signing_key, algorithm="ES256", headers=headers)


def refused(token: str | None, now: int = NOW) -> None:
    with pytest.raises(Fault) as fault:
        authenticate(KEYS, token, now)
    assert fault.value.kind is Kind.UNAUTHENTICATED
    assert fault.value.message == "A valid bearer token is needed."


def test_a_token_comes_back_as_the_principal_it_was_made_for() -> None:
    assert authenticate(KEYS, issue_token(KEYS, principal(), NOW), NOW) == principal()


def test_a_token_gets_an_id_when_none_is_given() -> None:
    made = [authenticate(KEYS, issue_token(KEYS, principal(token_id=""), NOW), NOW).token_id for _ in range(2)]
    assert all(made)
    assert made[0] != made[1]


def test_the_claims_used_below_are_good_ones() -> None:
    assert authenticate(KEYS, sign(claims()), NOW).organization == "reader"


@pytest.mark.parametrize("token", [None, "", "x", "a.b.c", "ä.b.c", "e30.e30.", "x" * 10_000])
def test_garbage_is_refused(token: str | None) -> None:
    refused(token)


@pytest.mark.parametrize("missing", ["iss", "aud", "sub", "org", "class", "scope", "jti", "iat", "exp"])
def test_every_claim_is_required(missing: str) -> None:
    refused(sign({name: value for name, value in claims().items() if name != missing}))


@pytest.mark.parametrize(
    "wrong",
    [
        {"iss": "somebody-else"},
        {"aud": "somebody-else"},
        {"aud": [KEYS.issuer]},
        {"class": "root"},
        {"class": None},
        {"sub": ""},
        {"org": ""},
        {"org": ["reader"]},
        {"jti": ""},
        {"exp": NOW // 1000},
        {"exp": "later"},
        {"exp": NOW / 1000 + 0.5},
        {"iat": NOW // 1000 + 60},
        {"patient": "p1"},
        {"class": "patient"},
        {"class": "operator", "exp": NOW // 1000 + 3601},
        {"admin": True},
        {"nbf": NOW // 1000 + 60},
    ],
)
def test_a_claim_that_is_wrong_or_unknown_is_refused(wrong: dict[str, Any]) -> None:
    refused(sign(claims(**wrong)))


@pytest.mark.parametrize(
    "header", [{"kid": "other"}, {"kid": None}, {"typ": "JWT"}, {"crit": ["x"]}, {"jku": "http://x"}]
)
def test_a_header_that_is_not_exactly_ours_is_refused(header: dict[str, Any]) -> None:
    refused(sign(claims(), **{name: value for name, value in header.items() if value is not None} or {"kid": "x"}))


def test_another_installations_token_is_refused() -> None:
    other = make_keys()
    refused(issue_token(other, principal(), NOW))
    refused(sign(claims(), other, kid=KEYS.kid))


def test_no_other_algorithm_is_accepted() -> None:
    refused(jwt.encode(claims(), None, algorithm="none", headers={"kid": KEYS.kid, "typ": "at+jwt"}))
    public = KEYS.issuer.encode() + b"x" * 32
    refused(jwt.encode(claims(), public, algorithm="HS256", headers={"kid": KEYS.kid, "typ": "at+jwt"}))
    p384 = ec.generate_private_key(ec.SECP384R1())
    refused(jwt.encode(claims(), p384, algorithm="ES384", headers={"kid": KEYS.kid, "typ": "at+jwt"}))


def test_changing_one_character_anywhere_ends_the_token() -> None:
    token = issue_token(KEYS, principal(), NOW)
    for at in range(0, len(token) - 1, 17):
        if token[at] != ".":
            refused(token[:at] + ("A" if token[at] != "A" else "B") + token[at + 1 :])


def test_a_token_ends_at_its_time_also_when_its_signature_is_remembered() -> None:
    token = issue_token(KEYS, principal(), NOW)
    remembering = Authenticator(KEYS)
    assert remembering.authenticate(token, NOW + HOUR - 1).subject == "app"
    with pytest.raises(Fault):
        remembering.authenticate(token, NOW + HOUR)


def test_what_is_remembered_is_bounded() -> None:
    remembering = Authenticator(KEYS, size=2)
    for _ in range(5):
        remembering.authenticate(issue_token(KEYS, principal(token_id=""), NOW), NOW)
    assert len(remembering._verified) == 2


@pytest.mark.parametrize(
    "impossible",
    [
        {"subject": ""},
        {"organization": ""},
        {"until": NOW},
        {"caller": CallerClass.OPERATOR, "until": NOW + HOUR + 1},
        {"caller": CallerClass.PATIENT},
        {"patient": "p1"},
    ],
)
def test_a_token_that_could_never_be_admitted_is_not_made(impossible: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="token"):
        issue_token(KEYS, principal(**impossible), NOW)


def test_an_operator_token_may_live_for_an_hour() -> None:
    whole = msgspec.structs.replace(principal(), caller=CallerClass.OPERATOR)
    assert authenticate(KEYS, issue_token(KEYS, whole, NOW), NOW).caller is CallerClass.OPERATOR

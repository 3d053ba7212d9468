"""Page tokens say where, not who: they cannot be read, forged, moved to another request, or used for ever."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.page import Page, Position, binding, open_sealed, seal

KEY = b"k" * 32
NONCE = b"n" * 12
PAGE = Page(as_of=7, time=1_000, total=42, offset=30, at=Position(1, 5), view="v", expires=2_000)
BOUND = binding("org/app", "Person/1?_type=Observation")


def test_what_is_sealed_opens_again() -> None:
    assert open_sealed(seal(PAGE, key=KEY, nonce=NONCE, bound=BOUND), key=KEY, bound=BOUND, now=1_999) == PAGE


def test_the_token_is_url_safe_and_opaque() -> None:
    token = seal(PAGE, key=KEY, nonce=NONCE, bound=BOUND)
    assert token.replace("-", "").replace("_", "").isalnum()


@given(st.integers(0, 60), st.characters(codec="ascii"))
def test_a_changed_token_is_a_400_naming_the_parameter(at: int, letter: str) -> None:
    token = seal(PAGE, key=KEY, nonce=NONCE, bound=BOUND)
    forged = token[:at] + letter + token[at + 1 :]
    if forged == token:
        return
    with pytest.raises(Fault, match="_page") as caught:
        open_sealed(forged, key=KEY, bound=BOUND, now=0)
    assert caught.value.kind is Kind.BAD_REQUEST


@pytest.mark.parametrize("text", ["", "x", "…", "=" * 8, "A" * 500])
def test_nonsense_is_a_400(text: str) -> None:
    with pytest.raises(Fault, match="_page"):
        open_sealed(text, key=KEY, bound=BOUND, now=0)


@pytest.mark.parametrize(
    "bound", [binding("org/other", "Person/1?_type=Observation"), binding("org/app", "Person/2?_type=Observation")]
)
def test_another_client_or_request_cannot_use_it(bound: bytes) -> None:
    with pytest.raises(Fault) as caught:
        open_sealed(seal(PAGE, key=KEY, nonce=NONCE, bound=BOUND), key=KEY, bound=bound, now=0)
    assert caught.value.kind is Kind.BAD_REQUEST


def test_an_expired_token_is_a_410() -> None:
    with pytest.raises(Fault) as caught:
        open_sealed(seal(PAGE, key=KEY, nonce=NONCE, bound=BOUND), key=KEY, bound=BOUND, now=2_000)
    assert caught.value.status == 410

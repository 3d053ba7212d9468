"""SMART scopes: what each form allows, and that whatever is not understood allows nothing."""

from __future__ import annotations

import pytest

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.policy.scopes import Scopes

SYSTEM = ("system",)


@pytest.mark.parametrize(
    ("text", "letters"),
    [
        ("system/Observation.read", "rs"),
        ("system/Observation.write", "cud"),
        ("system/Observation.*", "cruds"),
        ("system/Observation.r", "r"),
        ("system/Observation.rs", "rs"),
        ("system/Observation.cruds", "cruds"),
        ("system/Observation.c system/Observation.s", "cs"),
    ],
)
def test_a_scope_allows_its_letters_and_no_other(text: str, letters: str) -> None:
    allowed = {letter for letter in "cruds" if "Observation" in Scopes(text).types(letter, SYSTEM)}
    assert allowed == set(letters)
    assert all(Scopes(text).types(letter, SYSTEM) <= {"Observation"} for letter in "cruds")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "system/Observation",
        "system/Observation.",
        "system/Observation.sr",
        "system/Observation.rr",
        "system/Observation.x",
        "system/Observation.read,write",
        "system/Observation.rs?category=laboratory",
        "system/*.rs?_tag=x",
        "system/*.READ",
        "System/*.rs",
        "tenant/*.rs",
        "system/**.rs",
        "system/*.rs/extra",
        "system/NoSuchType.cruds",
        "openid fhirUser launch/patient offline_access",
        "ORG_ADMIN",
    ],
)
def test_what_is_not_understood_allows_nothing(text: str) -> None:
    assert all(not Scopes(text).types(letter, ("system", "user", "patient")) for letter in "cruds")


def test_a_wildcard_means_every_type() -> None:
    assert Scopes("system/*.rs").types("rs", SYSTEM) == RESOURCE_TYPES


def test_several_letters_are_needed_together_though_from_different_scopes() -> None:
    scopes = Scopes("system/*.r system/Observation.s")
    assert scopes.types("r", SYSTEM) == RESOURCE_TYPES
    assert scopes.types("rs", SYSTEM) == {"Observation"}


def test_scopes_of_another_context_do_not_count() -> None:
    scopes = Scopes("patient/*.cruds user/Patient.r")
    assert scopes.types("r", SYSTEM) == frozenset()
    assert scopes.types("r", ("system", "user")) == {"Patient"}


def test_no_letters_allow_no_types() -> None:
    assert Scopes("system/*.cruds").types("", SYSTEM) == frozenset()

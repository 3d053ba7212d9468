"""SMART scopes: what each form allows, and that whatever is not understood allows nothing."""

from __future__ import annotations

from urllib.parse import quote

import pytest

from fhirserver.core.definitions import DIRECTORY_TYPES, RESOURCE_TYPES, kind_elements
from fhirserver.policy.scopes import Scopes, Types

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


LAB = "http://terminology.hl7.org/CodeSystem/observation-category|laboratory"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"system/Observation.rs?category={LAB}", {("Observation", LAB)}),
        (f"system/Observation.rs?category={quote(LAB)}", {("Observation", LAB)}),
        ("system/Observation.cruds?category=a,b", {("Observation", "a b")}),
        ("system/Observation.rs?category=a system/Observation.rs?category=b", {("Observation", "a b")}),
        ("system/Observation.rs?category=a&category=b", {("Observation", "a / b")}),
        ("system/Observation.rs?category=a&category=a,b", {("Observation", "a")}),
        (
            "system/Observation.rs?category=a system/Observation.rs?category=b&category=c",
            {("Observation", "a"), ("Observation", "b / c")},
        ),
        ("system/Observation.rs?category=a system/Condition.rs?category=b", {("Observation", "a"), ("Condition", "b")}),
        ("system/Observation.r?category=a system/Observation.s?category=b", {("Observation", "a / b")}),
        ("system/Observation.r?category=a system/Observation.s", {("Observation", "a")}),
        ("system/Observation.r?category=a system/*.s", {("Observation", "a")}),
        ("system/Observation.rs?category=a system/Observation.rs", set()),
        ("system/Observation.rs?category=a system/*.read", set()),
        ("system/Observation.r?category=a system/Condition.s?category=a", set()),
    ],
)
def test_granular_scopes_allow_the_union_of_their_kinds(text: str, expected: set[tuple[str, str]]) -> None:
    parts = Scopes(text).allowed("rs", SYSTEM).parts
    assert {(part.type, " / ".join(" ".join(sorted(one)) for one in part.kinds)) for part in parts} == expected


@pytest.mark.parametrize(
    "scope",
    [
        "Observation.read?category=a",
        "Observation.*?category=a",
        "Observation.?category=a",
        "Observation.sr?category=a",
        "Observation.cud?category=a",
        "Observation.rs?",
        "Observation.rs?category",
        "Observation.rs?category=",
        "Observation.rs?category=a,",
        "Observation.rs?category=http://x|",
        "Observation.rs?category:not=a",
        "Observation.rs?category=a&code=b",
        "Observation.rs?code=b",
        "Observation.rs?category=~[null,[],true]",
        "Patient.rs?category=a",
        "*.rs?category=a",
        "Immunization.rs?category=a",
    ],
)
def test_a_granular_scope_that_is_not_understood_allows_nothing(scope: str) -> None:
    for letter in "cruds":
        assert Scopes(f"system/{scope}").allowed(letter, SYSTEM) == Types(), letter


def test_a_granular_scope_writes_nothing_and_counts_in_its_own_context_only() -> None:
    scopes = Scopes("patient/Condition.cruds?category=x")
    assert scopes.allowed("rs", ("patient",)).named == {"Condition"}
    assert scopes.allowed("rs", SYSTEM) == Types()
    assert all(scopes.allowed(letter, ("patient",)) == Types() for letter in "cud")
    assert not scopes.types("rs", ("patient",)), "no type as a whole"


def test_types_with_kinds_are_none_of_the_directory() -> None:
    assert not kind_elements.keys() & (DIRECTORY_TYPES | {"Person", "Patient", "Consent", "Binary", "Device"})
    assert kind_elements.keys() <= RESOURCE_TYPES

"""The scopes of a token: never more than was asked, never more than is registered."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.policy.requested import LONGEST, granted
from fhirserver.policy.scopes import Scopes

CASES = [
    ("system/*.rs", "system/*.rs", "system/*.rs"),
    ("system/*.read", "system/*.rs", "system/*.read"),
    ("system/*.*", "system/*.rs", "system/*.rs"),
    ("system/Patient.r", "system/*.cruds", "system/Patient.r"),
    ("system/*.cruds", "system/Patient.rs system/Observation.cud", "system/Patient.rs system/Observation.cud"),
    ("system/*.rs", "system/*.rs system/Patient.cruds", "system/*.rs"),
    ("system/Patient.rs system/*.rs", "system/*.cruds", "system/*.rs"),
    ("system/Patient.rs system/Patient.read", "system/*.cruds", "system/Patient.rs"),
    ("system/Patient.rs system/Patient.rs", "system/*.cruds", "system/Patient.rs"),
    ("system/Observation.rs?category=laboratory", "system/*.rs", "system/Observation.rs?category=laboratory"),
    ("system/Observation.rs", "system/Observation.rs?category=laboratory", "system/Observation.rs?category=laboratory"),
    ("system/Observation.rs?category=a", "system/Observation.rs?category=b", ""),
    ("user/*.rs", "system/*.rs", ""),
    ("patient/*.rs", "system/*.rs user/*.rs", ""),
    ("system/*.c", "system/*.rs", ""),
    ("system/*.sr", "system/*.rs", ""),
    ("system/Nonsense.rs", "system/*.rs", ""),
    ("system/*.", "system/*.rs", ""),
    ("openid fhirUser launch offline_access", "system/*.rs", ""),
    ("", "system/*.rs", ""),
    ("system/*.rs", "", ""),
]


@pytest.mark.parametrize(("asked", "registered", "given"), CASES)
def test_what_is_granted(asked: str, registered: str, given: str) -> None:
    assert granted(asked, registered) == given


def test_what_is_too_long_is_nothing() -> None:
    assert granted("system/*.rs " * 1000, "system/*.rs") == ""
    many = " ".join(f"system/{type_}.r" for type_ in sorted(RESOURCE_TYPES)[:120])
    assert 0 < len(granted(many, "system/*.rs")) <= LONGEST
    queries = " ".join(f"system/*.r?a={n}" for n in range(200))
    assert granted(queries, " ".join(f"system/{type_}.r" for type_ in sorted(RESOURCE_TYPES)[:100])) == ""


WORDS = st.builds(
    "{}/{}.{}".format,
    st.sampled_from(["system", "user"]),
    st.sampled_from(["*", "Patient", "Observation"]),
    st.sampled_from(["rs", "cruds", "read", "write", "*", "r", "s", "cu", "d"]),
)
TEXTS = st.lists(WORDS, max_size=4).map(" ".join)


@given(TEXTS, TEXTS)
def test_it_is_exactly_what_both_allow(asked: str, registered: str) -> None:
    given = Scopes(granted(asked, registered))
    for context in ("system", "user", "patient"):
        for letter in "cruds":
            both = Scopes(asked).types(letter, [context]) & Scopes(registered).types(letter, [context])
            assert given.types(letter, [context]) == both


QUERIES = ["", "?category=a", "?category=a,b", "?category=a&category=b", "?category=", "?category=s|", "?code=x", "?x"]
GRANULAR = st.builds(
    "{}/{}.{}{}".format,
    st.sampled_from(["system", "user"]),
    st.sampled_from(["*", "Patient", "Observation", "Condition"]),
    st.sampled_from(["rs", "cruds", "read", "*", "r", "c", "u", "sr", ""]),
    st.sampled_from(QUERIES),
)


def opened(text: str) -> set[tuple[str, str, str, str]]:
    """What scopes allow, of resources of these categories."""
    found = set()
    for context in ("system", "user"):
        for letter in "cruds":
            allowed = Scopes(text).allowed(letter, [context])
            for of in ("", "a", "b", "ab", "c"):
                types = [*allowed.whole, *(p.type for p in allowed.parts if not any(k.isdisjoint(of) for k in p.kinds))]
                found |= {(context, letter, type_, of) for type_ in types}
    return found


@settings(max_examples=300)
@given(st.lists(GRANULAR, max_size=3).map(" ".join), st.lists(GRANULAR, max_size=3).map(" ".join))
@example("system/*.rs?category=a", "system/Observation.rs")
@example("system/Observation.rs", "system/*.rs?category=a")
@example("user/Condition.s", "user/Condition.read?category=b")
def test_granular_scopes_are_never_more_than_asked_nor_than_registered(asked: str, registered: str) -> None:
    given = granted(asked, registered)
    assert opened(given) <= opened(asked) & opened(registered)
    assert bool(given) == bool(opened(given))

"""Profiles, tags and labels as sets; everything else of a resource stays as it is, byte for byte."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.tags import Summary, added, meta_of, removed

A, B = {"system": "urn:s", "code": "a"}, {"system": "urn:s", "code": "b", "display": "B"}


def body(**meta: Any) -> bytes:
    text = json.dumps(meta, separators=(",", ":"))
    return b'{"resourceType":"Basic","meta":%b,"extension":[{"url":"u","valueDecimal":1.00}],"id":"x"}' % text.encode()


def meta(resource: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(meta_of(resource))
    return found


@pytest.mark.parametrize(
    ("before", "given_", "after"),
    [
        ({"versionId": "1"}, {"tag": [A]}, {"versionId": "1", "tag": [A]}),
        ({"tag": [A]}, {"tag": [B, A, B]}, {"tag": [A, B]}),
        ({"tag": [A]}, {"tag": [{**A, "display": "other", "version": "2"}]}, {"tag": [A]}),
        ({"tag": [A]}, {"security": [A]}, {"tag": [A], "security": [A]}),
        ({"profile": ["u"]}, {"profile": ["u", "u|1"]}, {"profile": ["u", "u|1"]}),
        ({"tag": [A]}, {"versionId": "9", "source": "urn:x", "lastUpdated": "2020-01-01T00:00:00Z"}, {"tag": [A]}),
        ({"tag": [{"display": "x"}]}, {"tag": [{"display": "y"}]}, {"tag": [{"display": "x"}, {"display": "y"}]}),
        (
            {"profile": ["u"], "_profile": [{"id": "i"}]},
            {"profile": ["v"]},
            {"profile": ["u", "v"], "_profile": [{"id": "i"}, None]},
        ),
    ],
)
def test_adding(before: dict[str, Any], given_: dict[str, Any], after: dict[str, Any]) -> None:
    changed = added(body(**before), json.dumps(given_).encode())
    assert meta(changed) == after
    assert changed == body(**after)


@pytest.mark.parametrize(
    ("before", "given_", "after"),
    [
        ({"versionId": "1", "tag": [A, B]}, {"tag": [A]}, {"versionId": "1", "tag": [B]}),
        ({"versionId": "1", "tag": [A]}, {"tag": [A, B]}, {"versionId": "1"}),
        ({"tag": [B]}, {"tag": [{"system": "urn:s", "code": "b", "version": "1"}]}, {}),
        ({"tag": [A]}, {"security": [A]}, {"tag": [A]}),
        ({"tag": [A]}, {"tag": [{"code": "a"}]}, {"tag": [A]}),
        (
            {"profile": ["u", "v"], "_profile": [{"id": "i"}, None]},
            {"profile": ["u"]},
            {"profile": ["v"]},
        ),
    ],
)
def test_removing(before: dict[str, Any], given_: dict[str, Any], after: dict[str, Any]) -> None:
    assert removed(body(**before), json.dumps(given_).encode()) == body(**after)


_codings = st.lists(st.fixed_dictionaries({"code": st.sampled_from("abc")}), min_size=1, max_size=4, unique_by=str)


@given(_codings, _codings)
def test_what_is_added_can_be_removed_and_nothing_comes_twice(held: list[Any], more: list[Any]) -> None:
    given_ = json.dumps({"tag": more}).encode()
    joined = added(body(tag=held), given_)
    assert added(joined, given_) is joined
    codes = [tag["code"] for tag in meta(joined)["tag"]]
    assert sorted(codes) == sorted({tag["code"] for tag in [*held, *more]})
    left = [tag for tag in held if tag not in more]
    assert removed(joined, given_) == (body(tag=left) if left else body())


def test_a_summary_holds_each_once() -> None:
    summary = Summary()
    for one in (
        body(tag=[A, B]),
        body(tag=[{**A, "display": "x"}], profile=["u"]),
        body(),
        b'{"resourceType":"Basic"}',
    ):
        summary.take(one)
    assert json.loads(summary.meta()) == {"profile": ["u"], "tag": [A, B]}
    assert Summary().meta() == b"{}"

"""Stamping changes id, versionId and lastUpdated and nothing else."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core.stamp import digest, instant, prepare, render


def ordered(raw: bytes) -> Any:
    """The JSON with key order, duplicate keys and number texts visible."""
    return json.loads(
        raw, object_pairs_hook=list, parse_float=lambda text: ("number", text), parse_int=lambda t: ("number", t)
    )


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        pytest.param(
            b'{"resourceType":"Basic"}',
            b'{"resourceType":"Basic","id":"a","meta":{"versionId":"3","lastUpdated":"1970-01-01T00:00:00.007Z"}}',
            id="id and meta follow resourceType",
        ),
        pytest.param(
            b'{ "id" : "old",\n "resourceType":"Basic", "meta": {"tag":[{"code":"x"}],"versionId":"9"}, "n":1.00}',
            b'{"id":"a","resourceType":"Basic","meta":{"versionId":"3","lastUpdated":"1970-01-01T00:00:00.007Z",'
            b'"tag":[{"code":"x"}]},"n":1.00}',
            id="existing ones keep their place, other meta stays",
        ),
        pytest.param(
            b'{"resourceType":"Basic","meta":{},"x":3e2,"y":"\\u00e9"}',
            b'{"resourceType":"Basic","id":"a","meta":{"versionId":"3","lastUpdated":"1970-01-01T00:00:00.007Z"},'
            b'"x":3e2,"y":"\\u00e9"}',
            id="number text and escapes stay",
        ),
    ],
)
def test_the_stamp_goes_into_meta(raw: bytes, expected: bytes) -> None:
    assert render(*prepare(raw, id="a"), 3, 7) == expected


_scalars = st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from([0.1, 1.5, -2.25e10])
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4), max_leaves=20
)


@given(
    st.dictionaries(st.text().filter(lambda name: name not in ("id", "meta")), _values, max_size=6),
    st.booleans(),
)
def test_everything_but_id_and_meta_survives(members: dict[str, Any], ascii_only: bool) -> None:
    raw = json.dumps(members, ensure_ascii=ascii_only, indent=2).encode("utf-8", "surrogatepass")
    body = render(*prepare(raw, id="x-1"), 1, 1_700_000_000_123)
    kept = [pair for pair in ordered(body) if pair[0] not in ("id", "meta")]
    assert kept == ordered(raw)
    assert b"\n" not in body


def test_digest_is_of_the_content_not_of_the_version() -> None:
    one = prepare(b'{"resourceType":"Basic","meta":{"versionId":"1"}}', id="a")
    two = prepare(b'{"resourceType": "Basic", "meta": {"versionId": "2"}}', id="a")
    other = prepare(b'{"resourceType":"Basic","language":"en"}', id="a")
    assert digest(*one) == digest(*two)
    assert digest(*one) != digest(*other)


def test_an_instant_has_milliseconds_and_zone() -> None:
    assert instant(1_772_193_600_042) == "2026-02-27T12:00:00.042Z"

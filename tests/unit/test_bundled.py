"""The Bundle without the resources that it stores, by which a large transaction is checked piece by piece."""

from __future__ import annotations

import json
from typing import Any

import pytest

from fhirserver.core.validate import issues
from fhirserver.http.bundled import entries_of, shell

NOTHING = {"resourceType": "Basic", "code": {"text": "x"}}


def of(*entries: str) -> tuple[bytes, bytes]:
    """A transaction of these entries, and its shell."""
    raw = f'{{"resourceType":"Bundle","type":"transaction",\n "entry":[{", ".join(entries)}]}}'.encode()
    return raw, shell(raw, entries_of(raw, most=10).entries)


def entry(method: str, resource: str, url: str = "Patient") -> str:
    return f'{{"resource" : {resource}, "request":{{"method":"{method}","url":"{url}"}}}}'


def resources(raw: bytes) -> list[Any]:
    return [each["resource"] for each in json.loads(raw)["entry"]]


def test_what_is_stored_is_taken_out_and_the_rest_stays() -> None:
    patient = '{"resourceType":"Patient", "active":true}'
    _, rest = of(entry("POST", patient), entry("PATCH", patient), entry("PUT", patient), entry("POST", patient))
    assert resources(rest) == [NOTHING, json.loads(patient), NOTHING, NOTHING]
    assert issues(rest)[1] == []


@pytest.mark.parametrize(
    "spoilt",
    [
        '{"resource":{"resourceType":"Patient"},"resource":{"resourceType":"Patient"},'
        '"request":{"method":"POST","url":"Patient"}}',
        '{"extension":[{"resourceType":"Patient"}],"resource":{"resourceType":"Patient"},'
        '"request":{"method":"POST","url":"Patient"}}',
        '{"resource":{"resourceType":"Patient"},"nonsense":1,"request":{"method":"POST","url":"Patient"}}',
        '{"resource":{},"request":{"extension":{},"method":"POST","url":"Patient"}}',
    ],
)
def test_what_is_wrong_around_the_resources_is_still_seen(spoilt: str) -> None:
    whole, rest = of(spoilt)
    assert issues(whole)[1]
    assert issues(rest)[1]

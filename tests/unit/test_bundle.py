"""The Bundle and NDJSON writers: any batching gives the same bytes, and an unfinished one never parses."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fhirserver.core import bundle
from fhirserver.core.model import CURRENT, Record


def record(number: int, body: bytes | None) -> Record:
    return Record("Basic", f"b{number}", 1, number, CURRENT, 0, False, "", "", b"", len(body or b""), body)


async def batches(records: list[Record], sizes: list[int]) -> AsyncIterator[list[Record]]:
    at = 0
    for size in sizes:
        if records[at : at + size]:
            yield records[at : at + size]
        at += size
    if records[at:]:
        yield records[at:]


async def out_of_line(asked: Record) -> AsyncIterator[bytes]:
    content = b'{"resourceType":"Basic","id":"%b","language":"%b"}' % (asked.id.encode(), b"e" * 200_000)
    for at in range(0, len(content), 50_000):
        yield content[at : at + 50_000]


def searchset() -> bundle.Shape:
    return bundle.searchset(base=b"http://x/", head=b'{"resourceType":"Bundle"', tail=lambda: b',"total":3')


@given(
    st.lists(st.integers(0, 90_000), max_size=12),
    st.lists(st.integers(1, 5), max_size=12),
    st.integers(0, 3),
)
async def test_entries_come_whole_and_in_order_whatever_the_batches(
    lengths: list[int], sizes: list[int], stored_apart: int
) -> None:
    records = [
        record(number, None if number < stored_apart else b'{"resourceType":"Basic","x":"%b"}' % (b"x" * length))
        for number, length in enumerate(lengths)
    ]
    chunks = [chunk async for chunk in bundle.write(searchset(), batches(records, sizes), body=out_of_line)]
    whole = json.loads(b"".join(chunks))
    assert [entry["fullUrl"] for entry in whole.get("entry", [])] == [f"http://x/Basic/{r.id}" for r in records]
    assert whole["total"] == 3
    assert all(chunks)
    assert max(map(len, chunks)) <= 2 * bundle.CHUNK + 100_000
    with pytest.raises(json.JSONDecodeError):
        json.loads(b"".join(chunks[:-1]))


async def test_a_bundle_without_entries_has_no_entry_array() -> None:
    chunks = [chunk async for chunk in bundle.write(searchset(), batches([], []), body=out_of_line)]
    assert json.loads(b"".join(chunks)) == {"resourceType": "Bundle", "total": 3}


async def test_the_first_batch_is_sent_at_once() -> None:
    small = [record(1, b'{"a":1}'), record(2, b'{"a":2}')]
    writer = bundle.write(searchset(), batches(small, [1, 1]), body=out_of_line)
    assert b'"a":1' in await anext(writer)
    await writer.aclose()


async def test_ndjson_has_a_resource_a_line_and_closes_with_its_last_line() -> None:
    shape = bundle.ndjson(last=lambda: b'{"resourceType":"OperationOutcome"}')
    records = [record(number, b'{"n":%d}' % number) for number in range(3)]
    text = b"".join([chunk async for chunk in bundle.write(shape, batches(records, [2]), body=out_of_line)])
    assert text == b'{"n":0}\n{"n":1}\n{"n":2}\n{"resourceType":"OperationOutcome"}\n'

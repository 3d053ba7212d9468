"""Made-up resources and a clock for the store's tests."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from fhirserver.core.model import REFERENCE_TERM, Draft, Facts, Index, Key, Query, Record, parse_facts
from fhirserver.store.open import open_store
from fhirserver.store.port import Store

START = 1_700_000_000_000


class Clock:
    """Milliseconds that move when told."""

    def __init__(self) -> None:
        self.now = START

    def __call__(self) -> int:
        return self.now


def draft(
    reference: str,
    *compartments: str,
    text: str = "x",
    custodian: str = "org-1",
    parties: tuple[str, ...] = (),
    owners: tuple[str, ...] | None = None,
    labels: tuple[str, ...] = (),
    kinds: tuple[str, ...] = (),
    terms: tuple[str, ...] = (),
    references: tuple[str, ...] = (),
    supports: tuple[str, ...] = (),
    care: tuple[int, int] | None = None,
    if_version: int | None = None,
    deleted: bool = False,
) -> Draft:
    """A small draft of ``Type/id`` in these compartments; its content differs with ``text``."""
    key = Key.parse(reference)
    held = tuple(sorted(compartments))
    facts = Facts(custodian, parties, held if owners is None else owners, labels, held, kinds)
    index = Index() if deleted else Index(
        compartments=held, owners=facts.owners, labels=labels, terms=terms, references=references, supports=supports,
        care=care, texts=((f"{key.type}|text", text),), spans=((f"{key.type}|length", float(len(text)), 9.0),),
        sorts=((f"{key.type}|text", text), (f"{key.type}|length", len(text))),
    )  # fmt: skip
    head = f'{{"resourceType":"{key.type}","id":"{key.id}","meta":{{'.encode()
    content = {"text": text, "terms": terms, "references": references, "supports": supports, "care": care}
    tail = b"}," + msgspec.json.encode(content)[1:]
    return Draft(key=key, head=head, tail=tail, facts=facts, index=index, if_version=if_version, deleted=deleted)


def derive(record: Record, body: bytes) -> tuple[Facts, Index]:
    """What `draft` derived, read from the body; the facts are taken as they are."""
    facts, content = parse_facts(record.facts), msgspec.json.decode(body)
    lists = {name: tuple(content[name]) for name in ("terms", "references", "supports")}
    care = content["care"] and tuple(content["care"])
    return facts, draft(str(record.key), *facts.compartments, text=content["text"], care=care, **lists).index


def tombstone(reference: str, *, if_version: int | None = None) -> Draft:
    return draft(reference, if_version=if_version, deleted=True)


def wall_clock() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


@asynccontextmanager
async def started(url: str, clock: Callable[[], int] | None = None, **options: bool) -> AsyncIterator[Store]:
    """The store at this URL, until the end of the block; its clock stands still unless one is given."""
    store = open_store(url, clock=clock or Clock(), **options)
    await store.start()
    try:
        yield store
    finally:
        await store.close()


async def found(store: Store, query: Query, batch: int = 256) -> list[Record]:
    """All records of a scan; batches are never empty nor too large."""
    records: list[Record] = []
    async for part in store.scan(query, batch):
        assert 0 < len(part) <= batch
        records += part
    assert [record.seq for record in records] == sorted({record.seq for record in records})
    return records


async def names(store: Store, query: Query, batch: int = 256) -> list[str]:
    """``Type/id`` of all records of a scan, in its order."""
    return [str(record.key) for record in await found(store, query, batch)]


async def gathered(batches: AsyncIterator[list[Record]]) -> list[Record]:
    return [record async for batch in batches for record in batch]


def referring(target: str) -> str:
    return REFERENCE_TERM + target

"""What speaks through another resource follows it: a Binary its security context, a Provenance its targets.

Their facts are decided when they are stored, and here again when what they speak through is labelled, moved to another
patient or deleted, so that neither shows longer what that one hides.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from fhirserver.core.errors import Conflict
from fhirserver.core.index import extract
from fhirserver.core.model import REFERENCE_TERM, Facts, Guard, Index, Key, Query, Record, parse_facts
from fhirserver.policy.custody import KEYS_AT_ONCE, Known, look_up
from fhirserver.policy.derive import THROUGH, facts_of, facts_through, targets_of
from fhirserver.policy.dossier import whole
from fhirserver.policy.items import Item
from fhirserver.store.port import Store

ANNOUNCED = "following:"
"""Ledger prefix of what is about to change: a server that is killed before everything has followed leaves it behind."""
KEPT = 24 * 3600 * 1000
"""How long (milliseconds) an announcement stands: far longer than any commit takes."""
PATIENCE = 120_000
"""An announcement younger than this (milliseconds) may be of a commit that is still under way on another server."""

_encode, _keys = msgspec.json.encode, msgspec.json.Decoder(list[Key]).decode


@asynccontextmanager
async def following(store: Store, changed: Collection[Key], now: int) -> AsyncIterator[None]:
    """Around the commit that changes these: afterwards everything that speaks through them follows, now or, if this
    server is killed, when the next one starts (`resume`)."""
    name = ""
    if any([await _through(store, part) for part in _parts(sorted(changed))]):
        name = f"{ANNOUNCED}{now:015}:{secrets.token_hex(8)}"
        await store.ledger.put_if(name, _encode(sorted(changed)), stamp=None, expires=now + KEPT)
    try:
        yield
    except Conflict:  # nothing was committed; of any other failure that is not known
        if name:
            await _withdraw(store, name)
        raise
    await follow(store, changed)  # what began meanwhile to speak through them, too
    if name:
        await _withdraw(store, name)


async def resume(store: Store, now: int) -> None:
    """Let everything follow that killed servers have left behind."""
    async for name, entry in store.ledger.scan(ANNOUNCED):
        await follow(store, _keys(entry.value))
        if int(name.removeprefix(ANNOUNCED).partition(":")[0]) < now - PATIENCE:
            await _withdraw(store, name)


async def _withdraw(store: Store, name: str) -> None:
    entry = await store.ledger.get(name)
    if entry is not None:
        await store.ledger.put_if(name, None, stamp=entry.stamp)


async def follow(store: Store, changed: Iterable[Key]) -> None:
    """Decide again, in place, the facts of everything that speaks through these resources, and so on."""
    waiting, done = set(changed), set[Key]()
    while waiting:
        done |= waiting
        found = {record.key: record for part in _parts(sorted(waiting)) for record in await _through(store, part)}
        waiting = set()
        for record in found.values():
            facts, index = await _decided(store, record)
            if facts != parse_facts(record.facts):
                await store.reindex([(record, facts, index)])
                waiting |= {record.key} - done


def unmoved(items: Iterable[Item], known: Known, since: int) -> list[Guard]:
    """What these items speak through must still be, inside the commit, what was looked at after seq ``since``."""
    here = {item.key: item for item in items}
    targets = {key for item in here.values() if item.key.type in THROUGH for key in targets_of(item.resource) if key}
    keys = sorted(targets - here.keys())
    held = []
    for part in _parts(keys):
        there = sum(known.live(key) is not None for key in part)
        query = Query(keys=part, bodies=False)
        held.append(Guard(query, there, _MOVED))
        held.append(Guard(msgspec.structs.replace(query, after=since), 0, _MOVED))
    return held


_MOVED = "What it refers to has just changed."


async def _through(store: Store, keys: Sequence[Key]) -> list[Record]:
    terms = tuple(f"{REFERENCE_TERM}{key}" for key in keys)
    query = Query(types=frozenset(THROUGH), terms=(terms,), bodies=False)
    return [record async for batch in store.scan(query) for record in batch]


async def _decided(store: Store, record: Record) -> tuple[Facts, Index]:
    resource = msgspec.json.decode(await whole(store, record))
    index, held = extract(resource), parse_facts(record.facts)
    facts = facts_of(index, custodian=held.custodian, parties=held.parties)
    targets = targets_of(resource)
    found = await look_up(store, [key for key in targets if key is not None])
    return facts_through(
        record.type, facts, targets, {key: parse_facts(each.facts) for key, each in found.items()}
    ), index


def _parts(keys: Sequence[Key]) -> Iterator[tuple[Key, ...]]:
    return (tuple(keys[at : at + KEYS_AT_ONCE]) for at in range(0, len(keys), KEYS_AT_ONCE))

"""What speaks through another resource follows it: a Binary its security context, a Provenance its targets; and so
does what takes labels over from another: a report from its results, a Binary from what names it.

Their facts are decided when they are stored, and here again when what they depend on is labelled, moved to another
patient or deleted, so that none shows longer what that one hides.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from contextlib import asynccontextmanager

import msgspec

from fhirserver.core.definitions import ORGANIZATION
from fhirserver.core.errors import Conflict
from fhirserver.core.model import REFERENCE_TERM, Facts, Guard, Index, Key, Query, Record, parse_facts
from fhirserver.policy.custody import KEYS_AT_ONCE, Known, look_up, naming
from fhirserver.policy.derive import THROUGH, facts_of, facts_through, rederive, targets_of
from fhirserver.policy.dossier import whole
from fhirserver.policy.items import Item
from fhirserver.policy.labelling import inherited, inheriting, named_by, namers_of, sources_of
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
    """Decide again, in place, the facts of everything that speaks through these resources or takes labels over from
    them, and so on; of those among them that take labels over from what names them, their own, too."""
    waiting, done = set(changed), set[Key]()
    again = {key for key in waiting if namers_of(key.type)}
    while waiting or again:
        done |= waiting
        keys, waiting = sorted(waiting), set()
        named, again = sorted(again), set()
        queries = [_through_query(part) for part in _parts(keys)]
        queries += [Query(keys=part, bodies=False) for part in _parts(named)]
        for query in queries:
            async for batch in store.scan(query):
                for record in await decide_again(store, batch):
                    again |= named_by(record.type, record.supports.split())
                    waiting |= {record.key} - done


async def decide_again(store: Store, records: Sequence[Record]) -> list[Record]:
    """Decide the facts of these current versions anew, in place; those that have changed."""
    changed = await changed_again(store, records)
    if changed:
        await store.reindex(changed)
    return [record for record, _, _ in changed]


async def changed_again(store: Store, records: Sequence[Record]) -> list[tuple[Record, Facts, Index]]:
    """Those of these current versions whose facts are others now, with them."""
    return [each for each in await decided_again(store, records) if each[1].text != each[0].facts]


async def decided_again(store: Store, records: Sequence[Record]) -> list[tuple[Record, Facts, Index]]:
    """What the facts of these current versions are now, all that they depend on looked at again."""
    bodies = [(record, await whole(store, record)) for record in records]
    read = [(record, body, msgspec.json.decode(body)) for record, body in bodies]
    wanted = {
        key for _, _, resource in read for key in (*sources_of(resource), *targets_of(resource)) if key is not None
    }
    wanted |= {Key(ORGANIZATION, parse_facts(record.facts).custodian) for record in records}
    known = Known(await look_up(store, sorted(wanted)), await naming(store, [record.key for record in records]))
    found = {key: parse_facts(each.facts) for key, each in known.records.items()}
    decided = []
    for record, body, resource in read:
        held = parse_facts(record.facts)
        kept, index = rederive(record, body)
        facts = facts_of(record.type, index, custodian=held.custodian, parties=held.parties, programs=known.programs)
        if record.type == "Person":
            facts = msgspec.structs.replace(facts, owners=kept.owners, compartments=kept.compartments)
        if record.type in THROUGH:
            facts = facts_through(record.type, facts, targets_of(resource), found)
        sources = {key: found[key] for key in sources_of(resource) if key in found}
        if namers_of(record.type):
            names = str(record.key)
            sources |= {each.key: parse_facts(each.facts) for each in known.namers if names in each.supports.split()}
        decided.append((record, inherited(facts, sources), index))
    return decided


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


def _through_query(keys: Sequence[Key]) -> Query:
    terms = tuple(f"{REFERENCE_TERM}{key}" for key in keys)
    return Query(types=frozenset({*THROUGH, *inheriting()}), terms=(terms,), bodies=False)


async def _through(store: Store, keys: Sequence[Key]) -> bool:
    """Whether anything would follow these."""
    if any(namers_of(key.type) for key in keys):
        return True
    return await store.count(msgspec.structs.replace(_through_query(keys), limit=1)) > 0


def _parts(keys: Sequence[Key]) -> Iterator[tuple[Key, ...]]:
    return (tuple(keys[at : at + KEYS_AT_ONCE]) for at in range(0, len(keys), KEYS_AT_ONCE))

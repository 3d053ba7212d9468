"""What speaks through another resource follows it: a Binary its security context, a Provenance its targets.

Their facts are decided when they are stored, and here again when what they speak through is labelled, moved to another
patient or deleted, so that neither shows longer what that one hides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import msgspec

from fhirserver.core.index import extract
from fhirserver.core.model import REFERENCE_TERM, Facts, Guard, Index, Key, Query, Record, parse_facts
from fhirserver.policy.custody import KEYS_AT_ONCE, Known, look_up
from fhirserver.policy.derive import THROUGH, facts_of, facts_through, targets_of
from fhirserver.policy.dossier import whole
from fhirserver.policy.items import Item
from fhirserver.store.port import Store


async def follow(store: Store, changed: Iterable[Key]) -> None:
    """Decide again, in place, the facts of everything that speaks through these resources, and so on.

    It comes right after the commit that changed them; a server killed in between leaves the facts as they were.
    """
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

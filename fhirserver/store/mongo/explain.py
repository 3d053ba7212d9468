"""How a query would be read: the ways in that are chosen, and the index that each is held to, without a value."""

from __future__ import annotations

from fhirserver.core.model import Query
from fhirserver.store.mongo import ways
from fhirserver.store.mongo.client import Database


async def explain(database: Database, query: Query) -> list[str]:
    """One sentence per read of current versions."""
    bounds = await ways.bounds(database, query, None)
    plan = await ways.planned(database, query, bounds.room, None)
    return [
        f"READ {arm.collection} USING INDEX {arm.hint}" + ("" if arm.ordered else " IN RANGES OF seq")
        for arm in plan.arms
    ]

"""What a conditional request found is held to inside its commit."""

from __future__ import annotations

from pathlib import Path

import pytest

from fhirserver.core.errors import Conflict
from fhirserver.http.conditions import criteria, holding, the_one
from fhirserver.policy.gate import CHANGED
from tests.admitted import put, world
from tests.build import practitioner
from tests.stores import every_kind

kind = every_kind


async def test_a_match_that_has_become_another_resource_fails_the_commit(tmp_path: Path, kind: str) -> None:
    """One match before and one after, but not the same one: counting alone would not see it."""
    async with world(tmp_path, kind) as w:
        npi = {"identifier": [{"system": "urn:npi", "value": "1"}]}
        scoped = await w.writer("clinic")
        await scoped.write([put(practitioner("a", **npi)), put(practitioner("b"))])
        query = criteria("Practitioner", "identifier=urn:npi|1", 0)
        there = await the_one(scoped, query)
        assert there is not None
        assert there.id == "a"
        await scoped.write([put(practitioner("a")), put(practitioner("b", **npi))])
        with pytest.raises(Conflict) as refused:
            await scoped.write([put(practitioner("a", **npi))], conditions=holding(query, there))
        assert refused.value.message == CHANGED
        there = await the_one(scoped, query)
        assert there is not None
        [stored] = await scoped.write([put(practitioner("b", **npi))], conditions=holding(query, there))
        assert stored.version == 3

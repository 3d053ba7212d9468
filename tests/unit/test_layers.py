"""What a handler is given leads to no store: neither the gate nor a Scoped shows one."""

from __future__ import annotations

import msgspec

from fhirserver.http.server import Server
from fhirserver.policy.gate import Gate
from tests.build import load, patient
from tests.served import Served


async def test_neither_the_gate_nor_a_scoped_shows_the_store(server: Served) -> None:
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    for shown in (server.gate, scoped, server.runtime, server.gate.upkeep(subject="test")):
        public = {name: getattr(shown, name) for name in dir(shown) if not name.startswith("_")}
        assert not [name for name, value in public.items() if hasattr(value, "commit") and hasattr(value, "scan")]
    assert "store" not in Server.__struct_fields__
    assert not hasattr(Gate, "store")


async def test_operator_tokens_can_be_switched_off(server: Served) -> None:
    token = server.token()
    assert (await server.get("Patient", token)).status_code == 200
    server.gate._operators = False
    assert (await server.get("Patient", token)).status_code == 401


async def test_deriving_facts_again_is_audited_and_moves_the_policy_epoch(server: Served) -> None:
    await load(server.gate, [patient("p")])
    principal = server.gate.system(subject="test", organization="operator", purpose="test").principal
    named = msgspec.structs.replace(principal, token_id="t")
    before = await server.gate.check(named)
    told: list[tuple[int, int]] = []
    upkeep = server.gate.upkeep(subject="command:me")
    assert await upkeep.reindex(lambda done, total: told.append((done, total))) == 2
    assert told[-1] == (2, 2)
    assert await server.gate.check(named) == before + 2, "when it begins, and when it is done"
    rows = [row for row in await server.audit() if row.interaction == "reindex"]
    assert [(row.subject, row.outcome) for row in rows] == [("command:me", "intent"), ("command:me", "complete")]
    assert rows[1].intent == rows[0].id
    assert [problem async for problem in upkeep.verify()] == []

"""What a handler is given leads to no store: neither the gate nor a Scoped shows one."""

from __future__ import annotations

from fhirserver.http.server import Server
from fhirserver.policy.gate import Gate
from tests.served import Served


async def test_neither_the_gate_nor_a_scoped_shows_the_store(server: Served) -> None:
    scoped = server.gate.system(subject="test", organization="operator", purpose="test")
    for shown in (server.gate, scoped):
        public = {name: getattr(shown, name) for name in dir(shown) if not name.startswith("_")}
        assert not [name for name, value in public.items() if hasattr(value, "commit") and hasattr(value, "scan")]
    assert "store" not in Server.__struct_fields__
    assert not hasattr(Gate, "store")


async def test_operator_tokens_can_be_switched_off(server: Served) -> None:
    token = server.token()
    assert (await server.get("Patient", token)).status_code == 200
    server.gate._operators = False
    assert (await server.get("Patient", token)).status_code == 401

"""Each answer names its request: `X-Request-Id` and `X-Correlation-Id`."""

from __future__ import annotations

from tests.served import Served


async def test_a_request_id_is_echoed_or_made_and_then_the_clients_is_told_back(server: Served) -> None:
    echoed = await server.get("metadata", headers={"X-Request-Id": "abc-1"})
    assert echoed.headers["x-request-id"] == "abc-1"
    assert "x-correlation-id" not in echoed.headers
    made = await server.get("metadata", headers={"X-Request-Id": "has blanks <here>"})
    assert made.headers["x-request-id"].isalnum()
    assert made.headers["x-correlation-id"] == "has blanks <here>"
    given = await server.get("metadata", headers={"X-Correlation-Id": "flow-7"})
    assert given.headers["x-correlation-id"] == "flow-7"
    long = await server.get("metadata", headers={"X-Request-Id": "x" * 500})
    assert "x-correlation-id" not in long.headers


async def test_errors_name_their_request_too(server: Served) -> None:
    for path in ("Patient/none", "Nonsense", "metadata?mode=nonsense"):
        assert (await server.get(path, headers={"X-Request-Id": "abc"})).headers["x-request-id"] == "abc"

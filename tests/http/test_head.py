"""HEAD is GET without its body."""

from __future__ import annotations

import asyncio

from tests.build import load, observation, patient
from tests.served import Served


async def raw(server: Served, text: str) -> bytes:
    """Everything that comes back for these bytes on a connection of their own."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, out = await asyncio.open_connection(host, int(port))
    out.write(text.replace("\n", "\r\n").encode())
    await out.drain()
    answer = await reader.read()
    out.close()
    return answer


async def test_head_is_get_without_its_body(server: Served) -> None:
    many = [observation(f"o{n}", "p", note=[{"text": "x" * 2_000}]) for n in range(60)]
    await load(server.gate, [patient("p"), *many])
    async with server.client() as client:
        for path in (
            "metadata",
            "Patient/p",
            "Patient/p/_history/1",
            "Patient?_id=p",
            "Patient/p/$everything",
            "Patient/x",
        ):
            for coding in ("identity", "gzip"):
                headers = {"Accept-Encoding": coding}
                get, head = await client.get(path, headers=headers), await client.head(path, headers=headers)
                assert (head.status_code, head.content) == (get.status_code, b""), path
                varying = {"date", "x-request-id", "content-length", "transfer-encoding"}
                for name in get.headers.keys() - varying:
                    assert head.headers[name] == get.headers[name], (path, name)
                if "content-length" in get.headers:
                    assert head.headers["content-length"] == get.headers["content-length"], path
        assert (await client.head("Patient/p", headers={"If-None-Match": 'W/"1"'})).status_code == 304


async def test_after_head_the_connection_serves_the_next_request(server: Served) -> None:
    await load(
        server.gate, [patient("p"), *(observation(f"o{n}", "p", note=[{"text": "x" * 2_000}]) for n in range(60))]
    )
    head = f"HEAD /FHIR/R4/Patient/p/$everything HTTP/1.1\nHost: x\nAuthorization: Bearer {server.token()}\n\n"
    get = "GET /health/live HTTP/1.1\nHost: x\nConnection: close\n\n"
    answer = await raw(server, head + get)
    first, _, rest = answer.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert rest.startswith(b"HTTP/1.1 200")
    assert rest.endswith(b'{"status":"live"}')


async def test_head_is_admitted_and_audited_like_a_read_of_nothing(server: Served) -> None:
    await load(server.gate, [patient("p")])
    token = server.token("third-party", org="app")
    async with server.client(token) as client:
        assert (await client.head("Patient/p")).status_code == 403
    async with server.client() as client:
        assert (await client.head("Patient/p")).status_code == 200
        assert (await client.head("Patient/p/$everything")).status_code == 200
    rows = await server.audit()
    assert [row.interaction for row in rows if row.outcome == "denied"] == ["read"]
    counts = {row.interaction: row.detail["count"] for row in rows if row.outcome == "complete"}
    assert (counts["read"], counts["$everything"]) == (0, 0)


async def test_that_something_is_there_is_never_told_unaudited(server: Served) -> None:
    """HEAD, a 304 and a conditional create in a transaction show nothing, and say that there is something."""
    known = {"system": "urn:x", "value": "1"}
    binary = {"resourceType": "Binary", "id": "b", "contentType": "text/plain", "data": "eA=="}
    await load(server.gate, [patient("p", identifier=[known]), binary])
    entry = {
        "resource": patient("other"),
        "request": {"method": "POST", "url": "Patient", "ifNoneExist": "identifier=urn:x|1"},
    }
    bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
    kept = {"If-None-Match": 'W/"1"'}
    async with server.client(server.token(scope="system/*.cruds", subject="asker")) as client:
        answers = [
            await client.head("Patient/p"),
            await client.get("Patient/p", headers=kept),
            await client.get("Binary/b", headers={**kept, "Accept": "text/plain"}),
            await client.post("", json=bundle),
        ]
    assert [answer.status_code for answer in answers] == [200, 304, 304, 200]
    rows = [row for row in await server.audit() if row.subject == "asker"]
    told = [
        (row.interaction, row.detail.get("resource") or row.detail.get("resources")) for row in rows if not row.intent
    ]
    assert told == [("read", "Patient/p"), ("read", "Patient/p"), ("read", "Binary/b"), ("transaction", ["Patient/p"])]
    assert [(row.outcome, row.detail["count"]) for row in rows if row.intent] == [("complete", 0)] * 4
    assert [row.patients for row in rows if not row.intent] == [("p",), ("p",), (), ("p",)]

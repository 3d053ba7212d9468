"""Media types, versions, preferences, and what holds for every answer: `_pretty`, compression, HEAD, request ids."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Callable
from typing import Any

import httpx
import pytest
import zstandard
from starlette.requests import Request

from fhirserver.http.negotiation import Preferences, prefer
from tests.build import load, observation, patient, practitioner
from tests.served import Served

FHIR = "application/fhir+json"
WRITER = "system/*.cruds"


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "query_string": b""})


def writer(server: Served, **headers: str) -> httpx.AsyncClient:
    return server.client(server.token(scope=WRITER), headers=headers)


async def raw(server: Served, text: str) -> bytes:
    """Everything that comes back for these bytes on a connection of their own."""
    host, _, port = server.url.removeprefix("http://").partition(":")
    reader, out = await asyncio.open_connection(host, int(port))
    out.write(text.replace("\n", "\r\n").encode())
    await out.drain()
    answer = await reader.read()
    out.close()
    return answer


# -- what is asked for


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Preferences()),
        ("handling=strict", Preferences(strict=True)),
        ('respond-async, Handling = "strict" ; x=y, return=minimal', Preferences(True, "minimal")),
        ("return=operationoutcome", Preferences(False, "OperationOutcome")),
        ("return=representation, return=minimal", Preferences(False, "representation")),
        ("return=everything, handling=loose", Preferences()),
        ("nothandling=strict", Preferences()),
    ],
)
def test_preferences_are_read_as_rfc_7240_says(header: str, expected: Preferences) -> None:
    assert prefer(request(prefer=header)) == expected


ANSWERED = {
    "application/fhir+json; fhirVersion=4.0": f"{FHIR}; fhirVersion=4.0",
    'application/fhir+json; fhirVersion="4.0"; q=0.5': f"{FHIR}; fhirVersion=4.0",
    "application/fhir+json; fhirVersion=3.0, application/json;q=0.1": "application/json",
    "text/json": "text/json",
    "application/json+fhir": FHIR,
    "application/*": FHIR,
    "application/fhir+json;q=0, */*": "application/json",
    "APPLICATION/FHIR+JSON": FHIR,
}
REFUSED = (
    "application/fhir+xml",
    "text/turtle",
    "application/fhir+json; fhirVersion=3.0",
    "application/fhir+json; fhirVersion=5.0, application/fhir+xml",
    "application/fhir+json;q=0",
)


async def test_the_media_type_that_was_asked_for_comes_back_and_what_is_not_served_is_a_406(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    async with server.client() as client:
        for path in ("metadata", "Practitioner/dr", "Practitioner", "Practitioner/dr/_history/1"):
            for accept, type_ in ANSWERED.items():
                answer = await client.get(path, headers={"Accept": accept})
                assert (answer.status_code, answer.headers["content-type"]) == (200, f"{type_}; charset=utf-8"), accept
            for accept in REFUSED:
                answer = await client.get(path, headers={"Accept": accept})
                assert (answer.status_code, answer.json()["resourceType"]) == (406, "OperationOutcome"), accept


FORMATS = {
    "json": 200,
    "application/json": 200,
    "application/fhir+json": 200,
    "application/fhir%2Bjson": 200,
    "application/fhir+json;fhirVersion=4.0": 200,
    "application/fhir+json;fhirVersion=3.0": 406,
    "xml": 406,
    "ttl": 406,
    "html": 406,
}


async def test_format_wins_over_accept(server: Served) -> None:
    async with server.client(headers={"Accept": "application/fhir+xml"}) as client:
        for format_, status in FORMATS.items():
            answer = await client.get(f"metadata?_format={format_}")
            assert (answer.status_code, "json" in answer.headers["content-type"]) == (status, True), format_


async def test_an_answer_that_cannot_be_given_is_refused_before_anything_is_written(server: Served) -> None:
    body = json.dumps(practitioner("dr")).encode()
    async with writer(server, **{"Content-Type": FHIR}) as client:
        for path, accept in (
            ("Practitioner/dr", "application/fhir+xml"),
            ("Practitioner/dr?_format=xml", FHIR),
            ("Practitioner/dr?_summary=nonsense", FHIR),
            ("Practitioner/dr?_pretty=nonsense", FHIR),
        ):
            answer = await client.put(path, content=body, headers={"Accept": accept})
            assert answer.status_code in (400, 406), path
        assert (await client.get("Practitioner/dr")).status_code == 404
        assert (await client.put("Practitioner/dr", content=body)).status_code == 201


# -- what is sent


SENT = {
    FHIR: 201,
    "application/json": 201,
    "application/fhir+json; charset=utf-8": 201,
    'application/fhir+json; charset="UTF-8"': 201,
    "application/fhir+json; fhirVersion=4.0": 201,
    "application/fhir+json; fhirVersion=3.0": 415,
    "application/fhir+json; charset=iso-8859-1": 415,
    "application/fhir+xml": 415,
    "text/plain": 415,
}


async def test_a_body_of_another_type_version_or_charset_is_a_415(server: Served) -> None:
    async with writer(server) as client:
        for number, (sent, status) in enumerate(SENT.items()):
            body = json.dumps(practitioner(f"dr{number}")).encode()
            answer = await client.put(f"Practitioner/dr{number}", content=body, headers={"Content-Type": sent})
            assert answer.status_code == status, sent
            assert status == 201 or answer.json()["resourceType"] == "OperationOutcome"


PACKED: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "zstd": zstandard.ZstdCompressor().compress,
    "identity": bytes,
    "identity, gzip": gzip.compress,
}


async def test_a_body_may_come_compressed(server: Served) -> None:
    async with writer(server, **{"Content-Type": FHIR}) as client:
        for number, (coding, pack) in enumerate(PACKED.items()):
            id_ = f"dr{number}"
            body = pack(json.dumps(practitioner(id_)).encode())
            answer = await client.put(f"Practitioner/{id_}", content=body, headers={"Content-Encoding": coding})
            assert answer.status_code == 201, coding
            assert (await client.get(f"Practitioner/{id_}")).json()["name"] == [{"family": f"Doctor-{id_}"}]


async def test_another_encoding_is_a_415_that_names_the_known_ones(server: Served) -> None:
    async with writer(server, **{"Content-Type": FHIR}) as client:
        for coding in ("br", "deflate", "gzip, zstd", "nonsense"):
            answer = await client.put("Practitioner/dr", content=b"x", headers={"Content-Encoding": coding})
            assert (answer.status_code, answer.headers["accept-encoding"]) == (415, "gzip, zstd")


async def test_a_body_that_does_not_decode_is_a_400(server: Served) -> None:
    body = json.dumps(practitioner("dr")).encode()
    async with writer(server, **{"Content-Type": FHIR}) as client:
        for coding in ("gzip", "zstd"):
            for wrong in (body, PACKED[coding](body)[:-4], b""):
                answer = await client.put("Practitioner/dr", content=wrong, headers={"Content-Encoding": coding})
                assert answer.status_code == 400, (coding, wrong)


# -- how it is written


async def test_pretty_is_indented_whole_and_streamed(server: Served) -> None:
    many = [observation(f"o{n}", "p", note=[{"text": '{[,:\\" ' + "x" * 2_000}]) for n in range(60)]
    await load(server.gate, [patient("p"), *many])
    for path in ("Patient/p", "metadata", "Patient?_id=p", "Observation?_count=60", "Patient/p/$everything"):
        mark = "&" if "?" in path else "?"
        plain, pretty = [await server.get(f"{path}{mark}_pretty={value}") for value in ("false", "true")]
        assert b"\n" not in plain.content
        assert b'\n  "resourceType"' in pretty.content or b'\n  "id"' in pretty.content
        left, right = plain.json(), pretty.json()
        for bundle in (left, right):
            bundle.pop("timestamp", None)
            bundle.pop("link", None)
        assert left == right


async def test_pretty_is_true_or_false(server: Served) -> None:
    answer = await server.get("metadata?_pretty=1")
    assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (400, ["_pretty"])


async def test_pretty_keeps_number_texts_and_ndjson_lines(server: Served) -> None:
    raw_body = (
        b'{"resourceType":"Observation","id":"o","status":"final","code":{"text":"x"},"valueQuantity":{"value":7.20}}'
    )
    async with writer(server, **{"Content-Type": FHIR}) as client:
        assert (await client.put("Observation/o", content=raw_body)).status_code == 201
    assert b'"value": 7.20\n' in (await server.get("Observation/o?_pretty=true")).content
    await load(server.gate, [patient("p")])
    lines = (await server.get("Patient/p/$everything?_pretty=true", headers={"Accept": "application/fhir+ndjson"})).text
    assert all(json.loads(line) for line in lines.splitlines())


@pytest.mark.parametrize("encoding", ["gzip", "zstd"])
async def test_answers_are_compressed_where_that_is_worth_it(server: Served, encoding: str) -> None:
    many = [observation(f"o{n}", "p", note=[{"text": "x" * 2_000}]) for n in range(60)]
    await load(server.gate, [patient("p"), practitioner("dr"), *many])
    for path, worth in (
        ("metadata", True),
        ("Observation/o1", True),
        ("Observation?_count=60", True),
        ("Patient/p/$everything", True),
        ("Practitioner/dr", False),
    ):
        answer = await server.get(path, headers={"Accept-Encoding": encoding})
        assert answer.headers.get("content-encoding") == (encoding if worth else None), path
        assert "accept-encoding" in answer.headers["vary"].lower()
        plain = await server.get(path, headers={"Accept-Encoding": "identity"})
        assert "content-encoding" not in plain.headers
        assert answer.json().keys() == plain.json().keys()
        if "content-length" in answer.headers and worth:
            assert int(answer.headers["content-length"]) < int(plain.headers["content-length"])


async def test_a_refusal_is_never_compressed_away(server: Served) -> None:
    answer = await server.get("Patient/none", headers={"Accept-Encoding": "gzip"})
    assert (answer.status_code, answer.json()["resourceType"]) == (404, "OperationOutcome")


# -- HEAD


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


# -- ids and paths


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


async def test_a_slash_at_the_end_changes_nothing(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    for path in ("metadata/", "Practitioner/dr/", "Practitioner/?_id=dr", "Practitioner/dr/_history/1/"):
        assert (await server.get(path)).status_code == 200, path


# -- _summary and _elements

OBSERVATION: dict[str, Any] = {
    "text": {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'},
    "note": [{"text": "not in a summary"}],
    "valueQuantity": {"value": 7.2},
}


async def test_summary_and_elements_hold_for_read_vread_search_and_everything(server: Served) -> None:
    await load(server.gate, [patient("p"), observation("o", "p", **OBSERVATION)])
    always = {"resourceType", "id", "meta", "status", "code"}
    for query, kept in (
        ("_summary=true", always | {"subject", "valueQuantity"}),
        ("_summary=text", always | {"text"}),
        ("_summary=data", always | {"subject", "valueQuantity", "note"}),
        ("_elements=note", always | {"note"}),
        ("_elements=note,Observation.subject", always | {"note", "subject"}),
        ("_elements=note&_elements=value", always | {"note", "valueQuantity"}),
        ("_elements=nonsense", always),
    ):
        for path in (
            "Observation/o",
            "Observation/o/_history/1",
            "Observation?_id=o",
            "Patient/p/$everything?_type=Observation",
        ):
            found = (await server.get(f"{path}{'&' if '?' in path else '?'}{query}")).json()
            resource = found["entry"][0]["resource"] if found["resourceType"] == "Bundle" else found
            assert resource.keys() == kept, (path, query)
            assert resource["meta"]["tag"][0]["code"] == "SUBSETTED"
            assert resource["meta"]["versionId"] == "1"
    whole = (await server.get("Observation/o?_summary=false")).json()
    assert "tag" not in whole["meta"]
    assert "note" in whole


async def test_a_subset_that_cannot_be_understood_is_a_400_naming_the_parameter(server: Served) -> None:
    await load(server.gate, [practitioner("dr")])
    for query in ("_summary=nonsense", "_summary=", "_elements=", "_elements=a,,b", "_summary=count"):
        answer = await server.get(f"Practitioner/dr?{query}")
        assert (answer.status_code, answer.json()["issue"][0]["expression"]) == (400, [query.partition("=")[0]]), query


async def test_what_a_write_gives_back_may_be_a_subset(server: Served) -> None:
    async with writer(server) as client:
        answer = await client.put("Observation/o?_elements=note", json=observation("o", "p", **OBSERVATION))
        assert answer.status_code == 201
        assert answer.json().keys() == {"resourceType", "id", "meta", "status", "code", "note"}
        assert "valueQuantity" in (await client.get("Observation/o")).json()


async def test_a_count_is_the_total_and_nothing_else(server: Served) -> None:
    await load(server.gate, [practitioner("a"), practitioner("b"), patient("p")])
    for query in ("_summary=count", "_count=0"):
        bundle = (await server.get(f"Practitioner?{query}")).json()
        assert (bundle["total"], "entry" in bundle) == (2, False)
        assert [link["relation"] for link in bundle["link"]] == ["self"]
        assert query in bundle["link"][0]["url"]
    assert (await server.get("Practitioner?_summary=count&_id=a")).json()["total"] == 1
    token = server.token("third-party", org="app")
    assert (await server.get("Patient?_summary=count", token)).json()["total"] == 0


async def test_the_links_of_a_search_keep_how_it_was_asked_for(server: Served) -> None:
    await load(server.gate, [practitioner("a"), practitioner("b", gender="female"), practitioner("c")])
    url = "Practitioner?_count=1&_elements=gender&_format=json"
    seen = []
    async with server.client() as client:
        while url:
            bundle = (await client.get(url, headers={"Accept": "application/fhir+xml"})).json()
            seen += [sorted(entry["resource"]) for entry in bundle["entry"]]
            url = next((link["url"] for link in bundle["link"] if link["relation"] == "next"), "")
    assert seen == [
        ["id", "meta", "resourceType"],
        ["gender", "id", "meta", "resourceType"],
        ["id", "meta", "resourceType"],
    ]


async def test_a_subset_cannot_be_written_back(server: Served) -> None:
    await load(server.gate, [practitioner("dr", gender="female")])
    subset = (await server.get("Practitioner/dr?_elements=gender")).json()
    async with writer(server, **{"Content-Type": FHIR}) as client:
        assert (await client.put("Practitioner/dr", json=subset)).status_code in (400, 422)

"""Media types, versions, preferences and encodings: what is asked for, and what is sent."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable

import pytest
import zstandard
from starlette.requests import Request

from fhirserver.http.negotiation import Preferences, prefer
from tests.build import load, practitioner
from tests.served import Served
from tests.writer import FHIR, writer


def request(**headers: str) -> Request:
    raw = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "headers": raw, "query_string": b""})


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

"""Published resources, bad and good, through every door that writes: over real HTTP as create, update and transaction.

The bad ones are refused with an OperationOutcome that names the element, as a 400 where they are no JSON and a 422
where they break a rule; nothing of them is stored, nor of what came with them in a transaction. Those that break
nothing of R4's are stored: which, and why, is the table ``ACCEPTED`` of the validator's own test.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from fhirserver.core.jsontext import without_mark
from tests.build import practitioner
from tests.served import Served
from tests.unit.test_validate_published import ACCEPTED, BAD, GOOD_YET_REFUSED, INVALID, files_of

FHIR = {"Content-Type": "application/fhir+json"}
TYPE = re.compile(rb'"resourceType"\s*:\s*"([A-Za-z]+)"')
ID = re.compile(r"[A-Za-z0-9\-.]{1,64}")


class File(NamedTuple):
    """A published file as it can be sent; ``updating`` is the same, with the id of the URL where it had none."""

    name: str
    raw: bytes
    type: str
    id: str
    updating: bytes


def read(path: Path) -> File:
    raw = path.read_bytes()
    found = TYPE.search(raw)
    assert found, path.name
    try:
        resource = json.loads(raw)
    except ValueError:
        return File(path.stem, raw, found[1].decode(), "x", raw)
    type_, given = resource["resourceType"], resource.get("id")
    if given is None:
        return File(path.stem, raw, type_, "x", raw.replace(b"{", b'{"id": "x",', 1))
    return File(path.stem, raw, type_, given if isinstance(given, str) and ID.fullmatch(given) else "x", raw)


def transaction(file: File) -> bytes:
    """The file as the second entry; the first, which is good, must not be stored without it."""
    good = json.dumps({"request": {"method": "PUT", "url": "Practitioner/good"}, "resource": practitioner("good")})
    sent = (file.type.encode(), without_mark(file.raw))
    entry = b'{"request": {"method": "POST", "url": "%s"}, "resource": %s}' % sent
    return b'{"resourceType": "Bundle", "type": "transaction", "entry": [%s, %s]}' % (good.encode(), entry)


async def three_ways(client: httpx.AsyncClient, file: File) -> dict[str, httpx.Response]:
    return {
        "create": await client.post(file.type, content=file.raw, headers=FHIR),
        "update": await client.put(f"{file.type}/{file.id}", content=file.updating, headers=FHIR),
        "transaction": await client.post("", content=transaction(file), headers=FHIR),
    }


def is_json(raw: bytes) -> bool:
    """As another parser has it; it, too, takes a byte order mark for none."""
    try:
        json.loads(raw.decode())
    except ValueError:
        return False
    return True


def told(answer: httpx.Response) -> Iterator[tuple[str, str, str]]:
    """(code, path, text) of each issue of a refusal, which is an OperationOutcome in FHIR JSON."""
    assert answer.headers["content-type"].startswith("application/fhir+json")
    outcome: dict[str, Any] = answer.json()
    assert outcome["resourceType"] == "OperationOutcome"
    assert outcome["issue"]
    for issue in outcome["issue"]:
        assert issue["severity"] == "error"
        yield issue["code"], "".join(issue.get("expression", [])), issue["diagnostics"]


def is_named(answer: httpx.Response, code: str, place: str, inside: str = "") -> bool:
    """Whether an issue is of this code at this place; a place without a path is a line of the text, which is another
    line in a Bundle."""
    if not place[0].isupper():
        lines = "line" if inside else place
        return any(given == code and not path and lines in text for given, path, text in told(answer))
    expected = inside + place.partition(".")[2] if inside else place
    return any((given, path) == (code, expected) for given, path, _ in told(answer))


async def stored(client: httpx.AsyncClient) -> int:
    answer = await client.get("_history?_count=1")
    assert answer.status_code == 200, answer.text
    return len(answer.json().get("entry", []))


@pytest.mark.slow
async def test_every_bad_resource_is_refused_at_its_place_through_every_door(server: Served) -> None:
    files = [read(path) for path in files_of(f"{INVALID}/bad") if path.stem in BAD]
    assert len(files) == len(BAD)
    async with server.client(server.token("member", org="clinic", scope="system/*.cruds")) as client:
        for file in files:
            code, place = BAD[file.name]
            for way, answer in (await three_ways(client, file)).items():
                status = 422 if is_json(transaction(file) if way == "transaction" else file.raw) else 400
                assert answer.status_code == status, (file.name, way, answer.text)
                inside = "Bundle.entry[1].resource." if way == "transaction" else ""
                assert is_named(answer, code, place, inside), (file.name, way, answer.text[:2000])
        assert await stored(client) == 0


async def is_stored(client: httpx.AsyncClient, file: File) -> None:
    """But for AuditEvents, which the server alone writes."""
    answers = await three_ways(client, file)
    expected = (405, 405, 405) if file.type == "AuditEvent" else (201, 201, 200)
    assert tuple(answer.status_code for answer in answers.values()) == expected, (file.name, answers)
    if file.type != "AuditEvent":
        assert (await client.get(f"{file.type}/{file.id}")).status_code == 200
        assert (await client.delete(f"{file.type}/{file.id}")).status_code == 204  # several files share an id


@pytest.mark.slow
async def test_what_breaks_nothing_of_r4_is_stored_through_every_door(server: Served) -> None:
    accepted = {name for names in ACCEPTED.values() for name in names}
    async with server.client(server.token("member", org="clinic", scope="system/*.cruds")) as client:
        for path in files_of(f"{INVALID}/bad"):
            if path.stem in accepted:
                await is_stored(client, read(path))


@pytest.mark.slow
async def test_every_good_resource_is_stored_through_every_door(server: Served) -> None:
    """But for what the tables of the validator's test name."""
    async with server.client(server.token("member", org="clinic", scope="system/*.cruds")) as client:
        for path in files_of(f"{INVALID}/good"):
            if path.stem not in GOOD_YET_REFUSED:
                await is_stored(client, read(path))

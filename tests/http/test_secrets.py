"""Secrets and what identifies people stand in no log line, no error and no audit row, whatever goes wrong."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from fhirserver.app import application
from fhirserver.config import load as settings_from
from fhirserver.http.failures import trace
from tests.build import load, observation, patient
from tests.served import Served, served
from tests.stores import every_kind

kind = every_kind

MRN = "MRN7731990042"
BIRTH = "1931-07-13"
NAME = "Quillfeather"
PHONE = "5550147293"
STREET = "Larkspur"
MAIL = "quill@example.org"
PHI = (MRN, BIRTH, NAME, PHONE, STREET, MAIL)

CHART = patient(
    "p",
    identifier=[{"system": "urn:mrn", "value": MRN}],
    name=[{"family": NAME}],
    birthDate=BIRTH,
    telecom=[{"system": "phone", "value": PHONE}, {"system": "email", "value": MAIL}],
    address=[{"line": [STREET]}],
)
FHIR = {"Content-Type": "application/fhir+json"}


class Kept(logging.Handler):
    """Every line of every logger, as a handler would write it, at DEBUG."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        if not record.name.startswith(("httpx", "httpcore", "asyncio")):  # the test's own client
            self.lines.append(self.format(record))


@pytest.fixture
def kept() -> Iterator[Kept]:
    root, handler = logging.getLogger(), Kept()
    before = {name: logging.getLogger(name).level for name in ("", "uvicorn", "uvicorn.error", "pymongo")}
    root.addHandler(handler)
    for name in before:
        logging.getLogger(name).setLevel(logging.DEBUG)
    yield handler
    root.removeHandler(handler)
    for name, level in before.items():
        logging.getLogger(name).setLevel(level)


@pytest.fixture
async def server(kind: str, tmp_path: Path, kept: Kept) -> AsyncIterator[Served]:
    async with served(tmp_path, kind) as running:
        logging.getLogger("uvicorn.error").setLevel(logging.DEBUG)
        await load(running.gate, [CHART, observation("o", "p")])
        yield running


def bad_requests() -> list[tuple[str, str, dict[str, Any]]]:
    """(method, path, further arguments) of requests that carry what identifies a person, rightly and wrongly. Names (of
    parameters, elements, codes and ids) are told again to whoever sent them; values are not."""
    named = f"identifier=urn:mrn|{MRN}&family={NAME}&birthdate={BIRTH}&phone={PHONE}&email={MAIL}&address={STREET}"
    wrong = json.dumps({**CHART, "birthDate": f"{BIRTH}-{MRN}", "gender": "x", "active": MRN, "more": MRN})
    many = {**CHART, "identifier": [{"value": MRN, "use": "x", "system": f"{MRN} {NAME}", "period": BIRTH}]}
    form = {"Content-Type": "application/x-www-form-urlencoded"}
    patched = [{"op": "test", "path": "/birthDate", "value": "1900-01-01"}, {"op": "add", "path": f"/{NAME}/{MRN}"}]
    entries = [
        {"resource": many, "request": {"method": "POST", "url": "Patient", "ifNoneExist": f"identifier={MRN}"}},
        {"request": {"method": "GET", "url": f"Patient?{named}"}},
        {"request": {"method": "GET", "url": f"Patient?birthdate=x{BIRTH}"}},
        {"request": {"method": "DELETE", "url": f"Patient?identifier={MRN}x"}},
    ]
    bundles = [{"resourceType": "Bundle", "type": kind, "entry": entries} for kind in ("batch", "transaction")]
    return [
        ("GET", f"Patient?{named}", {}),
        ("GET", f"Observation?subject:Patient.identifier={MRN}&subject:Patient.name={NAME}", {}),
        ("GET", f"Patient?_has:Observation:subject:_content={NAME}&_text={NAME}", {}),
        ("GET", f"Patient?birthdate=x{BIRTH}", {}),
        ("GET", f"Patient?identifier={MRN}|{NAME}|{MRN}", {}),
        ("GET", f"Patient?unknown={MRN}", {"headers": {"Prefer": "handling=strict"}}),
        ("GET", f"Patient?_count={MRN}&_sort=unknown", {}),
        ("GET", f"Patient?_filter=name eq {NAME}", {"headers": {"Prefer": "handling=strict"}}),
        ("GET", f"Patient?_page={MRN}", {}),
        ("GET", f"Patient?_lastUpdated={BIRTH}{MRN}", {}),
        ("GET", f"{NAME}/{MRN}", {}),
        ("GET", f"Patient/p/$everything?start={MRN}", {}),
        ("GET", f"Patient/p/_history?_since={MRN}", {}),
        ("GET", f"DocumentReference/$docref?patient={MRN}{NAME}!", {}),
        ("POST", "Patient/_search", {"content": named, "headers": form}),
        ("POST", "Patient/_search", {"content": f"birthdate=x{BIRTH}&identifier={MRN}", "headers": form}),
        ("PUT", "Patient/p", {"content": wrong, "headers": FHIR}),
        ("PUT", "Patient/p", {"json": many}),
        ("PUT", "Patient/other", {"json": CHART}),
        ("PUT", "Patient/p", {"content": wrong[:-20], "headers": FHIR}),
        ("POST", "Patient", {"json": CHART, "headers": {"If-None-Exist": f"identifier={MRN}&birthdate=x{BIRTH}"}}),
        ("POST", "Patient/$validate", {"content": wrong, "headers": FHIR}),
        ("PATCH", "Patient/p", {"json": patched, "headers": {"Content-Type": "application/json-patch+json"}}),
        ("PUT", f"Patient?identifier={MRN}", {"json": {"resourceType": "Patient", "id": NAME}}),
        ("DELETE", f"Patient?identifier={MRN}-none", {}),
        ("POST", "", {"json": bundles[0]}),
        ("POST", "", {"json": bundles[1]}),
        ("GET", "Patient/p", {"headers": {"If-None-Match": NAME, "If-Modified-Since": MRN}}),
        ("GET", "Patient/p?_format=" + NAME, {"headers": {"Accept": MRN}}),
        ("PUT", "Patient/p", {"json": CHART, "headers": {"If-Match": MRN}}),
    ]


def found(text: str, secrets: tuple[str, ...]) -> list[str]:
    return [secret for secret in secrets if secret in text]


async def test_requests_that_carry_phi_and_fail(server: Served, kept: Kept) -> None:
    token = server.token(scope="system/*.cruds")
    bad: list[tuple[str, str, list[str]]] = []
    statuses = set()
    async with server.client(token) as client:
        for method, path, more in bad_requests():
            answer = await client.request(method, path, **more)
            statuses.add(answer.status_code)
            if answer.status_code >= 400 and (leaked := found(answer.text, (*PHI, token))):
                bad.append((method, path, leaked))
    assert {200, 400, 404, 422} <= statuses
    assert bad == [], "in the answer"
    rows = msgspec.json.encode(await server.audit()).decode()
    assert found(rows, (*PHI, token)) == [], "in the audit trail"
    log = "\n".join(kept.lines)
    assert "search-type" in log  # something was logged at all
    assert found(log, (*PHI, token)) == [], "in the log"


async def test_tokens_that_are_wrong_are_repeated_nowhere(server: Served, kept: Kept) -> None:
    good = server.token()
    for token in (good[:-4] + "AAAA", "hlsk_SENTINELSECRET", f"{good}.{good}"):
        answer = await server.get("Patient/p", token)
        assert answer.status_code == 401
        assert token not in answer.text
        async with httpx.AsyncClient() as client:
            basic = await client.get(server.base + "/Patient/p", auth=("user", token))
        assert basic.status_code == 401
    log = "\n".join(kept.lines) + msgspec.json.encode(await server.audit()).decode()
    assert "SENTINELSECRET" not in log
    assert good not in log


async def test_a_defect_is_logged_with_its_place_and_without_its_message(
    server: Served, kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        try:
            raise KeyError(MRN)
        except KeyError as error:
            raise RuntimeError(f"{NAME} was born on {BIRTH}") from error

    monkeypatch.setattr("fhirserver.http.read.json_answer", fails)
    answer = await server.get("Patient/p")
    assert answer.status_code == 500
    batch = {"resourceType": "Bundle", "type": "batch", "entry": [{"request": {"method": "GET", "url": "Patient/p"}}]}
    async with server.client(server.token(scope="system/*.cruds")) as client:
        inside = await client.post("", json=batch)
    assert inside.json()["entry"][0]["response"]["status"].startswith("500")
    log = "\n".join(kept.lines)
    assert answer.headers["x-request-id"] in log
    assert "builtins.RuntimeError" in log
    assert "caused by builtins.KeyError" in log
    assert "http/read.py" in log
    assert found(log + answer.text + inside.text, PHI) == []


async def test_a_defect_amid_an_answer(server: Served, kept: Kept, monkeypatch: pytest.MonkeyPatch) -> None:
    await load(server.gate, [observation(f"n{n}", "p", note=[{"text": "x" * 9_000}]) for n in range(200)])
    written = [0]

    def cut(body: bytes) -> bytes:
        written[0] += 1
        if written[0] > 150:
            raise ValueError(f"{NAME} {MRN}")
        return body

    monkeypatch.setattr("fhirserver.http.everything.projection_of", lambda *_, **__: cut)
    with pytest.raises(httpx.RemoteProtocolError):
        await server.get("Patient/p/$everything?_elements=id", headers={"Accept-Encoding": "identity"})
    log = "\n".join(kept.lines)
    assert "builtins.ValueError" in log
    assert "Exception in ASGI application" in log  # uvicorn tells of it as well
    assert found(log, PHI) == []


def test_a_trace_names_types_and_places_only() -> None:
    try:
        int(f"{NAME}{MRN}")
    except ValueError as error:
        told = trace(error)
    assert told.startswith("builtins.ValueError\n  tests/http/test_secrets.py:")
    assert found(told, PHI) == []


async def test_what_holds_secrets_shows_none(server: Served) -> None:
    settings = settings_from({"FHIRSERVER_STORE": "mongodb://user:PASSWORD@host/db", "FHIRSERVER_KEYS_FILE": "/k"})
    keys = server.runtime.keys
    shown = [settings, keys, server.runtime, application(server.runtime)._server, [keys], {"k": settings}]
    for each in shown:
        for text in (repr(each), str(each), f"{each}"):
            assert "PASSWORD" not in text
            assert "PRIVATE KEY" not in text
            assert repr(keys.page_key)[2:-1] not in text
            assert repr(keys.pepper)[2:-1] not in text
    assert "keys_file='/k'" in repr(settings)

"""Every snippet of docs/native-documents.md is run as it stands there, over the demo charts and a few resources."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bson import Decimal128
from pymongo.database import Database

from fhirserver.app import opened
from fhirserver.cli import demo
from fhirserver.config import Settings
from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.store.mongo import native
from tests.build import condition, load, observation, organization, patient
from tests.stores import LEFT_OUT, MONGODB_URL, client_of, database_of, fresh, settings

TOP = Path(__file__).parents[2]
PAGE = (TOP / "docs" / "native-documents.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```js\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
CALL = re.compile(r"db(?:\.([A-Z]\w+))?\.(find|aggregate|createIndex|createView)\((.*)\)\n", re.DOTALL)
Document = dict[str, Any]
NOW = datetime.now(UTC)


def ago(**span: float) -> str:
    return (NOW - timedelta(**span)).strftime("%Y-%m-%dT%H:%M:%S+00:00")


def coded(system: str, code: str) -> Document:
    return {"coding": [{"system": system, "code": code}]}


def diabetes(of: str, status: str = "active", **more: Any) -> Document:
    system = "http://terminology.hl7.org/CodeSystem/condition-clinical"
    code = coded("http://snomed.info/sct", "44054006")
    return condition(f"{of}-diabetes", of, code=code, clinicalStatus=coded(system, status), **more)


def result(id: str, of: str, loinc: str, at: str, value: int | None, **more: Any) -> Document:
    given = {"valueQuantity": {"value": value, "unit": "%" if loinc == "4548-4" else "mmHg"}} if value else {}
    return observation(id, of, code=coded("http://loinc.org", loinc), effectiveDateTime=at, **given, **more)


def referral(id: str, to: str, at: str | None, **more: Any) -> Document:
    return {
        "resourceType": "ServiceRequest",
        "id": id,
        "status": "active",
        "intent": "order",
        "subject": {"reference": "Patient/tested"},
        "performer": [{"reference": to}],
        **({"authoredOn": at} if at else {}),
        **more,
    }


def few() -> Iterator[Document]:
    """What the demo charts lack to make each question worth asking, dated from now where the question is."""
    yield organization("harbour-health", name="Harbour Health")
    for name in ("tested", "overdue", "never", "withdrawn", "resolved", "refuted"):
        yield patient(name)
    yield from (diabetes(of) for of in ("tested", "overdue", "never", "withdrawn"))
    yield diabetes("resolved", "resolved")
    verification = "http://terminology.hl7.org/CodeSystem/condition-ver-status"
    yield diabetes("refuted", verificationStatus=coded(verification, "refuted"))
    yield result("tested-hba1c-old", "tested", "4548-4", ago(days=800), 8)
    yield result("tested-hba1c", "tested", "4548-4", ago(days=300), 7)
    yield result("overdue-hba1c", "overdue", "4548-4", ago(days=400), 7)
    yield result("withdrawn-hba1c", "withdrawn", "4548-4", ago(days=3), 7, status="entered-in-error")
    # As text the second is the later one; as times the first is. The third does not count, the last has no value.
    yield result("tested-bp-1", "tested", "8480-6", "2026-01-01T23:30:00-05:00", 141)
    yield result("tested-bp-2", "tested", "8480-6", "2026-01-02T03:00:00+00:00", 120)
    yield result("tested-bp-3", "tested", "8480-6", "2026-01-03T03:00:00+00:00", 199, status="entered-in-error")
    absent = coded("http://terminology.hl7.org/CodeSystem/data-absent-reason", "unknown")
    yield result("tested-bp-4", "tested", "8480-6", "2026-01-04T03:00:00Z", None, dataAbsentReason=absent)
    # About nobody whom a reference names.
    yield {**diabetes("nobody"), "subject": {"display": "unknown"}}
    yield {**result("nobody-bp", "nobody", "8480-6", ago(days=1), 150), "subject": {"display": "unknown"}}
    yield referral("r1", "Organization/harbour-health", ago(days=3))
    yield referral("r2", "Organization/harbour-health", ago(days=10), status="on-hold")
    yield referral("r3", "Organization/harbour-health", ago(days=45))
    yield referral("r4", "Organization/harbour-health", ago(days=90))
    yield referral("r5", "Organization/northfield-clinic", ago(days=8))
    yield referral("r6", "Organization/northfield-clinic", None)
    yield referral("r7", "Organization/northfield-clinic", ago(days=9), status="completed")
    yield referral("r8", "Practitioner/lena-hartwig", ago(days=9))
    yield referral("r9", "Organization/northfield-clinic", ago(days=9), intent="proposal")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Database[Document]]:
    """The database of a store that holds the demo and `few`, written by the server."""
    if not MONGODB_URL:
        print(LEFT_OUT)
        pytest.skip("MONGODB_URL is not set")
    folder = tmp_path_factory.mktemp("native")
    with fresh("mongo", folder) as url, client_of(url) as client:
        asyncio.run(fill(url, folder))
        yield client[database_of(url)]


async def fill(url: str, folder: Path) -> None:
    async with opened(msgspec.convert(settings(url, folder), Settings)) as runtime:
        await demo.prepare(runtime)
        await load(runtime.gate, few())


def snippets() -> list[tuple[str, str, list[Any]]]:
    """(collection, method, arguments) of every block; each must be one call whose arguments are JSON."""
    found = []
    for block in BLOCKS:
        call = CALL.fullmatch(block)
        assert call is not None, block
        found.append((call[1] or "", call[2], json.loads(f"[{call[3]}]")))
    return found


def ask(database: Database[Document], collection: str) -> list[Document]:
    """The answer of the page's pipeline over this collection."""
    [[pipeline]] = [given for name, method, given in snippets() if (name, method) == (collection, "aggregate")]
    return [plain(each) for each in database[collection].aggregate(pipeline)]


def plain(document: Document) -> Document:
    return {name: value.to_decimal() if isinstance(value, Decimal128) else value for name, value in document.items()}


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).astimezone(UTC)


def test_every_snippet_is_one_this_file_runs() -> None:
    said = [(name, method) for name, method, _ in snippets()]
    assert said == [
        ("Observation", "find"),
        ("", "createView"),
        ("Observation", "aggregate"),
        ("Condition", "aggregate"),
        ("ServiceRequest", "aggregate"),
        ("Observation", "createIndex"),
    ]
    assert {name for name, _ in said if name} <= RESOURCE_TYPES


def test_the_first_query_finds_the_blood_pressures_of_the_demo(database: Database[Document]) -> None:
    [[query]] = [given for _, method, given in snippets() if method == "find"]
    found = {each["_id"] for each in database["Observation"].find(query)}
    assert found == {"amara-nf-bp-2025", "amara-rv-bp-2025", "amara-rv-bp-followup", "noor-rv-bp"}


def test_the_latest_systolic_blood_pressure_of_each_patient(database: Database[Document]) -> None:
    assert ask(database, "Observation") == [
        {"_id": f"Patient/{of}", "systolic": value, "unit": "mmHg", "at": utc(at)}
        for of, value, at in (
            ("amara-northfield", 134, "2025-02-11T09:10:00-05:00"),
            ("amara-riverton", 128, "2025-06-10T10:05:00-04:00"),
            ("noor-riverton", 108, "2025-03-02T11:05:00-05:00"),
            ("tested", 141, "2026-01-01T23:30:00-05:00"),
        )
    ]


def test_patients_with_diabetes_and_no_hba1c_in_the_last_year(database: Database[Document]) -> None:
    found = {each["_id"]: each["latest"] for each in ask(database, "Condition")}
    assert found == {
        "Patient/amara-northfield": utc("2025-02-11T09:20:00-05:00"),
        "Patient/never": None,
        "Patient/overdue": utc(ago(days=400)),
        "Patient/withdrawn": None,
    }


def test_open_referrals_by_organisation_and_age(database: Database[Document]) -> None:
    found = ask(database, "ServiceRequest")
    assert [(each["organization"], each["age"], each["open"]) for each in found] == [
        ("Harbour Health", "30 days and more", 2),
        ("Harbour Health", "under 30 days", 1),
        ("Harbour Health", "under a week", 1),
        ("Northfield Clinic", "under 30 days", 1),
        ("Northfield Clinic", "undated", 1),
    ]
    assert found[0]["oldest"] in (90, 91)  # midnight may have passed meanwhile


def test_the_view_shows_one_organisations_documents(database: Database[Document]) -> None:
    [[name, on, pipeline]] = [given for _, method, given in snippets() if method == "createView"]
    database.create_collection(name, viewOn=on, pipeline=pipeline)
    shown = {each["_id"] for each in database[name].find()}
    own = {each["_id"] for each in database[on].find() if each["_store"]["custodian"] == "northfield-clinic"}
    assert shown == own
    assert {"amara-nf-bp-2025", "elias-nf-spo2"} < shown < {each["_id"] for each in database[on].find()}


def test_the_index_serves_the_look_up(database: Database[Document]) -> None:
    [[keys]] = [given for _, method, given in snippets() if method == "createIndex"]
    name = database["Observation"].create_index(list(keys.items()))
    query = {"subject.reference": "Patient/tested", "code.coding.code": "4548-4"}
    assert name in json.dumps(database["Observation"].find(query).explain(), default=str)


def test_a_document_says_what_the_server_knows(database: Database[Document]) -> None:
    found = database["Observation"].find_one({"_id": "amara-nf-hba1c-2025"})
    assert found is not None
    assert str(found["valueQuantity"]["value"]) == "7.20"
    about = found["_store"]
    rows = re.findall(
        r"^\| `(\w+)`(?:, `(\w+)`)? \|", PAGE.partition("| member of `_store`")[2].partition("\n\n")[0], re.M
    )
    assert list(about) == [name for row in rows for name in row if name]
    assert (about["custodian"], about["owners"], about["version"]) == ("northfield-clinic", ["amara-northfield"], 1)
    assert about["updated"] == utc(found["meta"]["lastUpdated"])


async def test_the_switch_removes_them_and_brings_them_back(mongodb: str, tmp_path: Path) -> None:
    with fresh("mongo", tmp_path) as url, client_of(url) as client:
        there = client[database_of(url)]

        def collections() -> set[str]:
            return RESOURCE_TYPES.intersection(there.list_collection_names())

        def values() -> list[int]:
            return [each["valueQuantity"]["value"] for each in there["Observation"].find()]

        own, kept = "", True
        for turn, native in enumerate((True, False, True, False, True, True)):
            given = {**settings(url, tmp_path), "native_documents": native}
            async with opened(msgspec.convert(given, Settings)) as runtime:
                await load(runtime.gate, [patient("p1"), result("o1", "p1", "8480-6", ago(days=1), 120 + turn)])
                assert values() == ([120 + turn] if kept else [])  # whatever the setting, until `reindex`
                upkeep = runtime.gate.upkeep(subject="test")
                await upkeep.reindex(lambda *_: None)
                assert values() == ([120 + turn] if native else [])
                assert collections() == ({"Observation", "Patient", "Person"} if native else set())
                assert [problem async for problem in upkeep.verify()] == []
            kept = native
            if turn == 4:
                own = there["Observation"].create_index("status")
        assert own in there["Observation"].index_information()


def test_the_bounds_on_the_page_are_those_of_the_code() -> None:
    assert f"larger than {native.NATIVE_BOUND >> 20} MiB" in PAGE
    assert f"larger than {native.MAX_BSON >> 20} MiB as BSON" in PAGE
    assert f"more than {native.MAX_LEVELS} deep" in PAGE
    assert f"more than {native.MAX_DIGITS} significant digits" in PAGE

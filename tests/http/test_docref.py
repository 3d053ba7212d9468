"""`DocumentReference/$docref` (US Core 7, OperationDefinition docref): stored documents, in the way of a search."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from fhirserver.policy.consenting import grant_consent
from tests.build import load, organization, patient
from tests.served import Served
from tests.stores import every_kind

kind = every_kind

LOINC = "http://loinc.org"
CCD, DISCHARGE, NOTE = "34133-9", "18842-5", "28570-0"
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-documentreference"
OPERATION = "DocumentReference/$docref"


def document(id: str, of: str, type_: str, period: str | None = None, **more: Any) -> dict[str, Any]:
    start, _, end = (period or "").partition("/")
    context = {"context": {"period": {"start": start, "end": end or start}}} if period else {}
    return {
        "resourceType": "DocumentReference",
        "id": id,
        "status": "current",
        "type": {"coding": [{"system": LOINC, "code": type_}]},
        "subject": {"reference": f"Patient/{of}"},
        "content": [{"attachment": {"contentType": "text/plain", "url": f"Binary/{id}"}}],
        **context,
        **more,
    }


@pytest.fixture
async def records(server: Served) -> Served:
    resources = [
        organization("app"),
        patient("p"),
        patient("q"),
        document("ccd-new", "p", CCD, "2024-05-01"),
        document("ccd-old", "p", CCD, "2021-05-01", meta={"profile": [US_CORE]}),
        document("ccd-replaced", "p", CCD, "2025-05-01", status="superseded"),
        document("ccd-undated", "p", CCD),
        document("discharge-old", "p", DISCHARGE, "2019-03-01/2019-03-09"),
        document("discharge-new", "p", DISCHARGE, "2022-01-01T08:00:00Z/2022-01-03T10:00:00Z"),
        document("note-old", "p", NOTE, date="2020-01-01T00:00:00Z"),
        document("note-new", "p", NOTE, date="2023-01-01T00:00:00Z"),
        document("another", "q", CCD, "2026-01-01"),
    ]
    await load(server.gate, resources, organization="clinic")
    return server


def found(answer: httpx.Response) -> list[str]:
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["resourceType"], body["type"]) == ("Bundle", "searchset")
    assert {each["search"]["mode"] for each in body.get("entry", ())} <= {"match"}
    return sorted(each["resource"]["id"] for each in body.get("entry", ()))


def link(answer: httpx.Response, relation: str) -> str:
    return next((each["url"] for each in answer.json()["link"] if each["relation"] == relation), "")


UNDATED = ["ccd-undated", "note-new", "note-old"]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        # without dates: the most recent current document, of the CCD where no type is named
        ("patient=p", ["ccd-new"]),
        ("patient=Patient/p", ["ccd-new"]),
        ("patient=p&on-demand=false", ["ccd-new"]),
        (f"patient=p&type={DISCHARGE}", ["discharge-new"]),
        (f"patient=p&type={LOINC}|{NOTE}", ["note-new"]),
        (f"patient=p&type={LOINC}|{DISCHARGE},{LOINC}|{NOTE}", ["discharge-new", "note-new"]),
        (f"patient=p&type={DISCHARGE}&type={CCD}", ["ccd-new", "discharge-new"]),
        (f"patient=p&type=http://snomed.info/sct|{CCD}", []),
        (f"patient=p&profile={US_CORE}", ["ccd-old"]),
        (f"patient=p&profile=http://example.org/other,{US_CORE}", ["ccd-old"]),
        # with dates: whatever period overlaps, and what has none
        ("patient=p&start=2024-05-01&end=2024-05-01", ["ccd-new", *UNDATED]),
        ("patient=p&end=2019-03-05", ["discharge-old", *UNDATED]),
        ("patient=p&start=2024-05-02", ["ccd-replaced", *UNDATED]),
        (f"patient=p&start=2022-01-03T10:00:00Z&type={DISCHARGE}", ["discharge-new"]),
        (f"patient=p&start=2022-01-03T12:00:00+02:00&type={DISCHARGE}", ["discharge-new"]),
        (f"patient=p&start=2022-01-03T10:00:01Z&type={DISCHARGE}", []),
        (f"patient=p&end=2022-01-01T07:59:59Z&type={DISCHARGE}", ["discharge-old"]),
        (f"patient=p&start=2000-01-01&type={DISCHARGE},{CCD}&profile={US_CORE}", ["ccd-old"]),
        # what is not there
        ("patient=nobody", []),
        ("patient=q&start=2000-01-01", ["another"]),
        ("patient=p&on-demand=true", []),
        ("patient=p&on-demand=true&start=2000-01-01", []),
    ],
)
async def test_what_is_found(records: Served, query: str, expected: list[str]) -> None:
    assert found(await records.get(f"{OPERATION}?{query}")) == sorted(expected)


def parameters(*items: tuple[str, str, Any]) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": name, kind: value} for name, kind, value in items]}


async def test_posted_parameters_ask_the_same_and_show_in_no_link(records: Served) -> None:
    async with records.client() as client:
        for items, expected in (
            ([], ["ccd-new"]),
            ([("type", "valueCoding", {"system": LOINC, "code": DISCHARGE})], ["discharge-new"]),
            ([("type", "valueCoding", {"code": each}) for each in (NOTE, CCD)], ["ccd-new", "note-new"]),
            ([("profile", "valueCanonical", US_CORE)], ["ccd-old"]),
            ([("on-demand", "valueBoolean", True)], []),
            ([("start", "valueDate", "2024-05-02"), ("on-demand", "valueBoolean", False)], ["ccd-replaced", *UNDATED]),
        ):  # fmt: skip
            body = parameters(("patient", "valueId", "p"), *items)
            answer = await client.post(OPERATION, json=body)
            assert found(answer) == sorted(expected), items
            assert "patient" not in str(answer.json()["link"])
            assert found(await client.get(link(answer, "self"))) == sorted(expected)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("start=2000-01-01", ["ccd-new", "ccd-old", "ccd-replaced", "discharge-new", "discharge-old", *UNDATED]),
        (f"type={CCD},{DISCHARGE},{NOTE}", ["ccd-new", "discharge-new", "note-new"]),
    ],
)
async def test_pages_put_together_are_the_answer_at_one_moment(
    records: Served, query: str, expected: list[str]
) -> None:
    pages: list[str] = []
    async with records.client() as client:
        answer = await client.get(f"{OPERATION}?patient=p&{query}&_count=2")
        while True:
            entries = found(answer)
            assert len(entries) <= 2
            pages += entries
            late = document(f"late{len(pages)}", "p", CCD, "2030-01-01")
            await load(records.gate, [late], organization="clinic")
            if not link(answer, "next"):
                break
            answer = await client.get(link(answer, "next"))
    assert sorted(pages) == sorted(expected)


async def test_how_the_answer_is_wanted(records: Served) -> None:
    counted = await records.get(f"{OPERATION}?patient=p&start=2000-01-01&_summary=count")
    assert (counted.json()["total"], "entry" in counted.json()) == (8, False)
    cut = (await records.get(f"{OPERATION}?patient=p&_elements=status")).json()["entry"][0]["resource"]
    assert "type" not in cut
    assert cut["status"] == "current"
    answer = await records.get(f"{OPERATION}?patient=p&start=2024-05-01T00:00:00%2B02:00&_count=7&favourite=red")
    assert link(answer, "self").startswith(
        f"{records.base}/{OPERATION}?patient=p&start=2024-05-01T00:00:00%2B02:00&_count=7"
    )
    assert "favourite" not in link(answer, "self")


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("", "patient"),
        ("patient=", "patient"),
        ("patient=Practitioner/p", "patient"),
        ("patient=p,q", "patient"),
        ("patient=p&patient=q", "patient"),
        ("patient=p&start=yesterday", "start"),
        ("patient=p&end=2024-13", "end"),
        ("patient=p&start=2024&end=2023", "start"),
        ("patient=p&start=2024&start=2023", "start"),
        ("patient=p&on-demand=perhaps", "on-demand"),
        ("patient=p&type=" + ",".join(map(str, range(51))), "type"),
        ("patient=p&_count=many", "_count"),
    ],
)
async def test_what_cannot_be_understood_is_named(records: Served, query: str, named: str) -> None:
    answer = await records.get(f"{OPERATION}?{query}")
    assert answer.status_code == 400, answer.text
    assert answer.json()["issue"][0]["expression"] == [named]


@pytest.mark.parametrize(
    "body",
    [
        parameters(("patient", "valueId", "p"), ("type", "valueCoding", {"system": LOINC})),
        parameters(("patient", "valueId", "p"), ("type", "valueCoding", "x")),
        parameters(("patient", "valueReference", {"reference": "Patient/p"})),
        {"resourceType": "Patient"},
        [],
    ],
)
async def test_a_body_that_cannot_be_understood_is_refused(records: Served, body: Any) -> None:
    async with records.client() as client:
        assert (await client.post(OPERATION, json=body)).status_code == 400


async def test_an_unknown_parameter_is_refused_where_strictness_is_asked_for(records: Served) -> None:
    async with records.client(headers={"Prefer": "handling=strict"}) as client:
        answer = await client.get(f"{OPERATION}?patient=p&favourite=red")
        assert answer.status_code == 400
        assert answer.json()["issue"][0]["expression"] == ["favourite"]


async def test_a_third_party_gets_documents_under_a_consent_and_else_an_empty_answer(records: Served) -> None:
    token = records.token("third-party", org="app")
    scoped = records.gate.system(subject="test", organization="operator", purpose="test")
    everything = f"{OPERATION}?patient=p&start=2000-01-01"
    assert found(await records.get(everything, token)) == []
    await grant_consent(scoped, ["p"], "app", types=["Observation"])
    assert found(await records.get(everything, token)) == []
    await grant_consent(scoped, ["p"], "app", types=["DocumentReference"])
    assert len(found(await records.get(everything, token))) == 8
    assert found(await records.get(f"{OPERATION}?patient=p", token)) == ["ccd-new"]
    assert found(await records.get(f"{OPERATION}?patient=q", token)) == []


async def test_of_a_patient_who_is_closed_it_says_no_more_than_of_one_who_never_was(records: Served) -> None:
    for caller, who in (("third-party", {"org": "app"}), ("patient", {"org": "app", "patient": "p"})):
        token = records.token(caller, **who)
        for query in ("", "&start=2000-01-01", "&start=2000-01-01&_total=accurate", "&on-demand=true"):
            answers = []
            for whose in ("q", "nobody"):
                body = (await records.get(f"{OPERATION}?patient={whose}{query}", token)).json()
                assert "entry" not in body
                answers.append({name: value for name, value in body.items() if name not in ("timestamp", "link")})
            assert answers[0] == answers[1], (caller, query)


async def test_it_needs_the_scope_to_search_documents_and_a_patient_gets_its_own(records: Served) -> None:
    for scope in ("system/Observation.rs", "system/DocumentReference.r"):
        answer = await records.get(f"{OPERATION}?patient=p", records.token("member", org="clinic", scope=scope))
        assert answer.status_code == 403
    token = records.token("member", org="clinic", scope="system/DocumentReference.s")
    assert found(await records.get(f"{OPERATION}?patient=p", token)) == ["ccd-new"]
    assert found(await records.get(f"{OPERATION}?patient=p", records.token("member", org="elsewhere"))) == []
    token = records.token("patient", org="app", patient="p")
    assert found(await records.get(f"{OPERATION}?patient=p", token)) == ["ccd-new"]
    assert found(await records.get(f"{OPERATION}?patient=q", token)) == []


async def test_it_is_audited_as_what_it_is(records: Served) -> None:
    await records.get(f"{OPERATION}?patient=p")
    rows = [row for row in await records.audit() if row.interaction == "$docref"]
    assert [row.outcome for row in rows] == ["intent", "complete"]
    assert "patient=p" in str(rows[0].detail)
    assert rows[1].patients or rows[0].patients

"""The CapabilityStatement and the definitions behind it: they say what the route table does, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from fhirserver.core.definitions import RESOURCE_TYPES, search_parameters
from fhirserver.core.search import parse
from fhirserver.core.validate import issues
from fhirserver.http import capabilities
from fhirserver.http.capabilities import INTERACTIONS, SYSTEM, UNSTATED, Options, refused, statement
from fhirserver.http.definitions import OF_US_CORE, OURS
from fhirserver.http.patch import JSON_PATCH
from fhirserver.http.routes import ROUTES, Row
from fhirserver.http.valuesets import NOTHING_KNOWN
from tests.build import load, patient, practitioner
from tests.served import Served, served

Json = dict[str, Any]
BASE = "http://x/FHIR/R4"

REQUESTS = {
    "read": ("GET", "{type}/x"),
    "vread": ("GET", "{type}/x/_history/1"),
    "update": ("PUT", "{type}/x"),
    "patch": ("PATCH", "{type}/x"),
    "delete": ("DELETE", "{type}/x"),
    "history-instance": ("GET", "{type}/x/_history"),
    "history-type": ("GET", "{type}/_history"),
    "create": ("POST", "{type}"),
    "search-type": ("GET", "{type}"),
    "transaction": ("POST", ""),
    "batch": ("POST", ""),
    "history-system": ("GET", "_history"),
    "search-system": ("GET", ""),
}
"""Interaction -> the request that R4 defines for it."""


def stated(**options: Any) -> Json:
    body: Json = json.loads(statement(BASE, ROUTES, Options(**options)))
    return body


def rest(**options: Any) -> Json:
    found: Json = stated(**options)["rest"][0]
    return found


def resources(**options: Any) -> Mapping[str, Json]:
    return {each["type"]: each for each in rest(**options)["resource"]}


def row_of(method: str, path: str) -> Row | None:
    """The row that answers this request below the base."""
    for row in ROUTES:
        match = row.pattern().fullmatch(f"/FHIR/R4/{path}".rstrip("/"))
        if match is None or method not in row.methods or (row.only and not row.only(match.groupdict())):
            continue
        if match.groupdict().get("type", "Patient") in RESOURCE_TYPES:
            return row
    return None


def answers(code: str, type_: str = "") -> bool:
    method, path = REQUESTS[code]
    row = row_of(method, path.format(type=type_))
    return row is not None and code in (row.interaction, *SYSTEM.get(row.interaction, ()))


# -- the statement and the table


def test_every_row_is_of_an_interaction_that_the_statement_knows() -> None:
    known = {*INTERACTIONS, *SYSTEM, *UNSTATED}
    for row in ROUTES:
        assert row.interaction in known or row.interaction.startswith("$"), row


def test_what_is_stated_of_a_type_is_what_routes_answer() -> None:
    found = resources()
    assert found.keys() == RESOURCE_TYPES
    for type_, resource in found.items():
        codes = {each["code"] for each in resource["interaction"]}
        assert codes == {code for code in INTERACTIONS if answers(code, type_) and not refused(code, type_)}, type_


def test_what_is_stated_of_the_system_is_what_routes_answer() -> None:
    codes = {each["code"] for each in rest()["interaction"]}
    assert codes == {code for code in ("transaction", "batch", "search-system", "history-system") if answers(code)}


def test_every_operation_that_is_stated_is_answered_and_every_one_answered_is_stated() -> None:
    told = {(type_, each["name"]) for type_, found in resources().items() for each in found.get("operation", ())}
    told |= {("", each["name"]) for each in rest().get("operation", ())}
    for type_, name in told:
        paths = [f"{type_}/{place}${name}".lstrip("/") for place in ("", "x/")]
        assert any(row_of(method, path) for method in ("GET", "POST") for path in paths), (type_, name)
    for row in ROUTES:
        if row.interaction.startswith("$"):
            for type_ in row.types() or {""}:
                assert ((type_, row.interaction[1:]) in told) != refused(row.interaction, type_), (type_, row)


def test_definitions_of_operations_are_those_of_r4_or_are_served_here() -> None:
    for type_, resource in {**resources(), "": rest()}.items():
        for each in resource.get("operation", ()):
            url = each["definition"]
            if url.startswith(BASE):
                assert url.removeprefix(f"{BASE}/OperationDefinition/") in OURS
                assert url.endswith(f"/{type_}-{each['name']}")
            elif f"{type_}-{each['name']}" in OF_US_CORE:
                assert url.startswith("http://hl7.org/fhir/us/core/OperationDefinition/")
            else:
                assert url.startswith("http://hl7.org/fhir/OperationDefinition/")


def test_what_may_go_along_is_stated_as_searches_take_it() -> None:
    found = resources()
    for type_, resource in found.items():
        for name, stated_ in (("_include", resource["searchInclude"]), ("_revinclude", resource["searchRevInclude"])):
            assert len(set(stated_)) == len(stated_)
            some = {"*", *stated_[:10], *stated_[-10:]} & set(stated_)
            search = parse((type_,), [(name, each) for each in sorted(some)][:20], now=0, values=NOTHING_KNOWN)
            assert {"*"} <= {"*" if each.source == "*" else "" for each in search.includes}
            if name == "_include":
                assert {each.source for each in search.includes} <= {"*", type_}
    assert "MedicationRequest:medication" in found["MedicationRequest"]["searchInclude"]
    for type_ in ("Patient", "Observation", "Medication", "QuestionnaireResponse"):
        assert "Provenance:target" in found[type_]["searchRevInclude"]
    assert "Observation:performer" not in found["Medication"]["searchRevInclude"]


def test_the_compartment_is_stated_where_a_route_searches_it() -> None:
    assert rest()["compartment"] == ["http://hl7.org/fhir/CompartmentDefinition/patient"]
    rows = tuple(row for row in ROUTES if "{member}" not in row.path)
    assert "compartment" not in json.loads(statement(BASE, rows, Options()))["rest"][0]


def test_conditional_interactions_are_stated_where_routes_answer_them() -> None:
    patient_ = resources()["Patient"]
    assert patient_["conditionalUpdate"] is (row_of("PUT", "Patient") is not None)
    assert (patient_["conditionalDelete"] != "not-supported") is (row_of("DELETE", "Patient") is not None)
    assert resources(conditional_delete="multiple")["Patient"]["conditionalDelete"] == "multiple"
    assert "enforced" in resources(referential_integrity="enforce")["Patient"]["referencePolicy"]
    assert "enforced" not in patient_["referencePolicy"]


def test_a_table_without_a_row_is_a_statement_without_it() -> None:
    rows = tuple(row for row in ROUTES if row.interaction not in ("patch", "vread", "transaction"))
    body = json.loads(statement(BASE, rows, Options()))
    assert "patchFormat" not in body
    codes = {each["code"] for each in body["rest"][0].get("interaction", ())}
    assert codes.isdisjoint({"transaction", "batch"})
    [patient_] = [each for each in body["rest"][0]["resource"] if each["type"] == "Patient"]
    assert {"patch", "vread"}.isdisjoint(each["code"] for each in patient_["interaction"])
    assert patient_["readHistory"] is False
    assert JSON_PATCH in stated()["patchFormat"]


@pytest.mark.parametrize("normative", [False, True])
def test_the_statement_is_valid_and_its_normative_part_too(normative: bool) -> None:
    body = statement(BASE, ROUTES, Options(cors=True), normative=normative)
    assert issues(body)[1] == []
    for each in json.loads(body)["rest"][0]["resource"]:
        assert capabilities.TRIAL_USE.isdisjoint(each) is normative


def test_the_terminology_capabilities_are_valid() -> None:
    assert issues(capabilities.terminology(BASE))[1] == []


# -- over HTTP


async def test_what_is_stated_is_really_answered(server: Served) -> None:
    """By any status but those of a path or method that is not there."""
    async with server.client(server.token(scope="system/*.cruds")) as client:
        found = (await client.get("metadata")).json()["rest"][0]
        for resource in found["resource"]:
            type_ = resource["type"]
            if type_ not in ("Patient", "Person", "Observation", "Binary", "AuditEvent", "Parameters"):
                continue
            for each in resource["interaction"]:
                method, path = REQUESTS[each["code"]]
                answer = await client.request(method, path.format(type=type_), content=b"{}")
                assert answer.status_code != 405, (type_, each)
                assert "no such path" not in answer.text


async def test_what_is_refused_of_single_types_is_really_refused(server: Served) -> None:
    event = {
        "resourceType": "AuditEvent",
        "id": "x",
        "type": {"code": "rest"},
        "recorded": "2026-01-01T00:00:00Z",
        "agent": [{"requestor": True}],
        "source": {"observer": {"display": "x"}},
    }
    body: dict[str, Any] = {
        "create": event,
        "update": event,
        "patch": [{"op": "remove", "path": "/type"}],
        "delete": None,
    }
    headers = {"Content-Type": JSON_PATCH}
    async with server.client(server.token(scope="system/*.cruds")) as client:
        for type_ in ("AuditEvent", "Binary"):
            for code in (code for code in INTERACTIONS if refused(code, type_)):
                method, path = REQUESTS[code]
                more = {"headers": headers} if code == "patch" else {}
                answer = await client.request(method, path.format(type=type_), json=body[code], **more)
                assert answer.status_code == 405, (type_, code)
                offered = await client.options(path.format(type=type_))
                assert answer.headers["allow"] == offered.headers["allow"], (type_, code)
                assert method not in offered.headers["allow"].split(", "), (type_, code)
            for name in ("$meta-add", "$meta-delete"):
                answer = await client.post(f"{type_}/x/{name}", json={"resourceType": "Parameters"})
                assert ("no such path" in answer.text) == refused(name, type_), (type_, name)


SAMPLES = {"date": "2026", "number": "1", "quantity": "1", "special": "1|1", "token": "true"}
"""Values that can be understood; of any other type ``x`` can."""


async def test_searches_take_the_parameters_that_are_stated_and_no_others(server: Served) -> None:
    async with server.client() as client:
        found = (await client.get("metadata")).json()["rest"][0]
        for resource in found["resource"]:
            type_ = resource["type"]
            told = {each["name"]: each for each in resource["searchParam"]}
            for name, each in told.items():
                official = search_parameters(type_)[name]
                assert (each["type"], each["definition"]) == (official.type, official.url)
                served_ = await client.get(f"SearchParameter/r4-{official.id}")
                assert served_.json()["url"] == official.url
            if type_ in ("Patient", "Person", "Observation", "Binary"):
                for name, parameter in search_parameters(type_).items():
                    parts = [each.type for each in parameter.components] or [parameter.type]
                    value = "$".join(SAMPLES.get(part, "x") for part in parts)
                    status = (await client.get(type_, params={name: value})).status_code
                    assert status == (200 if name in told else 400), (type_, name)


async def test_the_statement_has_a_tag_that_changes_with_its_content(server: Served, tmp_path: Path) -> None:
    first = await server.get("metadata")
    again = await server.get("metadata", headers={"If-None-Match": f'"x", {first.headers["etag"]}'})
    assert (again.status_code, again.content) == (304, b"")
    (tmp_path / "other").mkdir()
    async with served(tmp_path / "other", base_url=server.url, conditional_delete="multiple") as other:
        changed = await other.get("metadata", headers={"If-None-Match": first.headers["etag"]})
    assert (changed.status_code, changed.headers["etag"] != first.headers["etag"]) == (200, True)
    assert changed.json()["implementation"] == first.json()["implementation"]


async def test_the_mode_says_which_part_is_asked_for(server: Served) -> None:
    full = (await server.get("metadata?mode=full")).json()
    assert full == (await server.get("metadata")).json()
    normative = (await server.get("metadata?mode=normative")).json()
    assert normative["resourceType"] == "CapabilityStatement"
    assert "versioning" in full["rest"][0]["resource"][0]
    assert "versioning" not in normative["rest"][0]["resource"][0]
    assert (await server.get("metadata?mode=terminology")).json()["resourceType"] == "TerminologyCapabilities"
    wrong = await server.get("metadata?mode=nonsense")
    assert (wrong.status_code, wrong.json()["issue"][0]["expression"]) == (400, ["mode"])


async def test_a_summary_of_the_statement_is_a_subset(server: Served) -> None:
    summary = (await server.get("metadata?_summary=true")).json()
    assert summary["meta"]["tag"][0]["code"] == "SUBSETTED"
    assert {"status", "kind", "fhirVersion", "format"} <= summary.keys()


# -- the definitions


async def test_definitions_are_public_valid_and_not_to_be_changed(server: Served) -> None:
    async with httpx.AsyncClient(base_url=server.base) as client:
        for path in (*(f"OperationDefinition/{id_}" for id_ in OURS), "SearchParameter/r4-Person-link"):
            answer = await client.get(path)
            assert answer.status_code == 200
            assert issues(answer.content)[1] == []
            assert (await client.get(path, headers={"If-None-Match": answer.headers["etag"]})).status_code == 304
            writer = {"Authorization": f"Bearer {server.token(scope='system/*.cruds')}"}
            for method in ("PUT", "PATCH", "DELETE"):
                refused = await client.request(method, path, headers=writer, json=answer.json())
                assert (refused.status_code, refused.headers["allow"]) == (405, "GET, HEAD, OPTIONS")
            type_ = path.partition("/")[0]
            by_condition = await client.put(f"{type_}?url=urn:never", headers=writer, json=answer.json())
            assert by_condition.status_code == 405
            entry = {"resource": answer.json(), "request": {"method": "PUT", "url": path}}
            bundle = {"resourceType": "Bundle", "type": "transaction", "entry": [entry]}
            assert (await client.post("", headers=writer, json=bundle)).status_code == 405
        assert (await client.get("OperationDefinition/other")).status_code == 401
        assert (await client.get("SearchParameter/r4-nonsense")).status_code == 401


async def test_every_served_search_parameter_is_valid(server: Served) -> None:
    urls = {each["definition"] for found in resources().values() for each in found["searchParam"]}
    async with httpx.AsyncClient(base_url=server.base) as client:
        for url in urls:
            answer = await client.get(f"SearchParameter/r4-{url.rpartition('/')[2]}")
            assert answer.json()["url"] == url
            assert issues(answer.content)[1] == []


@pytest.mark.parametrize("id_", OURS)
async def test_an_operation_is_defined_on_the_levels_where_it_is_answered(server: Served, id_: str) -> None:
    found = (await server.get(f"OperationDefinition/{id_}")).json()
    type_, name = id_.split("-", 1)
    assert found["url"] == f"{server.base}/OperationDefinition/{id_}"
    assert (found["code"], found["resource"]) == (name, [type_])
    assert found["instance"] is (row_of("GET", f"{type_}/x/${name}") is not None)
    assert found["type"] is (row_of("GET", f"{type_}/${name}") is not None)


async def test_a_stored_definition_is_a_resource_like_any_other(server: Served) -> None:
    stored = {
        "resourceType": "SearchParameter",
        "id": "Person-link",
        "url": "http://example.org/x",
        "name": "x",
        "status": "draft",
        "description": "x",
        "code": "x",
        "base": ["Person"],
        "type": "token",
    }
    await load(server.gate, [stored, patient("p"), practitioner("dr")])
    assert (await server.get("SearchParameter/Person-link")).json()["url"] == "http://example.org/x"

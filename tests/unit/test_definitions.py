"""The definition tables: complete, official where they say so, consistent with each other, and cheap to import."""

from __future__ import annotations

import subprocess
import sys
from hashlib import blake2b
from pathlib import Path

import msgspec
import pytest

from fhirserver.core import definitions
from fhirserver.core.definitions import Path as CompiledPath
from fhirserver.core.definitions import Step, parse_path, search_parameters
from fhirserver.core.entries import take_for
from fhirserver.core.index import extract
from fhirserver.core.plan import plan
from tests.indexed import of, terms

_CODED = {"coding": [{"system": "http://loinc.org", "code": "8480-6"}, {"code": "x"}]}
_TO = {"reference": "Patient/1"}
SAMPLES: tuple[dict[str, object], ...] = (
    {
        "resourceType": "Patient",
        "id": "1",
        "meta": {"profile": ["http://p|1"], "tag": [{"code": "t"}], "security": [{"system": "s", "code": "R"}]},
        "name": [{"family": "Ångström", "given": ["Anna", "B"]}],
        "telecom": [{"system": "phone", "value": "555"}],
        "identifier": [{"system": "urn:mrn", "value": "7", "type": {"coding": [{"system": "v2", "code": "MR"}]}}],
        "address": [{"line": ["1 Main St"], "city": "Boston"}],
        "birthDate": "1970-02",
        "managingOrganization": {"reference": "Organization/o"},
    },
    {
        "resourceType": "Observation",
        "id": "o",
        "status": "final",
        "code": _CODED,
        "subject": _TO,
        "effectivePeriod": {"start": "2024-01-01"},
        "valueQuantity": {"value": 98.6, "unit": "F", "system": "http://unitsofmeasure.org", "code": "[degF]"},
        "component": [{"code": _CODED, "valueCodeableConcept": _CODED}, {"code": _CODED, "valueString": "Positive"}],
        "performer": [{"identifier": {"system": "s", "value": "9"}, "type": "Practitioner"}],
    },
    {"resourceType": "ValueSet", "id": "v", "url": "http://Example.org/v", "version": "1.0", "description": "A b"},
    {"resourceType": "Location", "id": "l", "position": {"latitude": 42.25, "longitude": -71.5}},
    {"resourceType": "RiskAssessment", "id": "r", "subject": _TO, "prediction": [{"probabilityDecimal": 0.25}]},
    {"resourceType": "Invoice", "id": "i", "totalNet": {"value": 12.5, "currency": "EUR"}},
    {"resourceType": "ServiceRequest", "id": "q", "occurrenceTiming": {"event": ["2024-01-31", "2024-03-24"]}},
    {
        "resourceType": "Bundle",
        "id": "b",
        "type": "document",
        "entry": [{"resource": {"resourceType": "Composition", "id": "c"}}],
    },
)
"""Resources with something for each search type."""

DATA = Path(definitions.__file__).parents[1] / "data"


def table(name: str) -> dict[str, list[dict[str, object]]]:
    return msgspec.json.decode((DATA / name).read_bytes(), type=dict[str, list[dict[str, object]]])


def test_all_1375_official_search_parameters_are_there() -> None:
    parameters = table("search.json")["parameters"]
    assert len({parameter["id"] for parameter in parameters}) == len(parameters) == 1375


def test_r4_has_146_concrete_resource_types() -> None:
    assert len(definitions.RESOURCE_TYPES) == 146
    assert not {"Resource", "DomainResource"} & definitions.RESOURCE_TYPES


def test_the_official_patient_compartment_has_66_types_and_100_parameters() -> None:
    official = definitions.official_patient_compartment
    assert len(official) == 66
    assert sum(map(len, official.values())) == 100
    assert official["Observation"] == ("subject", "performer")
    assert "Task" not in official
    assert not {"Device", "Practitioner", "Organization", "Location", "Medication", "Binary"} & official.keys()


def test_our_chart_differs_from_the_official_table_by_task_and_patient_link_only() -> None:
    chart, official = dict(definitions.patient_compartment), dict(definitions.official_patient_compartment)
    assert chart.pop("Task") == ("patient",)
    assert official.pop("Patient") == ("link",)
    assert chart == official


def test_us_core_adds_seven_parameters_each_with_entries() -> None:
    added = table("us-core.json")["parameters"]
    assert {(str(each["base"]), each["code"], each["type"]) for each in added} == {
        ("['CareTeam']", "role", "token"),
        ("['Condition']", "asserted-date", "date"),
        ("['Encounter']", "discharge-disposition", "token"),
        ("['Goal']", "description", "token"),
        ("['Patient']", "ethnicity", "token"),
        ("['Patient']", "gender-identity", "token"),
        ("['Patient']", "race", "token"),
    }
    race = search_parameters("Patient")["race"]
    assert race.url == "http://hl7.org/fhir/us/core/SearchParameter/us-core-race"


def test_a_patient_is_found_by_race_ethnicity_and_gender_identity() -> None:
    core = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-"

    def coding(url: str, code: str) -> dict[str, object]:
        return {"url": url, "valueCoding": {"system": "urn:oid:2.16.840.1.113883.6.238", "code": code}}

    index = of(
        "Patient",
        extension=[
            {
                "url": core + "race",
                "extension": [
                    coding("ombCategory", "2106-3"),
                    coding("detailed", "1586-7"),
                    {"url": "text", "valueString": "White"},
                ],
            },
            {"url": core + "ethnicity", "extension": [coding("ombCategory", "2186-5")]},
            {"url": core + "genderIdentity", "valueCodeableConcept": {"coding": [{"code": "446151000124109"}]}},
            {"url": "http://example.org/else", "extension": [coding("ombCategory", "x")]},
        ],
    )
    assert terms(index, "Patient|race") == {"=2106-3", "=1586-7"}
    assert terms(index, "Patient|ethnicity") == {"=2186-5"}
    assert terms(index, "Patient|gender-identity") == {"=446151000124109"}
    assert {"race", "ethnicity", "gender-identity"} <= set(index.present)


def test_the_other_us_core_parameters_find_their_elements() -> None:
    asserted = [{"url": "http://hl7.org/fhir/StructureDefinition/condition-assertedDate", "valueDateTime": "2024"}]
    assert [name for name, _, _ in of("Condition", extension=asserted).spans] == ["Condition|asserted-date"]
    concept = {"coding": [{"code": "x"}]}
    team = of("CareTeam", participant=[{"role": [concept]}])
    assert terms(team, "CareTeam|role") == {"=x", "=|x"}
    stay = of("Encounter", hospitalization={"dischargeDisposition": concept})
    assert terms(stay, "Encounter|discharge-disposition") == {"=x", "=|x"}
    assert terms(of("Goal", description=concept), "Goal|description") == {"=x", "=|x"}


def test_other_entries_of_the_same_content_need_another_index_version() -> None:
    """When this fails because entries have changed on purpose: raise INDEX_VERSION, and write the new pair here."""
    digest = blake2b(digest_size=8)
    for resource in SAMPLES:
        entries = msgspec.structs.asdict(extract(resource))
        del entries["topics"]  # no index entry
        digest.update(msgspec.json.encode(entries))
    assert (definitions.INDEX_VERSION, digest.hexdigest()) == (5, "0ba0610f64cc8617")


def test_a_type_has_its_own_and_the_common_parameters() -> None:
    observation = search_parameters("Observation")
    assert observation["code"].id == "clinical-code"
    assert observation["code"].url == "http://hl7.org/fhir/SearchParameter/clinical-code"
    assert observation["subject"].targets == ("Device", "Group", "Location", "Patient")
    assert observation["focus"].targets == ("Resource",)
    assert {"_id", "_lastUpdated", "_profile", "_security", "_tag", "_source", "_text"} <= observation.keys()
    assert [part.id for part in observation["code-value-quantity"].components] == [
        "clinical-code",
        "Observation-value-quantity",
    ]


def test_a_resource_without_narrative_has_no_text_parameter() -> None:
    assert "_text" not in search_parameters("Binary")
    assert "_content" in search_parameters("Binary")


def test_an_unknown_type_has_the_common_parameters_only() -> None:
    assert set(search_parameters("Nonsense")) <= {code for code in search_parameters("Basic") if code.startswith("_")}


@pytest.mark.parametrize("paths", [definitions.patient_compartment, definitions.owner_paths, definitions.party_paths])
def test_every_code_in_the_access_tables_is_a_search_parameter_or_a_path(paths: dict[str, tuple[str, ...]]) -> None:
    for type_, names in paths.items():
        assert type_ in definitions.RESOURCE_TYPES
        for name in names:
            if ":" in name:
                assert parse_path(name).type == "Reference"
            else:
                assert search_parameters(type_)[name].type == "reference"


def test_every_member_of_a_chart_has_owners_of_its_own_or_is_owned_by_its_compartments() -> None:
    assert plan("Observation").owned_by_compartment is False
    assert definitions.patient_compartment.keys() - definitions.owner_paths.keys() == set()


def test_supporting_types_are_the_directory_and_device_and_binary() -> None:
    assert {"Device", "Binary"} == definitions.SUPPORTING_TYPES - definitions.DIRECTORY_TYPES
    assert definitions.DIRECTORY_TYPES <= definitions.SUPPORTING_TYPES <= definitions.RESOURCE_TYPES
    assert not definitions.DIRECTORY_TYPES & (definitions.patient_compartment.keys() | definitions.owner_paths.keys())


def test_seventeen_types_have_a_care_date() -> None:
    assert sum(bool(plan(type_).care) for type_ in definitions.RESOURCE_TYPES) == 17


def test_the_only_paths_that_give_no_index_entries_are_these() -> None:
    silent = {
        (parameter.code, path.type)
        for type_ in definitions.RESOURCE_TYPES
        for parameter in search_parameters(type_).values()
        if not parameter.canonical  # an extension's value may be anything
        for path in map(parse_path, parameter.paths.get(type_, ()))
        if take_for(parameter.type, path.type) is None
    }
    assert silent == {
        ("date", "Age"),
        ("date", "Range"),
        ("date", "string"),
        ("activity-date", "string"),
        ("source-reference", "Attachment"),
    }


def test_the_only_parameters_without_a_path_are_the_three_without_an_expression() -> None:
    rows = table("search.json")["parameters"]
    assert {row["code"] for row in rows if not row.get("paths") and not row.get("contexts")} == {
        "_query",
        "_content",
        "_text",
    }


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("code:CodeableConcept", CompiledPath((Step("code"),), "CodeableConcept")),
        ("subject:Reference(Patient)", CompiledPath((Step("subject"),), "Reference", "Patient")),
        ("telecom[system=phone]:ContactPoint", CompiledPath((Step("telecom", "system", "phone"),), "ContactPoint")),
        ("entry[0].resource:Resource", CompiledPath((Step("entry", "#", "0"), Step("resource")), "Resource")),
        ("provision*.actor:X", CompiledPath((Step("provision", repeated=True), Step("actor")), "X")),
        (".code:Coding", CompiledPath((Step(""), Step("code")), "Coding")),
        (":Observation", CompiledPath((), "Observation")),
        ("extension[url=http://a.b/c].valueCode:code", CompiledPath(
            (Step("extension", "url", "http://a.b/c"), Step("valueCode")), "code")),
    ],
)  # fmt: skip
def test_a_compiled_path_is_read_back(text: str, path: CompiledPath) -> None:
    assert parse_path(text) == path


@pytest.mark.parametrize("text", ["code", "a b:string", "a[b:string", ""])
def test_what_is_no_path_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="not a path"):
        parse_path(text)


def test_importing_the_definitions_reads_no_table() -> None:
    script = (
        "import fhirserver.core.index, fhirserver.core.definitions as d\n"
        "assert d._load.cache_info().currsize == 0\n"
        "assert len(d.RESOURCE_TYPES) == 146\n"
        "assert d._load.cache_info().currsize == 1\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def test_an_attribute_that_is_no_table_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no_such_table"):
        definitions.no_such_table  # noqa: B018  # the point of the test

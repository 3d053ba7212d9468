"""Topics from codes: the lists, their spellings, and an installation's own."""

from __future__ import annotations

import msgspec
import pytest

from fhirserver.core.index import extract
from fhirserver.core.sensitive import lists, lists_of
from fhirserver.policy.vocabulary import labels

ICD = "http://hl7.org/fhir/sid/icd-10-cm"
SNOMED = "http://snomed.info/sct"


@pytest.mark.parametrize(
    ("system", "code", "topics"),
    [
        (ICD, "F11.20", {"SUD"}),
        (ICD, "F1120", {"SUD"}),
        ("urn:oid:2.16.840.1.113883.6.90", "f11.20", {"SUD"}),
        (ICD, "F17.210", set()),
        (ICD, "F33.1", {"MH"}),
        (ICD, "F80.9", set()),
        (ICD, "B20", {"HIV"}),
        (ICD, "Z21", {"HIV"}),
        (ICD, "Z22.4", {"STD"}),
        (ICD, "D57.1", {"SCA"}),
        (ICD, "O04.5", {"PREGNANT", "SEX"}),
        (ICD, "I10", set()),
        (SNOMED, "72892002", {"PREGNANT"}),
        (SNOMED, "7289200", set()),
        (SNOMED, "728920022", set()),
        ("http://loinc.org", "20447-9", {"HIV"}),
        ("http://www.nlm.nih.gov/research/umls/rxnorm", "1819", {"SUD"}),
        ("http://example.org/codes", "F11.20", set()),
        ("", "F11.20", set()),
    ],
)
def test_a_code_says_its_topics(system: str, code: str, topics: set[str]) -> None:
    assert lists().topics_of(system, code) == topics
    assert lists().topics_of(system, code) == topics  # remembered


def test_every_topic_is_a_label_that_third_parties_need_a_permit_for() -> None:
    for topic in lists().topics:
        assert labels().by_code[topic] <= labels().restricted


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Condition", "code": {"coding": [{"system": ICD, "code": "B20"}]}},
        {"resourceType": "Encounter", "reasonCode": [{"coding": [{"code": "B20", "system": ICD}]}]},
        {
            "resourceType": "Observation",
            "component": [{"valueCodeableConcept": {"coding": [{"system": ICD, "code": "B20"}]}}],
        },
        {
            "resourceType": "Claim",
            "diagnosis": [{"diagnosisCodeableConcept": {"coding": [{"system": ICD, "code": "B20"}]}}],
        },
        {
            "resourceType": "MedicationRequest",
            "contained": [{"resourceType": "Medication", "code": {"coding": [{"system": ICD, "code": "B20"}]}}],
        },
        {
            "resourceType": "QuestionnaireResponse",
            "item": [{"answer": [{"valueCoding": {"system": ICD, "code": "B20"}}]}],
        },
        {"resourceType": "Procedure", "extension": [{"url": "urn:x", "valueCoding": {"system": ICD, "code": "B20"}}]},
        {"resourceType": "Medication", "code": {"coding": [{"system": ICD, "code": "B20"}]}},
    ],
    ids=lambda each: each["resourceType"],
)
def test_wherever_the_coding_stands(resource: dict[str, object]) -> None:
    assert extract(resource).topics == ("HIV",)


@pytest.mark.parametrize("type_", ["Consent", "CodeSystem", "ValueSet", "Patient", "Questionnaire", "Provenance"])
def test_what_tells_of_nobodys_health_says_no_topic(type_: str) -> None:
    assert extract({"resourceType": type_, "code": {"coding": [{"system": ICD, "code": "B20"}]}}).topics == ()


def test_an_installation_adds_codes_and_systems() -> None:
    own = {
        "version": "ours-1",
        "systems": {"Local": ["urn:ours"], "ICD-10-CM": ["urn:icd"]},
        "topics": {"MH": {"Local": ["PSY*"], "ICD-10-CM": ["G47.0"]}},
    }
    mine = lists_of(msgspec.json.encode(own))
    assert mine.topics_of("urn:ours", "PSY-1") == {"MH"}
    assert mine.topics_of("urn:icd", "G470") == mine.topics_of(ICD, "G47.0") == {"MH"}
    assert mine.topics_of("urn:icd", "B20") == {"HIV"}
    assert mine.version == f"{lists().version}+ours-1"
    assert mine.fingerprint != lists().fingerprint


@pytest.mark.parametrize(
    "raw",
    [
        b"no json",
        b"[]",
        b'{"topics":{}}',
        b'{"version":"1","topics":{"MH":{"Unknown":["1"]}}}',
        b'{"version":"1","topics":{"MH":{"LOINC":["*"]}}}',
        b'{"version":"1","except":["Observation"]}',
        b'{"version":"1","topic":{}}',
    ],
)
def test_a_file_that_cannot_be_used_is_refused(raw: bytes) -> None:
    with pytest.raises(ValueError, match=r"."):
        lists_of(raw)

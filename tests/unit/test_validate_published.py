"""Validation against published resources, good and bad, in the shared data folder beside the checkout."""

from __future__ import annotations

import bz2
import gzip
import json
from collections.abc import Iterator
from pathlib import Path

import msgspec

from fhirserver.core.validate import issues
from tests.shared import shared

INVALID = "data/invalid/fhir-test-cases"

WRONG_EXAMPLES = {
    "DeviceMetric-example.json": (
        "DeviceMetric.parent.reference",
        "parent is a Reference(Device); the example refers to a DeviceDefinition",
    ),
    "DeviceUseStatement-example.json": (
        "DeviceUseStatement.reasonReference[0].reference",
        "reasonReference does not allow Procedure",
    ),
    "MedicationRequest-medrx0301.json": (
        "MedicationRequest.dispenseRequest.performer.reference",
        "performer is a Reference(Organization); the example refers to a Practitioner",
    ),
    "Observation-clinical-gender.json": (
        "Observation.performer[0].reference",
        "performer does not allow Encounter",
    ),
    "Questionnaire-qs1.json": ("Questionnaire.item[0].item[0].linkId", "linkId is 1..1 and 32 items have none"),
}
"""Official examples that break R4: file -> (path, reason)."""

BAD = {
    "attachment-with-invalid-binary": ("value", "Media.content.data"),
    "group-choice-bad1": ("structure", "Group.characteristic[0].value"),
    "group-choice-bad2": ("structure", "Group.characteristic[0].valueInteger"),
    "group-choice-bad3": ("structure", "Group.characteristic[0].valueBoolean"),
    "group-choice-empty": ("structure", "line 8"),
    "list-bad-syntax": ("structure", "line 7"),
    "list-contained-bad": ("invariant", "List.subject.reference"),
    "list-empty1": ("structure", "List.entry[0]"),
    "list-empty2": ("structure", "List.entry"),
    "list-extension1": ("structure", "List.fhir_comments"),
    "list-extension2": ("invariant", "List.status.extension[0]"),
    "list-unknown-prop": ("structure", "List.other"),
    "list-xhtml-syntax": ("value", "List.text.div"),
    "list-xhtml-xxe": ("value", "List.text.div"),
    "observation-with-trailing-dot": ("structure", "line 22"),
    "synthea": ("structure", "Encounter.reasonCode"),
    "patient-duplicate": ("structure", "Patient.active"),
    "obs-unit-profile": ("required", "StructureDefinition.name"),
    "cs-meta-profile": ("structure", "CodeSystem.meta.profile"),
    "mcode-pat-bad": ("structure", "line 4"),
    "empty-array": ("structure", "DocumentReference.category[0].coding"),
    "hakan-se": ("value", "MedicationRequest.authoredOn"),
    "hakan-se-2": ("required", "MedicationRequest.medication"),
    "resource-invalid-id-1": ("value", "Location.id"),
    "resource-invalid-id-2": ("value", "Location.id"),
    "resource-invalid-id-3": ("value", "Location.contained[0].id"),
    "resource-invalid-eid-2": ("value", "Location.position.id"),
    "vs-canonical-bad": ("invariant", "ValueSet.compose.include[0].system"),
    "vs-canonical-bad-2": ("invariant", "ValueSet.compose.include[0].system"),
    "vs-canonical-urn": ("invariant", "ValueSet.compose.include[0].system"),
    "vs-canonical-urn-bad": ("invariant", "ValueSet.compose.include[0].system"),
    "contained-resource": ("value", "Condition.contained[0].id"),
    "patient-id-bad-1": ("value", "Patient.id"),
    "patient-id-bad-2": ("value", "Patient.id"),
    "patient-id-bad-3": ("value", "Patient.id"),
    "bundle-ea-testcase": ("required", "Bundle.entry[1].resource.contained[0].entry[0].resource.status"),
    "xml-bad-entities": ("value", "Encounter.text.div"),
    "json-comments": ("structure", "Patient.fhir_comments"),
    "versioned-extension": ("required", "Patient.extension[2].url"),
    "ai3": ("structure", "Patient.unknownElement"),
    "ai4": ("value", "Patient.birthDate"),
    "ai7": ("required", "StructureDefinition.status"),
    "ai8": ("required", "StructureDefinition.abstract"),
    "parameters-attachment": ("value", "Parameters.parameter[0].valueAttachment.data"),
    "obs-quantity": ("required", "Observation.code"),
    "obs-vs-2": ("required", "Observation.text.div"),
    "Observation-ex-pain": ("required", "Observation.code"),
    "bad-json-close-1": ("structure", "line 15"),
    "bad-json-close-2": ("structure", "line 15"),
    "bad-json-close-3": ("structure", "line 16"),
    "contract-binding-test": ("code-invalid", "Contract.legalState.coding[0].code"),
    # found besides those whose errors the folder calls structural
    "bundle-bad-empty": ("value", "Bundle.entry[0].fullUrl"),
    "list-xhtml-attribute": ("value", "List.text.div"),
    "list-xhtml-element": ("value", "List.text.div"),
    "list-xhtml-wrongns1": ("value", "List.text.div"),
    "list-xhtml-wrongns2": ("value", "List.text.div"),
    "pat-security-bad-xhtml": ("value", "Patient.text.div"),
    "risk-assessment-probability-range": ("invariant", "RiskAssessment.prediction[0].probabilityDecimal"),
    "bundle-conditional-reference-bad": ("value", "Bundle.entry[0].resource.device.reference"),
    "ext-stds-status-normative": ("code-invalid", "StructureDefinition.fhirVersion"),
    "ext-stds-status-deprecated": ("code-invalid", "StructureDefinition.fhirVersion"),
    "ext-ccuk": ("invariant", "StructureDefinition.differential.element[0].slicing"),
    # by the definitions of the elements, without any invariant
    "attachment-with-wrong-size": ("invariant", "Media.content.size"),
    "bundle-duplicate-id": ("invariant", "Bundle.entry[1].fullUrl"),
    "bundle-duplicate-ids-not": ("invariant", "Bundle.entry[0].fullUrl"),
    "mni-patientOverview-bundle-example1": ("invariant", "Bundle.entry[2].fullUrl"),
    "mni-patientOverview-bundle-example1b": ("invariant", "Bundle.entry[1].resource.name[0].id"),
    "bundle-id-search-4": ("invariant", "Bundle.entry[0].search.mode"),
    "cs-bad-props": ("invariant", "CodeSystem.concept[0].property[2].valueInteger"),
    "supplement-cs": ("invariant", "CodeSystem.content"),
}
"""Bad file -> (issue code, path; for syntax errors, which have no path, the line)."""

DECIMAL = "R4's decimal has no limit of 18 digits; the recorded error comes from R5's pattern"
STRUCTURAL_YET_ACCEPTED = {"obs-decimal": DECIMAL}

ACCEPTED = {
    "the display of a code is not the terminology's": (
        *("bundle-id-collection", "cvx", "ips-nz-pj", "medication-atc", "sdoh-type-slice", "uk-msg"),
    ),
    "the code, or the filter, is none of an external terminology": (
        *("obs-temp-code2", "vs-bad-code", "vs-bad-ecl", "vs-bad-ecl-us", "vs-bad-props"),
    ),
    "breaks a profile: of vital signs, or of an extension that others define, or where and with what it may stand": (
        *("PulseOxBundle_25Oct2022", "obs-temp-bad", "obs-vs-1", "pat-dob-ext", "pat-example-ext", "maiden-name"),
        *("patient-with-turvakielto", "target-ref-profile-empty", "ips-htmlrefs-backwards"),
    ),
    "breaks the snapshot of a profile, which only a generator of snapshots sees": ("obs-mz",),
    "an expression in an extension of the validator's own tools": ("vs-params-2", "vs-params-3", "vs-params-4"),
    "a reference leads to nothing, or to two: references are kept as sent, and integrity is a setting of its own": (
        *("bundle-document-versioned-references-bad", "parameters-reference-bad"),
    ),
    "the fullUrl has another id than the resource, as in three of the official examples": ("bundle-with-contained",),
    "per-1 is empty: a day is not after a moment of itself, and both boundaries are inclusive": ("encounter-period",),
    "ctm-1 as written holds for what cannot be resolved, and the reference says Practitioner": (
        *("fhirpath-bad", "fhirpath-null"),
    ),
    "an extension stands for a code, as it may for any primitive": ("allergy",),
    "R4 has no rule that a link's relation is there only once, or that what was found has an id": (
        *("bundle-id-search-2", "bundle-id-search-3"),
    ),
    "R4's uri may be relative, and a Coding's system is only said to be unambiguous": ("mr-covid-bnd1",),
    "what looks like HTML in a string or markdown is text": ("bad-markdown", "pat-security-bad-string"),
    "a rule for what HL7 publishes, or against example.org": ("cs-narrative-status", "dr-example-org"),
    DECIMAL: ("obs-decimal",),
}
"""Why R4 alone does not refuse a file that the reference validator calls bad -> those files."""

GOOD_YET_REFUSED = {
    "contained-resource": "the contained id has 65 characters; the recorded run had that check switched off",
}


def files_of(folder: str) -> list[Path]:
    return sorted(shared(folder).glob("*.json"))


def refused(files: list[Path]) -> dict[str, list[str]]:
    found = {path.name: issues(path.read_bytes())[1] for path in files}
    return {name: [issue.expression for issue in listed] for name, listed in found.items() if listed}


def test_all_official_examples_but_the_wrong_ones_are_accepted() -> None:
    files = files_of("data/examples/hl7-r4-examples")
    found = refused(files)
    assert found.keys() == WRONG_EXAMPLES.keys()
    assert {name: paths[0] for name, paths in found.items()} == {
        name: path for name, (path, _) in WRONG_EXAMPLES.items()
    }
    assert len(files) - len(found) >= 800


def test_record_requests_are_accepted() -> None:
    assert refused(files_of("data/examples/cdex-record-requests")) == {}


def test_each_bad_file_is_refused_or_accepted_for_a_reason() -> None:
    accepted = [name for names in ACCEPTED.values() for name in names]
    assert sorted([*BAD, *accepted]) == sorted(path.stem for path in files_of(f"{INVALID}/bad"))


def test_bad_resources_are_refused_at_the_right_place() -> None:
    for path in files_of(f"{INVALID}/bad"):
        listed = issues(path.read_bytes())[1]
        expected = BAD.get(path.stem)
        if expected is None:
            assert listed == [], path.name
        else:
            code, place = expected
            assert any(
                issue.code == code
                and (issue.expression == place or (not issue.expression and place in issue.diagnostics))
                for issue in listed
            ), (path.name, listed)


def test_nearly_all_structurally_bad_resources_are_refused() -> None:
    index = json.loads(shared(f"{INVALID}/index.json").read_bytes())
    structural = {Path(each["file"]).stem for each in index if each["structural"]}
    assert structural - BAD.keys() == STRUCTURAL_YET_ACCEPTED.keys()


def test_good_resources_are_accepted() -> None:
    assert {Path(name).stem for name in refused(files_of(f"{INVALID}/good"))} == GOOD_YET_REFUSED.keys()


class Entry(msgspec.Struct):
    resource: msgspec.Raw


class Bundle(msgspec.Struct):
    resourceType: str  # noqa: N815  # FHIR's name
    entry: list[Entry] = []


def development_resources() -> Iterator[tuple[str, bytes]]:
    openers = {".bz2": bz2.decompress, ".gz": gzip.decompress}
    for path in sorted(shared("data/dev").glob("*/*")):
        if path.suffix == ".md":
            continue
        raw = openers.get(path.suffix, bytes)(path.read_bytes())
        if path.suffix == ".ndjson":
            yield from ((path.name, line) for line in raw.splitlines() if line.strip())
        elif path.parent.name.startswith("us-core"):
            yield path.name, raw
        else:
            yield from ((path.name, bytes(each.resource)) for each in msgspec.json.decode(raw, type=Bundle).entry)


def test_development_resources_are_accepted() -> None:
    count = 0
    for name, raw in development_resources():
        count += 1
        assert issues(raw)[1] == [], name
    assert count >= 11_690

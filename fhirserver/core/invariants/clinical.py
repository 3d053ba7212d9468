"""The invariants of what is recorded about patients and those around them."""

from __future__ import annotations

from typing import Any

import msgspec

from fhirserver.core.invariants.datatypes import later
from fhirserver.core.invariants.rule import (
    Json,
    Make,
    apart,
    below,
    by_names,
    check,
    coded,
    needs,
    number,
    one,
    some,
    text,
)
from fhirserver.core.references import LOCAL, target

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
_UCUM = "http://unitsofmeasure.org"


def _is_error(resource: Json, system: str) -> bool:
    return coded(resource.get("verificationStatus"), _TERMINOLOGY + system, "entered-in-error")


def _ait_1(allergy: Json) -> bool:
    return "clinicalStatus" not in allergy and not _is_error(allergy, "allergyintolerance-verification")


def _ait_2(allergy: Json) -> bool:
    return _is_error(allergy, "allergyintolerance-verification")


def _con_4(condition: Json) -> bool:
    system = _TERMINOLOGY + "condition-clinical"
    return not coded(condition.get("clinicalStatus"), system, "resolved", "remission", "inactive")


def _con_5(condition: Json) -> bool:
    return _is_error(condition, "condition-ver-status")


def _ctm_1(participant: Json) -> bool:
    """Decided by the type that the reference itself names; a reference that names none is not followed."""
    member = participant.get("member")
    try:
        type_ = target(text(member, "reference")) if isinstance(member, dict) else ""
    except ValueError:
        return False
    return type_ not in ("", LOCAL, "Practitioner")


def _whole_codings(concept: Any) -> set[bytes]:
    """The codings of a CodeableConcept, each as a whole: one with another display is another one."""
    if not isinstance(concept, dict):
        return set()
    return {msgspec.json.encode(each, order="deterministic") for _, each in below(concept, "coding")}


def _obs_7(observation: Json) -> bool:
    own = _whole_codings(observation.get("code"))
    return any(not own.isdisjoint(_whole_codings(code)) for _, code in below(observation, "component", "code"))


def _ras_1(prediction: Json) -> list[str]:
    return [
        f"probabilityRange.{end}"
        for end in ("low", "high")
        for _, limit in below(prediction, "probabilityRange", end)
        if limit.get("code") != "%" or limit.get("system") != _UCUM
    ]


def _at_home(name: str) -> list[Make]:
    key = {"address": "org-2", "telecom": "org-3"}[name]

    def broken(organization: Json) -> list[str]:
        return [f"{place}.use" for place, each in below(organization, name) if each.get("use") == "home"]

    return [check(key, broken, name)]


def _only_in(key: str, mode: str, name: str) -> Make:
    """An element of a List's entries that only one mode of the list has."""

    def broken(list_: Json) -> list[str]:
        if list_.get("mode") == mode:
            return []
        return [f"{place}.{name}" for place, entry in below(list_, "entry") if name in entry or f"_{name}" in entry]

    return check(key, broken, "entry")


RULES: dict[str, tuple[Make, ...]] = {
    "AllergyIntolerance": (check("ait-1", _ait_1), check("ait-2", _ait_2, "verificationStatus", "clinicalStatus")),
    "CarePlan.activity": (apart("cpl-3", "detail", "reference"),),
    "CareTeam.participant": (check("ctm-1", _ctm_1, "onBehalfOf", where="onBehalfOf"),),
    "Composition.section": (some("cmp-1", "text", "entry", "section"), apart("cmp-2", "emptyReason", "entry")),
    "Condition": (check("con-4", _con_4, "abatement"), check("con-5", _con_5, "verificationStatus", "clinicalStatus")),
    "Condition.stage": (some("con-1", "summary", "assessment"),),
    "Condition.evidence": (some("con-2", "code", "detail"),),
    "FamilyMemberHistory": (apart("fhs-1", "age", "born"), needs("fhs-2", "estimatedAge", "age")),
    "Goal.target": (needs("gol-1", "detail", "measure"),),
    "Group": (check("grp-1", lambda group: group.get("actual") is not True, "member", where="member"),),
    "Immunization.education": (some("imm-1", "documentType", "reference"),),
    "ImmunizationRecommendation.recommendation": (some("imr-1", "vaccineCode", "targetDisease"),),
    "Linkage": (
        check("lnk-1", lambda link: isinstance(items := link.get("item"), list) and len(items) < 2, where="item"),
    ),
    "List": (
        apart("lst-1", "emptyReason", "entry"),
        _only_in("lst-2", "changes", "deleted"),
        _only_in("lst-3", "working", "date"),
    ),
    "MedicationAdministration.dosage": (some("mad-1", "dose", "rate"),),
    "MedicationDispense": (later("mdd-1", "whenPrepared", "whenHandedOver"),),
    "MolecularSequence": (
        check("msq-3", lambda each: number(each, "coordinateSystem") not in (None, 0, 1), where="coordinateSystem"),
    ),
    "MolecularSequence.referenceSeq": (
        by_names("msq-5", "chromosome", "genomeBuild", broken=lambda chromosome, build: chromosome != build),
        one("msq-6", "genomeBuild", "referenceSeqId", "referenceSeqPointer", "referenceSeqString"),
    ),
    "Observation": (apart("obs-6", "dataAbsentReason", "value"), check("obs-7", _obs_7, "value", "component")),
    "Observation.referenceRange": (some("obs-3", "low", "high", "text"),),
    "Organization": (some("org-1", "identifier", "name"), *_at_home("address"), *_at_home("telecom")),
    "Patient.contact": (some("pat-1", "name", "telecom", "address", "organization"),),
    "RiskAssessment.prediction": (
        check("ras-1", _ras_1, "probability"),
        check(
            "ras-2",
            lambda prediction: (number(prediction, "probabilityDecimal") or 0) > 100,
            "probability",
            where="probabilityDecimal",
        ),
    ),
}

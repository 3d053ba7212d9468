"""For each invariant an element that keeps it and one that breaks it, for `tests/unit/test_invariants.py`.

An element is written as what is added to, or (None) taken from, the least that its type must hold.
"""

from __future__ import annotations

from typing import Any, NamedTuple

THO = "http://terminology.hl7.org/CodeSystem/"
UCUM = "http://unitsofmeasure.org"
Json = dict[str, Any]


class Case(NamedTuple):
    """``place``: where below the element the issue is; empty for the element itself."""

    type: str
    key: str
    good: Json
    bad: Json
    place: str = ""


def concept(system: str, code: str) -> Json:
    return {"coding": [{"system": THO + system, "code": code}]}


X = {"text": "x"}
EXTENSION = {"url": "http://example.org/e", "valueString": "x"}
PATIENT = {"reference": "Patient/1"}
ERROR = concept("condition-ver-status", "entered-in-error")
WRONG_ALLERGY = concept("allergyintolerance-verification", "entered-in-error")
ACTIVE_ALLERGY = concept("allergyintolerance-clinical", "active")
ACTIVE, RESOLVED = concept("condition-clinical", "active"), concept("condition-clinical", "resolved")
MG = {"value": 1, "unit": "mg", "system": UCUM, "code": "mg"}
PART = {"name": "y", "valueString": "x"}
PERCENT = {"value": 1, "system": UCUM, "code": "%"}
BYTES = {"contentType": "application/octet-stream"}

DATATYPES = [
    Case("Extension", "ext-1", {"valueString": "x"}, {"valueString": "x", "extension": [EXTENSION]}),
    Case("Extension", "ext-1", {"extension": [EXTENSION]}, {}),
    Case("Extension", "ext-1", {"_valueString": {"extension": [EXTENSION]}}, {"id": "x"}),
    Case("Period", "per-1", {"start": "2026-02", "end": "2026-02-01"}, {"start": "2026-02-02", "end": "2026-02-01"}),
    Case("Range", "rng-2", {"low": MG, "high": MG}, {"low": {**MG, "value": 2}, "high": MG}),
    Case("Quantity", "qty-3", {"system": UCUM, "code": "mg"}, {"code": "mg"}),
    Case("SimpleQuantity", "qty-3", {"system": UCUM, "code": "mg"}, {"code": "mg"}),
    Case("SimpleQuantity", "sqty-1", MG, {**MG, "comparator": "<"}, "comparator"),
    Case("Age", "qty-3", {"system": UCUM, "code": "a"}, {"code": "a"}),
    Case("Age", "age-1", {"value": 1, "code": "a", "system": UCUM}, {"value": 1, "system": UCUM}),
    Case("Age", "age-1", {"value": 0.5, "code": "a"}, {"value": 0, "code": "a"}, "value"),
    Case("Age", "age-1", {"system": UCUM}, {"value": 1, "code": "a", "system": "http://example.org"}, "system"),
    Case("Count", "qty-3", {"system": UCUM, "code": "1"}, {"code": "1"}),
    Case("Count", "cnt-3", {"value": 1, "code": "1"}, {"value": 1}),
    Case("Count", "cnt-3", {"value": 1, "code": "1"}, {"value": 1.5, "code": "1"}, "value"),
    Case("Count", "cnt-3", {"code": "1", "system": UCUM}, {"code": "2", "system": UCUM}, "code"),
    Case("Count", "cnt-3", {"system": UCUM}, {"system": "http://example.org"}, "system"),
    Case("Distance", "qty-3", {"system": UCUM, "code": "m"}, {"code": "m"}),
    Case("Distance", "dis-1", {"value": 1, "code": "m", "system": UCUM}, {"value": 1}),
    Case("Distance", "dis-1", {"unit": "m"}, {"system": "http://example.org"}, "system"),
    Case("Duration", "qty-3", {"system": UCUM, "code": "s"}, {"code": "s"}),
    Case("Duration", "drt-1", {"value": 1, "code": "s", "system": UCUM}, {"code": "s", "system": UCUM}),
    Case("Duration", "drt-1", {"value": 1}, {"value": 1, "code": "s", "system": "http://example.org"}, "system"),
    Case("Ratio", "rat-1", {"numerator": MG, "denominator": MG}, {"numerator": MG}),
    Case("Ratio", "rat-1", {"extension": [EXTENSION]}, {"denominator": MG}),
    Case("Ratio", "rat-1", {"numerator": MG, "denominator": MG}, {"extension": None, "id": "x"}),
    Case("Attachment", "att-1", {"data": "QQ==", "contentType": "text/plain"}, {"data": "QQ=="}),
    Case("Attachment", "size", {**BYTES, "data": "aGVs bA==", "size": 4}, {**BYTES, "data": "aGVs", "size": 4}, "size"),
    Case("Attachment", "size", {"size": 9, "url": "http://example.org"}, {**BYTES, "data": "QQ==", "size": 2}, "size"),
    Case("Attachment", "size", {**BYTES, "data": "QUI=", "size": 2}, {**BYTES, "data": "QUI=", "size": 3}, "size"),
    Case("ContactPoint", "cpt-2", {"value": "1", "system": "phone"}, {"value": "1"}),
    Case("Expression", "exp-1", {"reference": "http://example.org"}, {}),
    Case("DataRequirement.codeFilter", "drq-1", {"path": "code"}, {"path": "code", "searchParam": "code"}),
    Case("DataRequirement.dateFilter", "drq-2", {"searchParam": "date"}, {}),
    Case("Timing.repeat", "tim-1", {"duration": 1, "durationUnit": "h"}, {"duration": 1}),
    Case("Timing.repeat", "tim-2", {"period": 1, "periodUnit": "d"}, {"period": 1}),
    Case("Timing.repeat", "tim-4", {"duration": 0, "durationUnit": "h"}, {"duration": -1}, "duration"),
    Case("Timing.repeat", "tim-5", {"period": 0.5, "periodUnit": "h"}, {"period": -0.5}, "period"),
    Case("Timing.repeat", "tim-6", {"period": 1, "periodMax": 2}, {"periodMax": 2}),
    Case("Timing.repeat", "tim-7", {"duration": 1, "durationMax": 2}, {"durationMax": 2}),
    Case("Timing.repeat", "tim-8", {"count": 1, "countMax": 2}, {"countMax": 2}),
    Case("Timing.repeat", "tim-9", {"offset": 1, "when": ["ACM"]}, {"offset": 1, "when": ["C"]}),
    Case("Timing.repeat", "tim-9", {"when": ["C"]}, {"offset": 1}),
    Case("Timing.repeat", "tim-10", {"when": ["C"]}, {"when": ["C"], "timeOfDay": ["10:00:00"]}),
    Case(
        "TriggerDefinition", "trd-1", {"timingDate": "2026-01-01"}, {"timingDate": "2026", "data": [{"type": "Task"}]}
    ),
    Case("TriggerDefinition", "trd-2", {"condition": X, "data": [{"type": "Task"}]}, {"condition": X}),
    Case("TriggerDefinition", "trd-3", {"type": "named-event", "name": "x"}, {"type": "named-event"}),
    Case("TriggerDefinition", "trd-3", {"type": "periodic", "timingDate": "2026-01-01"}, {"type": "periodic"}),
    Case("TriggerDefinition", "trd-3", {"type": "data-added", "data": [{"type": "Task"}]}, {"type": "data-added"}),
    Case("Reference", "ref-type", {"reference": "Patient/1", "type": "Patient"}, {**PATIENT, "type": "Group"}, "type"),
    Case("Money", "currency", {"currency": "USD"}, {"currency": "usd"}, "currency"),
]

CLINICAL = [
    Case("AllergyIntolerance", "ait-1", {"clinicalStatus": ACTIVE_ALLERGY}, {}),
    Case("AllergyIntolerance", "ait-1", {"verificationStatus": WRONG_ALLERGY}, {"verificationStatus": X}),
    Case(
        "AllergyIntolerance",
        "ait-2",
        {"verificationStatus": WRONG_ALLERGY},
        {"verificationStatus": WRONG_ALLERGY, "clinicalStatus": ACTIVE_ALLERGY},
    ),
    Case("CarePlan.activity", "cpl-3", {"reference": {"reference": "Task/1"}}, {"reference": {}, "detail": {}}),
    Case(
        "CareTeam.participant",
        "ctm-1",
        {"member": {"reference": "Practitioner/1"}, "onBehalfOf": {"reference": "Organization/1"}},
        {"member": PATIENT, "onBehalfOf": {"reference": "Organization/1"}},
        "onBehalfOf",
    ),
    Case("Composition.section", "cmp-1", {"section": [{}]}, {"title": "x"}),
    Case("Composition.section", "cmp-2", {"emptyReason": X}, {"emptyReason": X, "entry": [PATIENT]}),
    Case("Condition", "con-4", {"abatementString": "x", "clinicalStatus": RESOLVED}, {"abatementString": "x"}),
    Case("Condition", "con-4", {"clinicalStatus": ACTIVE}, {"abatementDateTime": "2026", "clinicalStatus": ACTIVE}),
    Case("Condition", "con-5", {"verificationStatus": ERROR}, {"verificationStatus": ERROR, "clinicalStatus": ACTIVE}),
    Case("Condition.stage", "con-1", {"summary": X}, {"type": X}),
    Case("Condition.evidence", "con-2", {"detail": [PATIENT]}, {"extension": [EXTENSION]}),
    Case("FamilyMemberHistory", "fhs-1", {"ageString": "x"}, {"ageString": "x", "bornDate": "2000"}),
    Case("FamilyMemberHistory", "fhs-2", {"ageString": "x", "estimatedAge": True}, {"estimatedAge": True}),
    Case("Goal.target", "gol-1", {"measure": X, "detailString": "x"}, {"detailString": "x"}),
    Case("Group", "grp-1", {"actual": True, "member": [{}]}, {"actual": False, "member": [{}]}, "member"),
    Case("Immunization.education", "imm-1", {"documentType": "x"}, {"publicationDate": "2026"}),
    Case("ImmunizationRecommendation.recommendation", "imr-1", {"targetDisease": X}, {}),
    Case("Linkage", "lnk-1", {"item": [{}, {}]}, {"item": [{}]}, "item"),
    Case("List", "lst-1", {"emptyReason": X}, {"emptyReason": X, "entry": [{}]}),
    Case(
        "List",
        "lst-2",
        {"mode": "changes", "entry": [{"deleted": True}]},
        {"mode": "snapshot", "entry": [{}, {"deleted": True}]},
        "entry[1].deleted",
    ),
    Case(
        "List",
        "lst-3",
        {"mode": "working", "entry": [{"date": "2026"}]},
        {"mode": "snapshot", "entry": [{"date": "2026"}]},
        "entry[0].date",
    ),
    Case("MedicationAdministration.dosage", "mad-1", {"dose": MG}, {"text": "x"}),
    Case(
        "MedicationDispense",
        "mdd-1",
        {"whenPrepared": "2026-02-01", "whenHandedOver": "2026-02-01T10:00:00Z"},
        {"whenPrepared": "2026-02-03", "whenHandedOver": "2026-02-01"},
    ),
    Case("MolecularSequence", "msq-3", {"coordinateSystem": 0}, {"coordinateSystem": 2}, "coordinateSystem"),
    Case("MolecularSequence.referenceSeq", "msq-5", {"chromosome": X, "genomeBuild": "x"}, {"chromosome": X}),
    Case("MolecularSequence.referenceSeq", "msq-6", {"genomeBuild": "x"}, {"genomeBuild": "x", "referenceSeqId": X}),
    Case("Observation", "obs-6", {"dataAbsentReason": X}, {"dataAbsentReason": X, "valueString": "x"}),
    Case(
        "Observation",
        "obs-7",
        {"code": concept("a", "b"), "component": [{"code": concept("a", "b"), "valueString": "x"}]},
        {"code": concept("a", "b"), "component": [{"code": concept("a", "b")}], "valueString": "x"},
    ),
    Case("Observation.referenceRange", "obs-3", {"low": MG}, {"type": X}),
    Case("Organization", "org-1", {"name": "x"}, {"active": True}),
    Case("Organization", "org-2", {"address": [{"use": "work"}]}, {"address": [{"use": "home"}]}, "address[0].use"),
    Case("Organization", "org-3", {"telecom": [{"use": "work"}]}, {"telecom": [{}, {"use": "home"}]}, "telecom[1].use"),
    Case("Patient.contact", "pat-1", {"organization": {"reference": "Organization/1"}}, {"gender": "other"}),
    Case(
        "RiskAssessment.prediction",
        "ras-1",
        {"probabilityRange": {"low": PERCENT, "high": PERCENT}},
        {"probabilityRange": {"low": PERCENT, "high": MG}},
        "probabilityRange.high",
    ),
    Case(
        "RiskAssessment.prediction",
        "ras-2",
        {"probabilityDecimal": 100},
        {"probabilityDecimal": 101},
        "probabilityDecimal",
    ),
]

WORKFLOW = [
    Case("Appointment", "app-2", {"start": "2026-01-01T00:00:00Z", "end": "2026-01-01T00:00:00Z"}, {"end": "x"}),
    Case("Appointment", "app-3", {"status": "waitlist"}, {"status": "booked"}),
    Case(
        "Appointment",
        "app-4",
        {"status": "no-show", "cancelationReason": X},
        {"status": "proposed", "cancelationReason": X},
        "cancelationReason",
    ),
    Case("Appointment.participant", "app-1", {"actor": PATIENT}, {"required": "required"}),
    Case("AppointmentResponse", "apr-1", {"actor": PATIENT}, {}),
    Case("AuditEvent.entity", "sev-1", {"query": "QQ=="}, {"query": "QQ==", "name": "x"}),
    Case("Bundle", "bdl-1", {"type": "history", "total": 0}, {"type": "batch", "total": 0}, "total"),
    Case(
        "Bundle",
        "bdl-2",
        {"type": "searchset", "entry": [{"search": {"mode": "match"}}]},
        {"type": "collection", "entry": [{"search": {"mode": "match"}}]},
        "entry[0].search",
    ),
    Case(
        "Bundle",
        "bdl-3",
        {"type": "batch", "entry": [{"request": {}}]},
        {"type": "batch", "entry": [{"request": {}}, {}]},
        "entry[1].request",
    ),
    Case(
        "Bundle",
        "bdl-3",
        {"type": "document", "entry": [{}]},
        {"type": "document", "entry": [{"request": {}}]},
        "entry[0].request",
    ),
    Case(
        "Bundle",
        "bdl-4",
        {"type": "history", "entry": [{"request": {}, "response": {}}]},
        {"type": "history", "entry": [{"request": {}}]},
        "entry[0].response",
    ),
    Case(
        "Bundle",
        "bdl-7",
        {"entry": [{"fullUrl": "urn:a"}, {"fullUrl": "urn:b"}]},
        {"entry": [{"fullUrl": "urn:a"}, {"fullUrl": "urn:b"}, {"fullUrl": "urn:a"}]},
        "entry[2].fullUrl",
    ),
    Case(
        "Bundle",
        "bdl-7",
        {
            "entry": [
                {"fullUrl": "urn:a", "resource": {"resourceType": "Patient", "meta": {"versionId": "1"}}},
                {"fullUrl": "urn:a", "resource": {"resourceType": "Patient", "meta": {"versionId": "2"}}},
            ]
        },
        {
            "entry": [
                {"fullUrl": "urn:a", "resource": {"resourceType": "Patient", "meta": {"versionId": "1"}}},
                {"fullUrl": "urn:a", "resource": {"resourceType": "Patient", "meta": {"versionId": "1"}}},
            ]
        },
        "entry[1].fullUrl",
    ),
    Case(
        "Bundle",
        "bdl-9",
        {"type": "document", "identifier": {"system": "urn:a", "value": "1"}},
        {"type": "document", "identifier": {"value": "1"}},
        "identifier",
    ),
    Case(
        "Bundle", "bdl-10", {"type": "document", "timestamp": "2026-01-01T00:00:00Z"}, {"type": "document"}, "timestamp"
    ),
    Case(
        "Bundle",
        "bdl-11",
        {"type": "document", "entry": [{"resource": {"resourceType": "Composition"}}, {}]},
        {"type": "document", "entry": [{"resource": {"resourceType": "Patient"}}]},
        "entry[0]",
    ),
    Case("Bundle", "bdl-11", {"type": "collection"}, {"type": "document"}, "entry[0]"),
    Case(
        "Bundle",
        "bdl-12",
        {"type": "message", "entry": [{"resource": {"resourceType": "MessageHeader"}}]},
        {"type": "message", "entry": [{"resource": {"resourceType": "Patient"}}]},
        "entry[0]",
    ),
    Case("Bundle.entry", "bdl-5", {"request": {}}, {"fullUrl": "urn:a"}),
    Case(
        "Bundle.entry",
        "bdl-8",
        {"fullUrl": "http://example.org/Patient/1"},
        {"fullUrl": "http://example.org/Patient/1/_history/2"},
        "fullUrl",
    ),
    Case("Bundle.entry", "absolute", {"fullUrl": "urn:a"}, {"fullUrl": "Patient/1"}, "fullUrl"),
    Case(
        "Bundle.entry",
        "outcome",
        {"search": {"mode": "outcome"}, "resource": {"resourceType": "OperationOutcome"}},
        {"search": {"mode": "outcome"}, "resource": {"resourceType": "Patient"}},
        "search.mode",
    ),
    Case("Consent", "ppc-1", {"policyRule": X}, {"dateTime": "2026"}),
    *(
        Case("Consent", key, {"scope": concept("consentscope", scope), "patient": PATIENT}, {"scope": bad})
        for key, scope in (
            ("ppc-2", "patient-privacy"),
            ("ppc-3", "research"),
            ("ppc-4", "adr"),
            ("ppc-5", "treatment"),
        )
        for bad in (concept("consentscope", scope), {"coding": [{"system": "something", "code": scope}]})
    ),
    Case("CoverageEligibilityResponse.insurance.item", "ces-1", {"category": X}, {}),
    Case("InsurancePlan", "ipn-1", {"name": "x"}, {}),
    Case("Parameters.parameter", "inv-1", {"valueString": "x"}, {"valueString": "x", "part": [PART]}),
    Case("Parameters.parameter", "inv-1", {"part": [PART]}, {}),
    Case("RequestGroup.action", "rqg-1", {"resource": PATIENT}, {"resource": PATIENT, "action": [{}]}),
    Case("ServiceRequest", "prr-1", {"orderDetail": [X], "code": X}, {"orderDetail": [X]}),
    Case(
        "Task",
        "inv-1",
        {"authoredOn": "2026-02-01", "lastModified": "2026-02-01T10:00:00Z"},
        {"authoredOn": "2026-02-02T10:00:00Z", "lastModified": "2026-02-02T09:59:59Z"},
    ),
]

QUESTION = "Questionnaire.item"
SETUP, TEST, TEARDOWN = "TestScript.setup.action", "TestScript.test.action", "TestScript.teardown.action"

FORMS = [
    Case("Measure.group.stratifier", "mea-1", {"component": [{}]}, {"component": [{}], "description": "x"}),
    Case("Measure.group.stratifier", "mea-1", {"code": X}, {}),
    Case(
        "MeasureReport",
        "mrp-1",
        {"type": "summary", "group": [{}]},
        {"type": "data-collection", "group": [{}]},
        "group",
    ),
    Case("MeasureReport.group.stratifier.stratum", "mrp-2", {"value": X}, {}),
    Case(
        "Questionnaire",
        "que-2",
        {"item": [{"linkId": "1", "item": [{"linkId": "2"}]}, {"linkId": "3"}]},
        {"item": [{"linkId": "1", "item": [{"linkId": "2"}]}, {"linkId": "2"}]},
        "item[1].linkId",
    ),
    Case(QUESTION, "que-1", {"type": "group", "item": [{}]}, {"type": "group"}, "item"),
    Case(QUESTION, "que-1", {"type": "display"}, {"type": "display", "item": [{}]}, "item"),
    Case(QUESTION, "que-3", {"type": "string", "code": [{}]}, {"type": "display", "code": [{}]}, "code"),
    Case(QUESTION, "que-4", {"answerValueSet": "urn:a"}, {"answerValueSet": "urn:a", "answerOption": [{}]}),
    Case(
        QUESTION,
        "que-5",
        {"type": "choice", "answerOption": [{}]},
        {"type": "group", "answerOption": [{}]},
        "answerOption",
    ),
    Case(QUESTION, "que-5", {"type": "time"}, {"type": "boolean", "answerValueSet": "urn:a"}, "answerValueSet"),
    Case(QUESTION, "que-6", {"type": "string", "repeats": True}, {"type": "display", "repeats": False}, "repeats"),
    Case(QUESTION, "que-6", {"type": "string", "required": True}, {"type": "display", "required": False}, "required"),
    Case(QUESTION, "que-8", {"type": "date", "initial": [{}]}, {"type": "group", "initial": [{}]}, "initial"),
    Case(QUESTION, "que-9", {"type": "date", "readOnly": True}, {"type": "display", "readOnly": True}, "readOnly"),
    Case(QUESTION, "que-10", {"type": "text", "maxLength": 1}, {"type": "date", "maxLength": 1}, "maxLength"),
    Case(QUESTION, "que-11", {"initial": [{}]}, {"initial": [{}], "answerOption": [{}]}),
    Case(QUESTION, "que-12", {"enableWhen": [{}, {}]}, {"enableWhen": [{}, {}, {}]}, "enableBehavior"),
    Case(QUESTION, "que-13", {"initial": [{}, {}], "repeats": True}, {"initial": [{}, {}]}, "initial"),
    Case(
        "Questionnaire.item.enableWhen",
        "que-7",
        {"operator": "exists", "answerBoolean": True},
        {"operator": "exists", "answerBoolean": None, "answerString": "x"},
        "answer",
    ),
    Case("QuestionnaireResponse.item", "qrs-1", {"item": [{}]}, {"item": [{}], "answer": [{}]}),
    Case("TestReport.setup.action", "inv-1", {"operation": {}}, {"operation": {}, "assert": {}}),
    Case("TestReport.test.action", "inv-2", {"assert": {}}, {}),
    Case("TestScript.metadata", "tst-4", {"capability": [{"required": True}]}, {"capability": [{}]}, "capability"),
    Case("TestScript.variable", "tst-3", {"path": "x"}, {"path": "x", "expression": "x", "headerField": "x"}),
    *(Case(at, key, {"operation": {}}, {}) for at, key in ((SETUP, "tst-1"), (TEST, "tst-2"))),
    *(
        Case(at, key, {"assert": {"path": "x"}}, {"assert": {"path": "x", "resource": "Task"}}, "assert")
        for at, key in ((SETUP, "tst-5"), (TEST, "tst-6"))
    ),
    *(
        Case(at, key, {"operation": good}, {"operation": bad}, "operation")
        for at, key in ((SETUP, "tst-7"), (TEST, "tst-8"), (TEARDOWN, "tst-9"))
        for good, bad in (
            ({"url": "x"}, {"url": "x", "params": "x"}),
            ({"sourceId": "x"}, {"type": {"code": "read"}}),
            ({"type": {"code": "search"}}, {"method": "get"}),
        )
    ),
    *(
        Case(at, key, {"assert": {"compareToSourceId": "x", "compareToSourcePath": "x"}}, {"assert": bad}, "assert")
        for at, key in ((SETUP, "tst-10"), (TEST, "tst-11"))
        for bad in ({"compareToSourceId": "x"}, {"compareToSourceExpression": "x"})
    ),
    *(
        Case(
            at,
            key,
            {"assert": {"direction": "response", "responseCode": "x"}},
            {"assert": {"direction": "request", "responseCode": "x"}},
            "assert",
        )
        for at, key in ((SETUP, "tst-12"), (TEST, "tst-13"))
    ),
]

"""The invariants of R4 that one element's own members decide, by the type or backbone element they stand on.

A rule sees an element whose structure may still be wrong, so it must not assume kinds. ``exists`` in the
specification's expressions is membership here: an absent value never has a member in valid FHIR JSON. The names
in a rule are element names; `compile_rules` turns them into the JSON members that count as their presence.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from fhirserver.core.dates import interval
from fhirserver.core.lexical import date_time_problem

Json = Mapping[str, Any]
Members = Mapping[str, frozenset[str]]
"""element name -> the JSON members that are its presence: ``value`` -> ``valueString``, ``_valueString``, …"""


_UCUM = "http://unitsofmeasure.org"

_ZONES = 14 * 3_600_000
"""The farthest a zone is from UTC, in milliseconds."""


class Rule(NamedTuple):
    """``broken`` tells whether an element violates the rule; ``where`` is the member the report points to."""

    key: str
    says: str
    broken: Callable[[Json], bool]
    where: str = ""


Make = Callable[[Members], Rule]


def _needs(key: str, name: str, *others: str) -> Make:
    """Where ``name`` is, one of the others has to be."""

    def make(members: Members) -> Rule:
        first, rest = members[name], frozenset().union(*(members[other] for other in others))
        return Rule(
            key,
            f"{name} needs {' or '.join(others)}",
            lambda element: rest.isdisjoint(element) and not first.isdisjoint(element),
        )

    return make


def _apart(key: str, *names: str) -> Make:
    """At most one of the names."""

    def make(members: Members) -> Rule:
        sets = [members[name] for name in names]
        return Rule(
            key,
            f"{' and '.join(names)} must not both be present",
            lambda element: sum(not each.isdisjoint(element) for each in sets) > 1,
        )

    return make


def _some(key: str, *names: str) -> Make:
    """At least one of the names."""

    def make(members: Members) -> Rule:
        either = frozenset().union(*(members[name] for name in names))
        return Rule(key, f"needs {' or '.join(names)}", either.isdisjoint)

    return make


def _one(key: str, *names: str) -> Make:
    """Exactly one of the names."""

    def make(members: Members) -> Rule:
        sets = [members[name] for name in names]
        return Rule(
            key,
            f"needs exactly one of {', '.join(names)}",
            lambda element: sum(not each.isdisjoint(element) for each in sets) != 1,
        )

    return make


def _own(key: str, says: str, broken: Callable[[Json], bool], where: str = "") -> Make:
    def make(_: Members) -> Rule:
        return Rule(key, says, broken, where)

    return make


def _in_ucum(key: str) -> Make:
    """The units of an Age, Distance, Count or Duration are UCUM's."""
    return _own(
        key,
        "the system of the unit must be http://unitsofmeasure.org",
        lambda element: "code" in element and element.get("system", _UCUM) != _UCUM,
        "system",
    )


def _codings(concept: Any) -> set[tuple[Any, Any]]:
    if not isinstance(concept, dict) or not isinstance(concept.get("coding"), list):
        return set()
    return {
        (system, code)
        for each in concept["coding"]
        if isinstance(each, dict)
        and isinstance(code := each.get("code"), str)
        and isinstance(system := each.get("system", ""), str)
    }


def _obs_7(observation: Json) -> bool:
    components = observation.get("component")
    if not isinstance(components, list) or not any(name.startswith("value") for name in observation):
        return False
    own = _codings(observation.get("code"))
    return any(isinstance(each, dict) and not own.isdisjoint(_codings(each.get("code"))) for each in components)


def _per_1(period: Json) -> bool:
    start, end = period.get("start"), period.get("end")
    if not isinstance(start, str) or not isinstance(end, str) or start == end:
        return False
    if len(start) == len(end) and start[19:] == end[19:]:
        return start > end  # the same form and zone, so text order is time order
    if date_time_problem(start) or date_time_problem(end):
        return False
    slack = 0 if ("T" in start) == ("T" in end) else _ZONES  # a day without a time may be meant in any zone
    try:
        return interval(start)[0] - slack > interval(end)[1]
    except ValueError:
        return False  # 9999-12-31, the usual "for ever", has no next day to end at


def _number(value: Any) -> float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _negative(name: str) -> Callable[[Json], bool]:
    return lambda element: (_number(element.get(name)) or 0) < 0


def _rng_2(range_: Json) -> bool:
    low, high = range_.get("low"), range_.get("high")
    if not isinstance(low, dict) or not isinstance(high, dict):
        return False
    if any(low.get(unit) != high.get(unit) for unit in ("unit", "code", "system")):
        return False  # quantities of different units are not compared here
    least, most = _number(low.get("value")), _number(high.get("value"))
    return least is not None and most is not None and least > most


def _lacks_type(reference: Json) -> bool:
    """Reference.type: "if both type and reference are populated and reference is a FHIR URL, both SHALL agree"."""
    named, text = reference.get("type"), reference.get("reference")
    if not isinstance(named, str) or not isinstance(text, str) or ":" in text or not named[:1].isupper():
        return False
    head, slash, _ = text.partition("/")
    return bool(slash) and head[:1].isupper() and head != named


RULES: dict[str, tuple[Make, ...]] = {
    "Extension": (_one("ext-1", "extension", "value"),),
    "Reference": (_own("ref-type", "type and reference name different types", _lacks_type, "type"),),
    "Period": (_own("per-1", "start must not be after end", _per_1),),
    "Range": (_own("rng-2", "low must not be above high", _rng_2),),
    "Quantity": (_needs("qty-3", "code", "system"),),
    "Age": (_needs("qty-3", "code", "system"), _needs("age-1", "value", "code"), _in_ucum("age-1")),
    "Count": (_needs("qty-3", "code", "system"), _needs("cnt-3", "value", "code"), _in_ucum("cnt-3")),
    "Distance": (_needs("qty-3", "code", "system"), _needs("dis-1", "value", "code"), _in_ucum("dis-1")),
    "Duration": (_needs("qty-3", "code", "system"), _needs("drt-1", "code", "value"), _in_ucum("drt-1")),
    "Ratio": (
        _needs("rat-1", "numerator", "denominator"),
        _needs("rat-1", "denominator", "numerator"),
        _some("rat-1", "numerator", "extension"),
    ),
    "Attachment": (_needs("att-1", "data", "contentType"),),
    "ContactPoint": (_needs("cpt-2", "value", "system"),),
    "Expression": (_some("exp-1", "expression", "reference"),),
    "DataRequirement.codeFilter": (_one("drq-1", "path", "searchParam"),),
    "DataRequirement.dateFilter": (_one("drq-2", "path", "searchParam"),),
    "Timing.repeat": (
        _needs("tim-1", "duration", "durationUnit"),
        _needs("tim-2", "period", "periodUnit"),
        _own("tim-4", "must not be negative", _negative("duration"), "duration"),
        _own("tim-5", "must not be negative", _negative("period"), "period"),
        _needs("tim-6", "periodMax", "period"),
        _needs("tim-7", "durationMax", "duration"),
        _needs("tim-8", "countMax", "count"),
        _apart("tim-10", "timeOfDay", "when"),
    ),
    "TriggerDefinition": (_apart("trd-1", "data", "timing"), _needs("trd-2", "condition", "data")),
    "Appointment.participant": (_some("app-1", "type", "actor"),),
    "AppointmentResponse": (_some("apr-1", "participantType", "actor"),),
    "AuditEvent.entity": (_apart("sev-1", "name", "query"),),
    "Bundle.entry": (_some("bdl-5", "resource", "request", "response"),),
    "CapabilityStatement": (_some("cpb-1", "rest", "messaging", "document"),),
    "CarePlan.activity": (_apart("cpl-3", "detail", "reference"),),
    "Composition.section": (_some("cmp-1", "text", "entry", "section"), _apart("cmp-2", "emptyReason", "entry")),
    "Condition.stage": (_some("con-1", "summary", "assessment"),),
    "Condition.evidence": (_some("con-2", "code", "detail"),),
    "Consent": (_some("ppc-1", "policy", "policyRule"),),
    "CoverageEligibilityResponse.insurance.item": (_one("ces-1", "category", "productOrService"),),
    "FamilyMemberHistory": (_apart("fhs-1", "age", "born"), _needs("fhs-2", "estimatedAge", "age")),
    "Goal.target": (_needs("gol-1", "detail", "measure"),),
    "Immunization.education": (_some("imm-1", "documentType", "reference"),),
    "ImmunizationRecommendation.recommendation": (_some("imr-1", "vaccineCode", "targetDisease"),),
    "InsurancePlan": (_some("ipn-1", "identifier", "name"),),
    "List": (_apart("lst-1", "emptyReason", "entry"),),
    "MedicationAdministration.dosage": (_some("mad-1", "dose", "rate"),),
    "Observation": (
        _apart("obs-6", "dataAbsentReason", "value"),
        _own("obs-7", "a component has the code of the observation, so there must be no value here", _obs_7),
    ),
    "Observation.referenceRange": (_some("obs-3", "low", "high", "text"),),
    "OperationDefinition.parameter": (_some("opd-1", "type", "part"),),
    "Organization": (_some("org-1", "identifier", "name"),),
    "Parameters.parameter": (_one("inv-1", "value", "resource", "part"),),
    "Patient.contact": (_some("pat-1", "name", "telecom", "address", "organization"),),
    "Questionnaire.item": (
        _apart("que-4", "answerOption", "answerValueSet"),
        _apart("que-11", "answerOption", "initial"),
    ),
    "QuestionnaireResponse.item": (_apart("qrs-1", "answer", "item"),),
    "RequestGroup.action": (_one("rqg-1", "resource", "action"),),
    "RiskAssessment.prediction": (
        _own(
            "ras-2",
            "must be at most 100",
            lambda element: (_number(element.get("probabilityDecimal")) or 0) > 100,
            "probabilityDecimal",
        ),
    ),
    "SearchParameter": (_needs("spd-1", "xpath", "xpathUsage"),),
    "ServiceRequest": (_needs("prr-1", "orderDetail", "code"),),
    "StructureDefinition": (_some("sdf-6", "snapshot", "differential"),),
    "StructureDefinition.mapping": (_some("sdf-2", "name", "uri"),),
    "ValueSet.compose.include": (
        _some("vsd-1", "valueSet", "system"),
        _needs("vsd-2", "concept", "system"),
        _needs("vsd-2", "filter", "system"),
        _apart("vsd-3", "concept", "filter"),
        _own(
            "absolute",  # the definition of the element: "an absolute URI which is the code system"
            "must be an absolute URI",
            lambda element: isinstance(system := element.get("system"), str) and ":" not in system,
            "system",
        ),
    ),
    "ValueSet.expansion.contains": (_some("vsd-6", "code", "display"), _needs("vsd-10", "code", "system")),
}
"""type or backbone path -> its rules. An invariant not listed here is not checked."""


def compile_rules(type_: str, members: Members) -> tuple[Rule, ...]:
    """The rules of one type, given the JSON members of each of its elements."""
    return tuple(make(members) for make in RULES.get(type_, ()))

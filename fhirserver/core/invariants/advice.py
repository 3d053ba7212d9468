"""The published invariants of severity warning, and txt-2: what is told on request and refuses nothing.

txt-2 (a narrative has some text or an image) is published as an error, but four of the official examples break it, and
an empty narrative harms nobody.
"""

from __future__ import annotations

import re

from fhirserver.core.invariants.rule import Json, Make, below, check, coded, has, some, text

_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
_NAME = re.compile(r"[A-Z][A-Za-z0-9_]{0,254}").fullmatch
_PATH = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:\.[a-z][A-Za-z0-9]*(?:\[x])?)*").fullmatch
_TAG = re.compile(r"<[^>]*>")

_NAMED = {
    "ActivityDefinition": "adf-0",
    "CapabilityStatement": "cpb-0",
    "CodeSystem": "csd-0",
    "CompartmentDefinition": "cpd-0",
    "ConceptMap": "cmd-0",
    "EffectEvidenceSynthesis": "ees-0",
    "EventDefinition": "evd-0",
    "Evidence": "evi-0",
    "EvidenceVariable": "evv-0",
    "ExampleScenario": "esc-0",
    "GraphDefinition": "gdf-0",
    "ImplementationGuide": "ig-0",
    "Library": "lib-0",
    "Measure": "mea-0",
    "MessageDefinition": "msd-0",
    "NamingSystem": "nsd-0",
    "OperationDefinition": "opd-0",
    "PlanDefinition": "pdf-0",
    "Questionnaire": "que-0",
    "ResearchDefinition": "rsd-0",
    "ResearchElementDefinition": "red-0",
    "RiskEvidenceSynthesis": "rvs-0",
    "SearchParameter": "spd-0",
    "StructureDefinition": "sdf-0",
    "StructureMap": "smp-0",
    "TerminologyCapabilities": "tcp-0",
    "TestScript": "tst-0",
    "ValueSet": "vsd-0",
}
"""Types whose `name` should be usable as an identifier by a program."""


def _con_3(condition: Json) -> bool:
    """By its words: the expression compares a CodeableConcept with a string, which is never equal."""
    if "clinicalStatus" in condition:
        return False
    if coded(condition.get("verificationStatus"), _TERMINOLOGY + "condition-ver-status", "entered-in-error"):
        return False
    system = _TERMINOLOGY + "condition-category"
    return any(coded(category, system, "problem-list-item") for _, category in below(condition, "category"))


def _txt_2(narrative: Json) -> bool:
    div = text(narrative, "div")
    return "<img" not in div and not _TAG.sub("", div).strip()


def _named(key: str) -> tuple[Make, ...]:
    return (check(key, lambda each: not _NAME(text(each, "name")), "name", where="name"),)


RULES: dict[str, tuple[Make, ...]] = {
    **{type_: _named(key) for type_, key in _NAMED.items()},
    "Condition": (check("con-3", _con_3, "category", where="clinicalStatus"),),
    "ElementDefinition": (check("eld-20", lambda each: not _PATH(text(each, "path")), "path", where="path"),),
    "ElementDefinition.constraint": (check("eld-21", lambda each: not has(each, "expression"), where="expression"),),
    "Narrative": (check("txt-2", _txt_2, "div", where="div"),),
    "NutritionOrder": (some("nor-1", "oralDiet", "supplement", "enteralFormula"),),
}
"""type or backbone path -> its rules."""

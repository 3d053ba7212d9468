"""The same as `tests/invariants.py` for the resources that define and describe."""

from __future__ import annotations

from typing import Any

from tests.invariants import Case

CAPABILITY, TERMINOLOGY = "CapabilityStatement", "TerminologyCapabilities"
HL7 = "http://hl7.org/fhir/StructureDefinition/"
Json = dict[str, Any]

CONFORMANCE = [
    Case(CAPABILITY, "cpb-1", {"rest": [{}]}, {}),
    Case(CAPABILITY, "cpb-2", {"description": "x"}, {}),
    Case(
        CAPABILITY,
        "cpb-3",
        {"kind": "instance", "messaging": [{"endpoint": [{}]}]},
        {"kind": "requirements", "messaging": [{}, {"endpoint": [{}]}]},
        "messaging[1].endpoint",
    ),
    Case(
        CAPABILITY,
        "cpb-7",
        {"document": [{"profile": "urn:a", "mode": "producer"}, {"profile": "urn:a", "mode": "consumer"}]},
        {"document": [{"profile": "urn:a", "mode": "producer"}, {"profile": "urn:a", "mode": "producer"}]},
        "document[1].profile",
    ),
    Case(
        "CapabilityStatement.rest",
        "cpb-9",
        {"resource": [{"type": "Task"}, {"type": "Patient"}]},
        {"resource": [{"type": "Task"}, {"type": "Task"}]},
        "resource[1].type",
    ),
    Case(
        "CapabilityStatement.rest.resource",
        "cpb-12",
        {"searchParam": [{"name": "a"}, {"name": "b"}]},
        {"searchParam": [{"name": "a"}, {"name": "a"}]},
        "searchParam[1].name",
    ),
    Case(CAPABILITY, "cpb-14", {"kind": "instance", "implementation": {}}, {"kind": "instance"}, "implementation"),
    Case(CAPABILITY, "cpb-15", {"kind": "capability", "software": {}}, {"kind": "capability", "implementation": {}}),
    Case(CAPABILITY, "cpb-16", {"kind": "requirements"}, {"kind": "requirements", "software": {}}),
    Case(
        "CodeSystem",
        "csd-1",
        {"concept": [{"code": "a", "concept": [{"code": "b"}]}]},
        {"concept": [{"code": "a", "concept": [{"code": "b"}, {"code": "a"}]}]},
        "concept[0].concept[1].code",
    ),
    Case(
        "CodeSystem",
        "property-type",
        {
            "property": [{"code": "a", "type": "code"}, {"code": "a", "type": "boolean"}],
            "concept": [{"property": [{"code": "a", "valueCode": "x"}, {"code": "other", "valueInteger": 1}]}],
        },
        {
            "property": [{"code": "a", "type": "decimal"}],
            "concept": [{"concept": [{"property": [{"code": "a", "valueInteger": 1}]}]}],
        },
        "concept[0].concept[0].property[0].valueInteger",
    ),
    Case(
        "CodeSystem",
        "supplement",
        {"supplements": "http://example.org", "content": "supplement"},
        {"supplements": "http://example.org", "content": "complete"},
        "content",
    ),
    Case(
        "ConceptMap.group.element.target",
        "cmd-1",
        {"equivalence": "narrower", "comment": "x"},
        {"equivalence": "inexact"},
        "comment",
    ),
    Case("ConceptMap.group.unmapped", "cmd-2", {"mode": "fixed", "code": "x"}, {"mode": "fixed"}, "code"),
    Case("ConceptMap.group.unmapped", "cmd-3", {"mode": "other-map", "url": "urn:a"}, {"mode": "other-map"}, "url"),
    Case(
        "ImplementationGuide.definition",
        "ig-1",
        {"grouping": [{"id": "g", "name": "x"}], "resource": [{"groupingId": "g"}]},
        {"grouping": [{"id": "g", "name": "x"}], "resource": [{"groupingId": "h"}]},
        "resource[0].groupingId",
    ),
    Case(
        "ImplementationGuide",
        "ig-2",
        {"fhirVersion": ["4.0.1"], "definition": {"resource": [{"fhirVersion": ["4.0.1"]}]}},
        {"fhirVersion": ["4.0.1"], "definition": {"resource": [{"fhirVersion": ["4.0.1", "3.0.1"]}]}},
        "definition.resource[0].fhirVersion[1]",
    ),
    Case("MessageDefinition.focus", "md-1", {"max": "*"}, {"max": "0"}, "max"),
    Case("MessageDefinition.focus", "md-1", {"max": "2"}, {"max": "many"}, "max"),
    Case(
        "NamingSystem",
        "nsd-1",
        {"kind": "root", "uniqueId": [{"type": "oid"}]},
        {"kind": "root", "uniqueId": [{"type": "uuid"}]},
        "uniqueId[0].type",
    ),
    Case(
        "NamingSystem",
        "nsd-2",
        {"uniqueId": [{"type": "oid", "preferred": True}, {"type": "uri", "preferred": True}, {"type": "oid"}]},
        {"uniqueId": [{"type": "oid", "preferred": True}, {"type": "oid", "preferred": True}]},
        "uniqueId[1].preferred",
    ),
    Case("OperationDefinition.parameter", "opd-1", {"part": [{}]}, {}),
    Case(
        "OperationDefinition.parameter",
        "opd-2",
        {"type": "string", "searchType": "token"},
        {"type": "code", "searchType": "token"},
        "searchType",
    ),
    Case(
        "OperationDefinition.parameter",
        "opd-3",
        {"type": "canonical", "targetProfile": ["urn:a"]},
        {"type": "code", "targetProfile": ["urn:a"]},
        "targetProfile",
    ),
    Case("SearchParameter", "spd-1", {"xpath": "x", "xpathUsage": "normal"}, {"xpath": "x"}),
    Case("SearchParameter", "spd-2", {"type": "reference", "chain": ["x"]}, {"type": "token", "chain": ["x"]}, "chain"),
    Case("StructureMap.group.rule.target", "smp-1", {"element": "x", "context": "x"}, {"element": "x"}),
    Case("StructureMap.group.rule.target", "smp-2", {"context": "x", "contextType": "type"}, {"context": "x"}),
    Case(
        "TerminologyCapabilities.codeSystem",
        "tcp-1",
        {"version": [{"code": "1"}, {"code": "2"}]},
        {"version": [{"code": "1"}, {"isDefault": True}]},
        "version[1].code",
    ),
    Case(TERMINOLOGY, "tcp-2", {"software": {}}, {}),
    Case(TERMINOLOGY, "tcp-3", {"kind": "instance", "implementation": {}}, {"kind": "instance"}, "implementation"),
    Case(TERMINOLOGY, "tcp-4", {"kind": "capability", "software": {}}, {"kind": "capability"}),
    Case(TERMINOLOGY, "tcp-5", {"kind": "requirements"}, {"kind": "requirements", "implementation": {}}),
    Case("ValueSet.compose.include", "vsd-1", {"valueSet": ["urn:a"]}, {"version": "1"}),
    Case("ValueSet.compose.include", "vsd-2", {"system": "urn:a", "concept": [{}]}, {"concept": [{}]}),
    Case("ValueSet.compose.include", "vsd-2", {"system": "urn:a", "filter": [{}]}, {"filter": [{}]}),
    Case("ValueSet.compose.include", "vsd-3", {"concept": [{}]}, {"concept": [{}], "filter": [{}]}),
    Case("ValueSet.compose.include", "absolute", {"system": "urn:a"}, {"system": "a"}, "system"),
    Case("ValueSet.expansion.contains", "vsd-6", {"display": "x"}, {"abstract": True}),
    Case("ValueSet.expansion.contains", "vsd-9", {"abstract": True}, {"display": "x"}, "code"),
    Case("ValueSet.expansion.contains", "vsd-10", {"system": "urn:a", "code": "x"}, {"code": "x"}),
]

STRUCTURE, ELEMENT = "StructureDefinition", "ElementDefinition"


def snapshot(*elements: Json, **more: Any) -> Json:
    return {"snapshot": {"element": [*elements]}, "kind": "resource", "type": "Task", **more}


def differential(*elements: Json, **more: Any) -> Json:
    return {"differential": {"element": [*elements]}, "kind": "resource", "type": "Task", **more}


ROOT: Json = {"id": "Task", "path": "Task"}
PART: Json = {"id": "Task.a", "path": "Task.a"}
WHOLE: Json = {"definition": "x", "min": 0, "max": "1"}
CODE, OTHER = {"code": "code"}, {"code": "string"}
FIRST, SECOND = "snapshot.element[0]", "snapshot.element[1]"
LEADING, FOLLOWING = "differential.element[0]", "differential.element[1]"

ELEMENTS = [
    Case("ElementDefinition.slicing", "eld-1", {"description": "x"}, {"ordered": True}),
    Case(ELEMENT, "eld-2", {"min": 1, "max": "*"}, {"min": 2, "max": "1"}, "min"),
    Case(ELEMENT, "eld-3", {"max": "0"}, {"max": "-1"}, "max"),
    Case(ELEMENT, "eld-3", {"max": "*"}, {"max": "many"}, "max"),
    Case(
        "ElementDefinition.type",
        "eld-4",
        {"code": "canonical", "aggregation": ["bundled"]},
        {"aggregation": ["bundled"]},
        "aggregation",
    ),
    *(
        Case(ELEMENT, "eld-5", {"contentReference": "#a"}, {"contentReference": "#a", **other}, "contentReference")
        for other in (
            {"type": [CODE]},
            {"defaultValueString": "x"},
            {"fixedString": "x"},
            {"patternString": "x"},
            {"example": [{"label": "x", "valueString": "x"}]},
            {"minValueInteger": 1},
            {"maxValueInteger": 1},
            {"maxLength": 1},
            {"binding": {"strength": "required"}},
        )
    ),
    Case(ELEMENT, "eld-6", {"type": [CODE], "fixedCode": "x"}, {"type": [CODE, OTHER], "fixedCode": "x"}, "type"),
    Case(ELEMENT, "eld-7", {"type": [CODE], "patternCode": "x"}, {"type": [CODE, OTHER], "patternCode": "x"}, "type"),
    Case(ELEMENT, "eld-8", {"patternCode": "x"}, {"patternCode": "x", "fixedCode": "x"}),
    Case("ElementDefinition.binding", "eld-12", {"valueSet": "urn:a"}, {"valueSet": "ValueSet/a"}, "valueSet"),
    Case(ELEMENT, "eld-13", {"type": [CODE, OTHER]}, {"type": [CODE, OTHER, CODE]}, "type[2].code"),
    Case(
        ELEMENT,
        "eld-14",
        {"constraint": [{"key": "a"}, {"key": "b"}]},
        {"constraint": [{"key": "a"}, {"key": "a"}]},
        "constraint[1].key",
    ),
    Case(ELEMENT, "eld-15", {"defaultValueCode": "x"}, {"defaultValueCode": "x", "meaningWhenMissing": "x"}),
    Case(ELEMENT, "eld-16", {"sliceName": "a/b-c[x]@1"}, {"sliceName": "a b"}, "sliceName"),
    Case(
        "ElementDefinition.type",
        "eld-17",
        {"code": "Reference", "targetProfile": ["urn:a"]},
        {"code": "code", "targetProfile": ["urn:a"]},
        "targetProfile",
    ),
    Case(ELEMENT, "eld-18", {"isModifier": True, "isModifierReason": "x"}, {"isModifier": True}, "isModifierReason"),
    Case(ELEMENT, "eld-18", {"isModifier": False}, {"isModifier": True}, "isModifierReason"),
    Case(ELEMENT, "eld-19", {"path": "Task.value[x]"}, {"path": "Task.a b"}, "path"),
    Case(ELEMENT, "eld-19", {"path": "Task.value[x]:valueCode"}, {"path": "Task..a"}, "path"),
    Case(ELEMENT, "eld-22", {"sliceIsConstraining": True, "sliceName": "a"}, {"sliceIsConstraining": True}),
]

STRUCTURES = [
    Case(STRUCTURE, "sdf-1", snapshot(ROOT, PART), snapshot(ROOT, PART, PART), "snapshot.element[2].path"),
    Case(STRUCTURE, "sdf-1", snapshot(PART, PART, derivation="constraint"), snapshot(PART, PART), f"{SECOND}.path"),
    Case("StructureDefinition.mapping", "sdf-2", {"uri": "urn:a"}, {"comment": "x"}),
    Case(STRUCTURE, "sdf-3", snapshot({**ROOT, **WHOLE}), snapshot({**ROOT, **WHOLE}, PART), SECOND),
    Case(STRUCTURE, "sdf-4", {"abstract": False, "baseDefinition": "urn:a"}, {"abstract": False}, "baseDefinition"),
    Case(STRUCTURE, "sdf-4", {"abstract": True}, {"abstract": False}, "baseDefinition"),
    Case(STRUCTURE, "sdf-5", {"type": "Extension", "context": [{}]}, {"type": "Extension"}, "context"),
    Case(STRUCTURE, "sdf-6", snapshot(ROOT), {}),
    Case(STRUCTURE, "sdf-8", snapshot(ROOT, PART), snapshot({"path": "Patient"}), f"{FIRST}.path"),
    Case(
        STRUCTURE,
        "sdf-8",
        snapshot({"path": "X"}, kind="logical"),
        snapshot(ROOT, {"path": "Tasks.a"}),
        f"{SECOND}.path",
    ),
    Case(STRUCTURE, "sdf-8a", differential(PART), differential({"path": "Patient.a"}), f"{LEADING}.path"),
    Case(
        STRUCTURE,
        "sdf-8a",
        differential(PART, {"path": "Task.b"}),
        differential(PART, {"path": "X.a"}),
        f"{FOLLOWING}.path",
    ),
    Case(STRUCTURE, "sdf-8b", snapshot({"base": {"path": "Task"}}), snapshot(ROOT), f"{FIRST}.base"),
    *(
        Case(STRUCTURE, "sdf-9", view(ROOT, {**PART, name: value}), view({**ROOT, name: value}), f"{place}.{name}")
        for view, place in ((snapshot, FIRST), (differential, LEADING))
        for name, value in (("label", "x"), ("code", [{"code": "x"}]), ("requirements", "x"))
    ),
    Case(
        STRUCTURE,
        "sdf-10",
        snapshot({**ROOT, "binding": {"valueSet": "urn:a"}}),
        snapshot({**ROOT, "binding": {"strength": "example"}}),
        f"{FIRST}.binding",
    ),
    Case(STRUCTURE, "sdf-11", snapshot(ROOT), snapshot(PART), f"{FIRST}.path"),
    Case(STRUCTURE, "sdf-14", snapshot(ROOT), snapshot({"path": "Task"}), f"{FIRST}.id"),
    Case(STRUCTURE, "sdf-14", differential(ROOT), differential(ROOT, {"path": "Task.a"}), f"{FOLLOWING}.id"),
    Case(STRUCTURE, "sdf-15", snapshot(ROOT), snapshot({**ROOT, "type": [CODE]}), f"{FIRST}.type"),
    Case(
        STRUCTURE,
        "sdf-15a",
        differential({**PART, "type": [CODE]}),
        differential({**ROOT, "type": [CODE]}),
        f"{LEADING}.type",
    ),
    Case(STRUCTURE, "sdf-16", snapshot(ROOT, PART), snapshot(ROOT, ROOT), f"{SECOND}.id"),
    Case(STRUCTURE, "sdf-16", snapshot(ROOT), snapshot({"path": "Task"}), f"{FIRST}.id"),
    Case(STRUCTURE, "sdf-17", differential(ROOT, PART), differential(ROOT, ROOT), f"{FOLLOWING}.id"),
    Case(
        STRUCTURE,
        "sdf-18",
        {"type": "Extension", "contextInvariant": ["x"]},
        {"type": "Task", "contextInvariant": ["x"]},
        "contextInvariant",
    ),
    Case(
        STRUCTURE,
        "sdf-19",
        differential({**PART, "type": [{"code": "http://hl7.org/fhirpath/System.String"}]}, url=HL7 + "x"),
        differential({**PART, "type": [{"code": "urn:a"}]}, url=HL7 + "x"),
        f"{LEADING}.type[0].code",
    ),
    Case(
        STRUCTURE,
        "sdf-19",
        snapshot({**PART, "type": [{"code": "urn:a"}]}, url="urn:a"),
        snapshot({**PART, "type": [{"code": "urn:a"}]}, url=HL7 + "x"),
        f"{FIRST}.type[0].code",
    ),
    Case(
        STRUCTURE,
        "sdf-20",
        differential({**PART, "slicing": {}}),
        differential({**ROOT, "slicing": {}}),
        f"{LEADING}.slicing",
    ),
    Case(
        STRUCTURE,
        "sdf-21",
        differential({**PART, "defaultValueCode": "x"}, derivation="specialization"),
        differential({**PART, "defaultValueCode": "x"}, derivation="constraint"),
        f"{LEADING}.defaultValue",
    ),
    Case(
        STRUCTURE,
        "sdf-22",
        snapshot({**PART, "defaultValueCode": "x"}, url="urn:a"),
        snapshot({**PART, "defaultValueCode": "x"}, url=HL7 + "x"),
        f"{FIRST}.defaultValue",
    ),
    Case(
        STRUCTURE,
        "sdf-23",
        differential({**PART, "sliceName": "a"}),
        differential({**ROOT, "sliceName": "a"}),
        f"{LEADING}.sliceName",
    ),
    Case(
        STRUCTURE,
        "sdf-23",
        snapshot({**PART, "sliceName": "a"}),
        snapshot({**ROOT, "sliceName": "a"}),
        f"{FIRST}.sliceName",
    ),
]

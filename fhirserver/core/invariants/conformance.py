"""The invariants of what describes servers, operations and terminology."""

from __future__ import annotations

from collections.abc import Iterator

from fhirserver.core.invariants.rule import (
    Json,
    Make,
    absolute,
    apart,
    below,
    by_names,
    check,
    has,
    needs,
    repeated,
    some,
    text,
)


def _distinct(key: str, *path: str, by: tuple[str, ...]) -> Make:
    """The objects at the path differ in what they have at the names ``by``; one that has none of them is not asked."""

    def broken(element: Json) -> list[str]:
        return repeated(
            (f"{place}.{by[0]}", values)
            for place, each in below(element, *path)
            if any(values := tuple(text(each, name) for name in by))
        )

    return check(key, broken, path[0])


def _described(instance: str, capability: str, requirements: str) -> tuple[Make, ...]:
    """What goes with the kind of a CapabilityStatement or TerminologyCapabilities: the keys for each kind."""
    return (
        check(
            instance,
            lambda each: each.get("kind") == "instance" and "implementation" not in each,
            where="implementation",
        ),
        check(
            capability,
            lambda each: each.get("kind") == "capability" and ("implementation" in each or "software" not in each),
        ),
        check(
            requirements,
            lambda each: each.get("kind") == "requirements" and ("implementation" in each or "software" in each),
        ),
    )


def _cpb_3(statement: Json) -> list[str]:
    if statement.get("kind") == "instance":
        return []
    return [f"{place}.endpoint" for place, each in below(statement, "messaging") if "endpoint" in each]


def _concepts(system: Json) -> Iterator[tuple[str, Json]]:
    """Every concept of a CodeSystem at any depth, with its place, in document order."""
    pending = list(below(system, "concept"))[::-1]
    while pending:
        place, concept = pending.pop()
        yield place, concept
        pending += [(f"{place}.{inner}", each) for inner, each in below(concept, "concept")][::-1]


def _codes(system: Json) -> Iterator[tuple[str, str]]:
    return ((f"{place}.code", code) for place, concept in _concepts(system) if (code := text(concept, "code")))


def _mistyped(system: Json) -> list[str]:
    """The values of concepts' properties that are of another type than their property is declared with."""
    types: dict[str, set[str]] = {}
    for _, declared in below(system, "property"):
        if type_ := text(declared, "type"):
            types.setdefault(text(declared, "code"), set()).add(f"value{type_[0].upper()}{type_[1:]}")
    return [
        f"{place}.{inner}.{name}"
        for place, concept in _concepts(system)
        for inner, each in below(concept, "property")
        if (known := types.get(text(each, "code")))
        for name in each
        if name.startswith("value") and name not in known
    ]


def _ig_1(definition: Json) -> list[str]:
    groups = {text(each, "id") for _, each in below(definition, "grouping")}
    return [
        f"{place}.groupingId"
        for place, each in below(definition, "resource")
        if (group := text(each, "groupingId")) and group not in groups
    ]


def _ig_2(guide: Json) -> list[str]:
    versions = guide.get("fhirVersion")
    known = {each for each in versions if isinstance(each, str)} if isinstance(versions, list) else set()
    return [
        f"{place}.fhirVersion[{at}]"
        for place, each in below(guide, "definition", "resource")
        if isinstance(named := each.get("fhirVersion"), list)
        for at, version in enumerate(named)
        if isinstance(version, str) and version not in known
    ]


def _md_1(focus: Json) -> bool:
    most = text(focus, "max")
    return most not in ("", "*") and not (most.isascii() and most.isdigit() and int(most[:20]) > 0)


def _nsd_1(system: Json) -> list[str]:
    if system.get("kind") != "root":
        return []
    return [f"{place}.type" for place, each in below(system, "uniqueId") if each.get("type") == "uuid"]


def _nsd_2(system: Json) -> list[str]:
    preferred = ((place, each) for place, each in below(system, "uniqueId") if each.get("preferred") is True)
    return repeated((f"{place}.preferred", text(each, "type")) for place, each in preferred)


def _tcp_1(system: Json) -> list[str]:
    versions = list(below(system, "version"))
    return [f"{place}.code" for place, each in versions if not has(each, "code")] if len(versions) > 1 else []


def _if(key: str, name: str, value: str, needed: str) -> Make:
    """Where ``name`` has this value, ``needed`` has to be there."""
    return check(key, lambda each: each.get(name) == value and not has(each, needed), name, where=needed)


RULES: dict[str, tuple[Make, ...]] = {
    "CapabilityStatement": (
        some("cpb-1", "rest", "messaging", "document"),
        some("cpb-2", "description", "software", "implementation"),
        check("cpb-3", _cpb_3, "messaging"),
        _distinct("cpb-7", "document", by=("profile", "mode")),
        *_described("cpb-14", "cpb-15", "cpb-16"),
    ),
    "CapabilityStatement.rest": (_distinct("cpb-9", "resource", by=("type",)),),
    "CapabilityStatement.rest.resource": (_distinct("cpb-12", "searchParam", by=("name",)),),
    "CodeSystem": (
        check("csd-1", lambda system: repeated(_codes(system)), "concept"),
        check(
            "property-type",  # CodeSystem.property.type: "the type of the property value"
            _mistyped,
            *("property", "concept"),
            says="the property is declared with another type",
        ),
        check(
            "supplement",  # CodeSystem.supplements is that of a "code system supplement"; the other contents are not
            lambda system: system.get("content", "supplement") != "supplement",
            "supplements",
            where="content",
            says="what supplements a code system has the content supplement",
        ),
    ),
    "ConceptMap.group.element.target": (
        check(
            "cmd-1",
            lambda each: each.get("equivalence") in ("narrower", "inexact") and not has(each, "comment"),
            "equivalence",
            where="comment",
        ),
    ),
    "ConceptMap.group.unmapped": (
        _if("cmd-2", "mode", "fixed", "code"),
        _if("cmd-3", "mode", "other-map", "url"),
    ),
    "ImplementationGuide": (check("ig-2", _ig_2, "definition"),),
    "ImplementationGuide.definition": (check("ig-1", _ig_1, "resource"),),
    "MessageDefinition.focus": (check("md-1", _md_1, "max", where="max"),),
    "NamingSystem": (check("nsd-1", _nsd_1, "uniqueId"), check("nsd-2", _nsd_2, "uniqueId")),
    "OperationDefinition.parameter": (
        some("opd-1", "type", "part"),
        check("opd-2", lambda each: each.get("type") != "string", "searchType", where="searchType"),
        check(
            "opd-3",
            lambda each: each.get("type") not in ("Reference", "canonical"),
            "targetProfile",
            where="targetProfile",
        ),
    ),
    "SearchParameter": (
        needs("spd-1", "xpath", "xpathUsage"),
        check("spd-2", lambda each: each.get("type") != "reference", "chain", where="chain"),
    ),
    "StructureMap.group.rule.target": (needs("smp-1", "element", "context"), needs("smp-2", "context", "contextType")),
    "TerminologyCapabilities": (
        some("tcp-2", "description", "software", "implementation"),
        *_described("tcp-3", "tcp-4", "tcp-5"),
    ),
    "TerminologyCapabilities.codeSystem": (check("tcp-1", _tcp_1, "version"),),
    "ValueSet.compose.include": (
        some("vsd-1", "valueSet", "system"),
        by_names("vsd-2", "concept", "filter", "system", broken=lambda *there: any(there[:2]) and not there[2]),
        apart("vsd-3", "concept", "filter"),
        absolute("system"),
    ),
    "ValueSet.expansion.contains": (
        some("vsd-6", "code", "display"),
        check("vsd-9", lambda each: not has(each, "code") and each.get("abstract") is not True, where="code"),
        needs("vsd-10", "code", "system"),
    ),
}

"""The invariants of StructureDefinition and of the ElementDefinitions it is made of."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from fhirserver.core.invariants.rule import (
    Json,
    Make,
    apart,
    below,
    by_names,
    check,
    has,
    needs,
    number,
    repeated,
    some,
    text,
)

_HL7 = "http://hl7.org/fhir/StructureDefinition"
_SLICE_NAME = re.compile(r"[a-zA-Z0-9/\-_\[\]@]+").fullmatch
_PART = r"""[^\s.,:;'"/|?!@#$%&*()\[\]{}]{1,64}"""
_PATH = re.compile(rf"{_PART}(?:\.{_PART}(?:\[x\])?(?::[^\s.]+)?)*").fullmatch
_TYPE_IN_DIFFERENTIAL = re.compile(r"[a-zA-Z0-9]+|http://hl7\.org/fhirpath/System\.[A-Z][A-Za-z]+").fullmatch
_TYPE_IN_SNAPSHOT = re.compile(r"[a-zA-Z0-9.]+|http://hl7\.org/fhirpath/System\.[A-Z][A-Za-z]+").fullmatch
_WHOLE = re.compile(r"[+-]?[0-9]{1,9}").fullmatch
_VIEWS = ("snapshot", "differential")


# --- ElementDefinition


def _eld_2(element: Json) -> bool:
    least, most = number(element, "min"), text(element, "max")
    return least is not None and bool(_WHOLE(most)) and least > int(most)


def _eld_3(element: Json) -> bool:
    most = text(element, "max")
    return bool(most) and most != "*" and not (_WHOLE(most) and int(most) >= 0)


def _several_types(element: Json) -> bool:
    types = element.get("type")
    return isinstance(types, list) and len(types) > 1


def _distinct(key: str, name: str, by: str) -> Make:
    def broken(element: Json) -> list[str]:
        return repeated((f"{place}.{by}", value) for place, each in below(element, name) if (value := text(each, by)))

    return check(key, broken, name)


def _eld_12(binding: Json) -> bool:
    return not text(binding, "valueSet").startswith(("http:", "https", "urn:"))


def _only_for(key: str, name: str) -> Make:
    return check(key, lambda type_: type_.get("code") not in ("Reference", "canonical"), name, where=name)


_ELEMENT: dict[str, tuple[Make, ...]] = {
    "ElementDefinition": (
        check("eld-2", _eld_2, "min", where="min"),
        check("eld-3", _eld_3, "max", where="max"),
        by_names(
            "eld-5",
            *("contentReference", "type", "defaultValue", "fixed", "pattern", "example"),
            *("minValue", "maxValue", "maxLength", "binding"),
            broken=lambda reference, *others: reference and any(others),
            where="contentReference",
        ),
        check("eld-6", _several_types, "fixed", where="type"),
        check("eld-7", _several_types, "pattern", where="type"),
        apart("eld-8", "pattern", "fixed"),
        _distinct("eld-13", "type", "code"),
        _distinct("eld-14", "constraint", "key"),
        apart("eld-15", "defaultValue", "meaningWhenMissing"),
        check("eld-16", lambda each: not _SLICE_NAME(text(each, "sliceName")), "sliceName", where="sliceName"),
        check(
            "eld-18",
            lambda each: each.get("isModifier") is True and not has(each, "isModifierReason"),
            "isModifier",
            where="isModifierReason",
        ),
        check("eld-19", lambda each: not _PATH(text(each, "path")), "path", where="path"),
        needs("eld-22", "sliceIsConstraining", "sliceName"),
    ),
    "ElementDefinition.slicing": (some("eld-1", "discriminator", "description"),),
    "ElementDefinition.type": (_only_for("eld-4", "aggregation"), _only_for("eld-17", "targetProfile")),
    "ElementDefinition.binding": (check("eld-12", _eld_12, "valueSet", where="valueSet"),),
}


# --- StructureDefinition


def _elements(definition: Json, *views: str) -> Iterator[tuple[str, Json]]:
    for view in views:
        yield from below(definition, view, "element")


def _each(key: str, broken: Callable[[Json], bool], *views: str, where: str = "") -> Make:
    """A rule over each element of the views."""

    def places(definition: Json) -> list[str]:
        found = (place for place, each in _elements(definition, *views) if broken(each))
        return [f"{place}.{where}" if where else place for place in found]

    return check(key, places)


def _first(definition: Json, view: str) -> tuple[str, Json] | None:
    return next(_elements(definition, view), None)


def _sdf_1(definition: Json) -> list[str]:
    if definition.get("derivation") == "constraint":
        return []
    elements = _elements(definition, "snapshot")
    return repeated((f"{place}.path", path) for place, each in elements if (path := text(each, "path")))


def _unique_ids(key: str, view: str) -> Make:
    def broken(definition: Json) -> list[str]:
        elements = list(_elements(definition, view))
        missing = [f"{place}.id" for place, each in elements if "id" not in each]
        return missing + repeated((f"{place}.id", id_) for place, each in elements if (id_ := text(each, "id")))

    return check(key, broken, view)


def _starts_with_type(definition: Json, view: str, first: Callable[[str, str], bool]) -> list[str]:
    """sdf-8, sdf-8a: the first element is the type, and the others are below it."""
    elements = list(_elements(definition, view))
    if not elements:
        return []
    place, head = elements[0]
    path, type_ = text(head, "path"), text(definition, "type")
    found = [] if definition.get("kind") == "logical" or first(path, type_) else [f"{place}.path"]
    prefix = (path if view == "snapshot" else path.partition(".")[0]) + "."
    return found + [f"{place}.path" for place, each in elements[1:] if not text(each, "path").startswith(prefix)]


def _is_root(element: Json) -> bool:
    return "." not in text(element, "path")


def _sdf_11(definition: Json) -> bool:
    first = _first(definition, "snapshot")
    return definition.get("kind") != "logical" and first is not None and first[1].get("path") != definition.get("type")


def _typed_root(view: str) -> Callable[[Json], list[str]]:
    """sdf-15, sdf-15a: the root of a snapshot has no type, nor has that of a differential."""

    def broken(definition: Json) -> list[str]:
        first = _first(definition, view)
        if definition.get("kind") == "logical" or first is None or "type" not in first[1]:
            return []
        return [f"{first[0]}.type"] if view == "snapshot" or _is_root(first[1]) else []

    return broken


def _sdf_19(definition: Json) -> list[str]:
    if not text(definition, "url").startswith(_HL7):
        return []
    found = []
    for view, known in (("differential", _TYPE_IN_DIFFERENTIAL), ("snapshot", _TYPE_IN_SNAPSHOT)):
        types = below(definition, view, "element", "type")
        found += [f"{place}.code" for place, each in types if (code := text(each, "code")) and not known(code)]
    return found


def _defaults(definition: Json, *views: str) -> list[str]:
    return [
        f"{place}.defaultValue"
        for place, each in _elements(definition, *views)
        if any(name.removeprefix("_").startswith("defaultValue") for name in each)
    ]


def _sdf_21(definition: Json) -> list[str]:
    return [] if definition.get("derivation") == "specialization" else _defaults(definition, "differential")


def _sdf_22(definition: Json) -> list[str]:
    return _defaults(definition, *_VIEWS) if text(definition, "url").startswith(_HL7) else []


def _sdf_5(definition: Json) -> bool:
    return (
        definition.get("type") == "Extension"
        and definition.get("derivation") != "specialization"
        and "context" not in definition
    )


def _sdf_9(definition: Json) -> list[str]:
    return [
        f"{place}.{name}"
        for place, each in _elements(definition, *_VIEWS)
        if _is_root(each)
        for name in ("label", "code", "requirements")
        if has(each, name)
    ]


RULES: dict[str, tuple[Make, ...]] = _ELEMENT | {
    "StructureDefinition": (
        check("sdf-1", _sdf_1, "snapshot"),
        _each(
            "sdf-3",
            lambda each: not (has(each, "definition") and has(each, "min") and has(each, "max")),
            "snapshot",
        ),
        check(
            "sdf-4",
            lambda each: each.get("abstract") is not True and not has(each, "baseDefinition"),
            where="baseDefinition",
        ),
        check("sdf-5", _sdf_5, where="context"),
        some("sdf-6", "snapshot", "differential"),
        check("sdf-8", lambda each: _starts_with_type(each, "snapshot", str.__eq__), "snapshot"),
        check("sdf-8a", lambda each: _starts_with_type(each, "differential", str.startswith), "differential"),
        _each("sdf-8b", lambda each: "base" not in each, "snapshot", where="base"),
        check("sdf-9", _sdf_9),
        _each(
            "sdf-10",
            lambda each: any(
                not has(binding, "valueSet") and not has(binding, "description")
                for _, binding in below(each, "binding")
            ),
            "snapshot",
            where="binding",
        ),
        check("sdf-11", _sdf_11, "snapshot", where="snapshot.element[0].path"),
        _each("sdf-14", lambda each: "id" not in each, *_VIEWS, where="id"),
        check("sdf-15", _typed_root("snapshot"), "snapshot"),
        check("sdf-15a", _typed_root("differential"), "differential"),
        _unique_ids("sdf-16", "snapshot"),
        _unique_ids("sdf-17", "differential"),
        check("sdf-18", lambda each: each.get("type") != "Extension", "contextInvariant", where="contextInvariant"),
        check("sdf-19", _sdf_19),
        _each("sdf-20", lambda each: _is_root(each) and "slicing" in each, "differential", where="slicing"),
        check("sdf-21", _sdf_21, "differential"),
        check("sdf-22", _sdf_22),
        _each("sdf-23", lambda each: _is_root(each) and has(each, "sliceName"), *_VIEWS, where="sliceName"),
    ),
    "StructureDefinition.mapping": (some("sdf-2", "name", "uri"),),
}

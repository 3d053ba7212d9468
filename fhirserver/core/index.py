"""What search and access need to know of a resource, from its content: the only code that walks a resource.

`plan` says what to look for in a resource of a type, `entries` how a value is written down (and states the forms of
terms, texts, spans and sort keys).

Chart membership (``compartments``) follows the official R4 patient compartment with two changes of ours, marked in the
table: a Task stands in the chart of the patient it is `for`, and `Patient.link` is no membership. A Patient stands in
its own chart and in no other: another patient's record must not enter a chart because one record links it; two records
of one person are joined by a Person that links both, and each link is shown only to those who may see it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from fhirserver.core import definitions
from fhirserver.core.composites import take_composite
from fhirserver.core.entries import Found
from fhirserver.core.model import FINDING, MAX_TIME, MIN_TIME, Index
from fhirserver.core.plan import Branch, Plan, plan, plan_for
from fhirserver.core.presence import codes, has_value
from fhirserver.core.sensitive import Lists, lists
from fhirserver.core.values import Target, items, local, text_of

_URLS = frozenset({"url", "valueUrl", "valueUri"})
"""Members that may name a Binary by its local url: Attachment.url, and url or uri values of extensions and inputs."""


UNKNOWN_OWNER = "?"
"""Stands among the owners for a patient who is not on this server; no patient has this id, so no grant holds it."""


def extract(resource: Mapping[str, Any]) -> Index:
    """Everything that is derived from a validated resource's content; never raises, whatever stands in it.

    The resource must carry the logical id it is stored under, because a Patient stands in its own chart.
    """
    type_ = resource.get("resourceType")
    if type(type_) is not str or type_ not in definitions.RESOURCE_TYPES:
        type_ = "Parameters"  # no parameters, compartment or owners of its own
    planned = plan(type_)
    found = Found(resource)
    _walk(resource, planned.root.below, found)
    for composite in planned.root.composites:
        take_composite(resource, composite, found)
    for name, token in planned.absent:
        if not any(term.startswith(f"{name}=") for term in found.terms):
            found.terms.append(f"{name}={token}")
    if planned.absent:
        found.marks.add(planned.always)
    if type_ == definitions.PATIENT and type(resource.get("id")) is str:
        found.compartments.add(resource["id"])
        found.owners.add(resource["id"])
    if found.elsewhere and found.owners and type_ != "Person":  # a Person is open by any of its patients
        found.owners.add(UNKNOWN_OWNER)
    listed = lists() if _tells_of_health(type_) else None
    targets, topics = _named(resource, listed)
    return Index(
        compartments=_sorted(found.compartments),
        owners=_sorted(found.compartments if planned.owned_by_compartment else found.owners),
        parties=_sorted(found.parties),
        labels=labels_of(resource),
        kinds=_kinds(resource),
        topics=_sorted(topics),
        references=_sorted({target.text for target in targets}),
        supports=_sorted({target.text for target in targets if target.type in definitions.SUPPORTING_TYPES}),
        care=_care(planned, found),
        terms=tuple(sorted(set(found.terms))),
        texts=tuple(sorted(set(found.texts))),
        spans=tuple(sorted(set(found.spans))),
        sorts=tuple(sorted(found.sorts.items())),
        present=codes(frozenset(found.marks)),
    )


def terms_of(resource: Mapping[str, Any], code: str) -> tuple[str, ...]:
    """The terms of one parameter among those of `extract`, for a tenth of its time; of a parameter that always has a
    value, those that stand in the content."""
    found = Found(resource)
    _walk(resource, plan_for(str(resource.get("resourceType")), code).root.below, found)
    return _sorted(set(found.terms))


def _walk(node: Mapping[str, Any], below: dict[str, Branch], found: Found) -> None:
    for name, value in node.items():
        branch = below.get(name)
        if branch is None:
            continue
        if type(value) is list:
            for at, item in enumerate(value):
                _visit(item, at, branch, found)
        else:
            _visit(value, 0, branch, found)


def _visit(item: Any, at: int, branch: Branch, found: Found) -> None:
    for take, leaf in branch.takes:
        take(item, leaf, found)
    structured = type(item) is dict
    mark = branch.mark
    if mark is not None and (has_value(item) if structured else item is not None):
        found.marks.add(mark)
    for mark in branch.aimed:
        if mark.met(item, found.resource):
            found.marks.add(mark)
    if structured:
        for composite in branch.composites:
            take_composite(item, composite, found)
        if branch.below:
            _walk(item, branch.below, found)
        for step, twin in branch.twins.items():
            if step.passes(item, at):
                _visit(item, at, twin, found)


def _tells_of_health(type_: str) -> bool:
    """Whether a coding in a resource of this type says something of its patients' health."""
    chosen = lists()
    return (type_ in definitions.patient_compartment or type_ in chosen.also) and type_ not in chosen.excepted


def _named(resource: Mapping[str, Any], listed: Lists | None) -> tuple[set[Target], set[str]]:
    """Every local target that is named anywhere, and the topics of every coding that the lists have; contained
    resources and extensions included.

    A loop with its own stack, not recursion: the depth here is the data's, not the plan's.
    """
    found: set[Target | None] = set()
    topics: set[str] = set()
    stack: list[Any] = [resource]
    while stack:
        node = stack.pop()
        if type(node) is list:
            stack += [item for item in node if type(item) is dict or type(item) is list]
            continue
        for name, value in node.items():
            kind = type(value)
            if kind is str:  # most are, and few of them are references
                if name == "reference" or (name in _URLS and value.startswith("Binary/")):
                    found.add(local(value))
                elif name == "code" and listed is not None:
                    said = listed.topics_of(node.get("system"), value)
                    if said:
                        topics |= said
            elif kind is dict or kind is list:
                stack.append(value)
    found.discard(None)
    return {target for target in found if target is not None}, topics


def labels_of(resource: Mapping[str, Any]) -> tuple[str, ...]:
    """The labels that the resource was given, ``system|code``."""
    meta = resource.get("meta")
    security = meta.get("security") if type(meta) is dict else None
    if type(security) is not list:
        return ()
    labels = set()
    for coding in security:
        if type(coding) is dict and type(coding.get("code")) is str:
            system = coding.get("system")
            labels.add(f"{system if type(system) is str else ''}|{coding['code']}")
    return _sorted(labels)


def _kinds(resource: Mapping[str, Any]) -> tuple[str, ...]:
    """The codings of the element that says what kind of resource of its type it is."""
    element = definitions.kind_elements.get(str(resource.get("resourceType")))
    if element is None:
        return ()
    given = resource.get(element)
    kinds: set[str] = set()
    for concept in given if type(given) is list else [given]:
        for coding in items(concept.get("coding")) if type(concept) is dict else ():
            if type(coding) is dict and type(coding.get("code")) is str:
                kinds |= {f"{text_of(coding, 'system')}|{coding['code']}", coding["code"]}
    return _sorted({kind for kind in kinds if not kind.startswith(FINDING)})


def care_of(resource: Mapping[str, Any]) -> tuple[int, int] | None:
    """`Index.care` of a resource, for a tenth of the time of `extract`."""
    planned = plan(str(resource.get("resourceType")))
    if not planned.care:
        return None
    found = Found(resource)
    _walk(resource, plan_for(planned.type, planned.care.partition("|")[2]).root.below, found)
    return _care(planned, found)


def _care(planned: Plan, found: Found) -> tuple[int, int] | None:
    """The time from the first to the last care date; None when the type or the resource has none."""
    dates = [(low, high) for name, low, high in found.spans if name == planned.care] if planned.care else []
    if not dates:
        return None
    first, last = min(low for low, _ in dates), max(high for _, high in dates)
    return max(int(first), MIN_TIME), min(int(last), MAX_TIME)


def _sorted(values: set[str]) -> tuple[str, ...]:
    return tuple(sorted(values)) if values else ()

"""What the Consents about one patient open to one organisation: pure, and closed wherever it does not understand.

Shape: IHE Privacy Consent on FHIR (PCF), R4 Consent. `parse` turns a Consent into a Directive once; `evaluate`
combines the Directives of a patient for an organisation, a purpose and a moment.

* The root rule is ``provision.type``, else OPTIN/OPTOUT of ``policyRule``, else closed.
* Any nested permit means: only those (within the root's own conditions). Nested denies subtract. A provision below
  that is not read: a permit that has one opens nothing, a deny that has one applies without its exceptions.
* ``dataPeriod``: a permit opens what is dated and whose care overlaps it; a deny covers that and whatever is undated.
  ``data`` names the resources themselves (``instance``).
* A permit must name the organisation as an actor. A condition that is not evaluated (code, data of another meaning,
  actions other than access and disclose, modifier extensions, unknown members) makes a permit open nothing and a deny
  apply as if the condition were not there.
* Permits add up over projects (``policy.uri``). A root deny refuses: with a project, that project; without one,
  everything. A ``policyRule`` OPTOUT with nested permits is only their starting point and refuses nothing beyond; an
  explicit ``provision.type`` deny with nested permits refuses all that they do not open.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from fhirserver.core.dates import interval
from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.model import MAX_TIME, MIN_TIME
from fhirserver.policy import findings
from fhirserver.policy.box import Box, Region, both_kinds, less, meet_all, tidy
from fhirserver.policy.vocabulary import disclosure, labels, purposes

SCOPE_SYSTEM = "http://terminology.hl7.org/CodeSystem/consentscope"
PRIVACY = "patient-privacy"
TYPES_SYSTEM = "http://hl7.org/fhir/resource-types"
ACTION_SYSTEM = "http://terminology.hl7.org/CodeSystem/consentaction"

_BASES = {"OPTIN": "permit", "OPTOUT": "deny"}
_DISCLOSING = frozenset({"access", "disclose"})
_ORGANIZATION = re.compile(r"Organization/([A-Za-z0-9\-.]{1,64})")
_PROJECT = re.compile(r"(\S+?[/:]policy/project/[^/|?#\s]+)(?:[/|?#]\S*)?")
_EVALUATED = frozenset(
    {"id", "type", "period", "actor", "action", "securityLabel", "purpose", "class", "dataPeriod", "data"}
)
_INSTANCE = re.compile(r"([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}", re.ASCII)


class Conditions(msgspec.Struct, frozen=True):
    """When one rule applies, and to what; None: no such condition. Times in milliseconds since 1970.

    ``care``: the period of `dataPeriod`; ``data``: the resources (``Type/id``) of `data`."""

    actors: frozenset[str] | None = None
    purposes: frozenset[str] | None = None
    types: frozenset[str] | None = None
    labels: tuple[tuple[str, str], ...] | None = None
    care: tuple[int, int] | None = None
    data: frozenset[str] | None = None
    start: int = MIN_TIME
    end: int = MAX_TIME


class Directive(msgspec.Struct, frozen=True, kw_only=True):
    """One Consent that counts, read.

    ``permits``: chains of conditions (root, nested) that must all hold. ``denials``: subtracted from them.
    ``refusal``: the root deny, which also closes what other Consents open. ``projects``: its policies;
    ``bound``: a refusal closes these only.
    """

    name: str
    permits: tuple[tuple[Conditions, ...], ...] = ()
    denials: tuple[Conditions, ...] = ()
    refusal: Conditions | None = None
    projects: frozenset[str] = frozenset()
    bound: bool = False


class Opening(msgspec.Struct, frozen=True):
    """What is open: boxes, the Consents that open them, when the answer may next change by itself (``boundary``), and
    the last moment at which it may have widened by itself (``widened``; `MIN_TIME`: never)."""

    boxes: tuple[Box, ...] = ()
    basis: tuple[str, ...] = ()
    boundary: int = MAX_TIME
    widened: int = MIN_TIME


def parse(consent: Mapping[str, Any], name: str) -> Directive | None:
    """The Directive of a Consent resource, ``name`` being its ``Consent/id``; None when it decides nothing: not
    active, or of another scope (a consent to treatment never opens disclosure)."""
    if consent.get("status") != "active" or not _is_privacy(consent.get("scope")):
        return None
    root = _mapping(consent.get("provision"))
    base = root.get("type") or _BASES.get(_policy_code(consent.get("policyRule")), "")
    nested = [_mapping(item) for item in _items(root, "provision")]
    understood = "modifierExtension" not in consent and "_status" not in consent
    permitted = [item for item in nested if item.get("type") == "permit"]
    # A nested rule without a type is neither; it may have been meant as a deny.
    denied = [item for item in nested if item.get("type") != "permit"]
    chains: list[tuple[Conditions, ...]] = []
    outer = _permit(root, inner=True) if understood else None
    if outer is not None and permitted:
        chains = [(outer, inner) for inner in map(_permit, permitted) if inner is not None]
    elif outer is not None and base == "permit":
        chains = [(outer,)]
    refusal = None
    if base == "deny" and ("type" in root or not permitted):
        refusal = _deny(root) if understood else Conditions()
    policies = [str(uri) for item in _items(consent, "policy") if (uri := _mapping(item).get("uri"))]
    return Directive(
        name=name,
        permits=tuple(chains),
        denials=tuple(map(_deny, denied)),
        refusal=refusal,
        projects=frozenset(map(policy_of, policies)),
        bound=bool(policies) and understood and all(_PROJECT.fullmatch(uri) for uri in policies),
    )


def policy_of(uri: str) -> str:
    """The policy that a `policy.uri` stands for: a project whatever its version (``…/policy/project/{id}/v2``)."""
    match = _PROJECT.fullmatch(uri)
    return match[1] if match else uri


def evaluate(directives: Iterable[Directive], *, organization: str, purpose: str | None, now: int) -> Opening:
    """What these Consents, all about one patient, open to an organisation for a purpose at a moment."""
    directives = tuple(directives)
    opened = {each: _opened(each, organization, purpose, now) for each in directives}
    refusing = [
        (each, _region(each.refusal), opened[each])
        for each in directives
        if each.refusal is not None and _denied(each.refusal, organization, purpose, now)
    ]
    boxes: list[Box] = []
    basis: list[str] = []
    for each in directives:
        left = opened[each]
        for other, region, excepted in refusing:
            if other is not each and not (other.bound and each.projects.isdisjoint(other.projects)):
                left = tidy((*less(left, region), *meet_all(left, excepted)))
        if left:
            boxes += left
            basis.append(each.name)
    moments = [edge for each in directives for edge in _edges(each)]
    return Opening(
        boxes=tidy(boxes),
        basis=tuple(basis),
        boundary=min((edge for edge in moments if edge > now), default=MAX_TIME),
        widened=max((edge for edge in moments if edge <= now), default=MIN_TIME),
    )


def _opened(directive: Directive, organization: str, purpose: str | None, now: int) -> tuple[Box, ...]:
    boxes: tuple[Box, ...] = ()
    for chain in directive.permits:
        if any(link.actors for link in chain) and all(_permitted(link, organization, purpose, now) for link in chain):
            boxes = tidy((*boxes, *_chain_boxes(chain)))
    for denial in directive.denials:
        if _denied(denial, organization, purpose, now):
            boxes = less(boxes, _region(denial))
    return boxes


def _permitted(conditions: Conditions, organization: str, purpose: str | None, now: int) -> bool:
    return (
        (conditions.actors is None or organization in conditions.actors)
        and (conditions.purposes is None or not conditions.purposes.isdisjoint(_meanings(purpose)))
        and conditions.start <= now <= conditions.end
    )


def _denied(conditions: Conditions, organization: str, purpose: str | None, now: int) -> bool:
    known = purpose is not None and purposes().known(purpose)
    return (
        (conditions.actors is None or organization in conditions.actors)
        and (conditions.purposes is None or not known or not conditions.purposes.isdisjoint(_meanings(purpose)))
        and conditions.start <= now <= conditions.end
    )


def _meanings(purpose: str | None) -> frozenset[str]:
    return frozenset() if purpose is None else purposes().meanings(purpose)


def _chain_boxes(chain: tuple[Conditions, ...]) -> tuple[Box, ...]:
    """The boxes of a permit: the types, labels, dates and resources that every link which says any allows."""
    types: frozenset[str] | None = None
    for link in chain:
        if link.types is not None:
            types = link.types if types is None else types & link.types
    types = (disclosure().open_types if types is None else types) - disclosure().never
    limits = [link.labels for link in chain if link.labels is not None]
    boxes = _boxes(types, limits[0] if limits else None)
    for limit in limits[1:]:
        boxes = meet_all(boxes, _boxes(types, limit))
    if all(link.care is None and link.data is None for link in chain):
        return boxes
    asked = [findings.during(link.care) for link in chain if link.care is not None]
    asked += [findings.among(link.data) for link in chain if link.data is not None]
    kinds = tuple(frozenset({finding}) for finding in asked)
    return tuple(msgspec.structs.replace(box, kinds=both_kinds(box.kinds, kinds)) for box in boxes)


def _boxes(types: frozenset[str], listed: tuple[tuple[str, str], ...] | None) -> tuple[Box, ...]:
    """The boxes of these types under a permit's labels; None: nothing restricted."""
    known = labels()
    if not types:
        return ()
    if listed is None:
        return (Box(types, known.restricted),)
    spelled = frozenset[str]().union(*(known.spellings(*label) for label in listed))
    allowed = spelled & known.restricted
    topics = allowed - known.confidential
    boxes: list[Box] = []
    if spelled & known.normal:
        boxes.append(Box(types, known.restricted - allowed))
    if topics:
        # R stands beside the topic that is its reason: who may see the topic may see it with R.
        boxes.append(Box(types, known.restricted - allowed - known.confidential, topics))
    if allowed & known.confidential:
        boxes.append(Box(types, known.restricted - allowed, allowed))
    return tidy(boxes)


def _region(conditions: Conditions) -> Region:
    """What a deny with these types, labels, dates and resources covers."""
    known = labels()
    spared = {findings.apart_from(conditions.care)} if conditions.care is not None else set()
    if conditions.data is not None:
        spared.add(findings.besides(conditions.data))
    covered: frozenset[str] | None = None
    if conditions.labels is not None:
        found: set[str] = set()
        for system, code in conditions.labels:
            spellings = known.by_code.get(code, frozenset())
            if spellings & known.normal:
                return Region(conditions.types, spared=frozenset(spared))
            found |= {f"{system}|{code}"} | (known.restricted if spellings & known.confidential else spellings)
        covered = frozenset(found)
    return Region(conditions.types, covered, frozenset(spared))


def _edges(directive: Directive) -> list[int]:
    rules = [link for chain in directive.permits for link in chain]
    rules += directive.denials
    if directive.refusal is not None:
        rules.append(directive.refusal)
    starts = [rule.start for rule in rules if rule.start > MIN_TIME]
    return starts + [rule.end + 1 for rule in rules if rule.end < MAX_TIME]


def _permit(provision: Mapping[str, Any], *, inner: bool = False) -> Conditions | None:
    """The conditions of a permit; None when it says anything that is not evaluated. ``inner``: it is the root, whose
    nested provisions are read."""
    members = set(provision) - _EVALUATED - {"extension"} - ({"provision"} if inner else set())
    if members:
        return None
    actions = _codes(provision, "action")
    if actions is not None and _DISCLOSING.isdisjoint(code for system, code in actions if system == ACTION_SYSTEM):
        return None
    try:
        start, end = _period(provision.get("period"))
        care = _period(provision["dataPeriod"]) if "dataPeriod" in provision else None
        data = _instances(provision)
    except ValueError:
        return None
    classes, reasons = _codings(provision, "class"), _codings(provision, "purpose")
    actors = _actors(provision)
    return Conditions(
        actors=None if actors is None else frozenset(actor for actor in actors if actor is not None),
        purposes=None if reasons is None else frozenset(code for system, code in reasons if _is_purpose(system)),
        types=None if classes is None else frozenset(code for system, code in classes if _is_type(system, code)),
        labels=_codings(provision, "securityLabel"),
        care=care,
        data=data,
        start=start,
        end=end,
    )


def _deny(provision: Mapping[str, Any]) -> Conditions:
    """The conditions of a deny; each that is not understood is left out, so that it applies more widely."""
    try:
        start, end = _period(provision.get("period"))
    except ValueError:
        start, end = MIN_TIME, MAX_TIME
    try:
        care = _period(provision["dataPeriod"]) if "dataPeriod" in provision else None
    except ValueError:
        care = None
    try:
        data = _instances(provision)
    except ValueError:
        data = None
    actors = _actors(provision)
    classes, reasons, marks = (_codings(provision, name) for name in ("class", "purpose", "securityLabel"))
    clear = reasons is not None and all(_is_purpose(system) and purposes().known(code) for system, code in reasons)
    plain = classes is not None and all(_is_type(system, code) for system, code in classes)
    # A modifier may turn any condition round.
    if "modifierExtension" in provision:
        return Conditions()
    return Conditions(
        actors=None if actors is None or None in actors else frozenset(actor for actor in actors if actor),
        purposes=frozenset().union(*(purposes().meanings(code) for _, code in reasons)) if reasons and clear else None,
        types=frozenset(code for _, code in classes) if classes and plain else None,
        labels=marks if marks and all(code for _, code in marks) else None,
        care=care,
        data=data,
        start=start,
        end=end,
    )


def _instances(provision: Mapping[str, Any]) -> frozenset[str] | None:
    """The resources (``Type/id``) that `data` names; None where there is none. ValueError: not understood."""
    if "data" not in provision:
        return None
    found: set[str] = set()
    for each in map(_mapping, _items(provision, "data")):
        reference = _mapping(each.get("reference")).get("reference")
        match = _INSTANCE.fullmatch(reference) if isinstance(reference, str) else None
        if each.get("meaning") != "instance" or match is None or match[1] not in RESOURCE_TYPES:
            raise ValueError("data of a meaning, or by a reference, that is not evaluated")
        if "modifierExtension" in each:
            raise ValueError("data that something modifies")
        found.add(match[0])
    if not found:
        raise ValueError("no data")
    return frozenset(found)


def _is_privacy(scope: object) -> bool:
    codings = [_mapping(item) for item in _items(_mapping(scope), "coding")]
    codes = {coding.get("code") for coding in codings if coding.get("system") == SCOPE_SYSTEM}
    return codes == {PRIVACY}


def _policy_code(rule: object) -> str:
    codes = {_mapping(item).get("code") for item in _items(_mapping(rule), "coding")} & set(_BASES)
    return str(codes.pop()) if len(codes) == 1 else ""


def _is_type(system: str, code: str) -> bool:
    return system == TYPES_SYSTEM and code in RESOURCE_TYPES


def _is_purpose(system: str) -> bool:
    return system in purposes().systems


def _actors(provision: Mapping[str, Any]) -> list[str | None] | None:
    """The organisations' ids, None for an actor that is not one (or not plainly); None when no actor is named."""
    if "actor" not in provision:
        return None
    found: list[str | None] = []
    for item in _items(provision, "actor"):
        actor = _mapping(item)
        reference = _mapping(actor.get("reference")).get("reference")
        match = _ORGANIZATION.fullmatch(reference) if isinstance(reference, str) else None
        found.append(match[1] if match and "modifierExtension" not in actor else None)
    return found or [None]


def _period(period: object) -> tuple[int, int]:
    """(first, last) millisecond; a day given as the end counts whole (R4 Period). ValueError: not understood."""
    if period is None:
        return MIN_TIME, MAX_TIME
    given = _mapping(period)
    if not given or set(given) - {"start", "end", "id"}:
        raise ValueError("a period with members that are not evaluated")
    start = interval(str(given["start"]))[0] if "start" in given else MIN_TIME
    end = interval(str(given["end"]))[1] if "end" in given else MAX_TIME
    return start, end


def _codings(provision: Mapping[str, Any], member: str) -> tuple[tuple[str, str], ...] | None:
    if member not in provision:
        return None
    codings = [_mapping(item) for item in _items(provision, member)]
    return tuple((str(coding.get("system", "")), str(coding.get("code", ""))) for coding in codings)


def _codes(provision: Mapping[str, Any], member: str) -> list[tuple[str, str]] | None:
    """The codings of a list of CodeableConcepts."""
    if member not in provision:
        return None
    concepts = [_mapping(item) for item in _items(provision, member)]
    codings = [_mapping(item) for concept in concepts for item in _items(concept, "coding")]
    return [(str(coding.get("system", "")), str(coding.get("code", ""))) for coding in codings]


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _items(value: Mapping[str, Any], member: str) -> list[Any]:
    items = value.get(member, [])
    return items if isinstance(items, list) else [items]

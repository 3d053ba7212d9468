"""The CapabilityStatement, read off the route table, the search parameters that are answered, and the settings.

It is made of what the server does and of nothing else, so it cannot promise what no route answers. Source: R4 http
§3.1.0.14 (capabilities), CapabilityStatement.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import msgspec

import fhirserver
from fhirserver.core.definitions import RESOURCE_TYPES, Edition, edition
from fhirserver.core.search import answered
from fhirserver.core.search.references import targets
from fhirserver.http import patch
from fhirserver.http.definitions import canonical
from fhirserver.http.discovery import SMART
from fhirserver.http.negotiation import FHIR_JSON, GENERIC
from fhirserver.http.oauth import INTROSPECT, REVOKE, TOKEN
from fhirserver.http.server import FHIR_BASE

if TYPE_CHECKING:
    from fhirserver.http.routes import Row

RELEASED = "2026-11-20"

INTERACTIONS = (
    "read",
    "vread",
    "update",
    "patch",
    "delete",
    "history-instance",
    "history-type",
    "create",
    "search-type",
)
"""The interactions that R4 knows for a type, in the order of its value set."""

SYSTEM = {
    "transaction": ("transaction", "batch"),
    "search-system": ("search-system",),
    "history-system": ("history-system",),
}
"""Interactions of rows without a type -> what R4 calls them: one address takes both kinds of Bundle."""

UNSTATED = frozenset({"health", "capabilities", "discovery", "token", "introspect", "revoke"})
"""Interactions of rows that the statement does not speak of: R4 has no code for them."""

WRITES = frozenset({"create", "update", "patch", "delete", "$meta-add", "$meta-delete"})
SERVER_WRITTEN = frozenset({"AuditEvent"})
"""Types that nobody but the server writes."""

PATIENT_COMPARTMENT = "http://hl7.org/fhir/CompartmentDefinition/patient"
"""The one compartment that can be searched; its canonical."""

DOCUMENTED = {
    "docref": "Documents that are stored; none are made, so on-demand=true has an empty answer. Any type and any "
    "profile may be asked for, several as alternatives; the profile is one that the DocumentReference claims. Without "
    "start and end: the most recent current document of each type, and of the CCD (LOINC 34133-9) where no type is "
    "named."
}
"""What a definition leaves to the server and wants said here."""

TRIAL_USE = frozenset(
    {
        "security",
        "versioning",
        "readHistory",
        "updateCreate",
        "conditionalCreate",
        "conditionalRead",
        "conditionalUpdate",
        "conditionalDelete",
        "referencePolicy",
    }
)
"""What is left out of `mode=normative`: elements that R4 itself marks as trial use."""

_BASE = "urn:base"
"""Stands for the FHIR base until it is known."""
_ROOT = "urn:root"
"""Stands for the root, which the FHIR base is below."""
_OAUTH = frozenset({TOKEN, INTROSPECT, REVOKE})
_OAUTH_URIS = "http://fhir-registry.smarthealthit.org/StructureDefinition/oauth-uris"
"""The extension by which SMART had endpoints told before there was `smart-configuration`."""
Json = dict[str, object]


class Options(msgspec.Struct, frozen=True):
    """What settings decide of the statement."""

    cors: bool = False
    conditional_delete: str = "single"
    referential_integrity: str = "off"


def statement(base: str, rows: Sequence[Row], options: Options, *, normative: bool = False) -> bytes:
    """The CapabilityStatement of the server at this FHIR base, as JSON."""
    # Whoever asks names the base (the Host header), so it must not decide how often the statement is made.
    root = base.removesuffix(FHIR_BASE)
    made = _made(rows, options, normative, edition()).replace(_BASE.encode(), msgspec.json.encode(base)[1:-1])
    return made.replace(_ROOT.encode(), msgspec.json.encode(root)[1:-1])


@lru_cache(maxsize=8)
def _made(rows: Sequence[Row], options: Options, normative: bool, _edition: Edition) -> bytes:
    # The edition says which search parameters there are.
    resources = [_resource(type_, rows, options) for type_ in sorted(RESOURCE_TYPES)]
    rest = _rest(rows, options)
    if normative:
        rest, resources = _normative(rest), [_normative(each) for each in resources]
    rest["resource"] = [each for each in resources if "interaction" in each]
    formats: Json = {"format": [FHIR_JSON, *GENERIC, "json"]}
    if _stated(rows, "patch"):
        formats["patchFormat"] = patch.ACCEPTED.split(", ")
    return msgspec.json.encode(
        {**_head("CapabilityStatement", _BASE), "fhirVersion": "4.0.1", **formats, "rest": [rest]}
    )


def terminology(base: str) -> bytes:
    """The TerminologyCapabilities: no operation of a terminology server is answered here, so it lists none."""
    return msgspec.json.encode(_head("TerminologyCapabilities", base))


def _head(type_: str, base: str) -> Json:
    return {
        "resourceType": type_,
        "url": f"{base}/metadata" + ("" if type_ == "CapabilityStatement" else "?mode=terminology"),
        "version": fhirserver.__version__,
        "name": f"Fhirserver{type_}",
        "title": "What this FHIR server can do",
        "status": "active",
        "date": RELEASED,
        "kind": "instance",
        "software": {"name": "fhirserver", "version": fhirserver.__version__},
        "implementation": {"description": "FHIR R4 facade with a streaming $everything", "url": base},
    }


def _normative(members: Json) -> Json:
    return {name: value for name, value in members.items() if name not in TRIAL_USE}


def _rest(rows: Sequence[Row], options: Options) -> Json:
    """All but its resources."""
    system = [code for row in rows if not row.types() for code in SYSTEM.get(row.interaction, ())]
    rest: Json = {"mode": "server", "security": _security(rows, options)}
    if system:
        rest["interaction"] = [{"code": code} for code in dict.fromkeys(system)]
    operations = _operations("", [row for row in rows if not row.types()])
    rest |= {"operation": operations} if operations else {}
    charts = any("{member}" in row.path for row in rows)
    return rest | ({"compartment": [PATIENT_COMPARTMENT]} if charts else {})


def _security(rows: Sequence[Row], options: Options) -> Json:
    smart = any(row.path == SMART for row in rows)
    system = "http://terminology.hl7.org/CodeSystem/restful-security-service"
    places = [{"url": row.interaction, "valueUri": _ROOT + row.path} for row in rows if row.path in _OAUTH]
    extension = [{"url": _OAUTH_URIS, "extension": places}] if places else []
    return {
        **({"extension": extension} if extension else {}),
        "cors": options.cors,
        "service": [{"coding": [{"system": system, "code": "SMART-on-FHIR" if smart else "OAuth"}]}],
        "description": "Bearer tokens (ES256 JWT) with SMART scopes; what a caller sees is decided by its "
        "organisation, its scopes and the patients' Consent resources.",
    }


def _resource(type_: str, rows: Sequence[Row], options: Options) -> Json:
    of_type = [row for row in rows if type_ in row.types()]
    codes = [code for code in INTERACTIONS if _answers(code, type_, of_type)]
    resource: Json = {"type": type_}
    if codes:
        resource |= {"interaction": [{"code": code} for code in codes], "versioning": "versioned"}
    resource |= {"readHistory": "vread" in codes, "updateCreate": "update" in codes}
    resource |= {"conditionalCreate": "create" in codes}
    if "read" in codes:
        resource["conditionalRead"] = "full-support"
    resource["conditionalUpdate"] = "update" in codes and _on_type(of_type, "PUT")
    deletes = "delete" in codes and _on_type(of_type, "DELETE")
    resource["conditionalDelete"] = options.conditional_delete if deletes else "not-supported"
    enforced = ["enforced"] if options.referential_integrity == "enforce" else []
    resource["referencePolicy"] = ["literal", "logical", *enforced]
    if "search-type" in codes:
        resource["searchParam"] = [
            {"name": name, "definition": parameter.url, "type": parameter.type}
            for name, parameter in answered(type_).items()
        ]
        resource["searchInclude"] = ["*", *(f"{type_}:{code}" for code in _references(type_))]
        resource["searchRevInclude"] = ["*", *_referring(edition())[type_]]
    operations = _operations(type_, [row for row in of_type if not refused(row.interaction, type_)])
    return resource | ({"operation": operations} if operations else {})


def _operations(type_: str, rows: Iterable[Row]) -> list[Json]:
    names = dict.fromkeys(row.interaction[1:] for row in rows if row.interaction.startswith("$"))
    found: list[Json] = []
    for name in sorted(names):
        told = {"documentation": DOCUMENTED[name]} if name in DOCUMENTED else {}
        found.append({"name": name, "definition": canonical(type_, name, _BASE), **told})
    return found


def _references(type_: str) -> list[str]:
    return [code for code, parameter in answered(type_).items() if parameter.type == "reference"]


@lru_cache(maxsize=2)
def _referring(_edition: Edition) -> dict[str, list[str]]:
    """Per type the ``Type:parameter`` that may refer to it."""
    found: dict[str, list[str]] = {type_: [] for type_ in RESOURCE_TYPES}
    for source in sorted(RESOURCE_TYPES):
        parameters = answered(source)
        for code in _references(source):
            for type_ in set(targets(parameters[code], source)) & RESOURCE_TYPES:
                found[type_].append(f"{source}:{code}")
    return found


def _answers(code: str, type_: str, rows: Iterable[Row]) -> bool:
    return _stated(rows, code) and not refused(code, type_)


def refused(code: str, type_: str) -> bool:
    """Whether a row that answers every type does not answer this one."""
    return (code in WRITES and type_ in SERVER_WRITTEN) or (code == "patch" and type_ in patch.UNPATCHED)


def _stated(rows: Iterable[Row], code: str) -> bool:
    return any(row.interaction == code for row in rows)


def _on_type(rows: Iterable[Row], method: str) -> bool:
    """Whether this method is answered on the type itself, which is how conditional interactions are asked for."""
    return any(method in row.methods and row.level() == "type" for row in rows)

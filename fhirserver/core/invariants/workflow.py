"""The invariants of requests, tasks, appointments, consents, coverage, audit, and of what carries resources."""

from __future__ import annotations

from fhirserver.core.invariants.datatypes import later
from fhirserver.core.invariants.rule import (
    Json,
    Make,
    absolute,
    apart,
    below,
    by_names,
    check,
    codings,
    has,
    needs,
    one,
    repeated,
    some,
    text,
)

_SCOPES = (
    "something",  # what the published expressions name for a code system that R4 had not settled
    "http://terminology.hl7.org/CodeSystem/consentscope",
)
_WITHOUT_TIME = ("proposed", "cancelled", "waitlist")
_REQUESTS = ("batch", "transaction", "history")
_RESPONSES = ("batch-response", "transaction-response", "history")
_COUNTED = ("searchset", "history")


def _app_3(appointment: Json) -> bool:
    timed = has(appointment, "start") and has(appointment, "end")
    return not timed and appointment.get("status") not in _WITHOUT_TIME


def _without_patient(key: str, scope: str) -> Make:
    """A Consent of this scope names its patient."""

    def broken(consent: Json) -> bool:
        if "patient" in consent:
            return False
        return not codings(consent.get("scope")).isdisjoint((system, scope) for system in _SCOPES)

    return check(key, broken, "scope")


def _only_where(key: str, name: str, types: tuple[str, ...]) -> Make:
    """Each entry of a Bundle has ``name`` exactly in Bundles of these types."""

    def broken(bundle: Json) -> list[str]:
        wanted = bundle.get("type") in types
        return [f"{place}.{name}" for place, entry in below(bundle, "entry") if (name in entry) is not wanted]

    return check(key, broken, "entry")


def _bdl_2(bundle: Json) -> list[str]:
    if bundle.get("type") == "searchset":
        return []
    return [f"{place}.search" for place, entry in below(bundle, "entry") if "search" in entry]


def _bdl_7(bundle: Json) -> list[str]:
    if bundle.get("type") == "history":
        return []
    return repeated(
        (f"{place}.fullUrl", (url, next((text(meta, "versionId") for _, meta in below(entry, "resource", "meta")), "")))
        for place, entry in below(bundle, "entry")
        if (url := text(entry, "fullUrl"))
    )


def _no_outcome(entry: Json) -> bool:
    search, resource = entry.get("search"), entry.get("resource")
    if not isinstance(search, dict) or not isinstance(resource, dict):
        return False
    return search.get("mode") == "outcome" and resource.get("resourceType") != "OperationOutcome"


def _begins_with(bundle: Json, type_: str) -> bool:
    entries = bundle.get("entry")
    first = entries[0] if isinstance(entries, list) and entries else None
    resource = first.get("resource") if isinstance(first, dict) else None
    return isinstance(resource, dict) and resource.get("resourceType") == type_


def _bdl_9(bundle: Json) -> bool:
    identifier = bundle.get("identifier")
    named = isinstance(identifier, dict) and has(identifier, "system") and has(identifier, "value")
    return bundle.get("type") == "document" and not named


def _bdl_10(bundle: Json) -> bool:
    return bundle.get("type") == "document" and "timestamp" not in bundle


def _bdl_11(bundle: Json) -> bool:
    return bundle.get("type") == "document" and not _begins_with(bundle, "Composition")


def _bdl_12(bundle: Json) -> bool:
    return bundle.get("type") == "message" and not _begins_with(bundle, "MessageHeader")


RULES: dict[str, tuple[Make, ...]] = {
    "Appointment": (
        by_names("app-2", "start", "end", broken=lambda start, end: start != end),
        check("app-3", _app_3),
        check(
            "app-4",
            lambda appointment: appointment.get("status") not in ("no-show", "cancelled"),
            "cancelationReason",
            where="cancelationReason",
        ),
    ),
    "Appointment.participant": (some("app-1", "type", "actor"),),
    "AppointmentResponse": (some("apr-1", "participantType", "actor"),),
    "AuditEvent.entity": (apart("sev-1", "name", "query"),),
    "Bundle": (
        check("bdl-1", lambda bundle: bundle.get("type") not in _COUNTED, "total", where="total"),
        check("bdl-2", _bdl_2, "entry"),
        _only_where("bdl-3", "request", _REQUESTS),
        _only_where("bdl-4", "response", _RESPONSES),
        check("bdl-7", _bdl_7, "entry"),
        check("bdl-9", _bdl_9, where="identifier"),
        check("bdl-10", _bdl_10, where="timestamp"),
        check("bdl-11", _bdl_11, where="entry[0]"),
        check("bdl-12", _bdl_12, where="entry[0]"),
    ),
    "Bundle.entry": (
        some("bdl-5", "resource", "request", "response"),
        check("bdl-8", lambda entry: "/_history/" in text(entry, "fullUrl"), "fullUrl", where="fullUrl"),
        absolute("fullUrl"),
        check(
            "outcome",  # the code's definition: "an OperationOutcome that provides additional information"
            _no_outcome,
            *("search", "resource"),
            where="search.mode",
            says="only an OperationOutcome has the mode outcome",
        ),
    ),
    "Consent": (
        some("ppc-1", "policy", "policyRule"),
        _without_patient("ppc-2", "patient-privacy"),
        _without_patient("ppc-3", "research"),
        _without_patient("ppc-4", "adr"),
        _without_patient("ppc-5", "treatment"),
    ),
    "CoverageEligibilityResponse.insurance.item": (one("ces-1", "category", "productOrService"),),
    "InsurancePlan": (some("ipn-1", "identifier", "name"),),
    "Parameters.parameter": (one("inv-1", "value", "resource", "part"),),
    "RequestGroup.action": (one("rqg-1", "resource", "action"),),
    "ServiceRequest": (needs("prr-1", "orderDetail", "code"),),
    "Task": (later("inv-1", "authoredOn", "lastModified"),),
}

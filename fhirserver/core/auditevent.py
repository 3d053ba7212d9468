"""The rows of one event as an R4 AuditEvent, shaped as IHE's Basic Audit Log Patterns have it. Pure rendering.

An intent and its outcome are one AuditEvent; an intent that has none is told as incomplete. The patterns' profiles are
not claimed in `meta.profile`: they want network addresses, which the trail does not keep, and one event per patient.
Source: R4 AuditEvent; IHE ITI BALP 1.1.3 (BasicAudit Create, Read, Update, Delete, Query; PrivacyDisclosure).
"""

from __future__ import annotations

import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any, NamedTuple

from fhirserver.core.model import AuditRow
from fhirserver.core.stamp import instant
from fhirserver.core.trail import event_of

Json = dict[str, Any]

_DCM = "http://dicom.nema.org/resources/ontology/DCM"
_REST = "http://hl7.org/fhir/restful-interaction"
_TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
_OWN = "urn:fhirserver:interaction"
_REQUEST = "https://profiles.ihe.net/ITI/BALP/CodeSystem/BasicAuditEntityType"

_SOURCE = {"system": _DCM, "code": "110153", "display": "Source Role ID"}
_DESTINATION = {"system": _DCM, "code": "110152", "display": "Destination Role ID"}
_RECIPIENT = {"system": _TERMINOLOGY + "v3-ParticipationType", "code": "IRCP", "display": "information recipient"}
_AUTHOR = {"system": _TERMINOLOGY + "v3-ParticipationType", "code": "AUT", "display": "author (originator)"}

_PERSON = {"system": _TERMINOLOGY + "audit-entity-type", "code": "1", "display": "Person"}
_OBJECT = {"system": _TERMINOLOGY + "audit-entity-type", "code": "2", "display": "System Object"}
_OTHER = {"system": _TERMINOLOGY + "audit-entity-type", "code": "4", "display": "Other"}
_ROLES = {"1": "Patient", "4": "Domain Resource", "13": "Security Resource", "24": "Query"}


class Kind(NamedTuple):
    """What an interaction is to an AuditEvent: its type, its action, and the code of the REST interaction if any."""

    type: tuple[str, str, str]
    action: str
    code: str | None


_RESTFUL = (_TERMINOLOGY + "audit-event-type", "rest", "RESTful Operation")
_LOGIN = (_DCM, "110114", "User Authentication")
_ACTIVITY = (_DCM, "110100", "Application Activity")
_EXPORT = (_DCM, "110106", "Export")
_IMPORT = (_DCM, "110107", "Import")
_LOG_USED = (_DCM, "110101", "Audit Log Used")

_KINDS = {
    **{name: Kind(_RESTFUL, "R", name) for name in ("read", "vread")},
    **{name: Kind(_RESTFUL, "R", name) for name in ("history-instance", "history-type", "history-system")},
    **{name: Kind(_RESTFUL, "E", name) for name in ("search-type", "search-system", "transaction", "batch")},
    "create": Kind(_RESTFUL, "C", "create"),
    "update": Kind(_RESTFUL, "U", "update"),
    "patch": Kind(_RESTFUL, "U", "patch"),
    "delete": Kind(_RESTFUL, "D", "delete"),
    "write": Kind(_RESTFUL, "U", None),
    "$meta-add": Kind(_RESTFUL, "U", "operation"),
    "$meta-delete": Kind(_RESTFUL, "U", "operation"),
    "token": Kind(_LOGIN, "E", None),
    "import": Kind(_IMPORT, "C", None),
    "export": Kind(_EXPORT, "R", None),
    "consent-list": Kind(_ACTIVITY, "R", None),
    "audit-list": Kind(_LOG_USED, "R", None),
    "audit-export": Kind(_LOG_USED, "R", None),
    "audit-retain": Kind(_LOG_USED, "D", None),
}

_OUTCOMES = {
    "complete": ("0", None),
    "cut": ("4", "The answer ended before it was complete."),
    "denied": ("4", "The request was refused."),
    "intent": ("8", "Incomplete: no outcome is recorded. It is under way, or its server was ended."),
}

_BESIDE = frozenset({"class", "purpose", "token", "resource", "resources", "query", "consents", "request", "patients"})
_ID = r"[A-Za-z0-9\-.]{1,64}"
_LOCAL = re.compile(rf"[A-Z][A-Za-z]+/{_ID}(?:/_history/{_ID})?")
_NAME = re.compile(_ID)
_CODE = re.compile(r"[^\s]+( [^\s]+)*")


class Event(NamedTuple):
    """What was begun and how it ended; the same row twice where it was written at once, or has not ended."""

    first: AuditRow
    last: AuditRow

    @property
    def id(self) -> str:
        return event_of(self.first)

    @property
    def patients(self) -> tuple[str, ...]:
        return tuple(sorted({*self.first.patients, *self.last.patients}))

    @property
    def detail(self) -> Json:
        """What both rows say; the outcome's word counts."""
        return {**self.first.detail, **self.last.detail}


def event(rows: Sequence[AuditRow]) -> Event:
    """The event of these rows, which are all there are of it, in the order they were appended."""
    return Event(rows[0], rows[-1])


def kind_of(interaction: str) -> Kind:
    """What an interaction is to an AuditEvent; operations and commands go by their name."""
    if interaction in _KINDS:
        return _KINDS[interaction]
    return Kind(_RESTFUL, "E", "operation") if interaction.startswith("$") else Kind(_ACTIVITY, "E", None)


def render(event: Event) -> Json:
    """The AuditEvent; its id is that of the event, `recorded` the time of its last row."""
    first, last, detail = event.first, event.last, event.detail
    kind = kind_of(first.interaction)
    code, told = _OUTCOMES.get(last.outcome, ("0", None))
    purpose = _purpose(detail.get("purpose"))
    period = {"period": {"start": instant(first.at), "end": instant(last.at)}} if last is not first else {}
    return {
        "resourceType": "AuditEvent",
        "id": event.id,
        "meta": {"lastUpdated": instant(last.at)},
        "type": dict(zip(("system", "code", "display"), kind.type, strict=True)),
        "subtype": _subtypes(first.interaction, kind),
        "action": kind.action,
        **period,
        "recorded": instant(last.at),
        "outcome": code,
        **({"outcomeDesc": told} if told else {}),
        **({"purposeOfEvent": [purpose]} if purpose else {}),
        "agent": _agents(first, kind, detail, purpose),
        "source": {
            "observer": {"identifier": {"value": "fhirserver"}, "display": "fhirserver"},
            "type": [_coding("security-source-type", "4", "Application Server")],
        },
        "entity": [*_entities(event, detail)],
    }


def _subtypes(interaction: str, kind: Kind) -> list[Json]:
    rest = [{"system": _REST, "code": kind.code}] if kind.code else []
    return rest if kind.code == interaction else [*rest, {"system": _OWN, "code": interaction}]


def _agents(row: AuditRow, kind: Kind, detail: Json, purpose: Json | None) -> list[Json]:
    """The client, this server, and the organisation in whose name it was asked. Data flow to who reads; a query, and
    what is written, flow the other way."""
    reading = kind.action == "R"
    client, server = (_DESTINATION, _SOURCE) if reading else (_SOURCE, _DESTINATION)
    who = {"reference": f"Organization/{row.organization}"} if _NAME.fullmatch(row.organization) else {}
    role = {"role": [{"text": str(detail["class"])}]} if detail.get("class") else {}
    token = {"altId": str(detail["token"])} if detail.get("token") else {}
    return [
        {
            "type": {"coding": [client]},
            "who": {"identifier": {"value": row.subject or "unknown"}},
            **token,
            "requestor": False,
        },
        {"type": {"coding": [server]}, "who": {"identifier": {"value": "fhirserver"}}, "requestor": False},
        {
            "type": {"coding": [_RECIPIENT if kind.action in "RE" else _AUTHOR]},
            **role,
            "who": {**who, "identifier": {"value": row.organization or "unknown"}},
            "requestor": True,
            **({"purposeOfUse": [purpose]} if purpose else {}),
        },
    ]


def _entities(event: Event, detail: Json) -> list[Json]:
    found: list[Json] = []
    for patient in event.patients:
        found.append({"what": {"reference": f"Patient/{patient}"}, "type": _PERSON, "role": _role("1")})
    for name in dict.fromkeys([*_texts(detail.get("resource")), *_texts(detail.get("resources"))]):
        found.append({"what": _what(name), "type": _OBJECT, "role": _role("4")})
    for name in _texts(detail.get("consents")):
        found.append({"what": _what(name), "type": _OBJECT, "role": _role("13")})
    if detail.get("query"):
        query = b64encode(str(detail["query"]).encode()).decode()
        found.append({"type": _OBJECT, "role": _role("24"), "query": query})
    if detail.get("request"):
        request = {"system": _REQUEST, "code": "XrequestId"}
        found.append({"what": {"identifier": {"value": str(detail["request"])}}, "type": request})
    rest = [
        {"type": name, "valueString": text}
        for name, value in detail.items()
        if name not in _BESIDE
        for text in _texts(value)
    ]
    if "patients" in detail:  # more than a row names
        rest.append({"type": "patients", "valueString": str(detail["patients"])})
    if rest:
        found.append({"type": _OTHER, "name": "detail", "detail": rest})
    return found


def _what(name: str) -> Json:
    return {"reference": name} if _LOCAL.fullmatch(name) else {"display": name}


def _texts(value: object) -> list[str]:
    values = value if isinstance(value, list | tuple) else [] if value is None else [value]
    return [text for each in values if (text := str(each).strip())]


def _role(code: str) -> Json:
    return _coding("object-role", code, _ROLES[code])


def _coding(system: str, code: str, display: str) -> Json:
    return {"system": _TERMINOLOGY + system, "code": code, "display": display}


def _purpose(text: object) -> Json | None:
    if not isinstance(text, str) or not text.strip():
        return None
    if not _CODE.fullmatch(text):
        return {"text": text}
    return {"coding": [{"system": _TERMINOLOGY + "v3-ActReason", "code": text}]}

"""A gate over a real store, with short ways to make callers, resources and Consents, for tests of the policy."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec

from fhirserver.core.errors import Fault
from fhirserver.core.model import AuditRow, Key, Query, Record
from fhirserver.core.validate import parse
from fhirserver.policy.gate import OPERATOR_ORGANIZATION, CallerClass, Gate, Put, Scoped
from fhirserver.policy.keys import make_keys
from fhirserver.policy.principal import Principal, issue_token
from fhirserver.policy.scopes import Scopes
from fhirserver.store.open import open_store
from fhirserver.store.port import Store
from tests.stores import fresh

START = 1_800_000_000_000
KEYS = make_keys()
JSON = dict[str, Any]


class World:
    """One store, its gate, and a clock that stands still unless it is moved."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.now = START
        self.gate = Gate(store, KEYS, clock=lambda: self.now)

    def token(self, caller: str, org: str, scope: str | None = None, *, seconds: int = 3600, **more: Any) -> str:
        """A token of this class; read and search of everything it may reach unless ``scope`` is given."""
        context = "patient" if caller in ("third-party", "patient") else "system"
        principal = Principal(
            subject=more.pop("subject", "client"),
            organization=org,
            caller=CallerClass(caller),
            scopes=Scopes(f"{context}/*.rs" if scope is None else scope),
            until=self.now + seconds * 1000,
            **more,
        )
        return issue_token(KEYS, principal, self.now)

    async def caller(
        self,
        caller: str,
        org: str,
        scope: str | None = None,
        *,
        interaction: str = "read",
        type: str | None = None,
        **more: Any,
    ) -> Scoped:
        """The store as such a caller sees it."""
        token = self.token(caller, org, scope, **more)
        return await self.gate.admit(token, interaction=interaction, type=type)

    async def writer(self, org: str, caller: str = "member", **more: Any) -> Scoped:
        """A caller with all scopes."""
        context = "patient" if caller in ("third-party", "patient") else "system"
        return await self.caller(caller, org, f"{context}/*.cruds", interaction="transaction", **more)

    def system(self, org: str = OPERATOR_ORGANIZATION) -> Scoped:
        """System work in an organisation's name."""
        return self.gate.system(subject="test", organization=org, purpose="test")

    async def load(self, org: str, *resources: JSON, **options: Any) -> list[str]:
        """Import resources; what became of each."""
        loaded = await self.system(org).load([put(resource) for resource in resources], **options)
        return [f"{each.status}: {each.reason}" if each.reason else each.status for each in loaded]

    async def consent(self, consent: JSON) -> None:
        """Write a Consent that counts, as the operator."""
        await self.system().write([put(consent)])

    async def audit(self) -> list[AuditRow]:
        """The whole trail."""
        return [row async for rows in self.store.audit.scan() for row in rows]


@asynccontextmanager
async def world(folder: Path, kind: str = "sqlite") -> AsyncIterator[World]:
    """A fresh world over a store of this kind; a file lies in this folder."""
    made: list[World] = []
    with fresh(kind, folder) as url:
        store = open_store(url, clock=lambda: made[0].now if made else START)
        made.append(World(store))
        await store.start()
        await made[0].gate.start()
        try:
            yield made[0]
        finally:
            await store.close()


def put(resource: JSON, **more: Any) -> Put:
    """A validated Put of this resource."""
    raw = msgspec.json.encode(resource)
    return Put(resource=parse(raw), raw=raw, id=resource["id"], **more)


def patient(id: str, **more: Any) -> JSON:
    return {"resourceType": "Patient", "id": id, **more}


def observation(id: str, of: str, *labels: str, **more: Any) -> JSON:
    """``labels``: codes of v3-ActCode, or R, V, N."""
    system = "http://terminology.hl7.org/CodeSystem/v3-"
    coded = [{"system": system + ("Confidentiality" if code in "RVN" else "ActCode"), "code": code} for code in labels]
    meta = {"meta": {"security": coded}} if coded else {}
    return {
        "resourceType": "Observation",
        "id": id,
        **meta,
        "status": "final",
        "code": {"text": "x"},
        "subject": {"reference": f"Patient/{of}"},
        **more,
    }


def condition(id: str, of: str) -> JSON:
    return {"resourceType": "Condition", "id": id, "subject": {"reference": f"Patient/{of}"}}


def person(id: str, *patients: str, **more: Any) -> JSON:
    links = [{"target": {"reference": f"Patient/{each}"}} for each in patients]
    return {"resourceType": "Person", "id": id, **more, **({"link": links} if links else {})}


def consent(id: str, of: str, to: str | None = "reader", *, project: str | None = None, **provision: Any) -> JSON:
    """An active privacy Consent whose root permits ``to``, unless ``provision`` says otherwise."""
    actor = {"actor": [actor_of(to)]} if to else {}
    uri = f"urn:test:policy/project/{project}" if project else "urn:test:policy/general"
    return {
        "resourceType": "Consent",
        "id": id,
        "status": "active",
        "scope": {
            "coding": [{"system": "http://terminology.hl7.org/CodeSystem/consentscope", "code": "patient-privacy"}]
        },
        "category": [{"coding": [{"system": "http://loinc.org", "code": "59284-0"}]}],
        "patient": {"reference": f"Patient/{of}"},
        "policy": [{"uri": uri}],
        "provision": {"type": "permit", **actor, **provision},
    }


def actor_of(organization: str) -> JSON:
    role = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
    return {"role": role, "reference": {"reference": f"Organization/{organization}"}}


def classes(*types: str) -> list[JSON]:
    return [{"system": "http://hl7.org/fhir/resource-types", "code": type_} for type_ in types]


def marks(*codes: str) -> list[JSON]:
    return observation("x", "x", *codes)["meta"]["security"]  # type: ignore[no-any-return]


async def seen(scoped: Scoped, *types: str) -> list[str]:
    """The keys that a scan gives, in order of key."""
    query = Query(types=frozenset(types) if types else None)
    return sorted([str(record.key) async for batch in scoped.scan(query) for record in batch])


async def status_of(scoped: Scoped, reference: str, version: int | None = None) -> int:
    """The HTTP status that reading this would have."""
    try:
        await scoped.read(Key.parse(reference), version)
    except Fault as fault:
        return fault.status
    return 200


async def content(scoped: Scoped, record: Record) -> JSON:
    """A record's resource."""
    return msgspec.json.decode(await scoped.whole(record))  # type: ignore[no-any-return]

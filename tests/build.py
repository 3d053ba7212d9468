"""Small valid resources for tests, and their way into a store."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from fhirserver.core.validate import parse
from fhirserver.policy.gate import Gate, Loaded, Put

Resource = dict[str, Any]


def patient(id: str, **more: Any) -> Resource:
    return {"resourceType": "Patient", "id": id, "name": [{"family": f"Family-{id}"}], **more}


def person(id: str, *patients: str, **more: Any) -> Resource:
    links = [{"target": {"reference": f"Patient/{name}"}} for name in patients]
    return {"resourceType": "Person", "id": id, **({"link": links} if links else {}), **more}


def observation(id: str, of: str, **more: Any) -> Resource:
    return {
        "resourceType": "Observation",
        "id": id,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "8480-6"}]},
        "subject": {"reference": f"Patient/{of}"},
        **more,
    }


def condition(id: str, of: str, **more: Any) -> Resource:
    return {"resourceType": "Condition", "id": id, "subject": {"reference": f"Patient/{of}"}, **more}


def encounter(id: str, of: str, **more: Any) -> Resource:
    return {
        "resourceType": "Encounter",
        "id": id,
        "status": "finished",
        "class": {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"},
        "subject": {"reference": f"Patient/{of}"},
        **more,
    }


def practitioner(id: str, **more: Any) -> Resource:
    return {"resourceType": "Practitioner", "id": id, "name": [{"family": f"Doctor-{id}"}], **more}


def organization(id: str, **more: Any) -> Resource:
    return {"resourceType": "Organization", "id": id, "name": f"Organization {id}", **more}


def by(*practitioners: str) -> list[dict[str, str]]:
    """The `performer` of an Observation."""
    return [{"reference": f"Practitioner/{name}"} for name in practitioners]


def put(resource: Resource) -> Put:
    """The resource as a draft for `Scoped.write` and `Scoped.load`."""
    raw = json.dumps(resource).encode()
    return Put(resource=parse(raw), raw=raw, id=resource["id"])


async def load(
    gate: Gate, resources: Iterable[Resource], *, organization: str = "operator", persons: bool = True
) -> list[Loaded]:
    """Import resources as ``organization``; fails when any was rejected."""
    scoped = gate.system(subject="test", organization=organization, purpose="test")
    loaded = await scoped.load([put(resource) for resource in resources], persons=persons)
    rejected = [item for item in loaded if item.status == "rejected"]
    assert not rejected, rejected
    return loaded

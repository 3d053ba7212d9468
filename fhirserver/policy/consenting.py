"""Giving and taking back consent: PCF-shaped Consent resources, one per Patient, one active per identity.

A Consent's identity is (patient, organisations named, policies, categories). A new active one makes the old ones of
its identity inactive in the same commit, so that consenting again restores what a refusal took away.
"""

from __future__ import annotations

import secrets
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.index import extract
from fhirserver.core.model import REFERENCE_TERM, Key, Query, Record, parse_facts
from fhirserver.core.stamp import instant
from fhirserver.core.validate import parse
from fhirserver.policy.consent import ACTION_SYSTEM, PRIVACY, SCOPE_SYSTEM, TYPES_SYSTEM, policy_of
from fhirserver.policy.dossier import COUNTS
from fhirserver.policy.items import Put
from fhirserver.policy.vocabulary import labels

if TYPE_CHECKING:
    from fhirserver.policy.scoped import Scoped

POLICY_BASE = "urn:fhirserver:policy"
"""Prefix of the `policy.uri` of Consents made here: ``…/project/{id}`` for a project, ``…/organization`` without."""

Identity = tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...], tuple[str, ...]]
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def identity(consent: Mapping[str, Any]) -> Identity:
    """(patients, organisations named, policy URIs, category codes): what only one active Consent may have."""
    index = extract(consent)
    policies = [policy_of(str(policy.get("uri", ""))) for policy in consent.get("policy", [])]
    codings = [coding for concept in consent.get("category", []) for coding in concept.get("coding", [])]
    categories = [f"{coding.get('system', '')}|{coding.get('code', '')}" for coding in codings]
    return index.owners, index.parties, tuple(sorted(policies)), tuple(sorted(categories))


def is_active(consent: Mapping[str, Any]) -> bool:
    """Whether the Consent decides now, for better or worse."""
    return consent.get("status") == "active"


def superseded(new: Mapping[str, Any], existing: Iterable[tuple[Record, bytes]]) -> list[tuple[Record, bytes]]:
    """Of existing Consents (with their bodies), those that an active ``new`` one makes inactive: (record, body that
    says so). The new one itself, by its id, is not among them."""
    if not is_active(new):
        return []
    wanted = identity(new)
    found = []
    for record, body in existing:
        consent = msgspec.json.decode(body)
        if record.id != new.get("id") and is_active(consent) and identity(consent) == wanted:
            found.append((record, inactive(body)))
    return found


def inactive(body: bytes) -> bytes:
    """The same Consent with ``status`` inactive; nothing else is touched."""
    members = _members(body)
    members["status"] = msgspec.Raw(b'"inactive"')
    return msgspec.json.encode(members)


async def grant_consent(
    scoped: Scoped,
    patients: Sequence[str],
    organization: str,
    *,
    project: str | None = None,
    until: str | None = None,
    types: Sequence[str] = (),
    labels: Sequence[str] = (),
    now: int | None = None,
) -> list[Record]:
    """Write a Consent per Patient that opens its chart to ``organization`` as the recipient.

    ``until``: a FHIR date (whole day) or instant; ``types``: only these (none: all that Consents open without being
    named); ``labels``: restricted codes (``HIV``) or sensitivity scopes (``HIV_OR_STI``) that are opened, too.
    ``now``: milliseconds since 1970 for `dateTime` (the store's clock). ValueError naming what is not understood.
    """
    unknown = sorted(set(types) - RESOURCE_TYPES)
    if unknown:
        raise ValueError(f"{unknown[0]!r} is no resource type.")
    provision = _provision(organization, "permit")
    if until:
        provision["period"] = {"end": until}
    if types:
        provision["class"] = [{"system": TYPES_SYSTEM, "code": type_} for type_ in types]
    if labels:
        provision["securityLabel"] = _labelled(labels)
    return await _write(scoped, patients, provision, organization, project, now)


async def revoke_consent(
    scoped: Scoped,
    patients: Sequence[str],
    organization: str,
    *,
    project: str | None = None,
    now: int | None = None,
) -> list[Record]:
    """Write a refusal per Patient: of one project, or without ``project`` of everything to ``organization``.

    It takes the place of the Consent it withdraws, and holds against any other until consent is given again.
    """
    return await _write(scoped, patients, _provision(organization, "deny"), organization, project, now)


async def list_consents(
    scoped: Scoped, *, patients: Sequence[str] = (), organization: str | None = None
) -> AsyncIterator[tuple[Record, dict[str, Any], bool]]:
    """Consents (record, resource, whether it counts), of these Patients and naming this organisation if given."""
    terms: list[tuple[str, ...]] = []
    if patients:
        terms.append(tuple(f"{REFERENCE_TERM}Patient/{patient}" for patient in patients))
    if organization:
        terms.append((f"{REFERENCE_TERM}Organization/{organization}",))
    async for batch in scoped.scan(Query(types=frozenset({"Consent"}), terms=tuple(terms))):
        for record in batch:
            body = await scoped.whole(record)
            yield record, msgspec.json.decode(body), COUNTS in parse_facts(record.facts).parties


async def patients_of(scoped: Scoped, person: str) -> tuple[str, ...]:
    """The Patients a Person links now; Fault NOT_FOUND when there is no such Person, or it links none."""
    await scoped.read(Key("Person", person))
    linked = await scoped.linked(Key("Person", person))
    if not linked:
        raise Fault(Kind.NOT_FOUND, f"Person/{person} links no Patient.")
    return linked


def _provision(organization: str, type_: str) -> dict[str, Any]:
    recipient = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ParticipationType", "code": "IRCP"}]}
    actions = [{"coding": [{"system": ACTION_SYSTEM, "code": code}]} for code in ("access", "disclose")]
    return {
        "type": type_,
        "actor": [{"role": recipient, "reference": {"reference": f"Organization/{organization}"}}],
        "action": actions,
    }


def _labelled(names: Sequence[str]) -> list[dict[str, str]]:
    """Normal data stays open where restricted data is opened."""
    return labels().named(["N", *(name for name in names if name != "N")])


async def _write(
    scoped: Scoped,
    patients: Sequence[str],
    provision: dict[str, Any],
    organization: str,
    project: str | None,
    now: int | None,
) -> list[Record]:
    moment = instant((await scoped.high_water()).time if now is None else now)
    puts = []
    for patient in dict.fromkeys(patients):
        await scoped.read(Key("Patient", patient))
        consent = _consent(secrets.token_hex(16), patient, provision, organization, project, moment)
        raw = msgspec.json.encode(consent)
        puts.append(Put(resource=parse(raw), raw=raw, id=consent["id"], if_version=0))
    return await scoped.write(puts)


def _consent(
    id: str, patient: str, provision: dict[str, Any], organization: str, project: str | None, moment: str
) -> dict[str, Any]:
    """PCF Advanced: scope patient-privacy, category IDSCL, one policy, the provision as the root rule."""
    uri = f"{POLICY_BASE}/project/{project}" if project else f"{POLICY_BASE}/organization/{organization}"
    return {
        "resourceType": "Consent",
        "id": id,
        "status": "active",
        "scope": {"coding": [{"system": SCOPE_SYSTEM, "code": PRIVACY}]},
        "category": [{"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "IDSCL"}]}],
        "patient": {"reference": f"Patient/{patient}"},
        "dateTime": moment,
        "policy": [{"uri": uri}],
        "provision": provision,
    }

"""Persons: every Patient has one, each caller sees only the links it may follow, and operators say who is one human."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import msgspec

from fhirserver.core import stamp
from fhirserver.core.errors import Fault, Kind
from fhirserver.core.index import extract
from fhirserver.core.model import Draft, Facts, Key, Record, parse_facts
from fhirserver.core.project import SUBSETTED, tag_subsetted
from fhirserver.core.validate import parse
from fhirserver.policy.derive import facts_of, local_target
from fhirserver.policy.items import Put
from fhirserver.policy.principal import OPERATOR_ORGANIZATION

if TYPE_CHECKING:
    from fhirserver.policy.scoped import Scoped

_DIGEST_BYTES = 16
_members = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_raws = msgspec.json.Decoder(list[msgspec.Raw]).decode
_encode = msgspec.json.Encoder().encode


class _Target(msgspec.Struct):
    reference: str = ""


class _Link(msgspec.Struct):
    target: _Target = msgspec.field(default_factory=_Target)


_link = msgspec.json.Decoder(_Link).decode


def linked_patients(body: bytes) -> tuple[str, ...]:
    """The Patients a Person links, in link order, each once."""
    links = _members(body).get("link")
    keys = [_key(raw) for raw in _raws(links)] if links is not None else []
    return tuple(dict.fromkeys(key.id for key in keys if key is not None and key.type == "Patient"))


def cut(record: Record, body: bytes, visible: Collection[str]) -> Record:
    """The Person with only the links to ``visible`` Patients (and to Practitioners, who are in the directory).

    Uncut, it is the record as stored. Otherwise it is tagged SUBSETTED and its digest has a suffix (`view_tag`);
    nothing but `link` and `meta.tag` differs from the stored bytes. Its facts tell of the visible ones alone, so that
    the audit trail, which the reader may read, does not name whom the view leaves out.
    """
    members = _members(body)
    links = _raws(members["link"]) if "link" in members else []
    kept = [raw for raw in links if _shown(_key(raw), visible)]
    if len(kept) == len(links):
        return msgspec.structs.replace(record, body=body)
    if kept:
        members["link"] = msgspec.Raw(b"[" + b",".join(bytes(raw) for raw in kept) + b"]")
    else:
        del members["link"]
    members["meta"] = msgspec.Raw(tag_subsetted(bytes(members["meta"])))
    view = _object(members)
    suffix = blake2b(view, digest_size=4).digest()
    facts = _narrowed(record.facts, frozenset(visible))
    return msgspec.structs.replace(record, body=view, size=len(view), digest=record.digest + suffix, facts=facts)


def _narrowed(text: str, visible: Collection[str]) -> str:
    facts = parse_facts(text)
    owners = tuple(each for each in facts.owners if each in visible)
    compartments = tuple(each for each in facts.compartments if each in visible)
    return msgspec.structs.replace(facts, owners=owners, compartments=compartments).text


def view_tag(record: Record) -> str | None:
    """8 hex digits that tell this cut view from others of the same version; None for a record as stored."""
    return record.digest[_DIGEST_BYTES:].hex() or None


def is_subsetted(resource: Mapping[str, Any]) -> bool:
    """Whether a resource says that it is a view with something left out."""
    meta = resource.get("meta")
    tags = meta.get("tag", []) if isinstance(meta, Mapping) else []
    return any(tag.get("code") == SUBSETTED for tag in tags if isinstance(tag, Mapping))


def person_key(patient: str, taken: Collection[Key]) -> Key:
    """The key of the Person made for a Patient: the same id, or a deterministic other one when that is taken."""
    key = Key("Person", patient)
    attempt = 0
    while key in taken:
        attempt += 1
        key = Key("Person", blake2b(f"Patient/{patient} {attempt}".encode(), digest_size=16).hexdigest())
    return key


def person_draft(key: Key, patient: str, custodian: str, programs: Collection[str]) -> Draft:
    """A new Person that links one Patient and says nothing else: demographics have one truth, the Patient."""
    resource = {"resourceType": "Person", "id": key.id, "link": [_link_to(patient)]}
    head, tail = stamp.prepare(_encode(resource), id=key.id)
    index = extract(resource)
    facts = facts_of("Person", index, custodian=custodian, parties=(custodian,), programs=programs)
    return Draft(key=key, head=head, tail=tail, facts=facts, index=index, if_version=0)


def serves(person: Facts, custodian: str) -> bool:
    """Whether a Person that links a Patient in that custody counts as its Person; a stranger's link to an id that was
    free does not."""
    return person.custodian in (custodian, OPERATOR_ORGANIZATION) or custodian in person.parties


async def link(scoped: Scoped, person: str, patients: Sequence[str]) -> None:
    """Link Patients to a Person, which is made if it is not there. Fault NOT_FOUND for an unknown Patient."""
    for patient in patients:
        await scoped.read(Key("Patient", patient))
    record = await _current(scoped, person)
    body = record.body if record and record.body else _encode({"resourceType": "Person", "id": person})
    members = _members(body)
    present = linked_patients(body)
    links = _raws(members["link"]) if "link" in members else []
    new = [_encode(_link_to(patient)) for patient in dict.fromkeys(patients) if patient not in present]
    if new:
        await _store(scoped, person, members, [*map(bytes, links), *new], record)


async def unlink(scoped: Scoped, person: str, patients: Sequence[str]) -> None:
    """Take Patients off a Person; each that no other Person links gets one of its own."""
    record = await _current(scoped, person)
    if record is None or record.body is None:
        raise Fault(Kind.NOT_FOUND, f"There is no Person/{person}.")
    absent = sorted(set(patients).difference(linked_patients(record.body)))
    if absent:
        raise Fault(Kind.NOT_FOUND, f"Person/{person} does not link Patient/{absent[0]}.")
    members = _members(record.body)
    gone = {Key("Patient", patient) for patient in patients}
    links = [bytes(raw) for raw in _raws(members["link"]) if _key(raw) not in gone]
    await _store(scoped, person, members, links, record)
    await scoped.provide_persons(patients)


async def _current(scoped: Scoped, person: str) -> Record | None:
    try:
        record = await scoped.read(Key("Person", person))
    except Fault as fault:
        if fault.kind in (Kind.NOT_FOUND, Kind.GONE):
            return None
        raise
    body = await scoped.whole(record)
    return msgspec.structs.replace(record, body=body)


async def _store(
    scoped: Scoped, id: str, members: dict[str, msgspec.Raw], links: list[bytes], record: Record | None
) -> None:
    if links:
        members["link"] = msgspec.Raw(b"[" + b",".join(links) + b"]")
    else:
        members.pop("link", None)
    raw = _object(members)
    await scoped.write([Put(resource=parse(raw), raw=raw, id=id, if_version=record.version if record else 0)])


def _link_to(patient: str) -> dict[str, object]:
    return {"target": {"reference": f"Patient/{patient}"}}


def _key(raw: msgspec.Raw) -> Key | None:
    try:
        return local_target(_link(raw).target.reference)
    except msgspec.ValidationError:
        return None


def _shown(key: Key | None, visible: Collection[str]) -> bool:
    return key is not None and (key.type == "Practitioner" or (key.type == "Patient" and key.id in visible))


def _object(members: Mapping[str, msgspec.Raw]) -> bytes:
    return b"{" + b",".join(_encode(name) + b":" + bytes(raw) for name, raw in members.items()) + b"}"

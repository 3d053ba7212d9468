"""What an input resource is called: its type, its id (deterministic where it has none), and its conditions.

Both passes over the input ask these pure functions, so that what one recorded the other finds again.
"""

from __future__ import annotations

import re
from functools import lru_cache
from hashlib import blake2b
from typing import NamedTuple
from urllib.parse import unquote
from uuid import UUID, uuid5

import msgspec

from fhirserver.core.lexical import is_id
from ingest.scan import UNDECODABLE

SOURCE_ID = "urn:fhirserver:source-id:"
"""System, with the organisation's id behind it, of the identifier that keeps an id which ``--namespace`` replaced."""

_NAMESPACE = UUID("7c1d3c40-5d0b-5d3e-9d52-0c8f6f0f4c11")
_UUID = re.compile(r"urn:uuid:([0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12})").fullmatch
_OID = re.compile(r"urn:oid:([0-2](?:\.(?:0|[1-9][0-9]*))+)").fullmatch
_REST = re.compile(r"(?:.*/)?([A-Z][A-Za-z]+)/([A-Za-z0-9\-.]{1,64})(?:/_history/[^/]*)?", re.DOTALL).fullmatch
_LOCAL_NAME = re.compile(rb'"urn:(?!uuid:[0-9A-Fa-f]{8}-(?:[0-9A-Fa-f]{4}-){3}[0-9A-Fa-f]{12}")(?:uuid|oid):')
_FINE = frozenset({"transaction", "batch", "collection", "searchset"})


class Named(NamedTuple):
    """A resource of the input: ``id`` is final unless ``local``, when `localise` makes it so for its Bundle."""

    type: str
    id: str
    local: bool = False


class Condition(NamedTuple):
    """``Type?identifier=token``; the token as in a search: ``system|value``, ``|value`` or ``value``."""

    type: str
    token: str

    @property
    def term(self) -> str:
        """The index term (`Index.terms`) that a resource meeting it has."""
        return f"{self.type}|identifier={self.token}"


class Identifier(msgspec.Struct):
    system: str | None = None
    value: str | None = None


class Skim(msgspec.Struct):
    """The few members of a resource that say which it is."""

    resourceType: str = ""  # noqa: N815 - FHIR's spelling
    id: str | None = None
    identifier: msgspec.Raw = msgspec.Raw(b"[]")


class Request(msgspec.Struct):
    """`Bundle.entry.request`."""

    method: str = ""
    url: str = ""
    ifNoneExist: str | None = None  # noqa: N815 - FHIR's spelling


class Search(msgspec.Struct):
    """`Bundle.entry.search`."""

    mode: str = ""


class Shape(msgspec.Struct):
    """`Bundle.entry`."""

    fullUrl: str | None = None  # noqa: N815 - FHIR's spelling
    resource: msgspec.Raw = msgspec.Raw(b"")
    request: Request | None = None
    search: Search | None = None


_SKIM = msgspec.json.Decoder(Skim).decode
_SHAPE = msgspec.json.Decoder(Shape).decode
_IDENTIFIERS = msgspec.json.Decoder(list[Identifier] | Identifier).decode


class Refused(Exception):
    """An entry or resource cannot be taken; the message is the reason, for people, ``resource`` its key if known."""

    def __init__(self, reason: str, resource: str = "") -> None:
        super().__init__(reason)
        self.resource = resource


def skim(raw: bytes) -> Skim:
    """Which resource this is; raises Refused if it does not say in the way FHIR asks for."""
    try:
        found = _SKIM(raw)
    except msgspec.ValidationError as error:
        raise Refused(f"not a FHIR resource: {_plain(error)}") from None
    except UNDECODABLE as error:
        raise Refused(_unreadable(error)) from None
    if not found.resourceType:
        raise Refused("not a FHIR resource: it has no resourceType")
    return found


def shape(raw: bytes) -> Shape:
    """The parts of a Bundle's entry; raises Refused where one has the wrong form."""
    try:
        return _SHAPE(raw)
    except msgspec.ValidationError as error:
        raise Refused(f"not an entry of a Bundle: {_plain(error)}") from None
    except UNDECODABLE as error:
        raise Refused(_unreadable(error)) from None


def _unreadable(error: Exception) -> str:
    return "not UTF-8" if isinstance(error, UnicodeDecodeError) else "not JSON, or nested too deeply"


def _plain(error: msgspec.ValidationError) -> str:
    return str(error).replace("`", "").replace("$.", "").replace("$", "it")


def identifiers(found: Skim) -> list[Identifier]:
    """Its business identifiers; none where they are malformed (validation will say so)."""
    try:
        all_ = _IDENTIFIERS(found.identifier)
    except UNDECODABLE:
        return []
    return all_ if isinstance(all_, list) else [all_]


def refuse_bundle(type_: str, problem: str) -> str:
    """Why a Bundle is not unwrapped, or ``""``."""
    if problem:
        return problem
    if type_ in _FINE:
        return ""
    return (
        f"a Bundle of type {type_[:40]} is not a set of resources to store; "
        "transaction, batch, collection and searchset are (or store the Bundle itself, as a resource)"
    )


def refuse_entry(entry: Shape, bundle_type: str) -> str:
    """Why an entry is not stored, or ``""``; what its resource holds is not looked at."""
    request = entry.request
    if request is not None and request.method not in ("PUT", "POST"):
        return f"the entry's method is {request.method[:20] or 'missing'}; only PUT and POST bring a resource to store"
    if request is None and bundle_type in ("transaction", "batch"):
        return f"an entry of a {bundle_type} needs a request"
    if not entry.resource:
        return "the entry has no resource"
    if entry.search is not None and entry.search.mode == "outcome":
        return "it tells how the search went (search.mode outcome) and is no resource to store"
    return ""


def name_entry(entry: Shape, found: Skim) -> Named:
    """What an entry's resource is called: its id, or else one from the request, the fullUrl, or its content.

    Raises Refused where `request.url` contradicts the resource.
    """
    asked = _requested(entry.request, found) if entry.request is not None else None
    if found.id is not None:
        if asked not in (None, found.id):
            raise Refused(f"request.url does not name the resource in the entry ({found.resourceType}, another id)")
        return Named(found.resourceType, found.id)
    if asked is not None:
        return Named(found.resourceType, asked)
    url = entry.fullUrl or ""
    if known := _UUID(url) or _OID(url):
        if is_id(known[1]):
            return Named(found.resourceType, known[1])
    elif (rest := _REST(url)) and rest[1] == found.resourceType:
        return Named(found.resourceType, rest[2])
    raw = bytes(entry.resource)
    return Named(found.resourceType, hashed(found.resourceType, raw), _LOCAL_NAME.search(raw) is not None)


def _requested(request: Request, found: Skim) -> str | None:
    """The id that a PUT names, if it does."""
    path = request.url.partition("?")[0].strip("/")
    if request.method == "PUT" and "?" not in request.url:
        rest = _REST(path)
        if not rest:
            raise Refused("request.url of a PUT should be Type/id or Type?condition")
        type_: str = rest[1]
        id_: str | None = rest[2]
    else:
        type_, id_ = path.rpartition("/")[2], None
    if type_ != found.resourceType:
        raise Refused(f"request.url does not name the type of the resource in the entry ({found.resourceType})")
    return id_


def other_name(entry: Shape, named: Named) -> str | None:
    """``Type/id`` by which a RESTful `fullUrl` names the resource, where that is not its id."""
    rest = _REST(entry.fullUrl or "") if (entry.fullUrl or "").startswith("http") else None
    if rest and rest[1] == named.type and rest[2] != named.id:
        return f"{rest[1]}/{rest[2]}"
    return None


def name_resource(raw: bytes, found: Skim) -> Named:
    """What a resource that stands alone is called."""
    return Named(found.resourceType, found.id if found.id is not None else hashed(found.resourceType, raw))


def hashed(type_: str, raw: bytes) -> str:
    """An id made of the content (white space aside), the same on every run."""
    content = blake2b(msgspec.json.format(raw, indent=-1), digest_size=20, person=b"source-id")
    return str(uuid5(_NAMESPACE, type_ + content.hexdigest()))


def localise(named: Named, fingerprint: bytes) -> Named:
    """Make a content id sure to differ from that of equal content in another Bundle.

    Needed where the content names others by words that mean something only within this Bundle
    (``urn:uuid:patient-1``): equal words in two Bundles may stand for two people.
    """
    return Named(named.type, str(uuid5(_NAMESPACE, named.id + fingerprint.hex()))) if named.local else named


@lru_cache(maxsize=65536)
def renamed(organization: str, type_: str, id_: str) -> str:
    """The id under ``--namespace``: one per organisation, type and source id."""
    return str(uuid5(_NAMESPACE, f"{organization}\0{type_}/{id_}"))


def condition_of(entry: Shape, found: Skim) -> Condition | None:
    """The condition under which the entry creates (`ifNoneExist`) or that it updates by (``PUT Type?…``).

    Raises Refused for any condition but one on `identifier`.
    """
    request = entry.request
    if request is None:
        return None
    text = request.ifNoneExist if request.method == "POST" else request.url.partition("?")[2] or None
    if text is None:
        return None
    query = text.rpartition("?")[2]
    condition = parse_condition(f"{found.resourceType}?{query}")
    if condition is None:
        raise Refused("only conditions of the form identifier=system|value are understood here")
    return condition


def parse_condition(reference: str) -> Condition | None:
    """``Type?identifier=system|value`` understood, percent-encoded or not; None for any other condition."""
    type_, mark, query = reference.partition("?")
    name, equals, token = query.partition("=")
    if not mark or not equals or name != "identifier" or "&" in token or not type_.isalpha():
        return None
    token = unquote(token).strip()
    return Condition(type_, token) if token.strip("|") else None

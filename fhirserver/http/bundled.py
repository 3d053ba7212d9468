"""The entries of a batch or transaction as they were sent, and as they are answered."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from http import HTTPStatus
from typing import Literal

import msgspec

from fhirserver.core.errors import Fault, Issue, Kind
from fhirserver.core.jsontext import UNREADABLE, Malformed, decode

METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """One entry. ``url`` is as sent; ``resource`` the bytes of its resource; ``headers`` what stands for the headers of
    a request (``if-match``, ``if-none-exist``, ``if-none-match``, ``if-modified-since``)."""

    number: int
    full_url: str
    method: str
    url: str
    resource: bytes | None
    headers: dict[str, str]

    @property
    def place(self) -> str:
        return f"Bundle.entry[{self.number}]"

    @property
    def stores(self) -> bytes | None:
        """The resource of a create or update."""
        return self.resource if self.method in ("POST", "PUT") else None


class Parsed(msgspec.Struct, frozen=True):
    """A Bundle to be processed."""

    kind: Literal["batch", "transaction"]
    entries: tuple[Entry, ...]


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one entry; ``resource`` is JSON bytes, an OperationOutcome where ``status`` says so."""

    status: int
    resource: bytes | None = None
    location: str = ""
    etag: str = ""
    modified: str = ""
    noticed: bool = False
    """Whether the prohibition of redisclosure goes with it."""

    def entry(self) -> dict[str, object]:
        """The entry of the response Bundle."""
        response: dict[str, object] = {"status": f"{self.status} {HTTPStatus(self.status).phrase}"}
        for name, value in (("location", self.location), ("etag", self.etag), ("lastModified", self.modified)):
            if value:
                response[name] = value
        if self.resource is None:
            return {"response": response}
        if self.status >= 400:
            return {"response": {**response, "outcome": msgspec.Raw(self.resource)}}
        return {"resource": msgspec.Raw(self.resource), "response": response}


class _Request(msgspec.Struct):
    method: str
    url: str
    if_match: str = msgspec.field(default="", name="ifMatch")
    if_none_exist: str = msgspec.field(default="", name="ifNoneExist")
    if_none_match: str = msgspec.field(default="", name="ifNoneMatch")
    if_modified_since: str = msgspec.field(default="", name="ifModifiedSince")


class _Entry(msgspec.Struct):
    request: _Request
    full_url: str = msgspec.field(default="", name="fullUrl")
    resource: msgspec.Raw = msgspec.Raw(b"")


class _Bundle(msgspec.Struct):
    type: str
    resource_type: str = msgspec.field(name="resourceType")
    entry: list[_Entry] = []


_decode = msgspec.json.Decoder(_Bundle).decode
_NOTHING = b'{"resourceType":"Basic","code":{"text":"x"}}'
_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")


def entries_of(raw: bytes, *, most: int) -> Parsed:
    """The Bundle; Fault BAD_REQUEST for what is no JSON, INVALID naming the element that is none of a Bundle's,
    TOO_LARGE for too many entries."""
    try:
        bundle = _decode(raw)
        if not raw.isascii():
            raw.decode()  # what is skipped above is not looked at
    except UNREADABLE as error:
        raise _unreadable(raw, error) from None
    if bundle.resource_type != "Bundle":
        raise Fault(Kind.BAD_REQUEST, "What is sent here must be a Bundle.", expression="resourceType")
    if bundle.type not in ("batch", "transaction"):
        raise Fault(Kind.BAD_REQUEST, "The Bundle's type must be batch or transaction.", expression="Bundle.type")
    if len(bundle.entry) > most:
        raise Fault(Kind.TOO_LARGE, f"A Bundle may have {most} entries here.", expression="Bundle.entry")
    entries = tuple(_entry(number, entry) for number, entry in enumerate(bundle.entry))
    return Parsed("batch" if bundle.type == "batch" else "transaction", entries)


def _entry(number: int, entry: _Entry) -> Entry:
    request, place = entry.request, f"Bundle.entry[{number}].request"
    if request.method not in METHODS:
        raise Fault(Kind.BAD_REQUEST, f"{request.method[:20]!r} is no method.", expression=f"{place}.method")
    if not request.url:
        raise Fault(Kind.BAD_REQUEST, "The url is missing.", expression=f"{place}.url")
    headers = {
        "if-match": request.if_match,
        "if-none-exist": request.if_none_exist,
        "if-none-match": request.if_none_match,
        "if-modified-since": request.if_modified_since,
    }
    return Entry(
        number=number,
        full_url=entry.full_url,
        method=request.method,
        url=request.url,
        resource=bytes(entry.resource) or None,
        headers={name: value for name, value in headers.items() if value},
    )


def _unreadable(raw: bytes, error: Exception) -> Fault:
    try:
        decode(raw)
    except Malformed as malformed:
        return malformed
    found = _PLACE.search(str(error))
    if isinstance(error, msgspec.ValidationError):
        place = "Bundle" + found["path"].replace("[...]", "") if found else "Bundle"
        return Fault(Kind.INVALID, _PLACE.sub("", str(error)) + ".", expression=place)
    return Fault(Kind.BAD_REQUEST, "The body is not JSON.")


def shell(raw: bytes, entries: Sequence[Entry], *, patches: bool = True) -> bytes:
    """The Bundle's bytes with next to nothing in place of each resource that an entry stores, or, without ``patches``,
    of every resource."""
    pieces: list[bytes] = []
    at = 0
    for entry in entries:
        if entry.resource is not None:
            start = raw.index(entry.resource, at)
            stays = entry.stores is None and patches
            pieces += (raw[at:start], entry.resource if stays else _NOTHING)
            at = start + len(entry.resource)
    return b"".join([*pieces, raw[at:]])


@contextmanager
def fault_of(entry: Entry) -> Iterator[None]:
    """A Fault inside is one of this entry: its issues name it."""
    try:
        yield
    except Fault as fault:
        raise named(fault, entry) from fault


def named(fault: Fault, entry: Entry) -> Fault:
    """The same fault, of this entry."""
    issues = []
    for issue in fault.issues:
        inside = issue.expression.partition(".")[2] if issue.expression[:1].isupper() else issue.expression
        place = f"{entry.place}.resource.{inside}" if inside else entry.place
        if issue.expression.startswith("Bundle.entry["):
            place = issue.expression
        issues.append(Issue(issue.code, issue.diagnostics, place, issue.severity))
    return Fault(fault.kind, f"{entry.place}: {fault.message}", issues=issues)

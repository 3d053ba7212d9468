"""What an operation is asked: a resource and a few primitive parameters, from a query string and a body.

Source: R4 operations §3.2.0.4: a body is a Parameters resource, or, where an operation takes one resource and nothing
else that is not primitive, that resource itself.
"""

from __future__ import annotations

from collections.abc import Collection

import msgspec
from starlette.requests import Request

from fhirserver.core.errors import Fault, Kind
from fhirserver.core.jsontext import UNREADABLE, Malformed, decode
from fhirserver.http.limits import body_of
from fhirserver.http.negotiation import GENERAL, must_be_json
from fhirserver.http.selection import TOLERATED
from fhirserver.http.server import Server, strict


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """``values``: primitive parameters as text. ``resource``: the bytes of the one resource, if one was sent.
    ``elements``: complex parameters as bytes, by name."""

    values: dict[str, str]
    resource: bytes | None = None
    elements: dict[str, bytes] = {}


class _Head(msgspec.Struct):
    resourceType: str  # noqa: N815  the element's name


class _Body(msgspec.Struct):
    parameter: list[dict[str, msgspec.Raw]] = []


_head = msgspec.json.Decoder(_Head).decode
_body = msgspec.json.Decoder(_Body).decode
_plain = msgspec.json.Decoder(str | bool | int | float | None).decode


async def asked(
    request: Request, server: Server, *, names: Collection[str], resource: str = "", elements: Collection[str] = ()
) -> Asked:
    """What the request asks. ``names``: the operation's primitive parameters; ``resource``: the name of the one that
    is a resource; ``elements``: those that are of a complex type.

    Fault BAD_REQUEST, naming the place, for what cannot be understood and for a parameter that is given twice; under
    ``handling=strict`` for an unknown one.
    """
    found = _Found({*names}, resource, {*elements}, strict=strict(request))
    for name, value in request.query_params.multi_items():
        if name not in GENERAL | TOLERATED:
            found.take_text(name, value, name)
    if request.method == "POST":
        must_be_json(request)
        raw = await body_of(request, server)
        if raw.strip():
            found.take_body(raw)
    return Asked(values=found.values, resource=found.content, elements=found.complex)


class _Found:
    def __init__(self, names: set[str], resource: str, elements: set[str], *, strict: bool) -> None:
        self._names = names
        self._resource = resource
        self._elements = elements
        self._strict = strict
        self.values: dict[str, str] = {}
        self.complex: dict[str, bytes] = {}
        self.content: bytes | None = None

    def take_body(self, raw: bytes) -> None:
        _must_parse(raw)
        try:
            type_ = _head(raw).resourceType
            given = _body(raw).parameter if type_ == "Parameters" else []
        except UNREADABLE as error:
            raise Fault(Kind.BAD_REQUEST, "The body is not a resource in JSON.") from error
        known = {self._resource, *self._names, *self._elements}
        if type_ != "Parameters" or (self._resource and not any(_name(item) in known for item in given)):
            if not self._resource:
                raise Fault(Kind.BAD_REQUEST, "The body must be a Parameters resource.", expression="resourceType")
            self.content = raw
            return
        for at, item in enumerate(given):
            self._take(item, f"Parameters.parameter[{at}]")

    def _take(self, item: dict[str, msgspec.Raw], place: str) -> None:
        name = _name(item)
        if not name:
            raise Fault(Kind.BAD_REQUEST, "A parameter needs a name.", expression=place)
        if name and name == self._resource:
            if "resource" not in item or self.content is not None:
                raise Fault(Kind.BAD_REQUEST, f"{name} must be one resource.", expression=place)
            self.content = bytes(item["resource"])
            return
        values = [bytes(value) for key, value in item.items() if key.startswith("value")]
        if name not in self._names | self._elements:
            self._unknown(name, place)
        elif len(values) != 1:
            raise Fault(Kind.BAD_REQUEST, f"{name} needs one value.", expression=place)
        elif name in self._elements:
            if name in self.complex:
                raise Fault(Kind.BAD_REQUEST, f"{name} is given more than once.", expression=place)
            self.complex[name] = values[0]
        else:
            try:
                value = _plain(values[0])
            except UNREADABLE as error:
                raise Fault(Kind.BAD_REQUEST, f"{name} needs a primitive value.", expression=place) from error
            self.take_text(name, str(value), place)

    def take_text(self, name: str, value: str, place: str) -> None:
        if name not in self._names:
            self._unknown(name, place)
        elif name in self.values:
            raise Fault(Kind.BAD_REQUEST, f"{name} is given more than once.", expression=place)
        else:
            self.values[name] = value

    def _unknown(self, name: str, place: str) -> None:
        if self._strict:
            told = f"Unknown parameter {name[:64]!r} (Prefer: handling=strict)."
            raise Fault(Kind.BAD_REQUEST, told, expression=place[:64])


def _must_parse(raw: bytes) -> None:
    """Fault BAD_REQUEST, with line and column, for what is no JSON; a number that nothing can hold is for the operation
    to tell."""
    try:
        decode(raw)
    except Malformed as malformed:
        if malformed.kind is Kind.BAD_REQUEST:
            raise


def _name(item: dict[str, msgspec.Raw]) -> str:
    try:
        value = msgspec.json.decode(item["name"])
    except (KeyError, *UNREADABLE):
        return ""
    return value if isinstance(value, str) else ""

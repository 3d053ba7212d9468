"""What a client asks for by headers and general parameters: media types, versions of FHIR, preferences.

Source: R4 http, "Managing Return Content" (Prefer), "Content Types and encodings", "FHIR Version Parameter", "General
parameters" (`_format`, `_pretty`); RFC 9110 §12.5.1 (Accept), RFC 7240 (Prefer).
"""

from __future__ import annotations

from collections.abc import Collection
from functools import lru_cache
from typing import Literal

import msgspec
from starlette.requests import Request

from fhirserver.core.errors import Fault, Kind

FHIR_JSON = "application/fhir+json"
NDJSON = "application/fhir+ndjson"
GENERIC = ("application/json", "text/json")
"""Names that a client may use for FHIR JSON, and gets back when it did."""

GENERAL = frozenset({"_format", "_pretty", "_summary", "_elements"})
"""The parameters that R4 defines for every interaction: how to answer, never what to look for."""

HEAD_ONLY = "fhirserver.head"
"""Key of the ASGI scope: a handler makes the answer to GET, and only its head will be sent."""

READABLE = frozenset({FHIR_JSON, *GENERIC, "application/json+fhir"})
"""Media types of FHIR JSON in a request's body; the last one is its name of before 2017."""

_JSON_NAMES = {FHIR_JSON: FHIR_JSON, "json": FHIR_JSON, "application/json+fhir": FHIR_JSON} | {n: n for n in GENERIC}
_WILD = frozenset({"*/*", "application/*", "*"})
_NDJSON_NAMES = frozenset({NDJSON, "application/ndjson", "application/x-ndjson", "ndjson"})
_VERSIONS = frozenset({"4.0", "4.0.0", "4.0.1"})
_RETURNS: dict[str, Literal["minimal", "representation", "OperationOutcome"]] = {
    "minimal": "minimal",
    "representation": "representation",
    "operationoutcome": "OperationOutcome",
}


class Preferences(msgspec.Struct, frozen=True):
    """The Prefer header: ``handling=strict``, and the ``return`` that was asked for (None: none of the three)."""

    strict: bool = False
    returned: Literal["minimal", "representation", "OperationOutcome"] | None = None


def prefer(request: Request) -> Preferences:
    """The preferences of a request; of one that is given twice the first counts, what is unknown is left alone."""
    given: dict[str, str] = {}
    for item in ",".join(request.headers.getlist("prefer")).split(","):
        name, _, value = item.partition(";")[0].partition("=")
        given.setdefault(name.strip().lower(), value.strip().strip('"').lower())
    return Preferences(given.get("handling") == "strict", _RETURNS.get(given.get("return", "")))


def pretty(request: Request) -> bool:
    """Whether `_pretty` asks for indented JSON; Fault BAD_REQUEST for a value that is neither true nor false."""
    if b"_pretty" not in request.scope["query_string"]:  # nearly always: nothing else need be parsed
        return False
    value = request.query_params.get("_pretty", "false").strip().lower()
    if value not in ("true", "false"):
        raise Fault(Kind.BAD_REQUEST, "_pretty must be true or false.", expression="_pretty")
    return value == "true"


def content_type(request: Request, format_: str | None = None, *, ndjson: bool = False) -> str:
    """The media type of the answer, from `_format` or Accept; 406 where neither JSON (nor NDJSON) will do.

    A client that asks for plain ``application/json`` gets that name back (R4 http §3.1.0.1.9), and one that names the
    version of FHIR gets the version back.
    """
    # In a query string a bare "+" arrives as a blank.
    given = format_.strip().replace(" ", "+") if format_ else ",".join(request.headers.getlist("accept"))
    found = _offered(given, single=bool(format_), ndjson=ndjson)
    if found is None:
        told = f"This server answers {FHIR_JSON}" + (f" and {NDJSON}." if ndjson else ".")
        raise Fault(Kind.NOT_ACCEPTABLE, told + " XML and other versions of FHIR than 4.0 are not served.")
    return found


@lru_cache(maxsize=256)
def _offered(given: str, *, single: bool, ndjson: bool) -> str | None:
    """What is answered to an Accept header, or to a ``single`` media type; None where nothing will do."""
    ranges = [given] if single else [item for item in given.split(",") if item.strip()] or ["*/*"]
    weighted = [(_weight(item), item) for item in ranges]
    refused = {_name(item) for weight, item in weighted if weight <= 0}
    for _, item in sorted((pair for pair in weighted if pair[0] > 0), key=lambda pair: -pair[0]):
        found = _answer(item, refused, ndjson=ndjson)
        if found is not None:
            return found
    return None


def preferred(request: Request, first: Collection[str]) -> list[str]:
    """The media types of Accept without the refused: the most wanted first, of equals those of ``first``."""
    items = [item for item in ",".join(request.headers.getlist("accept")).split(",") if item.strip()]
    kept = [(weight, _name(item)) for item in items if (weight := _weight(item)) > 0]
    return [name for _, name in sorted(kept, key=lambda pair: (-pair[0], pair[1] not in first))]


def _answer(item: str, refused: Collection[str], *, ndjson: bool) -> str | None:
    name, parameters = _name(item), _parameters(item)
    version = parameters.get("fhirversion")
    if version is not None and version not in _VERSIONS:
        return None
    if ndjson and name in _NDJSON_NAMES:
        return NDJSON
    if name in _WILD:
        return next((offer for offer in (FHIR_JSON, *GENERIC) if offer not in refused), None)
    found = _JSON_NAMES.get(name)
    return f"{found}; fhirVersion=4.0" if found == FHIR_JSON and version is not None else found


def _name(item: str) -> str:
    return item.partition(";")[0].strip().lower()


def _parameters(item: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in item.split(";")[1:])
    return {name.strip().lower(): value.strip().strip('"') for name, _, value in pairs}


def _weight(item: str) -> float:
    try:
        return float(_parameters(item).get("q", "1"))
    except ValueError:
        return 0.0


def sent_type(request: Request) -> str:
    """The media type of the request's body in small letters without parameters, empty where none is given.

    Fault UNSUPPORTED_MEDIA for another version of FHIR or another character set than UTF-8: FHIR knows no other.
    """
    given = request.headers.get("content-type", "")
    parameters = _parameters(given)
    if parameters.get("charset", "utf-8").lower() not in ("utf-8", "utf8", "us-ascii"):
        raise Fault(Kind.UNSUPPORTED_MEDIA, "FHIR is sent in UTF-8; this body says that it is in another charset.")
    if parameters.get("fhirversion", "4.0") not in _VERSIONS:
        raise Fault(Kind.UNSUPPORTED_MEDIA, "This server reads FHIR 4.0; this body says that it is another version.")
    return _name(given)


def must_be_json(request: Request, *, missing: bool = True) -> None:
    """Fault UNSUPPORTED_MEDIA for a body that is not FHIR JSON; ``missing``: one without a type is taken for it."""
    name = sent_type(request)
    if name not in READABLE and not (missing and not name):
        raise Fault(Kind.UNSUPPORTED_MEDIA, f"This server reads {FHIR_JSON} here.")

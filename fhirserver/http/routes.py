"""The route table: every path the server answers, as data that tests can loop over.

A row is (methods, path, interaction, handler, public). Public rows need no bearer token (those below ``/oauth`` ask for
a client's proof themselves); every other handler asks the gate before anything else. In a path, ``{type}`` is any
resource type, ``{type=A|B}`` one of these, any other ``{name}`` one path segment. A row with ``only`` answers where
that is true of the path parameters, and there no other row does.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fhirserver.core.definitions import RESOURCE_TYPES
from fhirserver.http.binary import create_binary, read_binary, update_binary
from fhirserver.http.create import create
from fhirserver.http.definitions import definition, is_ours
from fhirserver.http.delete import delete, delete_conditional
from fhirserver.http.discovery import JWKS, SMART, jwks, smart_configuration
from fhirserver.http.docref import docref
from fhirserver.http.everything import everything, everything_encounter, everything_group, everything_type
from fhirserver.http.health import live, ready
from fhirserver.http.history import history_instance, history_system, history_type
from fhirserver.http.meta import meta_add, meta_delete, meta_instance, meta_summary
from fhirserver.http.metadata import metadata
from fhirserver.http.oauth import INTROSPECT, REVOKE, TOKEN, introspect, revoke, token
from fhirserver.http.patch import patch, patch_conditional
from fhirserver.http.read import read
from fhirserver.http.search import search_compartment, search_system, search_type
from fhirserver.http.server import FHIR_BASE, Handler
from fhirserver.http.transaction import transaction
from fhirserver.http.update import update, update_conditional
from fhirserver.http.validate import validate_instance, validate_type

_TYPED = re.compile(re.escape(FHIR_BASE) + r"/(?:\{type(?:=(?P<choice>[\w|]+))?\}|(?P<literal>[A-Z]\w+))(?P<rest>/.*)?")


class Row(NamedTuple):
    """One row of the route table."""

    methods: tuple[str, ...]
    path: str
    interaction: str
    handler: Handler
    public: bool = False
    only: Callable[[Mapping[str, str]], bool] | None = None

    def pattern(self) -> re.Pattern[str]:
        """The path as a regular expression whose groups are the path parameters."""
        parts = re.split(r"\{(\w+)(?:=([\w|]+))?\}", self.path)
        text = re.escape(parts[0])
        for name, choice, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            # A segment that begins with "$" or "_" is an operation or a history and never an id.
            text += f"(?P<{name}>{choice or '[^/$_][^/]*'})" + re.escape(literal)
        return re.compile(text + "/?")

    def types(self) -> frozenset[str]:
        """The resource types of the path; none where it is about the whole system, or about no FHIR."""
        found = _TYPED.fullmatch(self.path)
        if found is None:
            return frozenset()
        if found["literal"]:
            return frozenset({found["literal"]}) & RESOURCE_TYPES
        return frozenset(found["choice"].split("|")) if found["choice"] else RESOURCE_TYPES

    def level(self) -> str:
        """What the path names: the ``system``, a ``type`` or an ``instance``."""
        found = _TYPED.fullmatch(self.path)
        if found is None or not self.types():
            return "system"
        return "instance" if (found["rest"] or "").startswith("/{id}") else "type"


ROUTES: tuple[Row, ...] = (
    Row(("GET",), "/health/live", "health", live, public=True),
    Row(("GET",), "/health/ready", "health", ready, public=True),
    Row(("GET",), SMART, "discovery", smart_configuration, public=True),
    Row(("GET",), FHIR_BASE + SMART, "discovery", smart_configuration, public=True),
    Row(("GET",), JWKS, "discovery", jwks, public=True),
    Row(("POST",), TOKEN, "token", token, public=True),
    Row(("POST",), INTROSPECT, "introspect", introspect, public=True),
    Row(("POST",), REVOKE, "revoke", revoke, public=True),
    Row(("GET",), f"{FHIR_BASE}/metadata", "capabilities", metadata, public=True),
    Row(
        ("GET",),
        FHIR_BASE + "/{type=OperationDefinition|SearchParameter}/{id}",
        "capabilities",
        definition,
        public=True,
        only=is_ours,
    ),
    Row(("GET", "POST"), FHIR_BASE + "/{type=Person|Patient}/{id}/$everything", "$everything", everything),
    Row(("GET", "POST"), FHIR_BASE + "/{type=Group}/{id}/$everything", "$everything", everything_group),
    Row(("GET", "POST"), FHIR_BASE + "/{type=Encounter}/{id}/$everything", "$everything", everything_encounter),
    Row(("GET", "POST"), FHIR_BASE + "/{type=Person|Patient}/$everything", "$everything", everything_type),
    Row(("GET", "POST"), FHIR_BASE + "/{type=DocumentReference}/$docref", "$docref", docref),
    Row(("POST",), FHIR_BASE + "/{type}/$validate", "$validate", validate_type),
    Row(("GET", "POST"), FHIR_BASE + "/{type}/{id}/$validate", "$validate", validate_instance),
    Row(("GET", "POST"), FHIR_BASE + "/$meta", "$meta", meta_summary),
    Row(("GET", "POST"), FHIR_BASE + "/{type}/$meta", "$meta", meta_summary),
    Row(("GET", "POST"), FHIR_BASE + "/{type}/{id}/$meta", "$meta", meta_instance),
    Row(("GET", "POST"), FHIR_BASE + "/{type}/{id}/_history/{version}/$meta", "$meta", meta_instance),
    Row(("POST",), FHIR_BASE + "/{type}/{id}/$meta-add", "$meta-add", meta_add),
    Row(("POST",), FHIR_BASE + "/{type}/{id}/$meta-delete", "$meta-delete", meta_delete),
    Row(("GET",), FHIR_BASE + "/{type=Binary}/{id}/_history/{version}", "vread", read_binary),
    Row(("GET",), FHIR_BASE + "/{type=Binary}/{id}", "read", read_binary),
    Row(("PUT",), FHIR_BASE + "/{type=Binary}/{id}", "update", update_binary),
    Row(("POST",), FHIR_BASE + "/{type=Binary}", "create", create_binary),
    Row(("GET",), FHIR_BASE + "/{type}/{id}/_history/{version}", "vread", read),
    Row(("GET",), FHIR_BASE + "/{type}/{id}/_history", "history-instance", history_instance),
    Row(("GET",), FHIR_BASE + "/{type}/_history", "history-type", history_type),
    Row(("GET",), FHIR_BASE + "/_history", "history-system", history_system),
    Row(("GET",), FHIR_BASE + "/{type=Patient}/{id}/{member}", "search-type", search_compartment),
    Row(("GET", "POST"), FHIR_BASE + "/{type=Patient}/{id}/{member}/_search", "search-type", search_compartment),
    Row(("GET",), FHIR_BASE + "/{type}/{id}", "read", read),
    Row(("PUT",), FHIR_BASE + "/{type}/{id}", "update", update),
    Row(("PATCH",), FHIR_BASE + "/{type}/{id}", "patch", patch),
    Row(("DELETE",), FHIR_BASE + "/{type}/{id}", "delete", delete),
    Row(("GET",), FHIR_BASE + "/{type}", "search-type", search_type),
    Row(("GET", "POST"), FHIR_BASE + "/{type}/_search", "search-type", search_type),
    Row(("GET",), FHIR_BASE, "search-system", search_system),
    Row(("GET", "POST"), FHIR_BASE + "/_search", "search-system", search_system),
    Row(("POST",), FHIR_BASE + "/{type}", "create", create),
    Row(("PUT",), FHIR_BASE + "/{type}", "update", update_conditional),
    Row(("PATCH",), FHIR_BASE + "/{type}", "patch", patch_conditional),
    Row(("DELETE",), FHIR_BASE + "/{type}", "delete", delete_conditional),
    Row(("POST",), FHIR_BASE, "transaction", transaction),
)

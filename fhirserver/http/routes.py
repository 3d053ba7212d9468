"""The route table: every path the server answers, as data that tests can loop over.

A row is (methods, path, interaction, handler, public). Public rows need no token; every other handler asks the gate
before anything else. In a path, ``{type}`` is any resource type, ``{type=A|B}`` one of these, any other ``{name}``
one path segment.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from fhirserver.http.everything import everything
from fhirserver.http.health import live, ready
from fhirserver.http.metadata import metadata, person_everything_definition
from fhirserver.http.read import read
from fhirserver.http.search import search_type
from fhirserver.http.server import FHIR_BASE, Handler


class Row(NamedTuple):
    """One row of the route table."""

    methods: tuple[str, ...]
    path: str
    interaction: str
    handler: Handler
    public: bool = False

    def pattern(self) -> re.Pattern[str]:
        """The path as a regular expression whose groups are the path parameters."""
        parts = re.split(r"\{(\w+)(?:=([\w|]+))?\}", self.path)
        text = re.escape(parts[0])
        for name, choice, literal in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
            text += f"(?P<{name}>{choice or '[^/]+'})" + re.escape(literal)
        return re.compile(text + "/?")


ROUTES: tuple[Row, ...] = (
    Row(("GET",), "/health/live", "health", live, public=True),
    Row(("GET",), "/health/ready", "health", ready, public=True),
    Row(("GET",), f"{FHIR_BASE}/metadata", "capabilities", metadata, public=True),
    Row(
        ("GET",),
        f"{FHIR_BASE}/OperationDefinition/Person-everything",
        "capabilities",
        person_everything_definition,
        public=True,
    ),
    Row(("GET", "POST"), FHIR_BASE + "/{type=Person|Patient}/{id}/$everything", "$everything", everything),
    Row(("GET",), FHIR_BASE + "/{type}/{id}/_history/{version}", "vread", read),
    Row(("GET",), FHIR_BASE + "/{type}/{id}", "read", read),
    Row(("GET",), FHIR_BASE + "/{type}", "search-type", search_type),
)

"""capabilities: what this server can do.

``GET [base]/metadata``, with ``mode=full|normative|terminology``. Source: R4 http §3.1.0.14.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.types import ASGIApp

from fhirserver.core.errors import Fault, Kind
from fhirserver.http.capabilities import Options, statement, terminology
from fhirserver.http.definitions import told
from fhirserver.http.respond import content_type
from fhirserver.http.server import Server
from fhirserver.http.subset import asked

MODES = ("full", "normative", "terminology")


async def metadata(request: Request, server: Server) -> ASGIApp:
    """The CapabilityStatement (or TerminologyCapabilities); its ETag changes with the content."""
    media_type = content_type(request, request.query_params.get("_format"))
    cut = asked(request)
    mode = request.query_params.get("mode", "full")
    if mode not in MODES:
        raise Fault(Kind.BAD_REQUEST, f"mode must be one of {', '.join(MODES)}.", expression="mode")
    base = server.fhir_base(request)
    if mode == "terminology":
        body = terminology(base)
    else:
        options = Options(
            cors=bool(server.cors_origins),
            conditional_delete=server.conditional_delete,
            referential_integrity=server.referential_integrity,
        )
        body = statement(base, request.app.routes, options, normative=mode == "normative")
    return told(request, cut(body) if cut else body, media_type)

"""CORS: which web pages may call this server from a browser. None, unless `cors_origins` names them.

Source: Fetch standard §3.2 (CORS protocol); R4 http §3.1.0.1.2. Tokens travel in the Authorization header, so no
answer ever allows credentials (cookies), and `*` opens nothing that the caller's own token does not.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

_SENT = (
    "Accept, Accept-Encoding, Authorization, Content-Encoding, Content-Type, If-Match, If-Modified-Since, "
    "If-None-Exist, If-None-Match, Prefer, X-Correlation-Id, X-Request-Id, X-Security-Context"
)
"""What a page may send beside the few headers that it always may."""

_SHOWN = (
    "Accept-Patch, Allow, Content-Disposition, Content-Location, ETag, Last-Modified, Link, Location, "
    "RateLimit-Limit, RateLimit-Remaining, RateLimit-Reset, Retry-After, "
    "WWW-Authenticate, X-Correlation-Id, X-Request-Id, X-Security-Context"
)
"""What a page may read beside the few headers that it always may."""

MAX_AGE = 600
"""Seconds a browser may remember what a preflight said."""


def headers(origin: str | None, allowed: Collection[str]) -> dict[str, str]:
    """What goes on every answer to a page of this origin; nothing where it is not allowed."""
    if not allowed:
        return {}
    if "*" in allowed:
        return {"Access-Control-Allow-Origin": "*", "Access-Control-Expose-Headers": _SHOWN} if origin else {}
    if origin is None or origin.lower() not in allowed:
        return {"Vary": "Origin"}
    return {"Access-Control-Allow-Origin": origin, "Access-Control-Expose-Headers": _SHOWN, "Vary": "Origin"}


def preflight(request: Mapping[str, str], methods: Iterable[str], allowed: Collection[str]) -> dict[str, str]:
    """What goes on the answer to OPTIONS besides: empty unless it is a preflight of an allowed origin."""
    origin = request.get("origin", "").lower()
    if "access-control-request-method" not in request or not ("*" in allowed or origin in allowed) or not origin:
        return {}
    return {
        "Access-Control-Allow-Methods": ", ".join(methods),
        "Access-Control-Allow-Headers": _SENT,
        "Access-Control-Max-Age": str(MAX_AGE),
    }

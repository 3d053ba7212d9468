"""Every way a request can fail, and the one table that turns a kind into HTTP status and FHIR issue code.

Fault                   any failure that a caller may be told of
├── Invalid             the content breaks FHIR's rules, or cannot be parsed; carries every issue with its path
├── Conflict            another writer was first (version race, guard, a key of another custodian)
└── Unavailable         the store cannot be reached or has failed
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import msgspec


class Kind(Enum):
    """What went wrong, in the terms of the FHIR REST API."""

    BAD_REQUEST = "bad-request"
    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not-found"
    GONE = "gone"
    EXPIRED = "expired"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    NOT_ACCEPTABLE = "not-acceptable"
    UNSUPPORTED_MEDIA = "unsupported-media"
    CONFLICT = "conflict"
    PRECONDITION_FAILED = "precondition-failed"
    TIMEOUT = "timeout"
    TOO_LARGE = "too-large"
    THROTTLED = "throttled"
    INTERNAL = "internal"
    UNAVAILABLE = "unavailable"


STATUS: dict[Kind, tuple[int, str]] = {
    Kind.BAD_REQUEST: (400, "invalid"),
    Kind.INVALID: (422, "invalid"),
    Kind.UNAUTHENTICATED: (401, "login"),
    Kind.FORBIDDEN: (403, "forbidden"),
    Kind.NOT_FOUND: (404, "not-found"),
    Kind.GONE: (410, "deleted"),
    Kind.EXPIRED: (410, "expired"),
    Kind.METHOD_NOT_ALLOWED: (405, "not-supported"),
    Kind.NOT_ACCEPTABLE: (406, "not-supported"),
    Kind.UNSUPPORTED_MEDIA: (415, "not-supported"),
    Kind.CONFLICT: (409, "conflict"),
    Kind.PRECONDITION_FAILED: (412, "conflict"),
    Kind.TIMEOUT: (408, "timeout"),
    Kind.TOO_LARGE: (413, "too-long"),
    Kind.THROTTLED: (429, "throttled"),
    Kind.INTERNAL: (500, "exception"),
    Kind.UNAVAILABLE: (503, "transient"),
}
"""kind -> (HTTP status, `OperationOutcome.issue.code`); nothing else maps a failure to HTTP."""


class Issue(msgspec.Struct, frozen=True):
    """One `OperationOutcome.issue`: R4 issue-type code, text for people, FHIRPath of the element (or empty)."""

    code: str
    diagnostics: str
    expression: str = ""
    severity: str = "error"


class Fault(Exception):
    """A failure a caller may be told of; ``message`` never holds a secret, an MRN or a birth date."""

    def __init__(self, kind: Kind, message: str, *, expression: str = "", issues: Sequence[Issue] = ()) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.issues: tuple[Issue, ...] = tuple(issues) or (Issue(STATUS[kind][1], message, expression),)

    @property
    def status(self) -> int:
        return STATUS[self.kind][0]


class Invalid(Fault):
    """The content breaks FHIR's rules; ``issues`` lists all of them.

    Its kind is INVALID, BAD_REQUEST for what cannot even be parsed (R4 http §3.1.0.8: 422 and 400), or TOO_LARGE.
    """

    def __init__(self, issues: Sequence[Issue], kind: Kind = Kind.INVALID) -> None:
        more = f" (and {len(issues) - 1} more)" if len(issues) > 1 else ""
        first = issues[0]
        place = f"{first.expression}: " if first.expression else ""
        super().__init__(kind, f"{place}{first.diagnostics}{more}", issues=issues)


class Conflict(Fault):
    """Another writer was first; nothing of this commit was stored."""

    def __init__(self, message: str, kind: Kind = Kind.CONFLICT) -> None:
        super().__init__(kind, message)


class Unavailable(Fault):
    """The store cannot be reached or has failed; the request may be repeated."""

    def __init__(self, message: str = "The store is not available; try again.") -> None:
        super().__init__(Kind.UNAVAILABLE, message)

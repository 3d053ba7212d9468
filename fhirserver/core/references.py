"""The forms a `Reference.reference` may have, and the type of resource each one points to.

Source: https://hl7.org/fhir/R4/references.html#literal. Conditional references (``Patient?identifier=…``) are
among them because transactions, and files written for them, carry them until they are resolved.
"""

from __future__ import annotations

import re

from fhirserver.core import definitions
from fhirserver.core.lexical import uri_problem

LOCAL = "#"
"""What `target` answers for a reference to a contained resource (or, as ``#`` alone, to the container)."""

_REST = re.compile(r"([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?(?:#\S*)?").fullmatch
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*:").match
_ABSOLUTE_REST = re.compile(
    r"https?://[^\s?#]+/([A-Z][A-Za-z]+)/[A-Za-z0-9\-.]{1,64}(?:/_history/[A-Za-z0-9\-.]{1,64})?"
).fullmatch
_CONDITIONAL = re.compile(
    r"([A-Z][A-Za-z]+)\?[A-Za-z_][\w.:\-]*=[^\s&#]+(?:&[A-Za-z_][\w.:\-]*=[^\s&#]+)*", re.ASCII
).fullmatch


def target(reference: str) -> str:
    """The resource type a reference points to, `LOCAL`, or nothing when its form does not tell.

    Raises ValueError with a reason (that does not quote the reference) when it has none of the allowed forms.
    """
    if reference.startswith("#"):
        return LOCAL
    known = definitions.RESOURCE_TYPES
    match = _REST(reference) or _CONDITIONAL(reference)
    if match is not None:
        if match[1] not in known:
            raise ValueError("names a type that is no R4 resource")
        return match[1]
    if problem := uri_problem(reference):
        raise ValueError(problem)
    if not _ABSOLUTE(reference):
        raise ValueError("must be Type/id, an absolute URL, or #id of a contained resource")
    match = _ABSOLUTE_REST(reference)
    return match[1] if match is not None and match[1] in known else ""

"""The Bundle of a search: matches, what is included with them, and what has to be said about the answer.

Source: R4 search §3.1.1.4.17 (search.mode), bundle (searchset).
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from fhirserver.core.bundle import Shape
from fhirserver.core.model import Record
from fhirserver.http.included import MOST, Included


class Entries:
    """What stands in the Bundle so far: ``sent`` resources."""

    def __init__(self, included: Included) -> None:
        self.sent = 0
        self._included = included

    def mode(self, record: Record) -> bytes:
        return b"include" if record.key in self._included.keys else b"match"

    def outcome(self) -> bytes:
        """The entry with what has to be said; empty where there is nothing."""
        if not self._included.incomplete:
            return b""
        told = f"More than {MOST} resources go along with this page; the rest is left out. Ask for a smaller page."
        issue = {"severity": "warning", "code": "incomplete", "diagnostics": told}
        resource = {"resourceType": "OperationOutcome", "issue": [issue]}
        return msgspec.json.encode({"resource": resource, "search": {"mode": "outcome"}})


def shape(base: str, head: bytes, entries: Entries, tail: Callable[[], bytes]) -> Shape:
    """A Bundle whose members before the entries are ``head`` (without the closing brace) and after them ``tail()``."""
    begun = f'{{"fullUrl":"{base}'.encode()

    def before(record: Record) -> bytes:
        place = f"{record.type}/{record.id}".encode()
        return b'%b%b","search":{"mode":"%b"},"resource":' % (begun, place, entries.mode(record))

    def closing(empty: bool) -> bytes:
        told = entries.outcome()
        if empty:  # R4 forbids an empty array
            return head + (b',"entry":[%b]' % told if told else b"") + tail() + b"}"
        return (b"," + told if told else b"") + b"]" + tail() + b"}"

    return Shape(opening=head + b',"entry":[', before=before, after=b"}", between=b",", closing=closing)

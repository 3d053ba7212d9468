"""The raw content of a Binary, to and from the pieces of its JSON, so that neither form is ever held whole.

Source: R4 binary §2.35.5 (`data` is base64, RFC 4648) and json §2.6.2 (strings may hold escapes).
"""

from __future__ import annotations

import re
from binascii import a2b_base64, b2a_base64

import msgspec

_TOKEN = re.compile(rb'[^"\[\]{}]*("[^"\\]*(?:\\.[^"\\]*)*"(?=[:,}\]]):?|[\[\]{}])', re.DOTALL).match
"""The next name, string or bracket of minified JSON, if it is there to its end and one byte further."""

_UNFINISHED = re.compile(rb"(?:\\(?:u[0-9a-fA-F]{0,3})?|[\x80-\xff]+)\Z").search
"""What the next piece may belong to: an escape, a character of several bytes."""

_decode = msgspec.json.Decoder(str).decode


class _Reference(msgspec.Struct):
    reference: str = ""


class Described(msgspec.Struct):
    """What a Binary says of its content."""

    contentType: str  # noqa: N815  the element's name
    securityContext: _Reference | None = None  # noqa: N815

    @property
    def context(self) -> str:
        """The literal reference of `securityContext`; empty where there is none."""
        return self.securityContext.reference if self.securityContext else ""


_describe = msgspec.json.Decoder(Described).decode


class Content:
    """Takes a stored Binary's JSON apart, piece by piece: `feed` gives the decoded bytes of its `data`, and what stands
    around it is kept for `described`.

    The JSON must be minified and valid, as everything is that a store gives.
    """

    def __init__(self) -> None:
        self._frame = bytearray()
        self._at = 0
        self._depth = 0
        self._inside = False
        self._found = False
        self._escaped = b""
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        """The content that has become known with this piece; perhaps none."""
        if self._inside:
            return self._take(piece)
        self._frame += piece
        if self._found or not self._reach():
            return b""
        begun = bytes(self._frame[self._at :])
        del self._frame[self._at :]
        self._found = self._inside = True
        return self._take(begun)

    def described(self) -> Described:
        """What the Binary says of its content, once its whole JSON has been fed."""
        return _describe(bytes(self._frame))

    def _reach(self) -> bool:
        """Whether the frame now holds the beginning of `data`; ``_at`` is behind its quotation mark then."""
        while token := _TOKEN(self._frame, self._at):
            text = token[1]
            if text in b"[{":
                self._depth += 1
            elif text in b"]}":
                self._depth -= 1
            elif self._depth == 1 and text == b'"data":':
                if token.end() == len(self._frame):
                    return False  # the quotation mark comes with the next piece
                self._at = token.end() + 1
                return True
            self._at = token.end()
        return False

    def _take(self, piece: bytes) -> bytes:
        text, mark, behind = piece.partition(b'"')
        if mark:
            self._inside = False
            self._frame += mark + behind
        text = self._escaped + text
        if b"\\" in text or b" " in text or not text.isascii():
            unfinished = None if mark else _UNFINISHED(text)
            at = unfinished.start() if unfinished else len(text)
            text, self._escaped = text[:at], text[at:]
            text = "".join(_decode(b'"%b"' % text).split()).encode()
        else:
            self._escaped = b""
        text = self._rest + text if self._rest else text
        whole = len(text) & ~3
        self._rest = text[whole:]
        return a2b_base64(memoryview(text)[:whole])


class Encoder:
    """Raw bytes into base64, piece by piece."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, piece: bytes) -> bytes:
        """The base64 text that has become known with this piece."""
        data = self._rest + piece if self._rest else piece
        whole = len(data) - len(data) % 3
        self._rest = data[whole:]
        return b2a_base64(memoryview(data)[:whole], newline=False)

    def end(self) -> bytes:
        """The last of the text, with its padding."""
        rest, self._rest = self._rest, b""
        return b2a_base64(rest, newline=False)

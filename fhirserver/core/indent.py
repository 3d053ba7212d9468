"""`_pretty`: JSON indented for people, whole or while it streams; every number and string as it was written."""

from __future__ import annotations

import re

import msgspec

STEP = b"  "
_TOKEN = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"|[{}\[\],:]|[^\s"{}\[\],:]+|"', re.DOTALL)
_INSIDE = re.compile(rb'[^"\\]*(?:\\.[^"\\]*)*', re.DOTALL)


def indent(raw: bytes) -> bytes:
    """A whole JSON text, indented."""
    return msgspec.json.format(raw, indent=len(STEP))


class Indenter:
    """The same for a text that comes in pieces, cut anywhere."""

    def __init__(self) -> None:
        self._depth = 0
        self._opened = False  # an object or array has begun, and it is not known yet whether it is empty
        self._inside = False  # the last piece ended within a string
        self._held = b""  # a backslash whose partner is in the next piece

    def feed(self, piece: bytes) -> bytes:
        """What this piece becomes; little or nothing is kept back."""
        piece, self._held = self._held + piece, b""
        out: list[bytes] = []
        at = 0
        if self._inside:
            at = self._string(piece, 0, out)
        while at < len(piece) and not self._inside:
            token = _TOKEN.search(piece, at)
            if token is None:
                break
            text, at = token[0], token.end()
            if text == b'"':
                self._value(out)
                out.append(text)
                self._inside = True
                at = self._string(piece, at, out)
            else:
                self._write(text, out)
        return b"".join(out)

    def _string(self, piece: bytes, at: int, out: list[bytes]) -> int:
        """The rest of a string that is in this piece; where it ends."""
        found = _INSIDE.match(piece, at)
        if found is not None:  # always: it matches nothing, too
            out.append(found[0])
            at = found.end()
        if piece[at : at + 1] == b'"':
            out.append(b'"')
            self._inside = False
            return at + 1
        self._held = piece[at:]
        return len(piece)

    def _write(self, text: bytes, out: list[bytes]) -> None:
        if text in (b"}", b"]"):
            self._depth -= 1
            out.append(text if self._opened else b"\n" + STEP * self._depth + text)
            self._opened = False
        elif text == b",":
            out.append(b",\n" + STEP * self._depth)
        elif text == b":":
            out.append(b": ")
        else:
            self._value(out)
            out.append(text)
            if text in (b"{", b"["):
                self._depth += 1
                self._opened = True

    def _value(self, out: list[bytes]) -> None:
        if self._opened:
            out.append(b"\n" + STEP * self._depth)
            self._opened = False

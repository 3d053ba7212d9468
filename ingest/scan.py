"""Find the values of a JSON text piece by piece, without ever holding more of it than the value at hand.

`Window` slides over a byte stream. It finds where objects, arrays and strings end by regular expressions that
step over whole strings and small objects at a time (about 150-230 MB/s), and leaves the question whether what
stands between is JSON to msgspec, which validates a slice about ten times faster; where the end of an element
can be guessed, that check alone is enough. `members` and `elements` walk
an object and one of its arrays on top of that. Everything here is bytes in, bytes out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

CHUNK = 256 * 1024
"""Bytes read at a time; more only while a single value is larger than that."""
LONGEST = 128 * 1024 * 1024
"""The largest single resource, in bytes, that is taken into memory (a 64 MB Binary in base64 fits)."""

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
_TEXT = rb'[^{}"]*+(?:' + _STRING + rb'[^{}"]*+)*+'
_LEAF = rb"\{" + _TEXT + rb"(?:\{" + _TEXT + rb"\}" + _TEXT + rb")*+\}"
_IN_OBJECT = re.compile(_TEXT + rb"(?:" + _LEAF + _TEXT + rb")*+", re.DOTALL).match
_IN_ARRAY = re.compile(rb'[^\[\]"]*+(?:' + _STRING + rb'[^\[\]"]*+)*+', re.DOTALL).match
_WHOLE_STRING = re.compile(_STRING, re.DOTALL).match
_BLANK = re.compile(rb"[ \t\r\n]*+").match
_SCALAR = re.compile(rb'[^\s,\]}:"]*+').match
_RAW = msgspec.json.Decoder(msgspec.Raw).decode

UNDECODABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What msgspec raises for text that is not JSON, not UTF-8, or nested without end."""
_PATIENCE = 8  # wrong guesses in a row before guessing ends
_NEAR = 64  # bytes from an object's bracket to its first name, indentation included
_QUOTE, _COMMA, _COLON = b'",:'
_OPEN, _CLOSE, _OPEN_ARRAY, _CLOSE_ARRAY = b"{}[]"
_NOTHING = -1


class Malformed(Exception):
    """The text is not JSON (or not a form of it that can be read); ``line`` and ``column`` count from 1."""

    def __init__(self, reason: str, line: int, column: int) -> None:
        super().__init__(reason)
        self.reason = reason
        self.line = line
        self.column = column


class Element(NamedTuple):
    """One element of an array: its bytes, its number (from 0), and the line it begins on."""

    raw: bytes
    number: int
    line: int


class Window:
    """A sliding view of a byte stream; ``pos`` is the next byte, as an index into ``buffer``.

    ``line`` is the number of the stream's first line. What lies before ``pos`` is dropped now and then, so an
    index is good only until the next call.
    """

    def __init__(self, read: Callable[[int], bytes], *, line: int = 1, head: bytes = b"") -> None:
        self._read = read
        self.buffer = head
        self.pos = 0
        self._line = line  # of the byte at _counted
        self._counted = 0
        self._start = 0  # of that line; negative once it was dropped
        self._ended = False
        self._misses = 0  # of `guess`, in a row

    @classmethod
    def over(cls, raw: bytes, *, line: int = 1) -> Window:
        """A window over bytes that are there already."""
        window = cls(lambda _: b"", line=line, head=raw)
        window._ended = True
        return window

    def more(self) -> bool:
        """Read on, dropping what lies before ``pos``; False at the end of the stream."""
        if self._ended:
            return False
        if self.pos:
            self.line_at(self.pos)
            self.buffer = self.buffer[self.pos :]
            self._counted -= self.pos
            self._start -= self.pos
            self.pos = 0
        if len(self.buffer) > LONGEST:
            raise self.malformed(f"a single value is larger than {LONGEST >> 20} MB", 0)
        # Reading as much again as is held keeps the work linear in the size of a large value.
        piece = self._read(max(CHUNK, len(self.buffer)))
        self._ended = not piece
        self.buffer += piece
        return bool(piece)

    def line_at(self, at: int) -> int:
        """The line of the byte at index ``at``, which must not lie before an index asked for earlier."""
        if at > self._counted:
            lines = self.buffer.count(b"\n", self._counted, at)
            if lines:
                self._line += lines
                self._start = self.buffer.rfind(b"\n", self._counted, at) + 1
            self._counted = at
        return self._line

    def malformed(self, reason: str, at: int) -> Malformed:
        """The error at index ``at``, with its place."""
        line = self.line_at(at)
        return Malformed(reason, line, at - self._start + 1)

    def peek(self) -> int:
        """Skip white space and give the next byte, or -1 at the end of the stream."""
        while True:
            end = _end(_BLANK, self.buffer, self.pos)
            self.pos = end
            if end < len(self.buffer):
                return self.buffer[end]
            if not self.more():
                return _NOTHING

    def take(self, wanted: int, what: str) -> None:
        """Skip white space and the byte ``wanted``; anything else is malformed (``what`` says what was expected)."""
        found = self.peek()
        if found != wanted:
            raise self.unexpected(found, what)
        self.pos += 1

    def unexpected(self, found: int, what: str) -> Malformed:
        """The error of finding the byte ``found`` at ``pos`` where ``what`` belongs."""
        if found == _NOTHING:
            return self.malformed(f"the text ends where {what} should follow", len(self.buffer))
        if found == 0x2F:
            return self.malformed("JSON has no comments", self.pos)
        shown = chr(found) if 0x20 < found < 0x7F else f"byte 0x{found:02x}"
        return self.malformed(f"found {shown} where {what} should be", self.pos)

    def value(self) -> int:
        """The index after the value that begins at ``pos`` (its bytes are kept in the buffer, ``pos`` stays)."""
        first = self.peek()
        if first == _OPEN:
            return self._balanced(_IN_OBJECT, _OPEN, _CLOSE)
        if first == _OPEN_ARRAY:
            return self._balanced(_IN_ARRAY, _OPEN_ARRAY, _CLOSE_ARRAY)
        if first == _QUOTE:
            while not (found := _WHOLE_STRING(self.buffer, self.pos)):
                if not self.more():
                    raise self.malformed("a string does not end", self.pos)
            return found.end()
        while (end := _end(_SCALAR, self.buffer, self.pos)) == len(self.buffer) and self.more():
            pass
        if end == self.pos:
            raise self.unexpected(first, "a value")
        return end

    def _balanced(self, step: Callable[[bytes, int], re.Match[bytes] | None], opening: int, closing: int) -> int:
        """The end of an object or array: only its own kind of bracket is counted, outside of strings."""
        depth = 1
        at = self.pos + 1
        while True:
            at = _end(step, self.buffer, at)
            found = self.buffer[at] if at < len(self.buffer) else _NOTHING
            if found == opening:
                depth += 1
            elif found == closing:
                depth -= 1
                if not depth:
                    return at + 1
            else:  # the end of what has been read, or a string that does not end within it
                at -= self.pos  # the buffer may move
                if not self.more():
                    raise self.malformed("the text ends inside a value", self.pos)
                at += self.pos
                continue
            at += 1

    def slice(self, end: int) -> bytes:
        """Consume and give the bytes up to ``end``, having made sure that they are JSON."""
        raw = self.buffer[self.pos : end]
        if not _is_json(raw):
            raise locate(raw, self.line_at(self.pos), self.pos - self._start)
        self.pos = end
        return raw

    def rest(self) -> bytes | None:
        """Consume and give all that is left, if the stream's end is known and one JSON value is left; else None."""
        raw = self.buffer[self.pos :].rstrip() if self._ended else b""
        if not raw or not _is_json(raw):
            return None
        self.pos = len(self.buffer)
        return raw

    def guess(self, mark: bytes) -> bytes | None:
        """Consume and give the object at ``pos`` if it ends before the next object that begins with ``mark``.

        One JSON value is never the beginning of another, so what is JSON from ``pos`` up to a guessed place *is*
        the object: a wrong guess costs time and nothing else. None: it was wrong, or nothing was to be guessed.
        """
        if self._misses > _PATIENCE:
            return None
        self._misses += 1
        own = self.buffer.find(mark, self.pos, self.pos + _NEAR)
        after = self.buffer.find(mark, max(own, self.pos) + 1)
        end = self.buffer.rfind(b"}", self.pos, after) + 1 if after >= 0 else 0
        raw = self.buffer[self.pos : end]
        if not end or not _is_json(raw):
            return None
        self.pos = end
        self._misses = 0
        return raw


def _is_json(raw: bytes) -> bool:
    try:
        _RAW(raw)
    except UNDECODABLE:
        return False
    return True


def plain(raw: bytes) -> str:
    """The text of a JSON string; what is not Unicode in it is replaced (validation will complain of it)."""
    try:
        return str(msgspec.json.decode(raw))
    except UNDECODABLE:
        return raw.decode(errors="replace")


def locate(raw: bytes, line: int = 1, column: int = 0) -> Malformed:
    """Why and where ``raw`` is not JSON, if it begins on ``line`` after ``column`` bytes."""
    try:
        json.loads(raw)
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        reason, lines, place = "not UTF-8", before.count(b"\n"), error.start - before.rfind(b"\n")
    except json.JSONDecodeError as error:
        reason, at = _plain(error.msg, error.doc, error.pos)
        lines, place = error.doc.count("\n", 0, at), at - error.doc.rfind("\n", 0, at)
    except RecursionError:
        reason, lines, place = "nested too deeply", 0, 1
    else:
        reason, lines, place = "not JSON", 0, 1
    return Malformed(reason, line + lines, place + (0 if lines else column))


def _plain(message: str, text: str, at: int) -> tuple[str, int]:
    """The decoder's message, in the words of the mistakes people make, and where that is."""
    rest = text[at:].lstrip()
    if rest.startswith(("//", "/*")):
        return "JSON has no comments", len(text) - len(rest)
    if rest.startswith(("…", "...")):
        return "an ellipsis is not JSON", len(text) - len(rest)
    # Python reports a trailing comma at the bracket or, from 3.13 on, at the comma.
    after = rest[1:].lstrip() if rest[:1] == "," else rest if text[:at].rstrip().endswith(",") else ""
    if after[:1] in ("}", "]") and after:
        return "a comma before the closing bracket", len(text) - len(after)
    return f"not JSON: {message}", at


def _end(step: Callable[[bytes, int], re.Match[bytes] | None], buffer: bytes, at: int) -> int:
    found = step(buffer, at)
    assert found is not None  # noqa: S101 - these expressions match the empty string, too
    return found.end()


def members(window: Window) -> Iterator[str]:
    """The names of the members of the object at the window, each with the window at its value.

    Whoever iterates consumes the value (`Window.slice`, `elements`) before going on.
    """
    window.take(_OPEN, "an object")
    if window.peek() == _CLOSE:
        window.pos += 1
        return
    while True:
        found = window.peek()
        if found != _QUOTE:
            if found == _CLOSE:
                raise window.malformed("a comma before the closing bracket", window.pos)
            raise window.unexpected(found, "a member's name")
        name = plain(window.slice(window.value()))
        window.take(_COLON, "a colon")
        window.peek()
        yield name
        found = window.peek()
        if found not in (_COMMA, _CLOSE):
            raise window.unexpected(found, "a comma or }")
        window.pos += 1
        if found == _CLOSE:
            return


def elements(window: Window, mark: bytes) -> Iterator[Element]:
    """The elements of the array at the window, in order; the window is after the array when they end.

    ``mark`` is what its objects are likely to begin with (see `Window.guess`).
    """
    window.take(_OPEN_ARRAY, "an array")
    if window.peek() == _CLOSE_ARRAY:
        window.pos += 1
        return
    index = 0
    while True:
        if window.peek() == _CLOSE_ARRAY:
            raise window.malformed("a comma before the closing bracket", window.pos)
        line = window.line_at(window.pos)
        raw = window.guess(mark)
        yield Element(window.slice(window.value()) if raw is None else raw, index, line)
        index += 1
        found = window.peek()
        if found not in (_COMMA, _CLOSE_ARRAY):
            raise window.unexpected(found, "a comma or ]")
        window.pos += 1
        if found == _CLOSE_ARRAY:
            return


class Span(NamedTuple):
    """Where one member of an object stands in its bytes: from its name to the end of its value."""

    name: str
    start: int
    value: int
    end: int


def spans(raw: bytes, start: int = 0) -> list[Span]:
    """The members of the object that begins at ``start`` of a JSON text, as places in it (for targeted edits)."""
    window = Window.over(raw)
    window.pos = start
    window.take(_OPEN, "an object")
    found: list[Span] = []
    while window.peek() == _QUOTE:
        begin, end = window.pos, window.value()
        name = plain(raw[begin:end])
        window.pos = end
        window.take(_COLON, "a colon")
        window.peek()
        value, end = window.pos, window.value()
        found.append(Span(name, begin, value, end))
        window.pos = end
        if window.peek() == _COMMA:
            window.pos += 1
    return found


def places(raw: bytes, start: int) -> list[tuple[int, int]]:
    """Where the elements of the array that begins at ``start`` of a JSON text stand in it."""
    window = Window.over(raw)
    window.pos = start
    window.take(_OPEN_ARRAY, "an array")
    found: list[tuple[int, int]] = []
    while window.peek() not in (_CLOSE_ARRAY, _NOTHING):
        begin, end = window.pos, window.value()
        found.append((begin, end))
        window.pos = end
        if window.peek() == _COMMA:
            window.pos += 1
    return found

"""Turn a source into a sequence of resources and Bundle entries, in bounded memory.

A source holds one JSON document, several behind one another, or one per line (NDJSON; told by its first line, not
by its name). A Bundle is never held whole: its entries come one by one between `Opened` and `Closed`, and since
`Bundle.type` may follow the entries, what becomes of them is decided by whoever has seen `Closed` (in the first
of two passes, see `ingest.survey`). A document that is not JSON ends in `Broken`; in NDJSON only that line is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

import msgspec

from ingest.scan import CHUNK, UNDECODABLE, Malformed, Window, elements, members, plain
from ingest.source import Source, Stream, Unreadable, opened

STEP = 1024 * 1024
"""Bytes of a file between two reports of progress."""
FAR = 1024 * 1024
"""How many bytes to look ahead for the first line's end, or for what resource begins."""


class Whole(NamedTuple):
    """A resource that stands alone (or, as resources, a Bundle)."""

    raw: bytes
    line: int


class Opened(NamedTuple):
    """A Bundle begins."""

    line: int


class Entry(NamedTuple):
    """One element of `Bundle.entry`."""

    raw: bytes
    number: int
    line: int


class Closed(NamedTuple):
    """A Bundle ended: its `type`, and why its envelope cannot be accepted, or ``""``."""

    type: str
    problem: str


class Broken(NamedTuple):
    """A document (which may have been opened) or a file is no JSON resource; line and column count from 1, 0: none."""

    reason: str
    line: int
    column: int


Event = Whole | Opened | Entry | Closed | Broken


class _Kind(msgspec.Struct):
    resourceType: str = ""  # noqa: N815 - FHIR's spelling


_MARK = b'"fullUrl"'
_KIND = msgspec.json.Decoder(_Kind).decode
_NAMES = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


def read(source: Source, *, unwrap: bool, tell: Callable[[int], None] = lambda _: None) -> Iterator[Event]:
    """What the source holds, in order; ``unwrap=False`` gives Bundles as `Whole` resources.

    ``tell`` hears about once per megabyte how many bytes of the file have been used.
    """
    told = 0
    try:
        with opened(source) as stream:
            for event in _read(source, stream, unwrap):
                yield event
                if stream.done - told >= STEP:
                    told = stream.done
                    tell(told)
    except Unreadable as error:
        yield Broken(str(error), 0, 0)


def _read(source: Source, stream: Stream, unwrap: bool) -> Iterator[Event]:
    window = Window(stream.read)
    found = window.peek()
    if window.buffer.startswith(b"\xef\xbb\xbf", window.pos):
        window.pos += 3
        found = window.peek()
    if found == -1:
        if not source.lines:
            yield Broken("the file is empty", 1, 1)
    elif found == ord("["):
        yield Broken("a JSON array; give one resource per line (NDJSON) or a Bundle instead", *_place(window))
    elif found == ord("<"):
        yield Broken("not JSON (it looks like XML)", *_place(window))
    elif found != ord("{"):
        yield Broken("not JSON: a resource begins with {", *_place(window))
    elif _is_lines(window, source):
        yield from _read_lines(window, stream.read, unwrap)
    else:
        yield from _read_documents(window, unwrap)


def _place(window: Window) -> tuple[int, int]:
    error = window.malformed("", window.pos)
    return error.line, error.column


def _is_lines(window: Window, source: Source) -> bool:
    """Whether the first line is a whole JSON object and not the last (or is broken, and the next begins another)."""
    while (end := window.buffer.find(b"\n", window.pos)) < 0 and len(window.buffer) - window.pos < FAR:
        if not window.more():
            return False
    if end < 0:
        return source.lines
    try:
        _KIND(window.buffer[window.pos : end])
    except msgspec.ValidationError:
        return True
    except UNDECODABLE:
        rest = window.buffer[end : end + CHUNK].lstrip()
        return source.lines and rest.startswith(b'{"')
    return True


def _read_documents(window: Window, unwrap: bool) -> Iterator[Event]:
    """One document, or several behind one another; nothing can be read behind a broken one."""
    try:
        while (found := window.peek()) != -1:
            if found != ord("{"):
                raise window.unexpected(found, "the end of the file")
            yield from _document(window, unwrap)
    except Malformed as error:
        yield Broken(error.reason, error.line, error.column)


def _read_lines(window: Window, read: Callable[[int], bytes], unwrap: bool) -> Iterator[Event]:
    """One document per line; a broken one costs its line only."""
    lines = _Lines(window, read)
    while (line := lines.next()) is not None:
        try:
            if line.peek() == -1:
                continue
            found = line.peek()
            if found != ord("{"):
                raise line.unexpected(found, "a resource")
            yield from _document(line, unwrap)
            if (found := line.peek()) != -1:
                raise line.unexpected(found, "the end of the line")
        except Malformed as error:
            yield Broken(error.reason, error.line, error.column)
        lines.skip()


class _Lines:
    """A stream cut at its line ends: each line a `Window` of its own, however long it is."""

    def __init__(self, window: Window, read: Callable[[int], bytes]) -> None:
        self._read_on = read
        self._buffer = window.buffer
        self._pos = window.pos
        self._number = window.line_at(window.pos) - 1
        self._inside = False

    def next(self) -> Window | None:
        """The next line, or None at the end."""
        if self._pos >= len(self._buffer) and not self._fill():
            return None
        self._number += 1
        self._inside = True
        end = self._buffer.find(b"\n", self._pos)
        if end < 0:
            return Window(self._read, line=self._number)
        head = self._buffer[self._pos : end]
        self._pos, self._inside = end + 1, False
        return Window.over(head, line=self._number)

    def skip(self) -> None:
        """Leave what is left of the line."""
        while self._inside and self._read(CHUNK):
            pass

    def _fill(self) -> bool:
        self._buffer, self._pos = self._read_on(CHUNK), 0
        return bool(self._buffer)

    def _read(self, _: int) -> bytes:
        """A piece of the present line; ``b""`` at its end."""
        if not self._inside or (self._pos >= len(self._buffer) and not self._fill()):
            self._inside = False
            return b""
        end = self._buffer.find(b"\n", self._pos)
        start = self._pos
        if end < 0:
            self._pos = len(self._buffer)
            return self._buffer[start:]
        self._pos, self._inside = end + 1, False
        if end == start:
            return b""
        return self._buffer[start:end]


def _document(window: Window, unwrap: bool) -> Iterator[Event]:
    """The document that begins at the window: a resource whole, a Bundle entry by entry."""
    line = window.line_at(window.pos)
    if unwrap and _is_bundle(window):
        yield Opened(line)
        yield from _bundle(window)
        return
    raw = window.rest()
    yield Whole(window.slice(window.value()) if raw is None else raw, line)


def _is_bundle(window: Window) -> bool:
    """Look ahead, consuming nothing, further only while it is not clear what begins here."""
    while not (kind := _kind(window.buffer, window.pos)):
        if len(window.buffer) - window.pos >= FAR or not window.more():
            return False
    return kind == "Bundle"


def _kind(buffer: bytes, start: int) -> str:
    """The `resourceType` of the object at ``start``, or ``""`` if the buffer does not tell.

    Where `entry` comes first and goes on beyond the buffer, its elements tell: `List` is the only other resource
    that has an `entry`, and there each has an `item`.
    """
    head = Window.over(buffer)
    head.pos = start
    guess = ""
    try:
        for name in members(head):
            if name == "entry" and head.peek() == ord("["):
                for element in elements(head, _MARK):
                    if not guess and element.raw.startswith(b"{"):
                        guess = "List" if "item" in _NAMES(element.raw) else "Bundle"
                continue
            value = head.slice(head.value())
            if name == "resourceType":
                return plain(value)
    except (Malformed, *UNDECODABLE):
        pass  # the end of what has been read; a real mistake will be met by whoever reads on
    return guess


def _bundle(window: Window) -> Iterator[Event]:
    """The entries, then what the envelope says."""
    envelope: dict[str, object] = {}
    problem = ""
    for name in members(window):
        if name in envelope:
            problem = problem or f"Bundle.{name} is there twice"
        if name == "entry":
            envelope[name] = None
            if window.peek() == ord("["):
                for element in elements(window, _MARK):
                    yield Entry(element.raw, element.number, element.line)
                continue
            problem = problem or "Bundle.entry is not an array"
        value = window.slice(window.value())
        envelope[name] = plain(value) if name in ("resourceType", "type") and value[:1] == b'"' else None
    kind = envelope.get("type")
    if envelope.get("resourceType") != "Bundle":
        problem = problem or "it has entries but its resourceType is not Bundle"
    elif not isinstance(kind, str):
        problem = problem or "Bundle.type is missing"
    yield Closed(kind if isinstance(kind, str) else "", problem)
